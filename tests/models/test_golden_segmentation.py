"""The segmentation model against the released one, in float64, with the parameters of the golden run."""

import copy
import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import tapadl
from tapadl.models import build_segmenter
from tapadl.models.convert import RELEASED_SEGMENTER, from_official, to_official
from tapadl.tasks.segmentation import pixel_cross_entropy, sliding_logits

NAME = "tap_fan_base_16_p4_hybrid"
GOLDEN = Path(__file__).parents[1] / "golden"
ARRAYS = np.load(GOLDEN / f"segmentation_{NAME}.npz")
with gzip.open(GOLDEN / f"segmentation_{NAME}.json.gz", "rt") as file:
    FACTS = json.load(file)
UNUSED = ["decode_head.conv_seg.weight", "decode_head.conv_seg.bias"]
TOLERANCE = 5e-6  # the position table is float32 in both, and may round otherwise

spec = importlib.util.spec_from_file_location("fill_rule", GOLDEN / "fill_rule.py")
fill_rule = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fill_rule)


def released_state():
    """A checkpoint with the names, shapes and order of the released one, filled as the golden run was."""
    return {
        key: torch.from_numpy(fill_rule.fill(key, shape)) if dtype.startswith("float") else torch.tensor(0)
        for key, shape, dtype in FACTS["state_dict"]
    }


@pytest.fixture(scope="module")
def segmenter():
    model = build_segmenter(NAME, FACTS["num_classes"], head_dropout=0.0, **RELEASED_SEGMENTER)
    model.load_state_dict(from_official(released_state(), NAME))
    return model.double()


def golden_images(shape, seed):
    return torch.from_numpy(fill_rule.model_input(shape, seed)).double()


def assert_close(actual, key, *, rtol=0.0, atol=TOLERANCE):
    torch.testing.assert_close(actual.detach(), torch.from_numpy(ARRAYS[key]), rtol=rtol, atol=atol)


def test_state_has_the_released_names_and_shapes_in_their_order_without_the_unused(segmenter):
    own = to_official(segmenter.state_dict(), NAME)
    assert [[key, list(tensor.shape)] for key, tensor in own.items()] == [
        [key, shape] for key, shape, _ in FACTS["state_dict"] if key not in UNUSED
    ]


def test_features_and_logits_are_those_of_the_released_model(segmenter):
    images = golden_images((1, 3, 256, 256), seed=0)
    with torch.no_grad():
        features = segmenter.eval().features(images)
        logits = segmenter.decode_head(features)
        enlarged = torch.nn.functional.interpolate(logits, size=(256, 256), mode="bilinear")
    for index, (feature, facts) in enumerate(zip(features, FACTS["features"]["f64"], strict=True)):
        assert list(feature.shape) == facts["shape"]
        assert feature.norm().item() == pytest.approx(facts["l2"], rel=1e-7)
        assert_close(feature[:, ::8, ::4, ::4], f"feat{index}_sub_f64", rtol=1e-7)
    assert list(logits.shape) == FACTS["head_logits"]["f64"]["shape"]
    assert logits.norm().item() == pytest.approx(FACTS["head_logits"]["f64"]["l2"], rel=1e-7)
    assert_close(logits[:, :, ::2, ::2], "head_logits_f64")
    facts = FACTS["upsampled_logits"]["f64"]
    assert list(enlarged.shape) == facts["shape"]
    assert enlarged.norm().item() == pytest.approx(facts["l2"], rel=1e-7)
    assert enlarged.mean().item() == pytest.approx(facts["mean"], abs=TOLERANCE)


def test_sliding_window_is_that_of_the_released_model(segmenter):
    images = golden_images((1, 3, 192, 256), seed=2)
    with torch.no_grad():
        logits = sliding_logits(segmenter.eval(), images, crop_size=(128, 128), stride=(96, 96))
    assert list(logits.shape) == FACTS["slide_logits"]["f64"]["shape"]
    assert logits.norm().item() == pytest.approx(FACTS["slide_logits"]["f64"]["l2"], rel=1e-7)
    assert_close(logits[:, :, ::8, ::8], "slide_logits_sub_f64")


def kept_batch_axis(attention):
    """ADL of one layer's maps (B, H, N, N), as the paper writes it."""
    rows = attention.mean(dim=1)
    mean = rows.mean(dim=1, keepdim=True)
    rows, mean = (values * (values > 2 / rows.shape[2]) for values in (rows, mean))
    return torch.cosine_similarity(rows, mean, dim=2).mean()


@pytest.mark.parametrize("batch_size", [1, 2])
def test_training_step_is_that_of_the_released_model(segmenter, batch_size):
    """In a batch of one the released ADL is 0, by a squeezed axis; ours is not, and left out of the loss."""
    golden = FACTS["train"][f"batch{batch_size}"]
    images = golden_images((2, 3, 128, 128), seed=3)[:batch_size]
    labels = torch.from_numpy(np.random.default_rng(4).integers(0, 19, (2, 128, 128)))[:batch_size]
    labels[:, :4] = 255
    segmenter = copy.deepcopy(segmenter).train()
    maps = []

    def note_map(attention, inputs, _output):
        heads = (attention.num_heads, -1)
        query = attention.q(inputs[0]).unflatten(2, heads).transpose(1, 2).detach()
        key = attention.kv(inputs[0]).chunk(2, dim=2)[0].unflatten(2, heads).transpose(1, 2).detach()
        maps.append((query @ key.transpose(2, 3) / query.shape[3] ** 0.5).softmax(dim=3))

    for site in segmenter.backbone.attention_sites():
        site.attention.register_forward_hook(note_map)
    with tapadl.AttentionDiversificationLoss(segmenter, tau=2) as diversification:
        logits = segmenter(images)
        per_layer = diversification.per_layer()
    cross_entropy = pixel_cross_entropy(logits, labels)
    adl = torch.stack(per_layer).sum() / (16 + 1e-6)  # as the released mean over layers divides
    loss = cross_entropy + adl if batch_size > 1 else cross_entropy
    loss.backward()
    assert cross_entropy.item() == pytest.approx(golden["decode.loss_seg"], abs=TOLERANCE)
    assert loss.item() == pytest.approx(golden["sum_of_losses"], abs=TOLERANCE)
    expected = torch.stack([kept_batch_axis(attention) for attention in maps])
    assert len(expected) == 16
    torch.testing.assert_close(torch.stack(per_layer).detach(), expected, rtol=0, atol=1e-9)
    if batch_size > 1:
        assert adl.item() == pytest.approx(golden["loss_ad"], abs=1e-6)

    official = to_official(dict(segmenter.named_parameters()), NAME)
    assert golden["params_without_grad"] == UNUSED
    norms = [official[key].grad.norm() if key not in UNUSED else 0.0 for key in FACTS["parameters"]]
    # the position table leaves its own rounding in the gradients too
    assert_close(
        torch.tensor(norms, dtype=torch.float64), f"train_batch{batch_size}_grad_l2_f64", rtol=1e-5, atol=1e-7
    )
