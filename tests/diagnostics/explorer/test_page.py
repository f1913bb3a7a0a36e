import copy
import io
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tapadl.diagnostics.explorer import all_conditions, write_explorer
from tapadl.diagnostics.explorer.detail import KINDS, LADDER
from tapadl.diagnostics.explorer.exploration import BASE64, _expected_sizes, explore
from tapadl.diagnostics.explorer.looking import Watcher
from tapadl.diagnostics.explorer.packing import unpack_page
from tapadl.diagnostics.explorer.page import render_explorer
from tapadl.diagnostics.explorer.pictures import under_conditions

CONDITIONS = all_conditions(["fog", "contrast"], [1, 5])


@pytest.fixture
def subject(attached_vit, make_subject):
    return make_subject(
        attached_vit.float(), (3, 32, 48), "a <model>", class_name=["cat", "dog", "bird"].__getitem__
    )


def data_of(page: bytes):
    (packed,) = re.findall(r'id="data">([^<]*)<', page.decode())
    return unpack_page(packed)


def test_body_is_as_long_as_the_header_says(subject, make_model, make_subject, picture):
    swin = make_subject(make_model("swin").model.float(), (3, 32, 32), "swin")
    shared = copy.deepcopy(subject.model)
    shared.blocks[1] = shared.blocks[0]
    again = make_subject(shared, (3, 32, 48), "one block twice")
    for subjects, detail in itertools.product(([subject, swin], [again]), (LADDER[0], LADDER[6], LADDER[-1])):
        found = explore(subjects, [picture, picture], CONDITIONS, detail=detail)
        header, body = data_of(render_explorer(found))
        length = header["bookLength"]
        for model, _, condition in itertools.product(
            header["models"], header["pictures"], header["conditions"]
        ):
            for layer in model["layers"]:
                places = layer["prefix"] + layer["keyGrid"][0] * layer["keyGrid"][1]
                for kind in KINDS:
                    queries = layer["queries"][kind]
                    if queries is None or kind.endswith("clean") == bool(condition["severity"]):
                        continue
                    maps = 1 if kind.startswith("mean") else layer["heads"]
                    length += maps * (2 + places + len(queries) * (2 + layer["keys"]))
                if layer["branches"]:
                    length += layer["grid"][0] * layer["grid"][1]
        assert len(body) == length


def test_pictures_are_what_the_model_saw(subject, picture):
    header, body = data_of(render_explorer(explore([subject], [picture], CONDITIONS)))
    expected = under_conditions(subject.prepare(picture.image), CONDITIONS, picture.index, 0)
    for (start, length), image in zip(header["models"][0]["pictures"][0], expected, strict=True):
        with Image.open(io.BytesIO(body[start : start + length])) as stored:
            np.testing.assert_array_equal(np.array(stored.convert("RGB")), image.permute(1, 2, 0))


def test_pictures_that_two_models_see_alike_are_stored_once(subject, picture):
    one, two = (explore([subject] * count, [picture], CONDITIONS) for count in (1, 2))
    assert len(two.book.content) == len(one.book.content) > 0
    assert two.shown[0] == two.shown[1]


def test_header_names_answers_and_what_was_done(subject, picture):
    header, _ = data_of(render_explorer(explore([subject], [picture], CONDITIONS, seed=4)))
    assert header["corruptions"] == ["fog", "contrast"]
    assert header["severities"] == [0, 1, 5]
    assert header["seed"] == 4
    answers = header["models"][0]["answers"][0]
    assert {(output, name) for answer in answers for name, _, output in answer} == {
        (0, "cat"),
        (1, "dog"),
        (2, "bird"),
    }
    assert all(sum(share for _, share, _ in answer) == pytest.approx(1, abs=1e-3) for answer in answers)
    assert header["models"][0]["classToken"]


def test_names_cannot_break_out_of_the_page(subject, picture):
    page = render_explorer(explore([subject], [picture], CONDITIONS[:2])).decode()
    assert "a &lt;model&gt;" in page
    assert "a <model>" not in page


