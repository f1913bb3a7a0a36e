import json

import numpy as np
import pytest
import torch

from tapadl.diagnostics import attention_rollout


def plain_rollout(maps: list[np.ndarray]) -> np.ndarray:
    """The product of (A + I) / 2 over the layers as whole matrices, (B, N, N) for the tokens of the last."""
    num_tokens = max(layer.shape[-1] for layer in maps)
    product = np.eye(num_tokens)[None]
    for layer in maps:
        mean = layer.mean(axis=1)
        whole = np.tile(np.eye(num_tokens), (len(mean), 1, 1))
        if mean.shape[1] == 1:  # class attention moves the class token alone
            whole[:, :1] = mean / 2 + whole[:, :1] / 2
        else:
            first = num_tokens - mean.shape[1]  # 1 where a class token joins later
            whole[:, first:, first:] = mean / 2 + whole[:, first:, first:] / 2
        product = whole @ product
    return product


@pytest.mark.parametrize("name", ["demo", "vit with registers", "fan hybrid", "cait", "transformers vit"])
def test_rows_equal_those_of_the_whole_product_of_recorded_maps(make_model, recorded_maps, name):
    watched = make_model(name)
    product = plain_rollout(recorded_maps(watched.model, watched.images))
    prefix = watched.prefix[-1]
    for token in (None, 0, 5, "mean"):
        explained = (0 if prefix else "mean") if token is None else token
        expected = product[:, prefix:].mean(axis=1) if explained == "mean" else product[:, explained]

        rollout = attention_rollout(watched.model, watched.images, token)

        assert rollout.token == explained
        np.testing.assert_allclose(rollout.prefix, expected[:, :prefix], rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(rollout.patches.flatten(1), expected[:, prefix:], rtol=1e-6, atol=1e-12)
        total = rollout.patches.sum(dim=(1, 2)) + rollout.prefix.sum(dim=1)
        torch.testing.assert_close(total, torch.ones(3, dtype=torch.float64))


def test_the_map_has_the_grid_of_the_patches(make_model):
    watched = make_model("vit with registers", count=1)

    assert attention_rollout(watched.model, watched.images).patches.shape == (1, 4, 6)


@pytest.mark.parametrize(
    ("name", "what"),
    [("swin", "16 queries and 16 keys in 12 windows of 3 images at layers.0.blocks.0"),
     ("rvt", "9 queries and 9 keys in 3 windows of 3 images at transformers.1.blocks.0")],
)  # fmt: skip
def test_windows_and_merged_patches_are_refused_in_a_sentence(make_model, name, what):
    watched = make_model(name)

    with pytest.raises(
        ValueError, match=f"{what}; rollout has no meaning where windows, pooled keys or merged"
    ):
        attention_rollout(watched.model, watched.images)

    assert not any(module._forward_pre_hooks for module in watched.model.modules())


@pytest.mark.parametrize("token", [27, -1, 0.5, "class"])
def test_a_token_that_is_not_there_is_named(make_model, token):
    watched = make_model("vit with registers", count=1)

    with pytest.raises(ValueError, match=f'an index below 27 or "mean", got {token!r}'):
        attention_rollout(watched.model, watched.images, token)


def test_a_rollout_is_plain_data_and_a_picture_beside_the_images(make_model):
    watched = make_model("vit with registers", count=2)
    rollout = attention_rollout(watched.model, watched.images)

    content = json.loads(json.dumps(rollout.to_json()))
    figure = rollout.plot(watched.images)

    assert content["patches"][1][3][5] == float(rollout.patches[1, 3, 5])
    assert len(content["prefix"][0]) == 3
    assert len(rollout.plot().axes) == 3  # two maps and a scale
    np.testing.assert_allclose(figure.axes[2].images[0].get_array(), 24 * rollout.patches[0])
    with pytest.raises(ValueError, match="the 2 images of the rollout, got 1"):
        rollout.plot(watched.images[:1])
