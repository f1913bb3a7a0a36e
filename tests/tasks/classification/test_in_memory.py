import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tapadl.data.fashion_mnist import LabelledImages
from tapadl.tasks.classification import Normalisation, count_errors, train_classifier
from tapadl.training.config import TrainingConfig

NORMALISE = Normalisation(0.25, 0.5)


def make_data(count=60):
    """Two classes: bright on the left or on top."""
    labels = torch.arange(count) % 2
    images = torch.randint(0, 80, (count, 1, 8, 8), dtype=torch.uint8)
    images[labels == 0, :, :, :4] += 120
    images[labels == 1, :, :4] += 120
    return LabelledImages(images, labels)


def make_model():
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=2, embed_dim=8, depth=2, num_heads=2,
        class_token=False, global_pool="avg",
    )  # fmt: skip


@pytest.mark.parametrize("diversify", [False, True])
def test_classifier_learns(diversify):
    model, data = make_model(), make_data()
    config = TrainingConfig(epochs=15, batch_size=10, learning_rate=1e-2)
    train_classifier(model, data, config, normalise=NORMALISE, diversify=diversify)
    assert count_errors(model, data.images, data.labels, normalise=NORMALISE) <= 3


def test_diversification_changes_training_by_its_weight_and_leaves_no_hooks():
    config = {"epochs": 1, "batch_size": 20, "learning_rate": 1e-2}
    weights = {}
    for name, diversify, adl_weight in (("without", False, 1.0), ("zero", True, 0.0), ("one", True, 1.0)):
        model = make_model()
        training = TrainingConfig(**config, adl_weight=adl_weight, adl_tau=0.0)
        train_classifier(model, make_fixed(), training, normalise=NORMALISE, diversify=diversify)
        assert not model._forward_pre_hooks
        assert not model.blocks[0].attn._forward_pre_hooks
        weights[name] = model.blocks[0].attn.qkv.weight
    assert torch.equal(weights["without"], weights["zero"])
    assert not torch.equal(weights["without"], weights["one"])


def make_fixed():
    torch.manual_seed(5)
    return make_data()


def test_errors_are_counted_the_same_in_any_batching():
    model, data = make_model(), make_data(25)
    expected = int((model.eval()(NORMALISE(data.images / 255)).argmax(1) != data.labels).sum())
    for batch_size in (1, 7, 100):
        counted = count_errors(model, data.images, data.labels, normalise=NORMALISE, batch_size=batch_size)
        assert counted == expected


def test_counting_uses_evaluation_mode():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 2))
    before = model[1].running_mean.clone()
    data = make_data(10)
    count_errors(model, data.images, data.labels, normalise=NORMALISE)
    assert torch.equal(model[1].running_mean, before)


def test_normalised_training_images_have_mean_zero_and_deviation_one():
    images = make_data().images
    normalised = Normalisation.of(images)(images / 255)
    assert abs(normalised.mean().item()) < 1e-3
    assert abs(normalised.std(correction=0).item() - 1) < 1e-3
