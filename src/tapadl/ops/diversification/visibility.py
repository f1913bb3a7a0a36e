"""How many keys each query may see, and what uniform attention over them would be: the threshold's scale.

B batch, H heads, N queries, M keys; lower-case sizes are B, N, M or 1 where a mask is broadcast.
"""

from dataclasses import dataclass

import torch

from tapadl.ops.precision import without_autocast


@dataclass(frozen=True)
class Visibility:
    """What masks leave of an attention.

    With S_i the keys that query i may see in some head, n_i = |S_i|, and R the queries that count: those of
    the query mask with n_i > 0.

    Args:
        keys_seen: n_i as a number, (B, N); 0 for a query that does not count.
        uniform_mean: Mean over R of [j in S_i] / n_i, (B, M): the mean row of uniform attention.
    """

    keys_seen: torch.Tensor
    uniform_mean: torch.Tensor


def visibility(
    size: tuple[int, int, int],
    mask: torch.Tensor | None,
    is_causal: bool,
    query_mask: torch.Tensor | None,
    like: torch.Tensor,
) -> Visibility | None:
    """What the masks leave, or None if there is none.

    Beyond (B, N) and (B, M) this takes memory of the size of `mask` with the heads merged.

    Args:
        size: (B, N, M).
        mask: Boolean, broadcastable to (B, H, N, M) with four axes; True where a query may attend.
        is_causal: Query i sees keys 0..i only, in addition.
        query_mask: Boolean (B, N); False for queries that do not count.
        like: A tensor of the dtype and device of the result.
    """
    if mask is None and not is_causal and query_mask is None:
        return None
    B, N, M = size
    keys_at = torch.arange(N, device=like.device).clamp(max=M - 1)  # the last key a causal query sees
    seen = torch.ones((1, 1, 1), dtype=torch.bool, device=like.device) if mask is None else mask.any(dim=1)
    if is_causal and seen.shape[1] > 1 and seen.shape[2] > 1:
        seen, is_causal = seen.tril(), False
    every_key = seen.expand(-1, -1, M)
    if is_causal and seen.shape[1] == 1:
        keys_seen = every_key.cumsum(dim=-1)[:, 0, keys_at]
    elif is_causal:
        keys_seen = seen.squeeze(-1) * (keys_at + 1)
    else:
        keys_seen = every_key.sum(dim=-1)
    keys_seen = keys_seen.to(like.dtype).expand(B, N)
    if query_mask is not None:
        keys_seen = keys_seen * query_mask

    row_weight, _ = weights(keys_seen)
    uniform = row_weight * (keys_seen > 0) / keys_seen.clamp(min=1)
    if is_causal:
        later = uniform.flip(1).cumsum(1).flip(1)  # sum over the queries from j on
        reached = torch.nn.functional.pad(later, (0, max(0, M - N)))[:, :M]
        uniform_mean = reached if seen.shape[1] > 1 else reached * every_key[:, 0]
    elif seen.shape[1] == 1:
        uniform_mean = uniform.sum(dim=1, keepdim=True) * every_key[:, 0]
    else:
        with without_autocast(like.device):
            uniform_mean = (uniform.unsqueeze(1) @ seen.to(like.dtype)).squeeze(1)
    return Visibility(keys_seen, uniform_mean.expand(B, M))


def weights(keys_seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight of a query that counts within its sample and of the sample within the loss, each (B, 1).

    Queries that count share their sample equally, samples with such queries share the loss equally.
    """
    rows = (keys_seen > 0).to(keys_seen.dtype).sum(dim=1, keepdim=True)
    samples = (rows > 0).to(keys_seen.dtype)
    return rows.clamp(min=1).reciprocal(), samples / samples.sum().clamp(min=1)


def may_see(attn_bias: torch.Tensor) -> torch.Tensor:
    """Where a bias lets a query attend: itself if boolean, else where it is not as good as minus infinity.

    Half the most negative number of its dtype, or less, stands for a mask: models fill theirs with that
    number and may add a bias to it.
    """
    if attn_bias.dtype == torch.bool:
        return attn_bias
    return ~(attn_bias.detach() <= torch.finfo(attn_bias.dtype).min / 2)
