import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tapadl.evaluation.report import render_page, render_text, write_report


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
    assert all(link.startswith(("#", "data:")) for link in links.found)
    assert not re.search(r"url\((?!['\"]?(?:#|data:))|@import", page)


@pytest.mark.parametrize("benchmark", ["imagenet", "imagenet-c"])
def test_numbers_are_those_of_the_result(full, benchmark):
    page, text = words_of(render_page([full], None)), render_text([full], None)
    metrics = full.metrics(benchmark)
    assert len(metrics) > 3
    for value in metrics.values():
        assert f"{100 * value:.1f}" in page
        assert f"{100 * value:.1f}" in text


def test_every_cell_stands_in_the_table(full):
    page = render_page([full], None)
    errors = full.benchmark("imagenet-c").errors["fog"]
    row = next(row for row in re.findall(r"<tr.*?</tr>", page, flags=re.DOTALL) if "Fog" in row)
    assert [float(value) for value in re.findall(r">\s*([\d.]+)\s*<", row)][:6] == pytest.approx(
        [*(100 * errors[severity] for severity in range(1, 6)), 100 * np.mean(list(errors.values()))],
        abs=0.051,
    )


def test_what_decides_the_numbers_is_said(full):
    for written in (words_of(render_page([full], None)), render_text([full], None)):
        for fact in ("in_memory", "photographs", "AlexNet", "0a0a0a0a", full.command, "2.11", "linf"):
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
