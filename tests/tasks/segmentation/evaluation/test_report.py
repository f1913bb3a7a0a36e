import re
from html.parser import HTMLParser

import pytest
import torch

from tapadl.evaluation.plan import Cell
from tapadl.tasks.segmentation.evaluation.benchmarks import Part
from tapadl.tasks.segmentation.evaluation.compare import compare
from tapadl.tasks.segmentation.evaluation.report import render_page, render_text, write_report
from tapadl.tasks.segmentation.evaluation.report.overlays import make_overlays
from tapadl.tasks.segmentation.prediction import PredictionSettings, Predictor

CORRUPTED = tuple(
    Cell(name, severity)
    for name in ("gaussian_noise", "motion_blur", "fog", "snow", "contrast")
    for severity in (1, 2, 3)
)


class Page(HTMLParser):
    """Everything a browser would fetch, the alternative texts, and elements that were not closed."""

    def __init__(self, text):
        super().__init__()
        self.links, self.alts, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.links += [values[name] for name in ("src", "href", "data", "action") if values.get(name)]
        self.alts += [values["alt"]] if "alt" in values else []
        if tag not in ("meta", "link", "img", "input", "wbr", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def words_of(page):
    text = re.sub(r"<(style|script|title)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


@pytest.fixture
def predictor(segmenter):
    return Predictor(segmenter, PredictionSettings(), torch.device("cpu"))


@pytest.fixture
def overlays(scenes, predictor):
    return make_overlays([Part(scenes, (Cell("clean"), *CORRUPTED), "in_memory", 224)], predictor, seed=0)


def test_page_needs_nothing_from_elsewhere_and_is_whole(make_result, overlays):
    text = render_page([make_result()], None, {"cityscapes-c": overlays})
    page = Page(text)
    assert page.open == []
    assert len([link for link in page.links if link.startswith("data:image")]) == 4 * (6 + 4)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert "https://" not in text
    assert "http://" not in text


def test_page_and_text_show_every_metric_and_class(make_result, scheme):
    result = make_result()
    page, text = words_of(render_page([result])), render_text([result])
    found = result.benchmarks[0]
    for value in [*found.metrics.values(), *found.mious.values(), *found.iou["clean"]]:
        assert f"{100 * value:.1f}" in page
        assert f"{100 * value:.1f}" in text
    for name in scheme.class_names:
        assert name in page
        assert name in text
    assert "Not all cells of Cityscapes-C" in page


def test_comparison_shows_difference_interval_and_winner(make_result, tmp_path):
    comparison = compare([make_result(name="worse", error=0.2), make_result(name="better", error=0.05)])
    write_report(comparison.results, tmp_path / "a.html", tmp_path / "a.md", comparison=comparison)
    page = (tmp_path / "a.html").read_text()
    assert Page(page).open == []
    (found,) = comparison.by_benchmark["cityscapes-c"]
    for text in (words_of(page), (tmp_path / "a.md").read_text()):
        assert f"+{100 * found.differences[0].difference:.2f}" in text
        assert "better against worse" in text


def test_weather_and_predictions_without_labels_are_shown(make_result):
    weather = make_result(benchmark="acdc", cells=[("fog", 0), ("night", 0)], form="stored")
    assert "mIoU, night" in words_of(render_page([weather]))
    alone = make_result(benchmark="cityscapes", cells=[("clean", 0)], form="stored", labelled=False)
    assert "there are predictions, and no numbers" in words_of(render_page([alone]))
    assert "there are predictions, and no numbers" in render_text([alone])


def test_overlays_spread_over_images_and_groups_of_corruptions(overlays, scheme):
    assert [example.name for example in overlays.examples] == ["0_photo", "1_photo", "2_photo", "3_photo"]
    titles = [panel.title for example in overlays.examples for panel in example.panels]
    assert titles[:6] == [
        *("Clean", "Prediction", "Truth"),
        *("Gaussian noise, severity 2", "Prediction", "Wrong there"),
    ]
    corrupted = [title for title in titles if "severity" in title]
    assert [title.split(",")[0] for title in corrupted] == [
        *("Gaussian noise", "Motion blur", "Fog", "Contrast"),
    ]
    assert [name for name, _ in overlays.classes] == list(scheme.class_names)


def test_overlays_of_weather_stored_corruptions_and_unlabelled_images(
    scenes, predictor, write_scenes, tmp_path
):
    weather = [Part(scenes, (Cell(name),)) for name in ("fog", "night", "rain", "snow")]
    found = make_overlays(weather, predictor, seed=0).examples
    assert [example.panels[0].title for example in found] == ["Fog", "Night", "Rain", "Snow"]
    stored = make_overlays([Part(scenes, (Cell("fog", 1),))], predictor, seed=0).examples
    assert [panel.title for panel in stored[0].panels] == ["Fog, severity 1", "Prediction", "Wrong there"]
    bare = write_scenes(tmp_path / "bare", count=1, labelled=False)
    (only,) = make_overlays([Part(bare, (Cell("clean"),))], predictor, seed=0).examples
    assert [panel.title for panel in only.panels] == ["Clean", "Prediction"]
