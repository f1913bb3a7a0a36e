"""The attention diversification loss (ADL) of a model that already exists."""

import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Self, get_args

import torch
from torch import nn

from tapadl.attach.capture import AttentionCapture, Captured, QueryKey
from tapadl.attach.site import Site, select_sites
from tapadl.ops.diversification import (
    DiversificationImpl,
    attention_diversification,
    attention_diversification_from_map,
)
from tapadl.ops.numbers import is_number

_NOT_HEARD = (
    " (each forward counts for one call; a forward under no_grad, of a copy of the model, of code compiled "
    "before, or inside reentrant gradient checkpointing, is not heard: use use_reentrant=False)"
)


class AttentionDiversificationLoss:
    """ADL of every attention of a model, from the queries and keys of its last forward.

    `L = mean over layers, images and queries i of cos(f(M_i), f(mean over i of M_i))`, where `M` is the
    attention averaged over heads and `f` keeps what exceeds `tau` / number of keys. Add it to the training
    loss; call it once after each forward. It has no parameters, computes its own attention (fused kernels
    stay on, nothing of size N x N is kept) and hears nothing while gradients are disabled.

    Args:
        model: A vision transformer of timm, transformers or torchvision, a module that holds one, or a model
            with `attention_sites()`.
        tau: Threshold multiple, at least 0; the paper uses 2.
        impl: Implementation of the operation, `"auto"` to let it choose.
        blocks: Indices of the sites to listen to; None for all.
        sites: The sites themselves, for a model of one's own.
        patch_tokens_only: Leave out class, distillation and register tokens, as queries and as keys: the
            attention of the patches over the patches alone. By default every token takes part.
        query_fraction: Share of the queries, drawn anew in each call, that the loss is computed of; cheaper
            and biased, see `attention_diversification`.

    Raises:
        ValueError: If no site is found, an index or `tau` is out of range, or a site refuses ADL.

    Source:
        Guo, Stutz, Schiele, ICCV 2023.

    Example:
        >>> import timm, tapadl
        >>> model = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=5)
        >>> diversification = tapadl.AttentionDiversificationLoss(model)
        >>> loss = model(torch.randn(2, 3, 224, 224)).logsumexp(1).mean() + diversification()
        >>> loss.backward()
        >>> diversification.close()
    """

    _capture_type: type[AttentionCapture] = AttentionCapture

    def __init__(
        self,
        model: nn.Module,
        tau: float = 2.0,
        impl: DiversificationImpl = "auto",
        blocks: Sequence[int] | None = None,
        sites: Sequence[Site] | None = None,
        patch_tokens_only: bool = False,
        query_fraction: float = 1.0,
    ) -> None:
        if not is_number(tau) or not tau >= 0:
            raise ValueError(f"expected tau to be a number of at least 0, got {tau}")
        if impl not in get_args(DiversificationImpl):
            raise ValueError(
                f"expected impl to be one of {', '.join(get_args(DiversificationImpl))}, got {impl!r}"
            )
        # An attention that several blocks share is heard once a call, not once a block and call.
        by_attention = {site.attention: (name, site) for name, site in select_sites(model, sites, blocks)}
        chosen = list(by_attention.values())
        for name, site in chosen:
            if site.refuses_adl:
                raise ValueError(
                    f"ADL has no meaning at {name}: {site.refuses_adl}; "
                    f"tapadl.describe(model) shows the sites it fits, if any, to choose with blocks=[...]"
                )
        self.tau = tau
        self.impl: DiversificationImpl = impl
        if not is_number(query_fraction) or not 0 < query_fraction <= 1:
            raise ValueError(f"expected query_fraction above 0 and at most 1, got {query_fraction!r}")
        self.patch_tokens_only = patch_tokens_only
        self.query_fraction = query_fraction
        self._model_name = type(model).__name__
        self._sites = chosen
        self._capture = self._capture_type(model, [site for _, site in chosen])
        # a loss that nobody holds any more does not go on listening
        weakref.finalize(self, self._capture.close).atexit = False

    def __call__(self) -> torch.Tensor:
        """The mean of `per_layer()`: a scalar in at least float32; the captured tensors are released."""
        losses = self.per_layer()
        # a model may be spread over devices
        return torch.stack([loss.to(losses[0].device) for loss in losses]).mean()

    def per_layer(self) -> list[torch.Tensor]:
        """The loss of every attention of the last forward, one scalar each, in order of the blocks.

        Raises:
            RuntimeError: If there was no forward since the last call, or nothing was heard at a site.
        """
        ran, taken = self._capture.ran(), self._capture.take()
        if not any(ran):
            raise RuntimeError(
                f"expected a forward of {self._model_name} with gradients enabled before each call of the "
                f"loss, got none{_NOT_HEARD if self._capture.is_open else ': the loss is closed'}"
            )
        for (name, site), was_called, calls in zip(self._sites, ran, taken, strict=True):
            if not was_called:
                raise RuntimeError(
                    f"the last forward of {self._model_name} did not run through the attention at {name}; "
                    f"leave this block out with blocks=[...]"
                )
            if not calls:
                raise RuntimeError(
                    f"expected {type(site.attention).__name__} at {name} to call "
                    f"scaled_dot_product_attention, or softmax, on tensors (B, H, N, M), got neither in the "
                    f"last forward; where another kernel hides them, use torch's (in transformers: "
                    f'model.set_attn_implementation("sdpa")), otherwise name the module that computes the '
                    f"attention in its tapadl.Site"
                )
        return [
            self._loss(call, site.num_prefix_tokens)
            for (_, site), calls in zip(self._sites, taken, strict=True)
            for call in calls
        ]

    def close(self) -> None:
        """Stop listening and take the hooks off the model."""
        self._capture.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def _loss(self, call: Captured, num_prefix_tokens: int) -> torch.Tensor:
        first = num_prefix_tokens if self.patch_tokens_only else 0
        if isinstance(call, QueryKey):
            return attention_diversification(
                call.query[:, :, first:],
                call.key[:, :, first:],
                tau=self.tau,
                scale=call.scale,
                attn_bias=_patches_of_bias(call.attn_bias, first),
                is_causal=call.is_causal,
                query_fraction=self.query_fraction,
                impl=self.impl,
            )
        attention, mask = call.attention[:, :, first:, first:], call.mask[:, :, first:, first:]
        if first:
            # A query that looks at prefix tokens alone is left with attention 0, as if it were masked.
            attention = attention.to(torch.promote_types(attention.dtype, torch.float32))
            rest = attention.sum(dim=-1, keepdim=True)
            attention = attention / rest.clamp_min(torch.finfo(attention.dtype).tiny)
        if self.query_fraction < 1:
            rows = attention.shape[2]
            count = max(1, round(self.query_fraction * rows))
            # in order: as many queries as keys are taken for the tokens of the keys
            drawn = torch.randperm(rows, device=attention.device)[:count].sort().values
            if mask.shape[2] == mask.shape[3]:
                mask = mask & mask.any(dim=2).unsqueeze(-1)  # a token that no query sees is padding
            attention, mask = attention[:, :, drawn], mask[:, :, drawn]
        return attention_diversification_from_map(attention, tau=self.tau, mask=mask)


def _patches_of_bias(attn_bias: torch.Tensor | None, first: int) -> torch.Tensor | None:
    if attn_bias is None or first == 0:
        return attn_bias
    rows = slice(first if attn_bias.shape[-2] > 1 else 0, None)
    cols = slice(first if attn_bias.shape[-1] > 1 else 0, None)
    return attn_bias[..., rows, cols]
