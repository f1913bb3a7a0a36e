"""How far TAP reaches: the dilations it chooses, at each patch and by layer."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tapadl.attach.tap import AttachedTAP
from tapadl.diagnostics.listening import Images, Measured, evaluation_mode, mean_over_batches

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class LayerDilation:
    """What one TAP chooses, averaged over images.

    Args:
        name: Of its block.
        use: Mean weight of each branch, K numbers with sum 1; the first is that of the token itself.
        mean_dilation: Mean dilation of all patches, 0 to K - 1.
        entropy: Mean entropy of a patch's branch weights, in nats: 0 where each takes one branch, ln K where
            it takes all alike.
        gate: Mean size of the gate that TAP's output goes through, None without one; near 0 what TAP chooses
            hardly reaches the attention.
        by_patch: Mean dilation at each patch, rows of columns.
    """

    name: str
    use: tuple[float, ...]
    mean_dilation: float
    entropy: float
    gate: float | None
    by_patch: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class DilationReport:
    """How far the TAP modules of a model reach; what `measure_dilation` gives.

    Args:
        model: Name of its class.
        num_images: How many images it was measured on.
        layers: In the order in which the model computes them.
    """

    model: str
    num_images: int
    layers: tuple[LayerDilation, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return asdict(self)

    def plot(self) -> "Figure":
        """Use of the branches, dilation and entropy over the layers, and the dilation at each patch."""
        from tapadl.diagnostics.plots import plot_dilation

        return plot_dilation(self)


def measure_dilation(model: nn.Module, images: Images) -> DilationReport:
    """How far every TAP of a model reaches on given images, in evaluation mode, without gradients.

    With w_d the weight of the branch of dilation d at a patch (0 is the token itself), means over patches and
    images:

        use           = mean of w_d, for each d
        mean_dilation = mean of sum_d d w_d
        entropy       = mean of -sum_d w_d log w_d
        by_patch      = sum_d d w_d at each patch, mean over images alone

    Args:
        model: A model with TAP on images.
        images: What the model takes, (B, C, H, W), on its device; or several such batches, of one size.

    Returns:
        Numbers for every TAP, averaged over images.

    Raises:
        ValueError: If the model has no TAP, there is no image, or batches have images of other sizes.

    Source:
        The branch weights are those of Guo, Stutz, Schiele, ICCV 2023, section 3.1. Entropy: Shannon, "A
        Mathematical Theory of Communication", 1948.

    Example:
        >>> import timm, tapadl
        >>> model = tapadl.attach_tap(timm.create_model("vit_tiny_patch16_224", depth=2))
        >>> report = measure_dilation(model, torch.zeros(1, 3, 224, 224))
        >>> [(layer.name, len(layer.use), len(layer.by_patch)) for layer in report.layers]
        [('blocks.0', 4, 14), ('blocks.1', 4, 14)]
    """
    if not any(isinstance(module, AttachedTAP) for module in model.modules()):
        raise ValueError(f"expected a model with TAP, got {type(model).__name__} without; see attach_tap")

    def measure(batch: torch.Tensor) -> list[Measured]:
        found: list[Measured] = []

        def receive(tap: AttachedTAP, weights: torch.Tensor) -> None:
            dilation = mean_dilation(weights).mean(dim=0)
            entropy = torch.special.entr(weights).sum(dim=1).mean()
            gate = None if tap.gate is None else tap.gate.abs().mean().item()
            numbers = torch.cat((entropy[None], weights.mean(dim=(0, 2, 3)), dilation.flatten()))
            found.append(((tap.site_name, gate, tuple(weights.shape[1:])), numbers))

        hear_branch_weights(model, batch, receive)
        return found

    measured, num_images = mean_over_batches(images, measure)
    layers = []
    for (name, gate, (num_branches, rows, cols)), numbers in measured:
        entropy, use, by_patch = numbers.split((1, num_branches, rows * cols))
        layers.append(
            LayerDilation(
                name,
                tuple(use.tolist()),
                by_patch.mean().item(),
                entropy.item(),
                gate,
                tuple(tuple(row) for row in by_patch.reshape(rows, cols).tolist()),
            )
        )
    return DilationReport(type(model).__name__, num_images, tuple(layers))


def mean_dilation(branch_weights: torch.Tensor) -> torch.Tensor:
    """Mean dilation at each patch, `sum over branches d of d * w_d`.

    Args:
        branch_weights: (B, K, rows, cols), floating point, with sum 1 over K.

    Returns:
        (B, rows, cols) from 0 (the token itself) to K - 1 (all weight on the widest branch).

    Raises:
        ValueError: If the weights do not have four axes.

    Example:
        >>> mean_dilation(torch.full((1, 4, 1, 2), 0.25))
        tensor([[[1.5000, 1.5000]]])
    """
    if branch_weights.ndim != 4:
        raise ValueError(
            f"expected branch_weights of shape (B, K, rows, cols), got {tuple(branch_weights.shape)}"
        )
    dilations = torch.arange(branch_weights.shape[1], device=branch_weights.device)
    return torch.einsum("k,bkrc->brc", dilations.to(branch_weights.dtype), branch_weights)


def dilation_maps(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """The mean dilation that every TAP of a model chooses on given images, in evaluation mode.

    Args:
        model: A model, with TAP or without.
        images: What the model takes, (B, C, H, W), on its device.

    Returns:
        One map (B, rows, cols) for each TAP, in order of the blocks; none for a model without TAP.

    Example:
        >>> import timm, tapadl
        >>> model = tapadl.attach_tap(timm.create_model("vit_tiny_patch16_224", depth=2))
        >>> [tuple(dilation.shape) for dilation in dilation_maps(model, torch.zeros(1, 3, 224, 224))]
        [(1, 14, 14), (1, 14, 14)]
    """
    found: list[torch.Tensor] = []
    if any(isinstance(module, AttachedTAP) for module in model.modules()):
        hear_branch_weights(model, images, lambda _tap, weights: found.append(mean_dilation(weights)))
    return found


@torch.no_grad()
def hear_branch_weights(
    model: nn.Module, images: torch.Tensor, receive: Callable[[AttachedTAP, torch.Tensor], None]
) -> None:
    """Run the model once; hand over each TAP with its weights (B, K, rows, cols), in order of the calls."""

    def hear(tap: AttachedTAP, inputs: tuple[Any, ...]) -> None:
        receive(tap, tap.branch_weights(*inputs))

    taps = [module for module in model.modules() if isinstance(module, AttachedTAP)]
    handles = [tap.register_forward_pre_hook(hear) for tap in taps]
    try:
        with evaluation_mode(model):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
