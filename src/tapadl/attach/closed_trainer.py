"""The attention diversification loss for trainers whose own loss cannot be reached."""

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from tapadl.attach.capture import AttentionCapture, Captured, QueryKey, SiteListener
from tapadl.attach.diversification import AttentionDiversificationLoss
from tapadl.attach.share_of_batch import ALL_ITEMS, Noticed, share_of_batch
from tapadl.attach.site import Site
from tapadl.ops.numbers import is_number

Model = TypeVar("Model", bound=nn.Module)
LossScale = float | Callable[[], float]


def attach_diversification(
    model: Model, weight: float = 1.0, tau: float = 2.0, loss_scale: LossScale | None = None, **options: Any
) -> Model:
    """Train a model with ADL in a trainer that knows nothing of it.

    In training mode every forward of the model hides `weight` x ADL behind what it returns: the values stay,
    and a backward through them adds the gradient of ADL. The gradients equal those of
    `loss + weight * AttentionDiversificationLoss(model)()`.

    - A model that returns its loss (`output["loss"]`; models of transformers called with labels): ADL follows
      that loss through scaling, accumulation and whatever else the trainer does to it.
    - Any other: ADL counts as if the trainer's loss were used as it is. What the trainer multiplies it by has
      to be told, `loss_scale`; without, an attention computed in float16 and a backward into parameters that
      hold gradients already are refused, as signs of loss scaling and of accumulation, and so is compiling
      it into one graph, where these cannot be seen.

    Args:
        model: The module that the trainer calls, wrappers such as PEFT's included.
        weight: Of ADL against the trainer's loss, at least 0.
        tau: Threshold multiple, at least 0; the paper uses 2.
        loss_scale: What the trainer multiplies its loss by before the backward, or a function that tells it
            in every forward: `lambda: scaler.get_scale() / accumulation_steps`.
        options: Further arguments of AttentionDiversificationLoss.

    Returns:
        The same model.

    Raises:
        ValueError: If an argument is out of range, no site is found, a site refuses ADL, or the loss is
            attached already, with other arguments or to another module.

    Source:
        The loss is that of Guo, Stutz, Schiele, ICCV 2023.

    Example:
        >>> import timm, tapadl
        >>> model = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=5)
        >>> model = tapadl.attach_diversification(model, weight=0.5)
        >>> model(torch.randn(2, 3, 224, 224)).logsumexp(1).mean().backward()
        >>> model = tapadl.detach_diversification(model)
    """
    _check(weight, loss_scale)
    settings = {"weight": weight, "loss_scale": loss_scale, "tau": tau} | options
    for attached in _attached(model):
        if attached.model is not model or attached.settings != settings:
            raise ValueError(
                f"{type(attached.model).__name__} has the loss attached with {attached.settings}, asked for "
                f"{settings} on {type(model).__name__}; call tapadl.detach_diversification(model) first"
            )
        return model
    AttachedDiversification(model, settings, TrainingLoss(model, tau, **options))
    return model


