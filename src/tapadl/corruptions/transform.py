"""Corruptions for pictures of Pillow and for pipelines of `torchvision.transforms.v2`."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from tapadl.corruptions.api import corrupt
from tapadl.corruptions.checks import check_images, check_seed
from tapadl.corruptions.random import Draws
from tapadl.corruptions.severity import CORRUPTIONS, SEVERITIES, constants_for

_LARGEST_INDEX = 2**63 - 1


def corrupt_image(
    image: Image.Image,
    corruption: str,
    severity: int,
    *,
    seed: int,
    index: int,
    image_size: int | None = None,
) -> Image.Image:
    """Corrupt one Pillow image: `corrupt` for a batch of one, rounded to 8 bits.

    Args:
        image: Of mode RGB or L.
        corruption: A name in `CORRUPTIONS`.
        severity: 1 to 5.
        seed: 0 to 2**64 - 1.
        index: Position of the image in its data set, 0 to 2**63 - 1.
        image_size: Side length whose constants apply; the shorter side of the image by default.

    Returns:
        A new image of the same mode and size.

    Raises:
        ValueError: If an argument is not as described.

    Example:
        >>> image = Image.new("RGB", (64, 48), "teal")
        >>> corrupt_image(image, "gaussian_noise", 3, seed=0, index=7).size
        (64, 48)
    """
    images = _to_tensor(image)
    indices = torch.tensor([_checked_index(index)])
    return _to_image(corrupt(images, corruption, severity, seed=seed, indices=indices, image_size=image_size))


def _checked_index(index: int) -> int:
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index <= _LARGEST_INDEX:
        raise ValueError(f"expected index to be an integer from 0 to 2**63 - 1, got {index!r}")
    return index


def _to_tensor(image: Image.Image) -> torch.Tensor:
    """(1, C, H, W) in 0..1."""
    if not isinstance(image, Image.Image):
        raise ValueError(f"expected a PIL image, got {type(image).__name__}")
    if image.mode not in ("RGB", "L"):
        raise ValueError(
            f"expected a PIL image of mode RGB or L, got {image.mode}; convert it with image.convert('RGB')"
        )
    pixels = np.array(image).reshape(image.height, image.width, -1)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def _to_image(images: torch.Tensor) -> Image.Image:
    """The only image of a batch (1, C, H, W) in 0..1."""
    pixels = _to_bytes(images[0]).permute(1, 2, 0).numpy()
    return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])


def _to_bytes(images: torch.Tensor) -> torch.Tensor:
    return (images * 255).round_().to(torch.uint8)


class CorruptionTransform(nn.Module):
    """Corrupt images in a pipeline, each in a way picked for it.

    It takes what transforms of `torchvision.transforms.v2` take: one image, or a sample of any structure
    (`transform(image, label)`, a dict). Pillow images, images of `tv_tensors` and, where a sample has none of
    these, its first plain tensor are corrupted; boxes, masks and everything else pass as they are, for what
    is in the picture stays where it is. It stands before the normalisation.

    **Which draws.** With `seed=None` they come from torch's global generator, like those of torchvision's
    transforms: new ones at each call, repeatable with `torch.manual_seed`, different in each worker of a
    `DataLoader`. With a seed they depend on that seed and on the pixels of the image alone: an image is
    corrupted in the same way in every epoch and order, with any number of workers and in any batch; put what
    moves or crops at random before it, and the picture in each epoch is another. For draws by the position
    in the data set, as in `corrupt`, call `corrupt_image` where the index is known.

    Args:
        corruptions: Names in `CORRUPTIONS` to pick from, with equal chances; one name for always this one.
            By default the 15 that count in the mean corruption error.
        severities: Those to pick from; one number for always this one.
        seed: 0 to 2**64 - 1, or None.
        image_size: Side length whose constants apply; the shorter side of each image by default.

    Raises:
        ValueError: If an argument is not as described.

    Example:
        >>> transform = CorruptionTransform(["fog", "contrast"], severities=(1, 2, 3), seed=0)
        >>> images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
        >>> corrupted = transform(images)
        >>> corrupted.dtype, corrupted.shape
        (torch.uint8, torch.Size([4, 3, 32, 32]))
        >>> torch.equal(transform(images[2]), corrupted[2])
        True
    """

    def __init__(
        self,
        corruptions: str | Sequence[str] | None = None,
        severities: int | Sequence[int] = SEVERITIES,
        *,
        seed: int | None = None,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        if corruptions is None:
            corruptions = [name for name, row in CORRUPTIONS.items() if row.in_mce]
        self.corruptions = (corruptions,) if isinstance(corruptions, str) else tuple(corruptions)
        self.severities = tuple(severities) if isinstance(severities, Sequence) else (severities,)
        self.seed = seed
        self.image_size = image_size
        if not self.corruptions or not self.severities:
            raise ValueError("expected at least one corruption and one severity to pick from, got none")
        for corruption in self.corruptions:
            for severity in self.severities:
                constants_for(corruption, severity, 224 if image_size is None else image_size)
        if seed is not None:
            check_seed(seed)

    def forward(self, *inputs: Any) -> Any:
        """Corrupt the images of a sample.

        Args:
            inputs: A Pillow image of mode RGB or L, a tensor (C, H, W) or (B, C, H, W), C 1 or 3, uint8 or
                floating point in 0..1; or a sample that holds such images.

        Returns:
            The same structure, with images of the same type, mode, dtype and shape.

        Raises:
            ValueError: If an image is not as described.
        """
        sample = inputs if len(inputs) > 1 else inputs[0]
        leaves = list(_leaves(sample))
        images = [leaf for leaf in leaves if _is_image(leaf)]
        if not images:
            images = [leaf for leaf in leaves if type(leaf) is torch.Tensor][:1]
        if not images:
            raise ValueError(
                f"expected a PIL image or an image tensor in the sample, got {_kinds(leaves) or 'nothing'}"
            )
        return _rebuilt(sample, {id(image): self._corrupted(image) for image in images})

    def extra_repr(self) -> str:
        """What is picked from."""
        return (
            f"corruptions={self.corruptions}, severities={self.severities}, seed={self.seed}, "
            f"image_size={self.image_size}"
        )

    def _corrupted(self, image: Any) -> Any:
        if isinstance(image, Image.Image):
            return _to_image(self._pick_and_corrupt(_to_tensor(image)))
        # the class of a tv_tensor says how later transforms treat it, and knows nothing of what is done here
        plain = image.as_subclass(torch.Tensor)
        if plain.ndim not in (3, 4):
            raise ValueError(
                f"expected an image tensor of shape (C, H, W) or (B, C, H, W), got {tuple(plain.shape)}"
            )
        images = plain if plain.ndim == 4 else plain[None]
        in_bytes = images.dtype == torch.uint8
        corrupted = torch.cat(
            [self._pick_and_corrupt(one / 255 if in_bytes else one) for one in images.split(1)]
        )
        corrupted = _to_bytes(corrupted) if in_bytes else corrupted.to(images.dtype)
        return corrupted.view(plain.shape).as_subclass(type(image))

    def _pick_and_corrupt(self, image: torch.Tensor) -> torch.Tensor:
        if self.seed is None:
            seed, index = 0, int(torch.randint(_LARGEST_INDEX, ()))
        else:
            check_images(image)
            seed, index = self.seed, _digest(image)
        # 0 is no severity, so these numbers are not those of any corruption
        first, second = Draws(seed, [index], "pick", 0).uniform(2)[0].tolist()
        return corrupt(
            image,
            self.corruptions[int(first * len(self.corruptions))],
            self.severities[int(second * len(self.severities))],
            seed=seed,
            indices=torch.tensor([index]),
            image_size=self.image_size,
        )


def _digest(image: torch.Tensor) -> int:
    """The pixels as a number from 0 to 2**63 - 1, the same for 8-bit values and their 255th parts."""
    content = _to_bytes(image).cpu().numpy().tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) & _LARGEST_INDEX


def _is_image(leaf: Any) -> bool:
    if isinstance(leaf, Image.Image):
        return True
    # torchvision is not imported here: who has such a tensor has it
    kind = type(leaf)
    return kind.__name__ == "Image" and kind.__module__.startswith("torchvision.tv_tensors")


def _leaves(sample: Any) -> Iterator[Any]:
    """What a sample of nested tuples, lists and dicts holds, in order."""
    if isinstance(sample, dict):
        sample = list(sample.values())
    if isinstance(sample, (tuple, list)):
        for item in sample:
            yield from _leaves(item)
    else:
        yield sample


def _rebuilt(sample: Any, replaced: dict[int, Any]) -> Any:
    if isinstance(sample, dict):
        return type(sample)((key, _rebuilt(item, replaced)) for key, item in sample.items())
    if isinstance(sample, tuple) and hasattr(sample, "_fields"):
        return type(sample)(*(_rebuilt(item, replaced) for item in sample))
    if isinstance(sample, (tuple, list)):
        return type(sample)(_rebuilt(item, replaced) for item in sample)
    return replaced.get(id(sample), sample)


def _kinds(leaves: list[Any]) -> str:
    return ", ".join(type(leaf).__name__ for leaf in leaves)
