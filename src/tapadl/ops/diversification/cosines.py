"""The cosines of rows with their mean row and their slope, block by block of rows, for any implementation.

B batch, H heads, N queries, M keys; of a block: S samples, R rows, K keys seen.

Notation, for one sample, with A (H, N, M) the attention and n_i the number of keys query i may see:

    M_ij = mean_h A_hij,   X_ij = n_i M_ij where that exceeds tau, else 0
    Mbar_j = sum_i p_i M_ij,   s_j = Mbar_j where that exceeds tau * (sum_i p_i [i sees j] / n_i), else 0
    c_i = X_i . s / (|X_i| |s|),   loss = mean over b of sum_i p_i c_i

p_i is 1 / (number of queries that count) for a query that counts and 0 for another, whose n_i is 0. Rows
enter cosines only, so their factor n_i (M everywhere if nothing is masked) does no more than make tau the
threshold.

The cosines need s, and s needs every row; but s stands outside the sum over rows,

    sum_i c_i = u . s / |s|   with   u_j = sum_i X_ij / |X_i|,

and u and Mbar grow together, row by row. For the slope the mean row feels all the cosines through s, a row
its own cosine and the mean row; the threshold does not move. With p the weight of a query that counts:

    dMbar_j = w [s_j > 0] (u_j - (sum_i c_i) s_j / |s|) / |s|,   w = p / B
    dM_ij   = w n_i / |X_i| [X_ij > 0] (s_j / |s| - c_i X_ij / |X_i|) + p_i dMbar_j / p

A row with X_i = 0 drops out of every sum. Any other norm is at least tau, or 1 / (H sqrt(M)) at tau = 0: the
eps of the cosine only keeps 0 / 0 away. Samples none of whose queries counts do not count in B.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from tapadl.ops.diversification.visibility import weights

COSINE_EPS = 1e-8


class MeanRow(NamedTuple):
    """s / |s| of some samples, (S, M), and what the mean row adds to the slope of each row that counts."""

    unit: torch.Tensor
    slope: torch.Tensor


@dataclass(frozen=True)
class Cosines:
    """The arithmetic above for one layer.

    Args:
        tau: Multiple of uniform attention above which an entry counts.
        num_rows: N.
        num_keys: M.
        keys_seen: n_i, (B, N); None if every query sees every key.
        uniform_mean: sum_i p_i [i sees j] / n_i, (B, M); None if that is 1 / M everywhere.
        counts: 1 for a query that counts and 0 for another, (B, N); None if all count.
        row_weight: p of the queries that count, (B, 1) or (1, 1).
        sample_weight: 1 / B, over the samples with queries that count, (B, 1) or (1, 1).
    """

    tau: float
    num_rows: int
    num_keys: int
    keys_seen: torch.Tensor | None
    uniform_mean: torch.Tensor | None
    counts: torch.Tensor | None
    row_weight: torch.Tensor
    sample_weight: torch.Tensor

    def gather(
        self, rows: torch.Tensor, samples: slice, at: slice, row_sum: torch.Tensor, unit_sum: torch.Tensor
    ) -> None:
        """Turn a block of M (S, R, K) into X in place; add to the sums of M and X / |X| over rows, (S, K)."""
        if self.counts is None:
            row_sum += rows.sum(dim=1)
        else:
            row_sum += (self.counts[samples, None, at] @ rows).squeeze(1)
        self.cut(rows, samples, at)
        unit_sum += (inverse_norm(rows).mT @ rows).squeeze(1)

    def cut(self, rows: torch.Tensor, samples: slice, at: slice) -> torch.Tensor:
        """Turn a block of M (S, R, K) into X in place."""
        if self.keys_seen is None:
            return torch.threshold_(rows, self.tau / self.num_keys, 0.0)
        return torch.threshold_(rows.mul_(self.keys_seen[samples, at, None]), self.tau, 0.0)

    def cut_mean_row(self, row_sum: torch.Tensor, samples: slice) -> torch.Tensor:
        """Turn the sum of M over the rows that count (S, M) into s in place."""
        mean_row = row_sum.mul_(_of(self.row_weight, samples))
        if self.uniform_mean is None:
            return torch.threshold_(mean_row, self.tau / self.num_keys, 0.0)
        return mean_row.masked_fill_(mean_row <= self.tau * self.uniform_mean[samples], 0.0)

    def loss(self, mean_row: torch.Tensor, unit_sum: torch.Tensor, samples: slice) -> torch.Tensor:
        """What some samples add to the loss, from s and u, each (S, M)."""
        cosines = (unit_sum * mean_row * inverse_norm(mean_row)).sum(dim=-1, keepdim=True)
        return (cosines * self._weight(samples)).sum()

    def mean_row(self, mean_row: torch.Tensor, unit_sum: torch.Tensor, samples: slice) -> MeanRow:
        """What the slope of every row needs, from s and u of some samples, each (S, M)."""
        inverse = inverse_norm(mean_row)
        unit = mean_row * inverse
        cosine_sum = (unit_sum * unit).sum(dim=-1, keepdim=True)
        weight = self._weight(samples) * _of(self.row_weight, samples) * inverse
        return MeanRow(unit, weight * (unit > 0) * (unit_sum - cosine_sum * unit))

    def slope(
        self, rows: torch.Tensor, mean_row: MeanRow, samples: slice, at: slice, out: torch.Tensor
    ) -> torch.Tensor:
        """Slope dL / dM of a block of rows, from its X (S, R, K) or, of the same sign, M where X is not 0."""
        unit, shared = (part[:, None, : rows.shape[-1]] for part in mean_row)
        inverse = inverse_norm(rows)
        own = inverse * self._weight(samples).unsqueeze(-1)
        if self.keys_seen is not None:
            own *= self.keys_seen[samples, at, None]
        torch.mul(rows, -own * inverse * (rows @ unit.mT * inverse), out=out).addcmul_(own, unit)
        torch.ops.aten.threshold_backward.grad_input(out, rows, 0.0, grad_input=out)
        return (
            out.add_(shared) if self.counts is None else out.addcmul_(self.counts[samples, at, None], shared)
        )

    def _weight(self, samples: slice) -> torch.Tensor:
        return _of(self.sample_weight, samples) * _of(self.row_weight, samples)


def cosines(
    tau: float,
    size: tuple[int, int, int],
    keys_seen: torch.Tensor | None,
    uniform_mean: torch.Tensor | None,
    like: torch.Tensor,
) -> Cosines:
    """The arithmetic for `size` = (B, N, M) in the dtype and on the device of `like`."""
    B, N, M = size
    if keys_seen is None:
        row_weight, sample_weight = like.new_full((1, 1), 1 / N), like.new_full((1, 1), 1 / B)
        return Cosines(tau, N, M, None, None, None, row_weight, sample_weight)
    counts = (keys_seen > 0).to(like.dtype)
    row_weight, sample_weight = weights(keys_seen)
    return Cosines(tau, N, M, keys_seen, uniform_mean, counts, row_weight, sample_weight)


def inverse_norm(rows: torch.Tensor) -> torch.Tensor:
    """1 / |row|, the last axis kept with size 1."""
    norm: torch.Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return norm.clamp_(min=COSINE_EPS).reciprocal_()


def _of(weight: torch.Tensor, samples: slice) -> torch.Tensor:
    return weight if weight.shape[0] == 1 else weight[samples]
