"""What the public functions of the package check about their arguments, in words."""

import torch


def check_images(images: torch.Tensor) -> None:
    """Images of shape (B, C, H, W), C 1 or 3, floating point in 0..1; ValueError if not."""
    check_layout(images)
    check_values(images)


def check_layout(images: torch.Tensor) -> None:
    """A tensor (B, C, H, W), C 1 or 3, floating point; ValueError if not."""
    if not isinstance(images, torch.Tensor):
        raise ValueError(f"expected images to be a torch.Tensor, got {type(images).__name__}")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.numel() == 0:
        raise ValueError(
            "expected images of shape (B, C, H, W) with 1 or 3 channels and no side of length 0, "
            f"got {tuple(images.shape)}"
        )
    if not images.is_floating_point():
        raise ValueError(
            f"expected images of a floating point dtype with values in 0..1, got {images.dtype}; "
            "divide 8-bit images by 255"
        )


def check_values(images: torch.Tensor) -> None:
    """Values in 0..1; ValueError if not."""
    low, high = (bound.item() for bound in images.aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"expected images with values in 0..1, got values from {low} to {high}; "
            "corrupt before normalising"
        )


def check_seed(seed: int) -> None:
    """An integer from 0 to 2**64 - 1; ValueError if not."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise ValueError(f"expected seed to be an integer from 0 to 2**64 - 1, got {seed!r}")


def checked_indices(indices: torch.Tensor, num_images: int) -> list[int]:
    """Positions of images in their data set, one for each; ValueError if they are not."""
    if not isinstance(indices, torch.Tensor):
        raise ValueError(f"expected indices to be a torch.Tensor, got {type(indices).__name__}")
    if indices.dtype.is_floating_point or indices.dtype.is_complex or indices.dtype == torch.bool:
        raise ValueError(f"expected indices of an integer dtype, got {indices.dtype}")
    if indices.shape != (num_images,):
        raise ValueError(
            f"expected indices of shape ({num_images},), one for each image, got {tuple(indices.shape)}"
        )
    positions: list[int] = indices.tolist()
    if min(positions) < 0:
        raise ValueError(f"expected indices of at least 0, got {min(positions)}")
    return positions
