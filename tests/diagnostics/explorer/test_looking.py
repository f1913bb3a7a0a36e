import numpy as np
import pytest
import torch
from torch import nn

from tapadl.diagnostics import compare_attention, measure_dilation, measure_focus
from tapadl.diagnostics.explorer.detail import LADDER, Detail
from tapadl.diagnostics.explorer.looking import Watcher
from tapadl.diagnostics.explorer.pictures import under_conditions
from tapadl.diagnostics.explorer.subject import CLEAN, Condition

EVERYTHING = LADDER[0]
CONDITIONS = (CLEAN, Condition("contrast", 3), Condition("brightness", 5))


@pytest.fixture
def shown(seen, picture):
    subject, _ = seen
    return under_conditions(subject.prepare(picture.image), CONDITIONS, picture.index, 0)


def as_given(subject, images):
    return subject.normalise(images.float() / 255).double()


def windows_of(side, window, shift):
    """Places of the tokens of Swin's windows, by rolling and cutting."""
    places = np.roll(np.arange(side * side).reshape(side, side), (-shift, -shift), axis=(0, 1))
    cut = places.reshape(side // window, window, side // window, window).transpose(0, 2, 1, 3)
    return [tuple(row) for row in cut.reshape(-1, window * window).tolist()]


def test_rows_received_and_answers_are_those_of_recorded_maps(seen, shown, recorded_maps):
    subject, _ = seen
    watcher = Watcher(subject, shown[0])
    looks = watcher.look(shown, EVERYTHING)
    maps = recorded_maps(subject.model, as_given(subject, shown))
    assert not watcher.left_out
    assert len(maps) == len(watcher.layers)
    for number, (layer, recorded) in enumerate(zip(watcher.layers, maps, strict=True)):
        recorded = recorded.reshape(len(CONDITIONS), -1, *recorded.shape[1:])  # image, window, head, N, M
        for place, look in enumerate(looks):
            found = look.layers[number]
            of_image = np.concatenate((recorded[place], recorded[place].mean(axis=1, keepdims=True)), axis=1)
            tables = layer.tokens.windows or [range(layer.num_queries)]
            homes = {token: (w, n) for w, window in enumerate(tables) for n, token in enumerate(window)}
            expected = np.stack([of_image[homes[query][0], :, homes[query][1]] for query in found.queries], 1)
            np.testing.assert_allclose(found.attention, expected, atol=1e-9)
            received = np.zeros((layer.num_heads + 1, layer.num_places))
            for window, of_window in zip(
                layer.tokens.windows or [range(layer.num_keys)], of_image, strict=True
            ):
                received[:, list(window)] = of_window.mean(axis=1)
            np.testing.assert_allclose(found.received, received, atol=1e-9)
            assert len(found.queries) == sum(map(len, tables))
    with torch.no_grad():
        probabilities = subject.model(as_given(subject, shown)).softmax(dim=1)
    for look, row in zip(looks, probabilities, strict=True):
        assert [output for output, _ in look.answers] == row.argsort(descending=True)[:3].tolist()
        assert look.answers[0][1] == pytest.approx(row.max().item(), rel=1e-5)


def test_numbers_are_those_of_the_diagnostics(seen, shown):
    subject, _ = seen
    images = as_given(subject, shown)
    clean, _, bright = Watcher(subject, shown[0]).look(shown, LADDER[-1])
    focus = measure_focus(subject.model, images[2:])
    stability = compare_attention(subject.model, images[:1], images[2:])
    for layer, found in enumerate(bright.layers):
        of_layer = [*focus.layers[layer].heads, focus.layers[layer].mean]
        expected = [[one.top_share, one.effective_keys, one.overlap] for one in of_layer]
        np.testing.assert_allclose(found.focus, expected, rtol=1e-9)
        assert found.cosine == pytest.approx(stability[layer].cosine, abs=1e-9)
        assert found.divergence == pytest.approx(stability[layer].divergence, abs=1e-9)
        assert (clean.layers[layer].cosine, clean.layers[layer].divergence) == (1.0, 0.0)


def test_many_conditions_are_shown_in_several_batches_and_come_out_the_same(
    attached_vit, make_subject, picture
):
    subject = make_subject(attached_vit, (3, 32, 48))
    conditions = (CLEAN, *(Condition("brightness", 1 + number % 5) for number in range(9)))
    shown = under_conditions(subject.prepare(picture.image), conditions, 0, 0)
    done = []
    watcher = Watcher(subject, shown[0])
    looks = watcher.look(shown, EVERYTHING, done.append)
    (clean, alone) = watcher.look(shown[[0, 9]], EVERYTHING)
    assert (len(looks), done) == (10, [7, 3])
    torch.testing.assert_close(looks[9].layers[1].attention, alone.layers[1].attention)
    torch.testing.assert_close(looks[0].layers[1].attention, clean.layers[1].attention)


def test_reach_of_tap_is_the_measured_one(attached_vit, make_subject, picture):
    subject = make_subject(attached_vit, (3, 32, 48))
    shown = under_conditions(subject.prepare(picture.image), CONDITIONS, 0, 0)
    looks = Watcher(subject, shown[0]).look(shown, EVERYTHING)
    report = measure_dilation(attached_vit, as_given(subject, shown[1:2]))
    for found, expected in zip(looks[1].dilation, report.layers, strict=True):
        np.testing.assert_allclose(found, expected.by_patch, atol=1e-9)


class Flipped(nn.Module):
    """The mean over a picture and its mirror image."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return (self.model(images) + self.model(images.flip(-1))) / 2


def test_tap_is_found_in_a_model_that_was_wrapped_later_and_in_every_call(
    attached_vit, make_subject, picture
):
    subject = make_subject(Flipped(attached_vit), (3, 32, 48))
    shown = subject.prepare(picture.image)[None]
    watcher = Watcher(subject, shown[0])
    (look,) = watcher.look(shown, EVERYTHING)
    batch = as_given(subject, shown)
    expected = [
        layer.by_patch
        for images in (batch, batch.flip(-1))
        for layer in measure_dilation(attached_vit, images).layers
    ]
    assert [layer.num_branches for layer in watcher.layers] == [4] * len(expected)
    for found, by_patch in zip(look.dilation, expected, strict=True):
        np.testing.assert_allclose(found, by_patch, atol=1e-9)


def test_a_tap_that_is_not_called_has_no_reach(attached_vit, make_subject, picture):
    attached_vit.blocks[0].norm1._forward_pre_hooks.clear()
    subject = make_subject(attached_vit, (3, 32, 48))
    shown = subject.prepare(picture.image)[None]
    watcher = Watcher(subject, shown[0])
    (look,) = watcher.look(shown, EVERYTHING)
    assert [layer.num_branches for layer in watcher.layers][:2] == [0, 4]
    assert look.dilation[0] is None


def test_windows_of_swin_lie_where_rolling_and_cutting_puts_them(make_model, make_subject, picture):
    subject = make_subject(make_model("swin").model, (3, 32, 32))
    first, shifted, last = Watcher(subject, subject.prepare(picture.image)).layers
    assert list(first.tokens.windows) == windows_of(8, 4, 0)
    assert list(shifted.tokens.windows) == windows_of(8, 4, 2)
    assert (last.tokens.windows, last.tokens.grid) == (None, (4, 4))


def test_fewer_queries_are_a_part_of_all(attached_vit, make_subject, picture):
    subject = make_subject(attached_vit, (3, 32, 48))
    shown = subject.prepare(picture.image)[None]
    watcher = Watcher(subject, shown[0])
    (everything,) = watcher.look(shown, EVERYTHING)
    (few,) = watcher.look(shown, Detail(2, 4, 0, None))
    # a class token, then 4 rows of 6 patches: the second and fourth row, every second patch of each
    assert few.layers[0].queries == (0, 8, 10, 12, 20, 22, 24)
    chosen = list(few.layers[0].queries)
    torch.testing.assert_close(few.layers[0].attention, everything.layers[0].attention[:, chosen])
