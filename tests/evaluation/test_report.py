import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tapadl.evaluation.report import render_page, render_text, write_report
from tapadl.evaluation.report.findings import make_models


class Links(HTMLParser):
    """Everything a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [
            value
            for name, value in attributes
            if name in ("src", "href", "data", "action", "xlink:href") and value
        ]


def words_of(page):
    """What a reader sees, without markup."""
    text = re.sub(r"<(style|script|title)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


@pytest.fixture
def full(make_benchmark, make_result):
    """A result with every kind of benchmark."""
    return make_result(
        make_benchmark("imagenet", attacks=("fgsm", "pgd")), make_benchmark(), make_benchmark("imagenet-p")
    )


def test_page_needs_nothing_from_elsewhere(full):
    page = render_page([full], None)
    links = Links()
    links.feed(page)
    assert links.found
    assert all(link.startswith(("#", "data:")) for link in links.found)
    assert "http://" not in page
    assert "https://" not in page
    assert not re.search(r"url\((?!['\"]?(?:#|data:))|@import", page)


@pytest.mark.parametrize("benchmark", ["imagenet", "imagenet-c"])
def test_numbers_are_those_of_the_result(full, benchmark):
    page, text = words_of(render_page([full], None)), render_text([full], None)
    metrics = full.metrics(benchmark)
    assert len(metrics) > 3
    for value in metrics.values():
        assert f"{100 * value:.1f}" in page
        assert f"{100 * value:.1f}" in text


def test_headlines_carry_the_exact_values_with_accuracy_and_standard_error(full):
    page = render_page([full], None)
    found = re.findall(r'<data value="([^"]+)" data-metric="([^"]+)">', page)
    metrics = {name: full.metrics(name) for name in ("imagenet", "imagenet-c", "imagenet-p")}
    expected = [
        ("imagenet", "error error_fgsm error_pgd expected_calibration_error"),
        ("imagenet-c", "error mean_corrupted_error mce relative_mce"),
        ("imagenet-p", "flip_probability t5d"),
    ]
    assert [(float(value), name) for value, name in found] == [
        (metrics[benchmark][name], name) for benchmark, names in expected for name in names.split()
    ]
    words = words_of(page)
    value = metrics["imagenet-c"]["mean_corrupted_error"]
    error = full.benchmark("imagenet-c").standard_errors()["mean_corrupted_error"]
    assert f"{100 * value:.1f} % ± {100 * error:.1f} accuracy {100 - 100 * value:.1f} %" in words


def test_lines_go_through_the_errors(full):
    page = render_page([full], None)
    chart = next(chart for chart in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if "severity: All" in chart)
    errors = full.benchmark("imagenet-c").errors
    means = [100 * np.mean([cells[s] for cells in errors.values() if s in cells]) for s in range(1, 6)]
    titles = [float(text) for text in re.findall(r"severity \w+: ([\d.]+)%</title>", chart)]
    assert titles == pytest.approx([100 * errors["clean"][0], *means], abs=0.051)
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', chart)]
    # a straight scale, downwards
    slopes = np.diff(heights) / np.diff([100 * errors["clean"][0], *means])
    assert slopes == pytest.approx(np.full(5, slopes.mean()), rel=0.05)
    assert slopes.mean() < 0
    radar = next(chart for chart in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if "closed line" in chart)
    assert f"Fog: {100 * np.mean(list(errors['fog'].values())):.1f}%" in radar


def test_charts_and_tables_are_described_and_reached_by_keyboard(full):
    page = render_page([full], None)
    charts = re.findall(r"<svg [^>]*>", page)
    assert len(charts) > 5
    assert all('aria-label="' in chart or 'aria-hidden="true"' in chart for chart in charts)
    scrolling = re.findall(r'<div class="card scroll"[^>]*>', page)
    assert scrolling
    assert all('tabindex="0"' in one and 'role="region"' in one for one in scrolling)


@pytest.mark.parametrize("count", [2, 8])
def test_every_model_is_drawn_in_its_own_way(make_benchmark, make_result, count):
    models = make_models([make_result(make_benchmark(), model=f"m{place}") for place in range(count)])
    assert len({(model.style, model.marker) for model in models}) == count


def test_what_hinders_comparison_with_published_numbers_is_said(make_benchmark, make_result):
    frost = words_of(render_page([make_result(make_benchmark(frost="procedural"))], None))
    assert "Frost is a texture made by this package" in frost
    assert "JPEG at quality 85 once more" in frost
    stored = words_of(render_page([make_result(make_benchmark(form="stored"))], None))
    assert "once more" not in stored
    assert "Frost is a texture" not in stored


def test_relative_mce_needs_clean_images(make_benchmark, make_result):
    alone = words_of(render_page([make_result(make_benchmark(clean=False, form="stored"))], None))
    assert "There is no Relative mCE here: it takes clean images" in alone
    both = make_result(make_benchmark(clean=False, form="stored"), make_benchmark("imagenet"))
    written = words_of(render_page([both], None))
    assert "takes the clean error as exact" in written
    assert f"{100 * both.metrics('imagenet-c')['relative_mce']:.1f} %" in written


def test_every_cell_stands_in_the_table(full):
    page = render_page([full], None)
    errors = full.benchmark("imagenet-c").errors["fog"]
    row = next(row for row in re.findall(r"<tr.*?</tr>", page, flags=re.DOTALL) if "Fog" in row)
    assert [float(value) for value in re.findall(r">\s*([\d.]+)\s*<", row)][:6] == pytest.approx(
        [*(100 * errors[severity] for severity in range(1, 6)), 100 * np.mean(list(errors.values()))],
        abs=0.051,
    )


def test_what_decides_the_numbers_is_said(full):
    page, text = words_of(render_page([full], None)), render_text([full], None)
    assert "Form in_memory: corrupted when read" in page
    assert "Form: in\\_memory: corrupted when read" in text
    for written in (page, text):
        for fact in ("photographs", "AlexNet", "0a0a0a0a", full.command, "2.11", "linf"):
            assert fact in written


def test_page_says_why_there_is_no_mce(make_benchmark, make_result):
    some = make_result(make_benchmark(corruptions=("fog", "snow")))
    other = make_result(make_benchmark("folder-c"))
    assert "mce" not in some.metrics("imagenet-c")
    assert "no mCE" in words_of(render_page([some], None))
    assert "no mCE" in words_of(render_page([other], None))


def test_names_are_text_and_never_markup(make_benchmark, make_result):
    result = make_result(make_benchmark(), model="<script>alert(1)</script>")
    assert "<script>alert(1)" not in render_page([result], None)


@pytest.mark.parametrize("count", [1, 2])
def test_few_images_and_one_severity_make_a_page(make_benchmark, make_result, tmp_path, count):
    result = make_result(make_benchmark("folder-c", count=count, corruptions=("fog",), severities=(3,)))
    write_report([result], tmp_path / "a.html", tmp_path / "a.md")
    assert "Fog" in (tmp_path / "a.html").read_text()


def test_several_models_stand_side_by_side_with_their_difference(make_benchmark, make_result, tmp_path):
    results = [
        make_result(make_benchmark(error=0.3), model="plain"),
        make_result(make_benchmark(error=0.2), model="with TAP", weights="1b" * 32),
    ]
    write_report(results, tmp_path / "a.html", tmp_path / "a.md")
    page, text = words_of((tmp_path / "a.html").read_text()), (tmp_path / "a.md").read_text()
    for written in (page, text):
        for result in results:
            assert result.name in written
            assert f"{100 * result.metrics('imagenet-c')['mce']:.1f}" in written
        assert "95 %" in written


def test_no_result_is_no_report(tmp_path):
    with pytest.raises(ValueError, match="at least one result"):
        write_report([], tmp_path / "a.html", tmp_path / "a.md")
