"""The one call that corrupts a batch: it checks the arguments, picks the function and clips."""

from types import ModuleType

import torch

from tapadl.corruptions import blur, digital, noise, weather
from tapadl.corruptions.checks import check_layout, check_seed, check_values, checked_indices
from tapadl.corruptions.random import Draws
from tapadl.corruptions.severity import CORRUPTIONS, Group, constants_for

_MODULES: dict[Group, ModuleType] = {"noise": noise, "blur": blur, "weather": weather, "digital": digital}

# Values worked on at once on the CPU: intermediate results of this size stay in its cache.
_CPU_SLICE = 2**18


@torch.no_grad()
def corrupt(
    images: torch.Tensor,
    corruption: str,
    severity: int,
    *,
    seed: int,
    indices: torch.Tensor,
    image_size: int | None = None,
) -> torch.Tensor:
    """Corrupt images in one of the published ways.

    The result for an image depends on its pixels, `seed`, its index, the corruption and the severity alone,
    to the last bit: not on the other images of the batch, the order or the number of workers. Random numbers
    are drawn on the CPU, so they are the same on every device.

    Args:
        images: (B, C, H, W), C 1 or 3, floating point in 0..1, any device.
        corruption: A name in `CORRUPTIONS`.
        severity: 1 to 5.
        seed: 0 to 2**64 - 1.
        indices: (B,) integers, not negative: the position of each image in its data set.
        image_size: Side length whose constants apply (see `constants_for`); the shorter side of the images
            by default. Published results on large images that kept the constants of 224 need 224 here.

    Returns:
        (B, C, H, W) float32 in 0..1 on the device of `images`, which stay as they are. Computed in float32.

    Raises:
        ValueError: If an argument is not as described; not-a-number counts as a value outside 0..1.

    Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
        Perturbations", ICLR 2019, arXiv:1903.12261.

    Example:
        >>> images, indices = torch.rand(4, 3, 32, 32), torch.arange(4)
        >>> corrupted = corrupt(images, "fog", 3, seed=0, indices=indices)
        >>> corrupted.shape
        torch.Size([4, 3, 32, 32])
        >>> torch.equal(corrupted[2:], corrupt(images[2:], "fog", 3, seed=0, indices=indices[2:]))
        True
    """
    check_layout(images)
    positions = checked_indices(indices, len(images))
    check_seed(seed)
    constants = constants_for(
        corruption, severity, min(images.shape[2:]) if image_size is None else image_size
    )
    row = CORRUPTIONS[corruption]
    function = getattr(_MODULES[row.group], corruption)

    values_per_image = images[0].numel()
    size = max(1, _CPU_SLICE // values_per_image) if images.device.type == "cpu" else len(images)
    corrupted = torch.empty(images.shape, device=images.device)
    for start in range(0, len(images), size):
        # Slice by slice: what is checked stays in the cache for the corruption.
        check_values(images[start : start + size])
        part = images[start : start + size].to(torch.float32).contiguous()
        draws = (Draws(seed, positions[start : start + size], corruption, severity),) if row.random else ()
        changed = function(part, *draws, **constants.values)
        if changed.dtype == torch.uint8:  # in range as it is
            corrupted[start : start + size].copy_(changed).div_(255)
        else:
            torch.clamp(changed, 0, 1, out=corrupted[start : start + size])
    return corrupted