def detach_diversification(model: Model) -> Model:
    """Take off what `attach_diversification` put on a model.

    Args:
        model: A model with the loss attached, to itself, a part of it or what it is a part of; one without is
            left alone.

    Returns:
        The same model.

    Example:
        >>> import timm, tapadl
        >>> model = timm.create_model("vit_tiny_patch16_224", depth=2)
        >>> model = tapadl.detach_diversification(tapadl.attach_diversification(model))
    """
    for attached in _attached(model):
        attached.close()
    for module in model.modules():  # what a copy of an attached model has
        kinds = (
            (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
            (module._forward_hooks, module._forward_hooks_with_kwargs),
        )
        for hooks, with_kwargs in kinds:
            for hook_id, owner in zip(list(hooks), _owners(hooks), strict=True):
                owner = owner.capture if isinstance(owner, SiteListener) else owner
                if isinstance(owner, AttachedDiversification | TrainingCapture):
                    del hooks[hook_id]
                    with_kwargs.pop(hook_id, None)
                    module._forward_hooks_always_called.pop(hook_id, None)
    return model


class TrainingCapture(AttentionCapture):
    """Hears a model in training mode, where it is called as a module."""

    def __init__(self, model: nn.Module, sites: Sequence[Site]) -> None:
        super().__init__(model, sites)
        self._model_reference = weakref.ref(model)  # what closes this capture would keep the model alive
        self._float16_autocast = False

    @property
    def _model(self) -> nn.Module:
        model = self._model_reference()
        assert model is not None
        return model

    def listens(self) -> bool:
        """Whether what the model computes now counts."""
        return self.is_open and self._model.training and super().listens()

    def hear(self, index: int) -> list[Captured]:
        """Where a site puts what it computes in the call that begins."""
        # A compiled block that a backward computes again looks like a forward past the model.
        if not self._inside_model and not torch.compiler.is_compiling():
            raise RuntimeError(
                f"expected {type(self._model).__name__} to be called as a module, for attach_diversification "
                f"acts on what it returns, got a forward past it (forward_features, or a wrapper that calls "
                f"model.forward); attach the loss to the module that the trainer calls"
            )
        self._float16_autocast |= _float16_autocast(self._model)
        return super().hear(index)

    def attached(self) -> list["AttachedDiversification"]:
        """What this capture works for, unless it is a copy."""
        owners = _owners(self._model._forward_hooks) if self.is_open else []
        return [owner for owner in owners if isinstance(owner, AttachedDiversification) and owner.is_open]

    def heard_float16(self) -> bool:
        """Whether an attention of this forward was computed in float16, or under its autocast."""
        calls = [call for calls in self._heard for call in calls]
        dtypes = [call.query.dtype if isinstance(call, QueryKey) else call.scores_dtype for call in calls]
        return self._float16_autocast or torch.float16 in dtypes

    def _forget(self) -> None:
        super()._forget()
        self._float16_autocast = False


class TrainingLoss(AttentionDiversificationLoss):
    """The loss of a forward in training mode."""

    _capture_type = TrainingCapture
    _capture: TrainingCapture

    def listens(self) -> bool:
        """Whether the forward that ends now counts."""
        return self._capture.listens()

    def heard_float16(self) -> bool:
        """Whether an attention of this forward was computed in float16, or under its autocast."""
        return self._capture.heard_float16()


class AttachedDiversification:
    """The loss behind what one model returns."""

    def __init__(self, model: nn.Module, settings: dict[str, Any], loss: TrainingLoss) -> None:
        self.settings = settings
        self.model = model
        self._loss: TrainingLoss | None = loss
        self._handles = [
            model.register_forward_pre_hook(self.before_forward, with_kwargs=True),
            model.register_forward_hook(self.after_forward, with_kwargs=True),
        ]

    @property
    def is_open(self) -> bool:
        """Whether it still acts; a copy does not."""
        return self._loss is not None

    def close(self) -> None:
        """Take the hooks off the model."""
        if self._loss is not None:
            self._loss.close()
            for handle in self._handles:
                handle.remove()
            self._loss = None

    def before_forward(
        self, _model: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Forward pre-hook: the number of all labels as a tensor that notices whether it is used."""
        count = options.get(ALL_ITEMS)
        if count is None or self._loss is None or torch.compiler.is_compiling():
            return None
        return inputs, options | {ALL_ITEMS: Noticed.of(torch.as_tensor(count))}

    def after_forward(
        self, _model: nn.Module, _inputs: tuple[Any, ...], options: dict[str, Any], output: Any
    ) -> Any:
        """Forward hook: the output with the loss behind it."""
        if self._loss is None or not self._loss.listens():
            return None
        leaves, structure = tree_flatten(output)
        with_gradient = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
        carriers = list({id(leaf): leaf for leaf in with_gradient}.values())  # one may be returned twice
        own_loss = output.get("loss") if isinstance(output, Mapping) else None
        if isinstance(own_loss, torch.Tensor) and own_loss.numel() != 1:
            raise RuntimeError(
                f'expected output["loss"] to be one number, got {tuple(own_loss.shape)}; return its mean'
            )
        returns_loss = own_loss is not None and any(carrier is own_loss for carrier in carriers)
        factor = share_of_batch(options) if returns_loss else self._told_scale(self._loss.heard_float16())
        hidden = self.settings["weight"] * factor * self._loss()
        if not hidden.requires_grad:
            return None
        if not carriers:
            raise RuntimeError(
                f"expected {type(self.model).__name__} to return tensors with gradients, alone or in tuples, "
                f"lists, dicts or outputs of transformers, got {type(output).__name__} without"
            )
        carriers.sort(key=lambda carrier: carrier is not own_loss)
        refuse = None if returns_loss or self.settings["loss_scale"] is not None else self.refuse_accumulation
        carried = _Behind.apply(hidden, refuse, returns_loss, *carriers)
        by_id = {id(before): after for before, after in zip(carriers, carried, strict=True)}
        return tree_unflatten([by_id.get(id(leaf), leaf) for leaf in leaves], structure)

    def refuse_accumulation(self) -> None:
        """Refuse a backward into gradients that are there already, other than zeros.

        Raises:
            RuntimeError: If a parameter holds one.
        """
        if any(p.grad is not None and bool(p.grad.any()) for p in self.model.parameters()):
            raise RuntimeError(
                f"{type(self.model).__name__} holds gradients of an earlier backward; under gradient "
                f"accumulation tell attach_diversification what the trainer multiplies its loss by, "
                f"loss_scale=1 / steps (1.0 where losses are summed); otherwise call zero_grad() before"
            )

    def _told_scale(self, heard_float16: bool) -> float:
        scale = self.settings["loss_scale"]
        if scale is None and heard_float16:
            raise RuntimeError(
                "attention in float16 is trained with a scaled loss; tell attach_diversification the scale, "
                "loss_scale=lambda: scaler.get_scale() (loss_scale=1.0 where there is none)"
            )
        if scale is None and torch.compiler.is_compiling():
            raise RuntimeError(
                "gradient accumulation cannot be seen from a compiled graph; tell attach_diversification "
                "what the trainer multiplies its loss by, loss_scale=1.0 where it is used as it is"
            )
        told = scale() if callable(scale) else 1.0 if scale is None else scale
        if not _is_scale(told):
            raise RuntimeError(f"expected loss_scale to give a finite number above 0, got {told!r}")
        return float(told)

    def __getstate__(self) -> dict[str, Any]:
        # the handles keep the numbers of these hooks from new ones where a copy is unpickled
        return {"settings": {}, "_loss": None, "_handles": self._handles}


class _Behind(torch.autograd.Function):
    """Tensors as they are, behind them a loss whose gradient joins in when theirs come through."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        refuse: Callable[[], None] | None,
        first_is_loss: bool,
        *carriers: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.refuse, ctx.first_is_loss = refuse, first_is_loss
        ctx.dtype, ctx.device = hidden.dtype, hidden.device
        return tuple(carrier.clone() for carrier in carriers)  # trainers may change them in place

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        if ctx.refuse is not None:
            ctx.refuse()
        if not ctx.first_is_loss:
            upstream = torch.ones((), dtype=ctx.dtype, device=ctx.device)
        elif gradients[0] is None:
            raise RuntimeError(
                "expected a backward through the loss that the model returned, which carries the loss of "
                "attach_diversification, got one through its other outputs alone; call it without labels"
            )
        else:
            upstream = gradients[0].reshape(()).to(ctx.device, ctx.dtype)
        return upstream, None, None, *gradients


def _check(weight: float, loss_scale: LossScale | None) -> None:
    if not isinstance(weight, int | float) or not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"expected weight to be a finite number of at least 0, got {weight}")
    if not (loss_scale is None or callable(loss_scale) or _is_scale(loss_scale)):
        raise ValueError(
            f"expected loss_scale to be a finite number above 0 or a function that gives one, "
            f"got {loss_scale!r}"
        )


def _float16_autocast(model: nn.Module) -> bool:
    device = next((parameter.device.type for parameter in model.parameters()), "cpu")
    if device == "meta":
        return False
    return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16


def _is_scale(value: Any) -> bool:
    return is_number(value) and math.isfinite(value) and value > 0


def _attached(model: nn.Module) -> list[AttachedDiversification]:
    """Whatever listens to attentions of this model, not counting copies."""
    found: dict[AttachedDiversification, None] = {}
    for module in model.modules() if isinstance(model, nn.Module) else ():
        for owner in _owners(module._forward_pre_hooks):
            if isinstance(owner, SiteListener) and isinstance(owner.capture, TrainingCapture):
                found |= dict.fromkeys(owner.capture.attached())
    return list(found)


def _owners(hooks: dict[int, Callable[..., Any]]) -> list[Any]:
    return [getattr(hook, "__self__", None) for hook in hooks.values()]