def test_page_needs_nothing_else_and_says_what_it_does_not_show(subject, picture):
    page = render_explorer(explore([subject], [picture], CONDITIONS[:2])).decode()
    assert not re.search(
        r"""(src|href)=["']?(?!data:|\{)[a-z/.]|@import|url\(""", page.partition("<script")[0]
    )
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "never that it is robust" in page


@pytest.fixture
def demo(make_model, make_subject):
    return make_subject(make_model("demo").model.float(), (1, 28, 28))


def test_page_is_thinned_until_it_fits_and_says_how(demo, picture, tmp_path):
    whole = write_explorer([demo], [picture] * 3, CONDITIONS, tmp_path / "whole.html")
    least = render_explorer(explore([demo], [picture] * 3, CONDITIONS, detail=LADDER[-1]))
    limit = (whole.size + len(least)) / 2e6
    thinned = write_explorer([demo], [picture] * 3, CONDITIONS, tmp_path / "thinned.html", megabytes=limit)
    assert whole.thinned == ()
    assert thinned.size <= 1e6 * limit
    assert (tmp_path / "thinned.html").stat().st_size == thinned.size
    header, _ = data_of((tmp_path / "thinned.html").read_bytes())
    assert tuple(header["thinned"]) == thinned.thinned != ()


def test_page_that_came_out_larger_than_expected_is_made_again_with_less(
    demo, picture, tmp_path, monkeypatch
):
    from tapadl.diagnostics.explorer import exploration

    full = len(render_explorer(explore([demo], [picture], CONDITIONS, detail=LADDER[0])))
    monkeypatch.setattr(exploration, "_CODE", -1e6)
    written = write_explorer(
        [demo], [picture], CONDITIONS, tmp_path / "page.html", megabytes=(full - 500) / 1e6
    )
    assert written.size < full - 500
    assert written.thinned != ()


def test_page_that_cannot_fit_is_not_written(subject, picture, tmp_path):
    with pytest.raises(ValueError, match=r"at most 0\.001 MB, got 0\..* name fewer pictures"):
        write_explorer([subject], [picture], CONDITIONS, tmp_path / "page.html", megabytes=0.001)
    assert not list(tmp_path.iterdir())


def test_expected_size_is_near_the_real_one(demo, picture):
    crop = demo.prepare(picture.image)
    sizes = _expected_sizes([Watcher(demo, crop)], [crop], 4, len(CONDITIONS))
    code = len(render_explorer(explore([demo], [picture], CONDITIONS[:1], detail=LADDER[-1])))
    for detail in (LADDER[0], LADDER[4]):
        turned = [replace(picture, image=picture.image.rotate(20 * place)) for place in range(4)]
        found = explore([demo], turned, CONDITIONS, detail=detail)
        real = len(render_explorer(found)) - code - len(found.book.content) * BASE64
        assert 0.6 * sizes[detail] < real < 1.1 * sizes[detail]


@pytest.mark.parametrize(
    ("corruptions", "severities", "message"),
    [
        (["rust"], [1], "expected corruptions out of .*'rust'"),
        (["fog"], [6], "expected severities from 1 to 5, got 6"),
        ([], [1], "at least one corruption"),
    ],
)
def test_unknown_conditions_are_named(corruptions, severities, message):
    with pytest.raises(ValueError, match=message):
        all_conditions(corruptions, severities)


def test_attention_without_a_place_is_left_out_with_a_reason(attached_vit, make_subject, picture):
    from tapadl.diagnostics.explorer.layout import SeenTokens

    subject = make_subject(attached_vit.float(), (3, 32, 48))
    places = SeenTokens.layout
    with pytest.MonkeyPatch.context() as patch:
        names = iter(range(10))
        patch.setattr(
            SeenTokens, "layout", lambda seen, *size: "it hides" if next(names) == 0 else places(seen, *size)
        )
        found = explore([subject], [picture], CONDITIONS[:2])
    header, _ = data_of(render_explorer(found))
    assert header["models"][0]["leftOut"] == ["blocks.0: it hides"]
    assert [layer["name"] for layer in header["models"][0]["layers"]] == ["blocks.1"]
    assert torch.isfinite(found.looks[0][0][0].layers[0].received).all()
