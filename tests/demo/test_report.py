import html
import json
import re
from html.parser import HTMLParser

import pytest
import torch

from tapadl.data.fashion_mnist import CLASS_NAMES
from tapadl.demo.attention import attention_numbers, collect_examples
from tapadl.demo.cells import CorruptedImages, benchmark_cells
from tapadl.demo.report import render_report, write_report
from tapadl.demo.result import CellResult, DemoResult, RunResult
from tapadl.demo.settings import ModelConfig
from tapadl.demo.variants import build_model

ALL_VARIANTS = ("plain", "tap", "adl", "tap+adl", "plain-equal-time")
CITATIONS = {
    "https://arxiv.org/abs/2303.11126",
    "https://arxiv.org/abs/1903.12261",
    "https://arxiv.org/abs/1708.07747",
}
CONFIG = ModelConfig(embed_dim=16, depth=2, num_heads=2)
CELLS = benchmark_cells(["gaussian_noise", "fog"], [1, 3])
COUNT = 100


def normalise(images: torch.Tensor) -> torch.Tensor:
    return images - 0.5


@pytest.fixture(scope="module")
def corrupted_images() -> CorruptedImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 1, 28, 28), dtype=torch.uint8, generator=generator)
    return CorruptedImages(images, seed=0)


@pytest.fixture(scope="module")
def models():
    return {name: build_model(name, CONFIG, num_classes=10, seed=0).eval() for name in ("plain", "tap+adl")}


@pytest.fixture(scope="module")
def examples(corrupted_images, models):
    labels = torch.arange(12) % 3
    return collect_examples(
        models, corrupted_images, labels, CELLS, class_names=CLASS_NAMES, normalise=normalise,
        grid_size=(7, 7), seed=4,
    )  # fmt: skip


@pytest.fixture(scope="module")
def attention(corrupted_images, models):
    return {
        name: attention_numbers(model, corrupted_images, CELLS, normalise=normalise, count=4)
        for name, model in models.items()
    }


def make_run(variant: str, seed: int, attention=None, *, errors: int = 20) -> RunResult:
    cells = [
        CellResult(cell.corruption, cell.severity, errors + 3 * cell.severity + seed, COUNT) for cell in CELLS
    ]
    return RunResult(
        variant=variant,
        seed=seed,
        parameters=138_890,
        epochs=4.0,
        steps=1600,
        training_seconds=61.0,
        step_seconds=0.04,
        weights_sha256="ab12" * 16,
        validation_error=0.2,
        cells=tuple(cells),
        curve=tuple({"step": step, "loss": 2.0 / step, "learning_rate": 0.1} for step in (1, 800, 1600)),
        attention=attention or {},
    )


def make_results(runs) -> dict:
    return DemoResult(
        created="2025-01-02T03:04:05+00:00",
        command="tapadl demo --seeds 2",
        versions={"python": "3.11", "tapadl": "0.1"},
        hardware={"cores": 2},
        settings={"data": "embedded", "evaluate_on": "test", "model": {"image_size": 28}},
        corruptions={"mode": "in_memory", "constants": "published for 32 pixels, lengths scaled to 28"},
        runs=tuple(runs),
    ).to_json()


class Page(HTMLParser):
    """What is in a page: that every tag is closed, its links, ids, text and tables."""

    VOID = frozenset({"meta", "link", "img", "br", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def full_page(examples, attention) -> str:
    runs = [
        make_run(variant, seed, attention.get(variant), errors=20 - place)
        for seed in (4, 5)
        for place, variant in enumerate(ALL_VARIANTS)
    ]
    return render_report(make_results(runs), examples)


def test_page_is_well_formed_and_needs_no_network(full_page):
    page = Page(full_page)

    assert page.open == []
    addresses = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action", "poster")
    ]
    assert {address for address in addresses if not address.startswith("data:")} == CITATIONS
    assert {attributes["href"] for attributes in page.of("a")} == CITATIONS
    assert not page.of("script")
    assert "@import" not in full_page
    assert "url(" not in full_page
    assert len(full_page) < 3_000_000


def test_every_picture_says_what_it_shows(full_page):
    page = Page(full_page)

    assert all("alt" in image for image in page.of("img"))
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in page.of("svg"))
    assert len({attributes["id"] for _, attributes in page.tags if "id" in attributes}) == len(
        [attributes for _, attributes in page.tags if "id" in attributes]
    )


