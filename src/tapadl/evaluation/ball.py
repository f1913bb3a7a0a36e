"""The images an attack may choose from: those near an image, with values in 0..1."""

from typing import Literal, Protocol

import torch

from tapadl.corruptions.random import Draws

Norm = Literal["linf", "l2"]
TINY = 1e-300  # divides a length of 0


class Ball(Protocol):
    """Images at most `eps` away from the given ones, by a norm of the difference of each image."""

    def project(self, images: torch.Tensor) -> torch.Tensor:
        """The nearest images inside; inside exactly, whatever float32 rounds to."""

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        """The step of length 1 along which a linear function with this gradient grows most."""

    def draw(self, draws: Draws) -> torch.Tensor:
        """Images uniform in the ball, cut to 0..1."""


def ball_around(images: torch.Tensor, eps: float, norm: Norm) -> Ball:
    """The ball of a norm.

    Args:
        images: (B, C, H, W), float32, in 0..1.
        eps: Radius, above or equal to 0, on the scale of 0..1.
        norm: `"linf"` or `"l2"`.

    Raises:
        ValueError: If an argument is none of these.
    """
    if images.ndim != 4 or images.dtype != torch.float32:
        raise ValueError(
            f"expected images (B, C, H, W) of float32, got {tuple(images.shape)} of {images.dtype}"
        )
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("expected images in 0..1, before normalisation, got other values")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"expected eps of 0 or above, such as 8 / 255, got {eps}")
    if norm == "linf":
        return LinfBall(images, eps)
    if norm == "l2":
        return L2Ball(images, eps)
    raise ValueError(f"expected norm linf or l2, got {norm!r}")


class LinfBall:
    """Each value at most `eps` away."""

    def __init__(self, centre: torch.Tensor, eps: float) -> None:
        self.centre = centre
        self.eps = eps
        # the bounds are rounded towards the centre, so that float32 does not leave the ball by a last bit
        lower, upper = (centre.double() - eps).clamp(min=0), (centre.double() + eps).clamp(max=1)
        inwards = torch.full_like(centre, 0.5)
        self.lower = torch.where(lower.float() < lower, lower.float().nextafter(inwards + 1), lower.float())
        self.upper = torch.where(upper.float() > upper, upper.float().nextafter(inwards - 1), upper.float())

    def project(self, images: torch.Tensor) -> torch.Tensor:
        """Each value cut to its bounds."""
        return images.clamp(self.lower, self.upper)

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        """The sign of each value."""
        return gradient.sign()

    def draw(self, draws: Draws) -> torch.Tensor:
        """Each value uniform."""
        uniform = torch.from_numpy(draws.uniform(*self.centre.shape[1:])).to(self.centre.device)
        return self.project(self.centre + (2 * uniform - 1) * self.eps)


class L2Ball:
    """The root of the sum of squares over an image at most `eps`."""

    def __init__(self, centre: torch.Tensor, eps: float) -> None:
        self.centre = centre
        self.eps = eps

    def project(self, images: torch.Tensor) -> torch.Tensor:
        """The difference scaled down, then cut to 0..1, which takes no image out of the ball."""
        centre = self.centre.double()
        difference = images.double() - centre
        factor = (self.eps / _length(difference).clamp(min=TINY)).clamp(max=1)
        shrink = 1 - 1e-6
        while True:
            inside = (centre + factor * difference).clamp(0, 1).float()
            outside = _length(inside.double() - centre) > self.eps
            if not bool(outside.any()):
                return inside
            factor = torch.where(outside, factor * shrink, factor)  # float32 has rounded it out of the ball
            shrink *= shrink

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient at length 1; 0 where it is 0."""
        return (gradient.double() / _length(gradient.double()).clamp(min=TINY)).to(gradient.dtype)

    def draw(self, draws: Draws) -> torch.Tensor:
        """A uniform direction, and the radius that makes the density uniform."""
        device, size = self.centre.device, self.centre[0].numel()
        direction = self.steepest(torch.from_numpy(draws.normal(*self.centre.shape[1:])).to(device))
        radius = torch.from_numpy(draws.uniform(1, 1, 1)).to(device) ** (1 / size)
        return self.project(self.centre + self.eps * radius * direction)


def _length(images: torch.Tensor) -> torch.Tensor:
    """l2 norm of each image, (B, 1, 1, 1)."""
    lengths: torch.Tensor = images.flatten(1).norm(dim=1)
    return lengths[:, None, None, None]
