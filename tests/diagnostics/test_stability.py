import json
import math

import numpy as np
import pytest
import torch

from tapadl.corruptions import corrupt
from tapadl.diagnostics import attention_stability, compare_attention, measure_stability


def test_identical_maps_did_not_move():
    attention = torch.rand(2, 5, 9, dtype=torch.float64).softmax(dim=-1)

    stability = attention_stability(attention, attention.clone())

    assert stability.cosine == pytest.approx(1)
    assert stability.divergence == pytest.approx(0, abs=1e-12)


def test_disjoint_maps_moved_altogether():
    clean, corrupted = torch.zeros(2, 4, 6), torch.zeros(2, 4, 6)
    clean[..., :3] = corrupted[..., 3:] = 1 / 3

    stability = attention_stability(clean, corrupted)

    assert stability.cosine == 0
    assert stability.divergence == pytest.approx(math.log(2), rel=1e-6)


def test_divergence_is_the_mean_of_both_relative_entropies_to_the_middle():
    clean, corrupted = torch.rand(2, 3, 4, 7, dtype=torch.float64).softmax(dim=-1)
    middle = (clean + corrupted) / 2
    expected = [(rows * (rows / middle).log()).sum(dim=-1).mean() for rows in (clean, corrupted)]

    found = attention_stability(clean, corrupted)

    assert found.divergence == pytest.approx(float(sum(expected) / 2), rel=1e-12)
    assert attention_stability(corrupted, clean) == found


def test_maps_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"one shape, got \(1, 2, 2\) and \(1, 2, 3\)"):
        attention_stability(torch.ones(1, 2, 2), torch.ones(1, 2, 3))


def plain_numbers(clean: np.ndarray, corrupted: np.ndarray) -> list[float]:
    """Mean cosine and divergence of the rows of two maps (B, N, M), one row at a time."""
    found = []
    for p, q in zip(clean.reshape(-1, clean.shape[-1]), corrupted.reshape(-1, clean.shape[-1]), strict=True):
        middle = (p + q) / 2
        relative = [
            sum(a * math.log(a / m) for a, m in zip(rows, middle, strict=True) if a) for rows in (p, q)
        ]
        found.append([p @ q / math.sqrt((p @ p) * (q @ q)), sum(relative) / 2])
    return list(np.mean(found, axis=0))


def test_every_layer_equals_plain_formulas_on_recorded_maps(watched, recorded_maps):
    corrupted_images = (watched.images + 0.3 * torch.rand_like(watched.images)).clamp(0, 1)
    clean, corrupted = (
        [layer.mean(axis=1) for layer in recorded_maps(watched.model, images)]
        for images in (watched.images, corrupted_images)
    )

    found = compare_attention(watched.model, watched.images, corrupted_images)

    assert len(found) == len(clean)
    for layer, before, after in zip(found, clean, corrupted, strict=True):
        np.testing.assert_allclose(
            [layer.cosine, layer.divergence], plain_numbers(before, after), rtol=1e-6, atol=1e-9
        )


def test_windows_are_compared_with_those_of_their_own_image(make_model):
    watched = make_model("swin", count=4)

    same = compare_attention(watched.model, watched.images, watched.images.clone())
    others = compare_attention(watched.model, watched.images, watched.images.flip(0))

    assert all(layer.cosine == pytest.approx(1, abs=1e-12) for layer in same)
    assert all(layer.divergence == pytest.approx(0, abs=1e-12) for layer in same)
    assert max(layer.divergence for layer in others) > 1e-3


def test_a_report_holds_every_corruption_and_severity_in_batches_of_any_size(make_model):
    watched = make_model("demo", count=5)

    def normalise(images: torch.Tensor) -> torch.Tensor:
        return (images - 0.3) / 0.4

    report = measure_stability(
        watched.model,
        watched.images,
        ["fog", "shot_noise"],
        [1, 5],
        normalise=normalise,
        seed=3,
        batch_size=2,
    )

    cells = [("fog", 1), ("fog", 5), ("shot_noise", 1), ("shot_noise", 5)]
    assert [(cell.corruption, cell.severity) for cell in report.corruptions] == cells
    assert report.layers == ("blocks.0", "blocks.1")
    assert (report.num_images, report.seed) == (5, 3)
    for cell in report.corruptions:
        noisy = corrupt(
            watched.images, cell.corruption, cell.severity, seed=3, indices=torch.arange(5)
        ).double()
        expected = compare_attention(watched.model, normalise(watched.images), normalise(noisy))
        assert [layer.cosine for layer in cell.layers] == pytest.approx([layer.cosine for layer in expected])
    mild, strong = (report.corruptions[index].layers[0].divergence for index in (2, 3))
    assert mild < strong

    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["corruptions"][3]["layers"][1]["divergence"] == report.corruptions[3].layers[1].divergence
    figure = report.plot()
    by_layer, by_severity = (axes.images[0].get_array() for axes in figure.axes[:2])
    first, second = (report.corruptions[index].layers[0].cosine for index in (0, 1))
    assert by_layer[0, 0] == pytest.approx((first + second) / 2)
    assert by_severity.shape == (2, 2)


def test_severities_in_another_order_are_plotted_under_their_own_number(make_model):
    watched = make_model("demo", count=2)
    report = measure_stability(watched.model, watched.images, ["fog"], [5, 1])
    axes = report.plot().axes[1]
    drawn = dict(
        zip(
            [label.get_text() for label in axes.get_xticklabels()], axes.images[0].get_array()[0], strict=True
        )
    )
    for cell in report.corruptions:
        mean = sum(layer.cosine for layer in cell.layers) / len(cell.layers)
        assert drawn[str(cell.severity)] == pytest.approx(mean)


def test_what_is_named_twice_counts_once(make_model):
    watched = make_model("demo", count=2)
    report = measure_stability(watched.model, watched.images, ["fog", "fog"], [1, 3, 1])
    assert [(cell.corruption, cell.severity) for cell in report.corruptions] == [("fog", 1), ("fog", 3)]
    report.plot()


@pytest.mark.parametrize(
    ("corruptions", "severities", "message"),
    [([], [1], "at least one corruption"), ("fog", [1], "lists of at least"), (["fog"], [], "and severity"),
     (["mist"], [1], "mist")],
)  # fmt: skip
def test_wrong_corruptions_are_named(make_model, corruptions, severities, message):
    watched = make_model("demo", count=1)
    with pytest.raises(ValueError, match=message):
        measure_stability(watched.model, watched.images, corruptions, severities)


def test_images_of_two_shapes_are_refused(make_model):
    watched = make_model("demo", count=2)
    with pytest.raises(ValueError, match=r"images of one shape, got \(2, 1, 28, 28\) and \(1, 1, 28, 28\)"):
        compare_attention(watched.model, watched.images, watched.images[:1])