def test_page_shows_every_variant_corruption_and_layer(full_page):
    text = squeezed(Page(full_page).text)

    for name in ("Plain ViT", "ViT + TAP", "ViT + ADL", "ViT + TAP + ADL", "Plain ViT, equal time"):
        assert name in text
    assert "Gaussian noise" in text
    assert "Fog" in text
    assert "How far TAP reaches" in text
    assert "Attention by layer" in text
    assert [attributes["id"] for attributes in Page(full_page).of("input")] == ["layer-0", "layer-1"]


def test_page_states_how_it_was_made(full_page):
    text = squeezed(Page(full_page).text)

    for fact in ("tapadl demo --seeds 2", "32 pixels", "ab12ab12ab12", "3.11", "2025-01-02", "in memory"):
        assert fact in text


def test_numbers_in_the_table_are_those_of_the_results():
    runs = [make_run("plain", seed, errors=30) for seed in (0, 3)]
    runs += [make_run("tap+adl", seed, errors=24 + seed) for seed in (0, 3)]
    results = make_results(runs)

    table = Page(render_report(results, None)).rows[:3]
    rows = {row[0].strip(): row for row in table}

    for variant, label in (("plain", "Plain ViT"), ("tap+adl", "ViT + TAP + ADL")):
        names = ("clean_error", "mean_corruption_error", "noise", "weather")
        for name, cell in zip(names, rows[label][1:5], strict=True):
            summary = results["summary"][variant][name]
            assert squeezed(cell).startswith(f"{100 * summary['mean']:.1f} ± {100 * summary['std']:.1f}")
    difference = results["paired"]["tap+adl"]["clean_error"]
    expected = f"−{-100 * difference['mean']:.1f} ± {100 * difference['std']:.1f}"
    assert squeezed(rows["ViT + TAP + ADL"][1]).endswith(expected)


def test_bold_needs_a_difference_beyond_the_spread():
    clear = [make_run("plain", seed, errors=40) for seed in (0, 1)]
    clear += [make_run("tap", seed, errors=30) for seed in (0, 1)]
    close = [make_run("plain", seed, errors=30) for seed in (0, 9)]
    close += [make_run("tap", seed, errors=29) for seed in (0, 9)]
    single = [make_run("plain", 0, errors=40), make_run("tap", 0, errors=30)]

    bold = [
        len(re.findall(r"<td[^>]*>\s*<b>", render_report(make_results(runs), None)))
        for runs in (clear, close, single)
    ]

    assert bold == [4, 0, 0]


@pytest.mark.parametrize(
    ("errors", "seeds", "sentence"),
    [
        (20, (0, 1, 2), "−10.0 ± 0.0 points. Fewer errors, by more than the spread over 3 seeds."),
        (40, (0, 1, 2), "+10.0 ± 0.0 points. More errors, by more than the spread over 3 seeds."),
        (40, (0,), "+10.0 points. More errors, with one seed: nothing is known about the spread."),
        (30, (0, 1), "0.0 ± 0.0 points. The same number of errors."),
    ],
)
def test_headline_reports_what_came_out(errors, seeds, sentence):
    runs = [make_run("plain", seed, errors=30) for seed in seeds]
    runs += [make_run("tap+adl", seed, errors=errors) for seed in seeds]

    assert sentence in squeezed(Page(render_report(make_results(runs), None)).text)


