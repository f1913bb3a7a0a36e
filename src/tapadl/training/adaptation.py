"""The attention diversification loss as a term of the training loss: its weight, and its threshold.

The paper keeps both fixed. Where asked for, they follow what is measured in one step of `INTERVAL`:

- the weight, so that ADL has a given share of the gradient, weight * |gradient of ADL| / |whole gradient|;
- tau, so that a given quantile of the attention, averaged over heads, lies below the threshold.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tapadl.attach import AttentionDiversificationLoss
from tapadl.attach.capture import Captured, QueryKey
from tapadl.ops.diversification import may_see
from tapadl.training.settings import AdlSettings

INTERVAL = 20
"""Steps from one measurement to the next. One of the gradient costs a further forward and backward."""

# how far the weight may go from where it began, either way
_WEIGHT_RANGE = 100.0
# queries of an image that the quantile is taken over
_QUERIES = 64


class DiversificationTerm:
    """weight * ADL, the weight rising linearly from 0 over the first steps.

    Args:
        model: Whose attentions it hears; before it is distributed or sharded.
        weight: Of ADL; with `target_share` the one it begins with.
        tau: Threshold multiple; with `tau_quantile` the one it begins with.
        warmup: Steps over which the weight rises; 0 for none.
        target_share: Of ADL in the gradient, in (0, 1); None keeps the weight. The weight goes half of the
            way, in its logarithm, at each measurement, and stays within a factor of 100 of where it began.
        tau_quantile: Of the attention, in (0, 1); None keeps tau. It is measured over 64 queries of every
            image of a batch, evenly spaced, averaged over images and layers.
        blocks: As for `AttentionDiversificationLoss`.
        patch_tokens_only: As for `AttentionDiversificationLoss`.
        query_fraction: As for `AttentionDiversificationLoss`.

    Raises:
        ValueError: If the model has no attention to hear, or a number is out of range.

    Example:
        >>> import timm
        >>> model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3)
        >>> term = DiversificationTerm(model, weight=2.0, tau=0.0, warmup=4)
        >>> _ = model(torch.randn(2, 3, 32, 32))
        >>> value, parts = term.term(step=1)
        >>> torch.equal(value, 0.5 * parts["adl"]), parts["adl"].item() > 0
        (True, True)
        >>> term.close()
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        weight: float = 1.0,
        tau: float = 2.0,
        warmup: int = 0,
        target_share: float | None = None,
        tau_quantile: float | None = None,
        blocks: Sequence[int] | None = None,
        patch_tokens_only: bool = False,
        query_fraction: float = 1.0,
    ) -> None:
        for name, value in {"target_share": target_share, "tau_quantile": tau_quantile}.items():
            if value is not None and not 0 < value < 1:
                raise ValueError(f"expected {name} above 0 and below 1, or None, got {value!r}")
        if target_share is not None and not weight > 0:
            raise ValueError(f"expected a weight above 0 to begin with for target_share, got {weight!r}")
        self._loss = _MeasuredLoss(
            model,
            tau=tau,
            blocks=blocks,
            patch_tokens_only=patch_tokens_only,
            query_fraction=query_fraction,
        )
        self._first_weight = weight
        self._weight = weight
        self._warmup = warmup
        self._target_share = target_share
        self._tau_quantile = tau_quantile

    @classmethod
    def of(cls, model: nn.Module, settings: AdlSettings) -> "DiversificationTerm | None":
        """What the settings ask for; None where ADL is off.

        Raises:
            ValueError: If the model has no attention to hear.
        """
        arguments = {name: value for name, value in vars(settings).items() if name != "enabled"}
        return cls(model, **arguments) if settings.enabled else None

    @property
    def adapts_weight(self) -> bool:
        """Whether the weight follows the gradient."""
        return self._target_share is not None

    def measures(self, step: int) -> bool:
        """Whether something is measured in a step."""
        return step % INTERVAL == 0 and (self.adapts_weight or self._tau_quantile is not None)

    def weight(self, step: int) -> float:
        """The weight in a step."""
        return self._weight * (min(1.0, step / self._warmup) if self._warmup else 1.0)

    def term(self, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The weighted ADL of the last forward, with its graph, and what to log of it."""
        measures_tau = self._tau_quantile is not None and self.measures(step)
        self._loss.quantile = self._tau_quantile if measures_tau else None
        adl = self._loss()
        parts = {"adl": adl.detach()}
        if self.adapts_weight:
            parts["adl_weight"] = adl.new_tensor(self.weight(step))
        if self._tau_quantile is not None:
            parts["adl_tau"] = adl.new_tensor(self._loss.tau)
        if measures_tau:
            parts["measured_tau"] = torch.stack(self._loss.measured).mean()
        return self.weight(step) * adl, parts

    def unweighted(self) -> torch.Tensor:
        """ADL of the last forward, with its graph."""
        self._loss.quantile = None
        return self._loss()

    def observe(self, measured: Mapping[str, float]) -> None:
        """Adapt to what was measured.

        Args:
            measured: "measured_tau"; "probe_norm" and "gradient_norm", of the gradient of ADL and of all.
                What is not there, not finite or 0 changes nothing.
        """
        if self._target_share is not None:
            probe, gradient = measured.get("probe_norm", 0.0), measured.get("gradient_norm", 0.0)
            if _is_usable(probe) and _is_usable(gradient):
                wanted = math.sqrt(self._weight * self._target_share * gradient / probe)
                low, high = self._first_weight / _WEIGHT_RANGE, self._first_weight * _WEIGHT_RANGE
                self._weight = min(max(wanted, low), high)
        if _is_usable(measured.get("measured_tau", 0.0)):
            self._loss.tau = measured["measured_tau"]

    def state(self) -> dict[str, float]:
        """The weight and tau it has come to."""
        return {"adl_weight": self._weight, "adl_tau": self._loss.tau}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on with what `state()` gave."""
        self._weight, self._loss.tau = state["adl_weight"], state["adl_tau"]

    def close(self) -> None:
        """Stop listening to the model."""
        self._loss.close()


class _MeasuredLoss(AttentionDiversificationLoss):
    """ADL that also measures a quantile of each attention while `quantile` is a number."""

    quantile: float | None = None

    def per_layer(self) -> list[torch.Tensor]:
        self.measured: list[torch.Tensor] = []
        return super().per_layer()

    def _loss(self, call: Captured, num_prefix_tokens: int) -> torch.Tensor:
        if self.quantile is not None:
            first = num_prefix_tokens if self.patch_tokens_only else 0
            self.measured.append(_quantile_of_multiples(call, first, self.quantile))
        return super()._loss(call, num_prefix_tokens)


@torch.no_grad()
def _quantile_of_multiples(call: Captured, first: int, quantile: float) -> torch.Tensor:
    """The quantile of attention in multiples of 1 / keys: what tau is compared with. Mean over images."""
    attention, seen = _some_rows(call, first)
    mean, seen = attention.mean(dim=1), seen.any(dim=1)
    multiples = mean * seen.sum(dim=-1, keepdim=True) / mean.sum(dim=-1, keepdim=True).clamp_min(1e-30)
    flat = multiples.masked_fill(~seen, torch.nan).flatten(1)
    return flat.nanquantile(quantile, dim=1).nanmean()


def _some_rows(call: Captured, first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of some queries over the keys from `first` on, (B, H, R, M), and which keys each may see."""
    if not isinstance(call, QueryKey):
        rows = _evenly_spaced(first, call.attention)
        attention = call.attention[:, :, rows, first:].float()
        if first:
            attention = attention / attention.sum(dim=-1, keepdim=True).clamp_min(1e-30)
        return attention, call.mask.expand(-1, 1, *call.attention.shape[2:])[:, :, rows, first:]
    rows = _evenly_spaced(first, call.query)
    query, key = call.query[:, :, rows].float(), call.key.float()
    with torch.autocast(query.device.type, enabled=False):
        scores = (
            query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if call.scale is None else call.scale)
        )
    if call.is_causal:
        keys = torch.arange(key.shape[2], device=rows.device)
        scores = scores.masked_fill(keys > rows.unsqueeze(-1), -torch.inf)
    if call.attn_bias is not None:
        bias = call.attn_bias.expand(*call.query.shape[:3], key.shape[2])[:, :, rows]
        scores = scores.masked_fill(~may_see(bias), -torch.inf)
        scores = scores if bias.dtype == torch.bool else scores + bias
    scores = scores[..., first:]
    return scores.softmax(dim=-1).nan_to_num(), may_see(scores)


def _evenly_spaced(first: int, queries: torch.Tensor) -> torch.Tensor:
    count = queries.shape[2] - first
    picked = min(count, _QUERIES)
    return first + torch.arange(picked, device=queries.device) * count // picked


def _is_usable(value: Any) -> bool:
    return math.isfinite(value) and value > 0
