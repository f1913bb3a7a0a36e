"""Weather: snow, frost, fog, brightness and spatter."""

import math

import numpy as np
import torch

from tapadl.corruptions import ice
from tapadl.corruptions.blur import Floats, gaussian_blur, smear, zoom_rows
from tapadl.corruptions.filters import mix_rows, transpose
from tapadl.corruptions.liquid import wetness
from tapadl.corruptions.random import Draws

WATER = (175, 238, 238)
MUD = (63, 42, 20)


def snow(
    images: torch.Tensor,
    draws: Draws,
    *,
    mean: float,
    std: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    image_weight: float,
) -> torch.Tensor:
    """Whiten the image and add flakes that fall along an angle uniform in -135..-45 degrees.

    Flakes are normal noise, its centre zoomed, nothing under the threshold, smeared; rounded down to 8 bits
    before and to the nearest after that. They are added twice, once turned by 180 degrees, to
    image_weight * x + (1 - image_weight) * max(x, 1.5 gray + 0.5).

    Args:
        images: (B, C, H, W) float32 in 0..1.
        draws: Random numbers of these images.
        mean: Of the noise, in units of the 0..1 range.
        std: Of the noise.
        zoom: Pixels between two numbers of the noise, at least 1.
        threshold: Noise below it is no flake.
        radius: The flakes are smeared over 2 * radius + 1 pixels.
        sigma: Standard deviation in pixels of the half Gaussian that weighs them.
        image_weight: Share of the image that is not whitened.

    Returns:
        (B, C, H, W) float32, not clipped.

    Source: Hendrycks and Dietterich, ICLR 2019, the authors' generator script.
    """
    flakes = snowflakes(images, draws, mean=mean, std=std, zoom=zoom, threshold=threshold)
    angles = -135 + 90 * draws.uniform().astype(np.float64)
    return snow_on(images, flakes, angles, radius=radius, sigma=sigma, image_weight=image_weight)


def snowflakes(
    images: torch.Tensor, draws: Draws, *, mean: float, std: float, zoom: float, threshold: float
) -> torch.Tensor:
    """Flakes before they fall, (B, 1, H, W) in 0..1, as `snow` describes them."""
    height, width = images.shape[2:]
    zoom = max(zoom, 1.0)
    noise = draws.normal(1, math.ceil(height / zoom), math.ceil(width / zoom)) * std + mean
    flakes = mix_rows(torch.from_numpy(noise.astype(np.float32)).to(images.device), *zoom_rows(height, zoom))
    flakes = transpose(mix_rows(transpose(flakes), *zoom_rows(width, zoom)))
    return torch.where(flakes < threshold, 0.0, flakes).clamp_(0, 1).mul_(255).floor_().div_(255)


def snow_on(
    images: torch.Tensor,
    flakes: torch.Tensor,
    angles: Floats,
    *,
    radius: float,
    sigma: float,
    image_weight: float,
) -> torch.Tensor:
    """Whiten the images and let flakes fall, each image's along its angle in degrees, as `snow` describes."""
    flakes = smear(flakes, angles, radius=radius, sigma=sigma).mul_(255).round_().div_(255)
    white = _luma(images, (0.299, 0.587, 0.114)).mul_(1.5).add_(0.5)
    whitened = torch.maximum(images, white).mul_(1 - image_weight).add_(images * image_weight)
    return whitened.add_(flakes).add_(flakes.flip((2, 3)))


def _luma(images: torch.Tensor, weights: tuple[float, float, float]) -> torch.Tensor:
    """Gray of colour images; of gray ones a copy."""
    if images.shape[1] == 1:
        return images.clone()
    red, green, blue = (images[:, c : c + 1] * weights[c] for c in range(3))
    return red.add_(green).add_(blue)


def frost(
    images: torch.Tensor,
    draws: Draws,
    *,
    image_weight: float,
    frost_weight: float,
    photograph_scale: float,
) -> torch.Tensor:
    """Add a picture of frost: image_weight * x + frost_weight * random crop of one of five pictures.

    The pictures are the published photographs where `imagecorruptions-imaug` is installed, else ours; see
    `frost_source`.

    Args:
        images: (B, C, H, W) float32 in 0..1.
        draws: Random numbers of these images; three each.
        image_weight: Of the image.
        frost_weight: Of the frost.
        photograph_scale: The picture is scaled by it before the crop, or by more where it would be too small.

    Returns:
        (B, C, H, W) float32, not clipped.

    Source: Hendrycks and Dietterich, ICLR 2019, the authors' generator script.
    """
    channels, height, width = images.shape[1:]
    crops = [
        ice.crop(picture, top, left, height=height, width=width, scale=photograph_scale)
        for picture, top, left in draws.uniform(3).tolist()
    ]
    layer = torch.from_numpy(np.stack(crops)).to(images.device).permute(0, 3, 1, 2).contiguous().float()
    if channels == 1:
        layer = _luma(layer, (0.2989, 0.587, 0.114))
    return layer.mul_(frost_weight / 255).add_(images * image_weight)


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


def spatter(
    images: torch.Tensor,
    draws: Draws,
    *,
    mean: float,
    std: float,
    blur_sigma: float,
    threshold: float,
    water_strength: float,
    mud_sigma: float,
) -> torch.Tensor:
    """Splash pale water onto the image, or, where mud_sigma is above 0, mud.

    The liquid is where smoothed normal noise exceeds the threshold. Water is added: its colour times a
    relief (see `liquid.wetness`) of height water_strength. Mud covers: its colour replaces the share of the
    pixel that the smoothed mask gives where that is at least 0.8.

    Args:
        images: (B, C, H, W) float32 in 0..1.
        draws: Random numbers of these images.
        mean: Of the noise.
        std: Of the noise. It grows with the image as lengths do: a filter twice as wide leaves half of it.
        blur_sigma: Standard deviation of the filter in pixels.
        threshold: Above it there is liquid.
        water_strength: Largest share of the colour that water adds.
        mud_sigma: Standard deviation in pixels of the filter of the mask; 0 for water.

    Returns:
        (B, C, H, W) float32, not clipped.

    Source: Hendrycks and Dietterich, ICLR 2019, the authors' generator script.
    """
    noise = draws.normal(1, *images.shape[2:]) * np.float32(std) + np.float32(mean)
    liquid = gaussian_blur(torch.from_numpy(noise).to(images.device), sigma=blur_sigma)
    if mud_sigma > 0:
        cover = gaussian_blur((liquid > threshold).float(), sigma=mud_sigma)
        cover = torch.where(cover < 0.8, 0.0, cover)
        return images * (1 - cover) + cover * _colour(images, MUD)
    return water_on(images, torch.where(liquid < threshold, 0.0, liquid), strength=water_strength)


def water_on(images: torch.Tensor, liquid: torch.Tensor, *, strength: float) -> torch.Tensor:
    """Add water to images where there is liquid, (B, 1, H, W), as `spatter` describes it."""
    levels = (liquid * 255).clamp_(0, 255).to(torch.uint8)
    relief = torch.from_numpy(wetness(levels[:, 0].cpu().numpy())[:, None]).to(images.device)
    return images + relief.mul_(strength) * _colour(images, WATER)


def _colour(images: torch.Tensor, rgb: tuple[int, int, int]) -> torch.Tensor:
    """A colour of 8 bits as (1, C, 1, 1) in 0..1, gray for gray images."""
    colour = torch.tensor(rgb, dtype=torch.float32, device=images.device)[None, :, None, None] / 255
    return colour if images.shape[1] == 3 else _luma(colour, (0.2989, 0.587, 0.114))
