"""Weather: fog and brightness."""

import torch

from tapadl.corruptions.random import Draws


def fog(images: torch.Tensor, draws: Draws, *, strength: float, wibble_decay: float) -> torch.Tensor:
    """Add a plasma cloud and rescale: (x + strength * plasma) * max(x) / (max(x) + strength).

    Args:
        images: (B, C, H, W) float32 in 0..1.
        draws: Random numbers of these images.
        strength: Height of the cloud, in units of the 0..1 range.
        wibble_decay: How much rougher a coarse scale of the cloud is than the next finer one.

    Returns:
        (B, C, H, W) float32 in 0..1.

    Source: Hendrycks and Dietterich, ICLR 2019, the authors' generator script.
    """
    height, width = images.shape[2:]
    size = max(2, 1 << (max(height, width) - 1).bit_length())
    uniform = torch.from_numpy(draws.uniform(size * size - 1)).to(images.device)
    cloud = plasma(uniform, size, wibble_decay)[:, None, :height, :width]
    brightest = images.amax(dim=(1, 2, 3), keepdim=True)
    return (images + cloud * strength) * (brightest / (brightest + strength))


def plasma(uniform: torch.Tensor, size: int, wibble_decay: float) -> torch.Tensor:
    """Height maps by the diamond-square algorithm on a torus, rescaled to 0..1.

    At each scale, from the whole map down to single pixels, the middles of squares and then of the edges
    between them become a quarter of the sum of their four neighbours plus wibble * U(-wibble, wibble).
    Wibble starts at 100 and is divided by the decay from scale to scale.

    Args:
        uniform: (B, size * size - 1) in 0..1; consumed from the coarsest scale to the finest.
        size: Side of the map, a power of two, at least 2.
        wibble_decay: At least 1; larger is smoother.

    Returns:
        (B, size, size) float32, its minimum 0 and its maximum 1.
    """
    heights = uniform.new_zeros(len(uniform), size, size)
    used, step, wibble = 0, size, 100.0
    while step >= 2:
        half, side = step // 2, size // step
        # Squares, middles of horizontal edges, middles of vertical edges: side * side numbers each.
        wobble = uniform[:, used : used + 3 * side * side].unflatten(1, (3, side, side))
        wobble = (wobble * 2 - 1) * (wibble * wibble)
        corners = heights[:, ::step, ::step]
        to_right = corners + corners.roll(-1, dims=2)
        to_below = corners + corners.roll(-1, dims=1)
        middles = (to_below + to_below.roll(-1, dims=2)) / 4 + wobble[:, 0]
        heights[:, half::step, half::step] = middles
        heights[:, ::step, half::step] = (middles + middles.roll(1, dims=1) + to_right) / 4 + wobble[:, 1]
        heights[:, half::step, ::step] = (middles + middles.roll(1, dims=2) + to_below) / 4 + wobble[:, 2]
        used, step, wibble = used + 3 * side * side, half, wibble / wibble_decay
    heights = heights - heights.amin(dim=(1, 2), keepdim=True)
    return heights / heights.amax(dim=(1, 2), keepdim=True)


def brightness(images: torch.Tensor, *, added_value: float) -> torch.Tensor:
    """Raise the value of HSV, V = max over channels, by a constant, clipped to 1; hue and saturation stay.

    With hue and saturation fixed every channel is proportional to V, so no way to HSV and back is needed:
    x becomes x / V * min(V + c, 1), and black becomes gray. One channel is its own V: x + c, clipped.

    Args:
        images: (B, C, H, W) float32 in 0..1.
        added_value: c, in units of the 0..1 range.

    Returns:
        (B, C, H, W) float32 in 0..1.

    Source: Hendrycks and Dietterich, ICLR 2019, the authors' generator script.
    """
    value = images.amax(dim=1, keepdim=True)
    share = torch.where(value > 0, images / value, 1.0)
    return share * (value + added_value).clamp_(max=1)
