"""Token-aware average pooling (TAP) as a module: the dilation predictor and the pooling it steers."""

from typing import Any, Literal, get_args

import torch
from torch import nn

from tapadl.nn.dilation_predictor import DilationPredictor
from tapadl.ops.pooling import PoolingImpl, checked_grid, token_aware_pooling

PoolingInit = Literal["paper", "identity"]


class TokenAwareAveragePooling(nn.Module):
    """Lets every patch token take in its neighbourhood, at distances it chooses itself.

    A small predictor gives each patch a softmax over K branches: the token itself (dilation 0) and the means
    over its 3x3 neighbours 1 .. K-1 patches apart; the output is their weighted sum. It sits in front of the
    norm of an attention, on the attention's branch only. With `ndim=1` the tokens are a sequence, such as
    text: every 3x3 becomes a 3.

    Args:
        dim: Width C of the tokens, at least 1.
        num_branches: Number of branches K, at least 1; 1 leaves the tokens as they are.
        temperature: Divisor of the predicted scores, above 0; large values even the branches out.
        init: "paper", or "identity" to add a parameter `gate` (dim,), zero at the start, and give
            `tokens + gate * (TAP(tokens) - tokens)`: a pretrained model is unchanged until the gate learns.
        ndim: Sides of the grid: 2 for images, 1 for sequences.
        causal: Whether a token may see only itself and earlier ones, in the pooling and in the predictor; for
            sequences. In training the batch norm's statistics still are those of all tokens together.

    Attributes:
        dilation_predictor: Convolution C -> K, batch norm, convolution K -> K, both 3x3 and without bias.
        gate: Parameter (dim,) of `init="identity"`, None of `init="paper"`.
        impl: Implementation of the pooling, "auto"; another name may be set.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        Guo, Stutz, Schiele, "Robustifying Token Attention for Vision Transformers", ICCV 2023.

    Example:
        >>> tap = TokenAwareAveragePooling(dim=8)
        >>> tap(torch.randn(2, 1 + 3 * 5, 8), grid_size=(3, 5), num_prefix_tokens=1).shape
        torch.Size([2, 16, 8])
        >>> sum(parameter.numel() for parameter in tap.parameters()) == 36 * 8 + 152
        True
        >>> sequence = TokenAwareAveragePooling(dim=8, ndim=1, causal=True)
        >>> sequence(torch.randn(2, 7, 8), grid_size=(7,)).shape
        torch.Size([2, 7, 8])
    """

    gate: nn.Parameter | None
    impl: PoolingImpl = "auto"

    def __init__(
        self,
        dim: int,
        num_branches: int = 4,
        temperature: float = 1.0,
        init: PoolingInit = "paper",
        *,
        ndim: Literal[1, 2] = 2,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"expected dim of at least 1, got {dim}")
        if not isinstance(num_branches, int) or num_branches < 1:
            raise ValueError(f"expected num_branches to be an integer of at least 1, got {num_branches}")
        if not temperature > 0:
            raise ValueError(f"expected temperature above 0, got {temperature}")
        if init not in get_args(PoolingInit):
            raise ValueError(f"expected init to be one of {', '.join(get_args(PoolingInit))}, got {init!r}")
        if ndim not in (1, 2):
            raise ValueError(f"expected ndim to be 2 (images) or 1 (sequences), got {ndim!r}")
        if causal and ndim != 1:
            raise ValueError(f"expected ndim=1 (a sequence) with causal=True, got ndim={ndim}")
        self.dim = dim
        self.num_branches = num_branches
        self.temperature = temperature
        self.ndim = ndim
        self.causal = causal
        self.dilation_predictor = DilationPredictor(dim, num_branches, ndim, causal)
        self.register_parameter("gate", nn.Parameter(torch.zeros(dim)) if init == "identity" else None)

    def reset_parameters(self) -> None:
        """The gate as at the start; the predictor's parts reset themselves."""
        if self.gate is not None:
            nn.init.zeros_(self.gate)

    def forward(
        self,
        tokens: torch.Tensor,
        grid_size: tuple[int, ...],
        num_prefix_tokens: int = 0,
        padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Pooled tokens.

        Args:
            tokens: Prefix and patch tokens (B, N, C), floating; N = num_prefix_tokens + rows * cols.
            grid_size: (rows, cols) of the patch grid; the (length,) of a sequence where `ndim` is 1.
            num_prefix_tokens: Class, distillation and register tokens in front; they are left alone.
            padding_mask: (B, N) bool, True where a token is padding, as in `torch.nn.TransformerEncoder`:
                it stays as it is, and the others are pooled as if the sequence ended there.

        Returns:
            The tokens (B, N, C) after pooling, in the dtype of `tokens`.

        Raises:
            ValueError: If the tokens do not fit the module or the grid.
        """
        branch_weights = self.branch_weights(tokens, grid_size, num_prefix_tokens, padding_mask)
        pooled = token_aware_pooling(
            tokens,
            branch_weights,
            grid_size=grid_size,
            num_prefix_tokens=num_prefix_tokens,
            causal=self.causal,
            padding_mask=padding_mask,
            impl=self.impl,
        )
        return pooled if self.gate is None else torch.lerp(tokens, pooled, self.gate.to(tokens.dtype))

    def branch_weights(
        self,
        tokens: torch.Tensor,
        grid_size: tuple[int, ...],
        num_prefix_tokens: int = 0,
        padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The weights the predictor gives the branches at each patch.

        Args:
            tokens: As in `forward`.
            grid_size: As in `forward`.
            num_prefix_tokens: As in `forward`.
            padding_mask: As in `forward`; the weights of padding mean nothing.

        Returns:
            Weights (B, K, *grid_size) in at least float32, positive, with sum 1 over K.

        Raises:
            ValueError: If the tokens do not fit the module or the grid.
        """
        grid = checked_grid(tokens, grid_size, num_prefix_tokens, padding_mask)
        if grid.ndim != self.ndim:
            raise ValueError(
                f"expected grid_size={'(rows, cols)' if self.ndim == 2 else '(length,)'}, as this module was "
                f"built with ndim={self.ndim}, got {tuple(grid_size)}"
            )
        if tokens.shape[2] != self.dim:
            raise ValueError(f"expected tokens of shape (B, N, {self.dim}), got {tuple(tokens.shape)}")
        scores: torch.Tensor = self.dilation_predictor(tokens, grid, padding_mask)
        at_least_float32 = torch.promote_types(torch.float32, scores.dtype)
        return torch.softmax(scores / self.temperature, dim=1, dtype=at_least_float32)

    def extra_repr(self) -> str:
        """Arguments of the constructor, for `print`."""
        init = "paper" if self.gate is None else "identity"
        settings = f"num_branches={self.num_branches}, temperature={self.temperature}, init={init!r}"
        return f"{self.dim}, {settings}" + (f", ndim=1, causal={self.causal}" if self.ndim == 1 else "")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # One kind holds a gate and the other does not; strict=False would mix them up in silence.
        error_messages: list[str] = args[-1]
        has_gate = f"{prefix}gate" in state_dict
        if any(key.startswith(f"{prefix}dilation_predictor.") for key in state_dict) and has_gate != (
            self.gate is not None
        ):
            given, own = ("identity", "paper") if has_gate else ("paper", "identity")
            error_messages.append(
                f'the state of "{prefix.removesuffix(".")}" was saved with init="{given}" but the module was '
                f'built with init="{own}"; build it with init="{given}" to load it'
            )
        super()._load_from_state_dict(state_dict, prefix, *args)
