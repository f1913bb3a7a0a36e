"""Numbers of parameters, against counts that our code has no part in: released models, papers, arithmetic."""

from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch

from tapadl.models import VARIANTS

PAGE = Path(__file__).parents[2] / "docs" / "models.md"

# Counted in the released models.
COUNTED = {
    "fan_tiny_12_p16_224": 7_319_920,
    "fan_small_12_p4_hybrid": 26_117_944,
    "fan_base_16_p4_hybrid": 50_475_048,
    "tap_fan_tiny_12_p16_224": 7_404_688,
    "tap_fan_small_12_p4_hybrid": 26_257_704,
    "tap_fan_base_16_p4_hybrid": 50_735_528,
    "tap_rvt_tiny": 8_744_968,
    "tap_rvt_tiny_plus": 11_049_928,
    "tap_rvt_base_plus": 89_396_872,
}
# Millions in arXiv:2204.12451 (FAN), 2105.07926 (RVT) and 2303.11126 (TAP and ADL), some of them cut off.
PUBLISHED = {
    "fan_large_16_p4_hybrid": 76.8,
    "fan_base_16_p4_hybrid": 50.4,
    "tap_fan_base_16_p4_hybrid": 50.7,
    "rvt_tiny_plus": 10.9,
    "rvt_small_plus": 23.3,
}


def linear(width, out):
    return width * out + out


def norm(width):
    """Scale and shift of a LayerNorm or BatchNorm."""
    return 2 * width


def conv(width, out, kernel):
    return width * out * kernel**2 + out


def depthwise(width, kernel=3):
    return conv(1, width, kernel)


def mlp(width):
    return linear(width, 4 * width) + linear(4 * width, width)


def attention(width):
    """Query, key, value and projection."""
    return 4 * linear(width, width)


def tap(width):
    return 9 * width * 4 + 9 * 4 * 4 + norm(4)


def channel_processing(width, heads):
    convs = depthwise(4 * width) + norm(4 * width) + depthwise(4 * width)
    return linear(width, width) + heads + norm(width) + mlp(width) + 4 * width + convs


