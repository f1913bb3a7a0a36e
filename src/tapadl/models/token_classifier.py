"""What FAN and RVT have in common: timm's interface of a classifier that works on tokens."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import torch
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint
from torch import nn

from tapadl.attach import Site
from tapadl.models.grid import to_tokens


class TokenClassifier(nn.Module, ABC):
    """A transformer with a linear head; features are maps, numbered as in `feature_info`."""

    poolings: ClassVar[tuple[str, ...]]
    norm: nn.Module
    head: nn.Module

    def __init__(self, *, num_classes: int, global_pool: str, drop_rate: float) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.global_pool = self._checked_pooling(global_pool)
        self.grad_checkpointing = False
        self.feature_info: list[dict[str, Any]] = []
        self.num_features = self.head_hidden_size = 0
        self.head_drop = nn.Dropout(drop_rate)

    @abstractmethod
    def attention_sites(self) -> list[Site]:
        """Where TAP and ADL attach: the self-attention of every block, in order."""

    @abstractmethod
    def _run(
        self, images: torch.Tensor, take: Collection[int], last: int
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Tokens before the norm, and the features in `take`; features after `last` need not be computed."""

    @abstractmethod
    def forward_head(self, tokens: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Logits (B, num_classes) of what `forward_features` gives; what the head takes if `pre_logits`."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, num_classes) of images (B, in_chans, H, W) of any size."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, C) in front of the head."""
        tokens, _ = self._run(images, (), len(self.feature_info))
        return self._features_norm(tokens)

    def forward_intermediates(
        self,
        images: torch.Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Features from inside the model, as timm's transformers give them.

        Args:
            images: Images (B, in_chans, H, W).
            indices: Of the wanted features in `feature_info`; a number n for the last n; None for all.
            norm: Whether to put the final norm behind those features that have its width.
            stop_early: Whether to leave out what comes behind the last wanted feature.
            output_fmt: "NCHW" for maps, "NLC" for their tokens.
            intermediates_only: Whether to return the features alone.

        Returns:
            The features in order; in a tuple behind the tokens of `forward_features`, unless
            `intermediates_only`.

        Raises:
            ValueError: If `output_fmt` is another.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"expected output_fmt to be 'NCHW' or 'NLC', got {output_fmt!r}")
        wanted = list(indices) if isinstance(indices, Sequence) else indices
        take, last = feature_take_indices(len(self.feature_info), wanted)
        tokens, features = self._run(images, take, last if stop_early else len(self.feature_info))
        if norm:
            features = [self._normed_map(feature) for feature in features]
        if output_fmt == "NLC":
            features = [to_tokens(feature) for feature in features]
        return features if intermediates_only else (self._features_norm(tokens), features)

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put in a new head; 0 classes for none.

        Raises:
            ValueError: If the model has no such pooling.
        """
        if global_pool is not None:
            self.global_pool = self._checked_pooling(global_pool)
        self.num_classes = num_classes
        head = self._new_head(num_classes)
        like = next(self.parameters())
        self.head = head.to(like.device, like.dtype).train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether blocks are computed a second time in the backward pass, to save memory."""
        self.grad_checkpointing = enable

    def _new_head(self, num_classes: int) -> nn.Module:
        if num_classes == 0:
            return nn.Identity()
        head = nn.Linear(self.num_features, num_classes)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        return head

    def _features_norm(self, tokens: torch.Tensor) -> torch.Tensor:
        """The norm between the last block and the pooling, in models that have it there."""
        return tokens

    def _normed_map(self, feature: torch.Tensor) -> torch.Tensor:
        if feature.shape[1] != self.num_features:
            return feature
        normed: torch.Tensor = self.norm(feature.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)

    def _through(self, block: nn.Module, *inputs: Any) -> Any:
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs)
        return block(*inputs)

    def _checked_pooling(self, global_pool: str) -> str:
        if global_pool not in self.poolings:
            raise ValueError(f"expected global_pool to be one of {self.poolings}, got {global_pool!r}")
        return global_pool
