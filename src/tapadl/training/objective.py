"""What training minimises: passes over a micro-batch, each a forward whose loss is then sent backward."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from tapadl.training.adaptation import DiversificationTerm

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images (B, C, H, W), and what they show: labels (B,) or (B, H, W) int64, or probabilities (B, classes)."""

Parts = Mapping[str, torch.Tensor]
"""Scalars of a micro-batch, means over its images: "loss", which goes backward, and what it consists of."""

Pass = Callable[[nn.Module], Parts]
"""Runs the model once."""


class Objective(ABC):
    """What a step minimises. Only `passes` has to be given; the rest is for an objective that adapts."""

    @abstractmethod
    def passes(self, batch: Batch, step: int) -> Sequence[Pass]:
        """The passes over a micro-batch in a step; their gradients add up."""

    def measures(self, step: int) -> bool:
        """Whether this step tells `observe` what was measured."""
        return False

    def probes(self, batch: Batch, step: int) -> Sequence[Pass]:
        """Passes of a measuring step whose gradient is measured first, alone, and thrown away."""
        return ()

    def observe(self, measured: Mapping[str, float]) -> None:
        """Learn from a measuring step; the next one feels it.

        Args:
            measured: The parts, averaged over the global batch, "gradient_norm" and "probe_norm".
                The same in every process.
        """
        return

    def state(self) -> dict[str, float]:
        """What it has learned, for a checkpoint."""
        return {}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on with what `state()` gave."""
        return


class SupervisedObjective(Objective):
    """Cross entropy, and the attention diversification loss on the same images.

    With `augment` every micro-batch has a pass before, over augmented images, with the cross entropy alone.

    Args:
        criterion: Loss of logits (B, classes), or (B, classes, H, W), and targets: a mean over images.
        diversification: ADL with its weight; None for none.
        mix: Mixes images and labels, such as mixup; drawn anew in each step.
        augment: Of images (B, C, H, W), for the further pass; RVT's patch augmentation.

    Source:
        Guo, Stutz, Schiele, ICCV 2023; the further pass: Mao et al., "Towards Robust Vision Transformer",
        CVPR 2022, as the recipe of both trains RVT.

    Example:
        >>> objective = SupervisedObjective(nn.CrossEntropyLoss())
        >>> images, labels = torch.zeros(2, 3), torch.tensor([0, 1])
        >>> (run,) = objective.passes((images, labels), step=0)
        >>> {name: round(value.item(), 4) for name, value in run(nn.Linear(3, 2, bias=False)).items()}
        {'loss': 0.6931, 'cross_entropy': 0.6931}
    """

    def __init__(
        self,
        criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        *,
        diversification: DiversificationTerm | None = None,
        mix: Callable[[torch.Tensor, torch.Tensor], Batch] | None = None,
        augment: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self._criterion = criterion
        self._diversification = diversification
        self._mix = mix
        self._augment = augment

    def passes(self, batch: Batch, step: int) -> Sequence[Pass]:
        """The augmented images where asked for, then the clean ones."""
        images, targets = batch if self._mix is None else self._mix(*batch)

        def augmented(model: nn.Module) -> Parts:
            assert self._augment is not None
            loss = self._criterion(model(self._augment(images)), targets)
            return {"loss": loss, "augmented_cross_entropy": loss.detach()}

        def clean(model: nn.Module) -> Parts:
            loss = self._criterion(model(images), targets)
            if self._diversification is None:
                return {"loss": loss, "cross_entropy": loss.detach()}
            term, parts = self._diversification.term(step)
            return {"loss": loss + term, "cross_entropy": loss.detach(), **parts}

        return [clean] if self._augment is None else [augmented, clean]

    def probes(self, batch: Batch, step: int) -> Sequence[Pass]:
        """ADL alone, where its weight adapts to its gradient."""
        diversification = self._diversification
        if diversification is None or not diversification.adapts_weight:
            return ()
        images, _ = batch if self._mix is None else self._mix(*batch)

        def alone(model: nn.Module) -> Parts:
            logits = model(images)
            # every parameter takes part in the backward, as DDP demands
            return {"loss": diversification.unweighted() + 0 * logits.sum()}

        return [alone]

    def measures(self, step: int) -> bool:
        """Where the weight or the threshold adapts, in one step of several."""
        return self._diversification is not None and self._diversification.measures(step)

    def observe(self, measured: Mapping[str, float]) -> None:
        """Adapt the weight or the threshold of ADL."""
        if self._diversification is not None:
            self._diversification.observe(measured)

    def state(self) -> dict[str, float]:
        """The weight and the threshold of ADL."""
        return {} if self._diversification is None else self._diversification.state()

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on with this weight and threshold."""
        if self._diversification is not None:
            self._diversification.load_state(state)