def quick_results(*, steps: int) -> dict:
    run = {**make_results([make_run("plain", 0)])["runs"][0], "steps": steps}
    settings = {"training": {"batch_size": 50}, "counts": {"train": 4000}}
    return {**make_results([make_run("plain", 0)]), "runs": [run], "settings": settings}


def test_short_training_is_called_a_check_and_a_whole_one_is_not():
    banner = "Quick run: 80 steps on 4,000 images: a check that everything works, not a result."

    assert banner in squeezed(Page(render_report(quick_results(steps=80), None)).text)
    assert "Quick run" not in render_report(quick_results(steps=400), None)


def test_bars_are_drawn_on_a_scale_to_100_percent():
    runs = [make_run("plain", 0, errors=60), make_run("tap+adl", 0, errors=45)]

    page = render_report(make_results(runs), None)

    assert re.findall(r'class="fill v\d" style="width:([\d.]+)%', page)[-2:] == ["60.0", "45.0"]
    assert "100 %" in page


def test_spread_is_explained_only_where_there_is_one():
    single, several = (
        squeezed(Page(render_report(make_results([make_run("plain", s) for s in seeds]), None)).text)
        for seeds in ((0,), (0, 1))
    )

    assert "±" not in single
    assert "± is the spread over training seeds" in several


def test_page_says_that_adl_need_not_lower_the_overlap_where_adl_was_trained(attention):
    plain = make_run("plain", 0, attention["plain"])
    robust = make_run("tap+adl", 0, attention["tap+adl"])

    without, both = (
        squeezed(Page(render_report(make_results(runs), None)).text) for runs in ([plain], [plain, robust])
    )

    for text in (without, both):
        assert "prove nothing" in text
    assert "need not lower the overlap in every layer" in both
    assert "need not lower" not in without


def test_code_on_the_page_runs(full_page):
    code = html.unescape(re.search(r'<code id="snippet">(.*?)</code>', full_page, re.DOTALL)[1])
    names: dict = {}

    exec(code, names)

    assert names["loss"].isfinite()


def test_hostile_strings_stay_text(examples):
    hostile = '<script>alert("1")</script>'
    results = make_results([make_run("plain", 0)])
    results["command"] = results["versions"]["tapadl"] = results["settings"]["data"] = hostile
    results["runs"][0]["variant"] = results["runs"][0]["weights_sha256"] = hostile
    for cell in results["runs"][0]["cells"][1:]:
        cell["corruption"] = hostile

    page = Page(render_report(results, examples))

    assert page.open == []
    assert not page.of("script")
    assert hostile in page.text


@pytest.mark.parametrize("missing", ["settings", "corruptions", "versions", "hardware", "command", "created"])
def test_page_does_without_a_part(missing):
    results = make_results([make_run("plain", 0), make_run("tap", 0)])
    del results[missing]

    assert Page(render_report(results, None)).open == []


def test_page_does_without_curves_groups_and_attention():
    results = make_results([make_run("adl", 0)])
    for name in ("curve", "groups", "attention"):
        del results["runs"][0][name]

    text = squeezed(Page(render_report(results, None)).text)

    assert "ViT + ADL" in text
    assert "Training loss" not in text
    assert "Where the models look" not in text


def test_page_takes_runs_of_which_some_lack_attention(attention):
    runs = [make_run("plain", 0, attention["plain"]), make_run("plain", 1), make_run("tap+adl", 0)]

    text = squeezed(Page(render_report(make_results(runs), None)).text)

    assert "Attention by layer" in text


def test_results_read_from_json_give_the_same_page(tmp_path, attention):
    results = make_results([make_run("plain", 0, attention["plain"])])
    write_report(results, None, tmp_path / "a.html")

    write_report(json.loads(json.dumps(results)), None, tmp_path / "b.html")

    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_results_without_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one run, got none; finish a demo first"):
        write_report({"runs": []}, None, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
