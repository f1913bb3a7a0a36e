import json

import pytest
import torch

from tapadl.demo.attention import attention_numbers, collect_examples, middle_severity
from tapadl.demo.cells import Cell, CorruptedImages, benchmark_cells
from tapadl.demo.settings import ModelConfig
from tapadl.demo.variants import build_model
from tapadl.diagnostics import attention_stability, head_mean_attention

CONFIG = ModelConfig(embed_dim=16, depth=2, num_heads=2)
CELLS = benchmark_cells(["gaussian_noise", "shot_noise", "fog"], [1, 3, 5])


def normalise(images: torch.Tensor) -> torch.Tensor:
    return (images - 0.3) / 0.4


@pytest.fixture
def images() -> CorruptedImages:
    return CorruptedImages(torch.randint(0, 256, (10, 1, 28, 28), dtype=torch.uint8), seed=0)


def test_numbers_are_those_of_the_diagnostics_at_the_middle_severity(images):
    model = build_model("tap", CONFIG, num_classes=10, seed=0).eval()

    numbers = attention_numbers(model, images, CELLS, normalise=normalise, count=6)

    clean, fog = (
        head_mean_attention(model, normalise(images.in_cell(cell)[:6] / 255))
        for cell in (Cell("clean", 0), Cell("fog", 3))
    )
    assert numbers["images"] == 6
    assert numbers["severity"] == 3
    assert numbers["corruptions"] == ["gaussian_noise", "shot_noise", "fog"]
    assert json.loads(json.dumps(numbers)) == numbers
    for layer, found in enumerate(numbers["layers"]):
        expected = attention_stability(clean[layer], fog[layer])
        assert found["stability_by_corruption"]["fog"]["cosine"] == pytest.approx(expected.cosine)
        cosines = [stability["cosine"] for stability in found["stability_by_corruption"].values()]
        assert found["stability"]["cosine"] == pytest.approx(sum(cosines) / 3)
        assert 1 <= found["corrupted"]["effective_keys"] <= 49
        assert 0 < found["mean_dilation"] < 3


def test_a_model_without_tap_has_no_dilation(images):
    model = build_model("plain", CONFIG, num_classes=10, seed=0).eval()

    numbers = attention_numbers(model, images, CELLS, normalise=normalise, count=2)

    assert all("mean_dilation" not in layer for layer in numbers["layers"])


def test_examples_are_the_first_of_their_class_under_the_first_of_each_group(images):
    models = {name: build_model(name, CONFIG, num_classes=3, seed=0).eval() for name in ("plain", "tap")}
    labels = torch.tensor([2, 2, 0, 2, 1, 0, 1, 2, 0, 1])

    found = collect_examples(
        models, images, labels, CELLS, class_names=("boot", "bag", "coat"), normalise=normalise,
        grid_size=(7, 7), seed=3,
    )  # fmt: skip

    assert [(example.class_name, example.corruption) for example in found.attention] == [
        ("coat", "gaussian_noise"),
        ("boot", "fog"),
    ]
    second = found.attention[1]
    assert torch.equal(second.clean, images.in_cell(Cell("clean", 0))[2] / 255)
    assert torch.equal(second.corrupted, images.in_cell(Cell("fog", 3))[2] / 255)
    plain, tap = (second.looks[name][1] for name in ("plain", "tap"))
    assert [tuple(layer.shape) for layer in plain.attention] == [(49, 49), (49, 49)]
    assert plain.dilation == ()
    assert [tuple(layer.shape) for layer in tap.dilation] == [(7, 7), (7, 7)]
    assert [sample.corruption for sample in found.samples] == ["gaussian_noise", "shot_noise", "fog"]
    assert found.samples[0].severities == (0, 1, 3, 5)
    assert found.samples[0].images.shape == (3, 4, 1, 28, 28)
    assert torch.equal(found.samples[2].images[1, 2], second.corrupted)


def test_cells_without_a_corruption_are_refused():
    with pytest.raises(ValueError, match="at least one corruption, got none"):
        middle_severity([Cell("clean", 0)])
