"""What is drawn for a whole batch: mixup and cutmix, and RVT's augmentation of single patches."""

from dataclasses import dataclass, field

import torch
from timm.data.mixup import Mixup
from torch.nn.functional import grid_sample, one_hot


@dataclass(frozen=True)
class Mixing:
    """Mixup, cutmix and label smoothing, by timm; a draw a batch decides between the first two.

    An image is paired with one of the same micro-batch, the first with the last and so on: with more
    processes or accumulation the pairs are others. timm draws from `numpy.random`, which `reseed` seeds.

    Args:
        num_classes: Of the targets.
        mixup: Alpha of mixup's beta distribution; 0 for none.
        cutmix: Alpha of cutmix's; 0 for none.
        switch_prob: Probability of cutmix where both are on.
        label_smoothing: Part of the target that all classes share.

    Raises:
        ValueError: If a value is out of its range.

    Source:
        Zhang et al., arXiv:1710.09412; Yun et al., arXiv:1905.04899.

    Example:
        >>> mixing = Mixing(num_classes=3, label_smoothing=0.3)
        >>> mixing(torch.zeros(1, 3, 4, 4), torch.tensor([2]))[1]
        tensor([[0.1000, 0.1000, 0.8000]])
    """

    num_classes: int
    mixup: float = 0.0
    cutmix: float = 0.0
    switch_prob: float = 0.5
    label_smoothing: float = 0.0
    _mix: Mixup | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.num_classes < 1 or min(self.mixup, self.cutmix) < 0:
            raise ValueError(
                f"expected num_classes from 1, mixup and cutmix from 0, got {self.num_classes}, "
                f"{self.mixup} and {self.cutmix}"
            )
        for name, value in (("switch_prob", self.switch_prob), ("label_smoothing", self.label_smoothing)):
            if not 0 <= value <= 1:
                raise ValueError(f"expected {name} from 0 to 1, got {value}")
        mix = None
        if self.mixup or self.cutmix:
            mix = Mixup(  # type: ignore[no-untyped-call]
                mixup_alpha=self.mixup,
                cutmix_alpha=self.cutmix,
                switch_prob=self.switch_prob,
                label_smoothing=self.label_smoothing,
                num_classes=self.num_classes,
            )
        object.__setattr__(self, "_mix", mix)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and soft targets of one micro-batch.

        Args:
            images: (B, C, H, W), floating point; they stay as they are.
            labels: (B,), int64.

        Returns:
            Images like `images`, and targets (B, num_classes), float32, each with the sum 1.

        Raises:
            ValueError: If images are to be mixed in pairs and B is odd.
        """
        if self._mix is None:
            hard = one_hot(labels, self.num_classes).float()
            return images, hard * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes
        if len(images) % 2:
            raise ValueError(
                f"expected an even micro-batch (batch_size / processes / accumulation) for mixup and cutmix, "
                f"got {len(images)} images"
            )
        mixed, targets = self._mix(images.clone(), labels)  # timm works in place
        return mixed, targets


def patch_augmentation(
    images: torch.Tensor,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    patch_size: int | None = None,
    crop_prob: float = 0.1,
    noise_prob: float = 0.1,
    flip_prob: float = 0.1,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Crop, make noisy and flip the patches of images, each patch by draws of its own (RVT).

    In this order, with the given probabilities: a random square of .85 to 1 of the patch's area, resized to
    the patch (bilinear); normal noise with a standard deviation of .01; a horizontal flip. At the end, values
    are clamped to the range that normalised images have.

    Args:
        images: (B, C, H, W), floating point, normalised.
        mean: What was subtracted, one number a channel of values in 0..1.
        std: What the images were divided by then.
        patch_size: Of the model, in pixels; None for 4 where a side has 32 pixels or fewer, and 16 elsewhere.
        crop_prob: Probability of the crop, for each patch.
        noise_prob: Probability of the noise.
        flip_prob: Probability of the flip.
        generator: On the device of the images; None for torch's global one.

    Returns:
        New images, of the shape and dtype of `images`.

    Raises:
        ValueError: If the patches do not tile the images, or there is not a mean and a std for each channel.

    Source:
        Mao et al., "Towards Robust Vision Transformer", arXiv:2105.07926, section 4.2.

    Example:
        >>> images = torch.randn(2, 3, 32, 32).clamp(-1, 1)
        >>> patch_augmentation(images, mean=(0.5,) * 3, std=(0.5,) * 3).shape
        torch.Size([2, 3, 32, 32])
    """
    batch, channels, height, width = images.shape
    size = patch_size or (4 if min(height, width) <= 32 else 16)
    if height % size or width % size:
        raise ValueError(f"expected images that patches of {size} pixels tile, got {height} x {width}")
    if not len(mean) == len(std) == channels:
        raise ValueError(f"expected a mean and a std for {channels} channels, got {len(mean)} and {len(std)}")
    grid = (batch, height // size, width // size)
    patches = images.view(batch, channels, grid[1], size, grid[2], size).permute(0, 2, 4, 1, 3, 5)
    patches = patches.reshape(-1, channels, size, size)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, device=images.device)

    chosen = uniform(3, len(patches)) < torch.tensor(
        [[crop_prob], [noise_prob], [flip_prob]], device=images.device
    )
    cropped, noisy, flipped = chosen[..., None, None, None]
    patches = torch.where(cropped, _resized_crop(patches, *uniform(3, len(patches))), patches)
    noise = torch.randn(patches.shape, generator=generator, device=images.device, dtype=images.dtype)
    patches = torch.where(noisy, patches + 0.01 * noise, patches)
    patches = torch.where(flipped, patches.flip(-1), patches)

    augmented = patches.view(*grid, channels, size, size).permute(0, 3, 1, 4, 2, 5).reshape(images.shape)
    mean_, std_ = images.new_tensor(mean)[:, None, None], images.new_tensor(std)[:, None, None]
    return augmented.clamp(-mean_ / std_, (1 - mean_) / std_)


def _resized_crop(
    patches: torch.Tensor, area: torch.Tensor, top: torch.Tensor, left: torch.Tensor
) -> torch.Tensor:
    """Of each patch (P, C, S, S) a square, resized to S; three uniform numbers (P,) say which.

    In coordinates where the patch reaches from -1 to 1, the square has the half width h = sqrt(.85 + .15
    area) and its centre is anywhere from -(1 - h) to 1 - h.
    """
    half = (0.85 + 0.15 * area).sqrt()
    size = patches.shape[-1]
    centres = (torch.arange(size, device=patches.device) * 2 + 1) / size - 1
    rows, columns = (
        (half[:, None] * centres + ((2 * place - 1) * (1 - half))[:, None]) for place in (top, left)
    )
    grid = torch.stack(
        (columns[:, None, :].expand(-1, size, -1), rows[:, :, None].expand(-1, -1, size)), dim=-1
    )
    # float32 whatever autocast says: half precision would round by more than the noise
    return grid_sample(patches.float(), grid, padding_mode="border", align_corners=False).to(patches.dtype)
