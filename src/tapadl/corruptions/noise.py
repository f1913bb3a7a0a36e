"""Noise: gaussian, shot, impulse and speckle noise."""

import torch

from tapadl.corruptions.random import Draws


def gaussian_noise(images: torch.Tensor, draws: Draws, *, sigma: float) -> torch.Tensor:
    """Add normal noise: x + N(0, sigma^2), each value on its own.

    Args:
        images: (B, C, H, W) float32 in 0..1.
        draws: Random numbers of these images.
        sigma: Standard deviation, in units of the 0..1 range.

    Returns:
        (B, C, H, W) float32, not clipped.

    Source: Hendrycks and Dietterich, ICLR 2019, section 3.
    """
    noise = torch.from_numpy(draws.normal(*images.shape[1:])).to(images.device)
    return images + noise * sigma


def shot_noise(images: torch.Tensor, draws: Draws, *, photons: float) -> torch.Tensor:
    """Replace each value by a count of photons: Poisson(x * photons) / photons.

    Args:
        images: (B, C, H, W) float32 in 0..1.
        draws: Random numbers of these images.
        photons: Mean count of a value of 1.

    Returns:
        (B, C, H, W) float32, not clipped.

    Source: Hendrycks and Dietterich, ICLR 2019, section 3.
    """
    # The counts are drawn on the CPU whatever the device: how many numbers a count takes depends on its mean.
    counts = draws.poisson((images * photons).cpu().numpy())
    return torch.from_numpy(counts).to(images.device) / photons


def impulse_noise(images: torch.Tensor, draws: Draws, *, amount: float) -> torch.Tensor:
    """Salt and pepper: a share `amount` of the values becomes 0 or 1, half each, channels on their own.

    Args:
        images: (B, C, H, W) float32 in 0..1.
        draws: Random numbers of these images.
        amount: Share of the values that are replaced, 0..1.

    Returns:
        (B, C, H, W) float32 in 0..1.

    Source: Hendrycks and Dietterich, ICLR 2019, section 3.
    """
    # One number decides both whether and how: below amount / 2 pepper, from there up to amount salt.
    draw = torch.from_numpy(draws.uniform(*images.shape[1:])).to(images.device)
    salted = torch.where(draw < amount, 1.0, images)
    return torch.where(draw < amount / 2, 0.0, salted)


def speckle_noise(images: torch.Tensor, draws: Draws, *, sigma: float) -> torch.Tensor:
    """Noise that grows with the value: x + x * N(0, sigma^2), each value on its own.

    Args:
        images: (B, C, H, W) float32 in 0..1.
        draws: Random numbers of these images.
        sigma: Standard deviation as a share of the value.

    Returns:
        (B, C, H, W) float32, not clipped.

    Source: Hendrycks and Dietterich, ICLR 2019, the authors' generator script.
    """
    noise = torch.from_numpy(draws.normal(*images.shape[1:])).to(images.device)
    return images + noise.mul_(sigma).mul_(images)
