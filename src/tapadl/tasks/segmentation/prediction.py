"""From a picture to the class of every pixel: the whole picture or windows, flipped and at several scales."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tapadl.evaluation.run import Precision
from tapadl.models.segformer import resized
from tapadl.tasks.segmentation.inference import sliding_logits, whole_logits
from tapadl.tasks.segmentation.model import LoadedSegmenter


@dataclass(frozen=True)
class PredictionSettings:
    """How a segmenter is asked.

    Args:
        window: Side of square windows that the picture is cut into; None for the whole picture at once.
        stride: From window to window; None for three quarters of a window, as in the paper.
        flip: Ask for the mirrored picture, too.
        scales: Ask for the picture at these sizes. Over scales and mirror images probabilities are averaged;
            where windows overlap, logits.
        precision: Of the model; below float32 by autocast.

    Raises:
        ValueError: If these are out of range.

    Source: The multi-scale test of MMSegmentation averages probabilities, its sliding window logits.
    """

    window: int | None = None
    stride: int | None = None
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.window is None and self.stride is not None:
            raise ValueError(f"expected a window for the stride {self.stride}; name one with --window")
        if self.window is not None and not 1 <= self.step <= self.window:
            raise ValueError(
                "expected a window of at least 1 and a stride from 1 to it, "
                f"got {self.window} and {self.step}"
            )
        if not self.scales or not all(0.1 <= scale <= 10 for scale in self.scales):
            raise ValueError(f"expected scales from 0.1 to 10, got {', '.join(map(str, self.scales))}")
        if len(set(self.scales)) < len(self.scales):
            raise ValueError(f"expected each scale once, got {', '.join(map(str, self.scales))}")

    @property
    def step(self) -> int:
        """From window to window."""
        assert self.window is not None
        return max(1, self.window * 3 // 4) if self.stride is None else self.stride


class Predictor:
    """A segmenter on its device that says the class of every pixel.

    Args:
        segmenter: What is asked.
        settings: How.
        device: Where it runs.
    """

    def __init__(
        self, segmenter: LoadedSegmenter, settings: PredictionSettings, device: torch.device
    ) -> None:
        self.name = segmenter.name
        self.num_classes = segmenter.description.scheme.num_classes
        self.settings = settings
        self.device = device
        self.model = segmenter.model.to(device).eval()
        self.mean, self.std = (
            torch.tensor(values, device=device)[:, None, None]
            for values in (segmenter.description.mean, segmenter.description.std)
        )

    @torch.inference_mode()
    def classes(self, image: torch.Tensor) -> torch.Tensor:
        """The class of every pixel.

        Args:
            image: (3, H, W), uint8, of any size.

        Returns:
            (H, W), int64, on the device.

        Raises:
            ValueError: If the model fails on it, or gives other classes than it says.
            RuntimeError: If a logit is NaN or infinite.
        """
        images = (image.to(self.device)[None] / 255 - self.mean) / self.std
        mirrored = (False, True) if self.settings.flip else (False,)
        views = [(scale, flip) for scale in self.settings.scales for flip in mirrored]
        if len(views) == 1:
            return self._logits(images, *views[0]).argmax(dim=1)[0]
        total = torch.zeros((), device=self.device)
        for view in views:
            total = total + self._logits(images, *view).softmax(dim=1)
        return total.argmax(dim=1)[0]

    def _logits(self, images: torch.Tensor, scale: float, flip: bool) -> torch.Tensor:
        """Logits (1, num_classes, H, W) of the images as they are, by way of a view."""
        size = images.shape[2:]
        view = _scaled(images, [max(1, round(length * scale)) for length in size])
        view = view.flip(3) if flip else view
        side = self.settings.window
        if side is None:
            logits = whole_logits(self._answer, view)
        else:
            step = self.settings.step
            logits = sliding_logits(self._answer, view, (side, side), (step, step))
        logits = logits.flip(3) if flip else logits
        if not logits.amax(dim=1).isfinite().all():  # a class that is ruled out, by -inf, is one
            raise RuntimeError(
                f"expected finite logits of {self.name}, got NaN or infinity; look at the weights, or "
                "evaluate with --precision float32"
            )
        return resized(logits, size)

    def _answer(self, images: torch.Tensor) -> torch.Tensor:
        low = getattr(torch, self.settings.precision)
        height, width = images.shape[2:]
        try:
            with torch.autocast(self.device.type, dtype=low, enabled=low != torch.float32):
                logits: torch.Tensor = self.model(images)
        except Exception as error:  # a model of one's own raises anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"{self.name} fails on {height} x {width} pixels (height x width): {reason}"
            ) from error
        wanted = (len(images), self.num_classes)
        if (
            not isinstance(logits, torch.Tensor)
            or logits.ndim != 4
            or logits.shape[:2] != wanted
            or not logits.numel()
        ):
            got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise ValueError(
                f"expected logits (1, {self.num_classes}, height, width) from {self.name}, which says that "
                f"it knows {self.num_classes} classes, got {got}"
            )
        return logits.float()


def _scaled(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    if list(images.shape[2:]) == list(size):
        return images
    return torch.nn.functional.interpolate(
        images, size=tuple(size), mode="bilinear", align_corners=False, antialias=True
    )
