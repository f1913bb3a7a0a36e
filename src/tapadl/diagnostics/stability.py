"""How far attention moves when an image is corrupted."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from tapadl.diagnostics.focus import check_attention


@dataclass(frozen=True)
class AttentionStability:
    """How alike the attention of a layer is on clean and corrupted images, mean over queries and images.

    Attention that stays put is no proof of robustness: uniform attention never moves and knows nothing.

    Args:
        cosine: 1 where every query attends as before, 0 where to other keys altogether.
        divergence: Jensen-Shannon divergence in nats; 0 where nothing moved, ln 2 where everything did.
    """

    cosine: float
    divergence: float


def attention_stability(clean: torch.Tensor, corrupted: torch.Tensor) -> AttentionStability:
    """Likeness of two attention maps, row by row.

    With p and q the row of a query on the clean and on the corrupted image, H the entropy in nats:

        cosine     = p . q / (|p| |q|)
        divergence = H((p + q) / 2) - (H(p) + H(q)) / 2

    Args:
        clean: (B, N, M), floating point, averaged over heads, rows = queries with sum 1.
        corrupted: The same for the corrupted versions of the same images.

    Returns:
        Both numbers, averaged over the N queries and the B images.

    Raises:
        ValueError: If the maps are not floating-point (B, N, M) tensors of one shape.

    Source:
        Lin, "Divergence Measures Based on the Shannon Entropy", IEEE Transactions on Information Theory 37
        (1991). Comparing attention on clean and corrupted images: Guo, Stutz, Schiele, ICCV 2023.

    Example:
        >>> left, right = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
        >>> attention_stability(left, left)
        AttentionStability(cosine=1.0, divergence=0.0)
        >>> round(attention_stability(left, right).divergence, 4)              # ln 2
        0.6931
    """
    check_attention("clean", clean)
    check_attention("corrupted", corrupted)
    if clean.shape != corrupted.shape:
        raise ValueError(
            f"expected clean and corrupted maps of one shape, got {tuple(clean.shape)} and "
            f"{tuple(corrupted.shape)}"
        )
    dtype = torch.promote_types(torch.promote_types(clean.dtype, corrupted.dtype), torch.float32)
    clean, corrupted = clean.to(dtype), corrupted.to(dtype)
    middle = _entropy((clean + corrupted) / 2)
    divergence = middle - (_entropy(clean) + _entropy(corrupted)) / 2
    return AttentionStability(
        cosine=F.cosine_similarity(clean, corrupted, dim=-1).mean().item(),
        # rounding may leave a hair below zero
        divergence=divergence.clamp(min=0).mean().item(),
    )


def _entropy(rows: torch.Tensor) -> torch.Tensor:
    entropy: torch.Tensor = torch.special.entr(rows).sum(dim=-1)
    return entropy