def fan(widths, depths, heads, stem=None):
    """A FAN with 1,000 classes; `stem`: blocks of the two ConvNeXt stages of a hybrid."""
    first, last = widths[0], widths[-1]
    if stem is None:
        steps = [3, first // 8, first // 4, first // 2, first]
        embedding = sum(9 * a * b + norm(b) for a, b in pairwise(steps))
    else:
        embedding = conv(3, 128, 4) + norm(128) + norm(128) + conv(128, 256, 2) + conv(256, first, 2)
        for width, depth in zip((128, 256), stem, strict=True):
            embedding += depth * (depthwise(width, 7) + norm(width) + mlp(width) + width)
    blocks = sum(
        depth * (2 * norm(width) + attention(width) + channel_processing(width, number) + 2 * width)
        for width, depth, number in zip(widths, depths, heads, strict=True)
    )
    merging = sum(conv(a, b, 3) + norm(b) for a, b in pairwise(widths))
    class_attention = 2 * (2 * norm(last) + attention(last) + mlp(last) + 2 * last)
    ends = conv(64, first, 1) + last + norm(last) + linear(last, 1000)
    return embedding + blocks + merging + class_attention + ends


def fan_swin(width, depths, heads):
    total = conv(3, width, 4) + norm(width)
    for stage, (depth, number) in enumerate(zip(depths, heads, strict=True)):
        dim = width * 2**stage
        processing = mlp(dim) if stage == 3 else channel_processing(dim, number)
        total += depth * (2 * norm(dim) + attention(dim) + 13 * 13 * number + processing)
        total += 0 if stage == 3 else norm(4 * dim) + 4 * dim * 2 * dim
    return total + norm(8 * width) + linear(8 * width, 1000)


def rvt(widths, depths, heads, masked=0, conv_mlp=True):
    total = conv(3, 32, 7) + norm(32) + conv(32, widths[0], 4)
    for width, depth in zip(widths, depths, strict=True):
        convolutional = mlp(width) + norm(4 * width) + depthwise(4 * width) + norm(4 * width) + norm(width)
        total += depth * (2 * norm(width) + attention(width) + (convolutional if conv_mlp else mlp(width)))
    total += sum(depthwise(width) for width in widths[1:])
    return total + masked * heads[0] * 196**2 + norm(widths[-1]) + linear(widths[-1], 1000)


SWIN = (2, 2, 18, 2)
# What the description says of each: parameters of the plain model, widths and depths that take TAP.
DESCRIBED = {
    "fan_tiny_12_p16_224": (fan([192], [12], [4]), [192], [12]),
    "fan_small_12_p16_224": (fan([384], [12], [8]), [384], [12]),
    "fan_base_18_p16_224": (fan([448], [18], [8]), [448], [18]),
    "fan_large_24_p16_224": (fan([480], [24], [10]), [480], [24]),
    "fan_tiny_8_p4_hybrid": (fan([192], [8], [8], (3, 3)), [192], [8]),
    "fan_small_12_p4_hybrid": (fan([384], [10], [8], (3, 3)), [384], [10]),
    "fan_base_16_p4_hybrid": (fan([448], [16], [8], (3, 3)), [448], [16]),
    "fan_large_16_p4_hybrid": (fan([480], [22], [10], (3, 5)), [480], [22]),
    "fan_Xlarge_16_p4_hybrid": (fan([528, 768], [20, 3], [11, 16], (3, 7)), [528, 768], [20, 3]),
    "fan_swin_tiny_patch4_window7_224": (
        fan_swin(96, (2, 2, 6, 2), (3, 6, 12, 24)),
        [96, 192, 384, 768],
        [2, 2, 6, 2],
    ),
    "fan_swin_small_patch4_window7_224": (fan_swin(96, SWIN, (3, 6, 12, 24)), [96, 192, 384, 768], SWIN),
    "fan_swin_base_patch4_window7_224": (fan_swin(128, SWIN, (4, 8, 16, 32)), [128, 256, 512, 1024], SWIN),
    "fan_swin_large_patch4_window7_224": (fan_swin(192, SWIN, (6, 12, 24, 48)), [192, 384, 768, 1536], SWIN),
    "rvt_tiny": (rvt([192, 384], [10, 2], [6, 12]), [192, 384], [10, 2]),
    "rvt_tiny_plus": (rvt([192, 384], [10, 2], [6, 12], masked=10), [192, 384], [10, 2]),
    "rvt_small": (rvt([384], [12], [6]), [384], [12]),
    "rvt_small_plus": (rvt([384], [12], [6], masked=5), [384], [12]),
    "rvt_base": (rvt([768], [12], [12], conv_mlp=False), [768], [12]),
    "rvt_base_plus": (rvt([768], [12], [12], masked=5, conv_mlp=False), [768], [12]),
}


def count(name, **options):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in timm.create_model(name, **options).parameters())


@pytest.mark.parametrize("name", COUNTED)
def test_parameters_number_as_in_the_released_model(name):
    assert count(name) == COUNTED[name]


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_number_as_the_description_adds_up_to_and_the_docs_say(name):
    plain, widths, depths = DESCRIBED[name]
    assert count(name) == plain
    pooling = sum(depth * tap(width) for width, depth in zip(widths, depths, strict=True))
    # the base models of RVT with TAP have the convolutional MLP: three batch norms and a convolution more
    convolutions = 12 * (2 * norm(3072) + depthwise(3072) + norm(768)) if name.startswith("rvt_base") else 0
    with_tap = plain + pooling + convolutions
    assert count("tap_" + name) == with_tap
    assert f"| `{name}` | {plain:,} | {with_tap:,} |\n" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_number_as_the_papers_say(name):
    assert count(name) / 1e6 == pytest.approx(PUBLISHED[name], abs=0.1)


def test_published_counts_of_rvt_base_are_those_with_all_twelve_blocks_masked():
    settings = {"masked_blocks": 12, "conv_mlp": False}
    assert round(count("rvt_base_plus", **settings) / 1e6, 1) == 91.8
    assert round(count("tap_rvt_base_plus", **settings) / 1e6, 1) == 92.1
