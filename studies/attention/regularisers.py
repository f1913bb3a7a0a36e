"""Losses beside ADL that push the rows of an attention apart, with its interface: called after a forward.

Each is largest where all queries attend to one key. `M` is the attention averaged over heads, a row a query.
"""

from abc import abstractmethod

import torch
import torch.nn.functional as F

from tapadl import AttentionDiversificationLoss
from tapadl.attach.capture import Captured, QueryKey


class DiversityLoss(AttentionDiversificationLoss):
    """A loss of the stored map of each attention: small models only."""

    def _loss(self, call: Captured, num_prefix_tokens: int) -> torch.Tensor:
        if not isinstance(call, QueryKey):
            return self.of_map(call.attention.mean(dim=1))
        scale = call.query.shape[-1] ** -0.5 if call.scale is None else call.scale
        attention = (call.query @ call.key.transpose(-2, -1) * scale).softmax(dim=-1)
        return self.of_map(attention.mean(dim=1))

    @abstractmethod
    def of_map(self, attention: torch.Tensor) -> torch.Tensor:
        """The loss of attention (B, N, M) averaged over heads."""


class PairwiseCosine(DiversityLoss):
    """Mean cosine of all pairs of rows, thresholded as in ADL: what the mean row stands for, in O(N^2)."""

    def of_map(self, attention: torch.Tensor) -> torch.Tensor:
        """Mean over i != j of cos(f(M_i), f(M_j))."""
        kept = torch.where(attention > self.tau / attention.shape[-1], attention, 0.0)
        rows = F.normalize(kept, dim=-1, eps=1e-8)
        return _off_diagonal(rows @ rows.transpose(1, 2)).mean()


class ReceivedEntropy(DiversityLoss):
    """1 - entropy of the mean row over its largest value: 0 where all keys receive equally much."""

    def of_map(self, attention: torch.Tensor) -> torch.Tensor:
        """1 - H(mean of M over its rows) / log(number of keys)."""
        entropy = torch.special.entr(attention.mean(dim=1)).sum(dim=-1)
        return 1 - entropy.mean() / torch.tensor(float(attention.shape[-1])).log()


class NearestRow(DiversityLoss):
    """Minus the log distance of each row of length 1 to the nearest other one, in the manner of KoLeo.

    Source: Sablayrolles et al., "Spreading vectors for similarity search", ICLR 2019, arXiv:1806.03198.
    """

    def of_map(self, attention: torch.Tensor) -> torch.Tensor:
        """Mean over i of -log(min over j != i of |u_i - u_j| + 1e-8), u the rows of length 1."""
        rows = F.normalize(attention, dim=-1, eps=1e-8)
        with torch.no_grad():
            similarity = rows @ rows.transpose(1, 2)
            similarity.diagonal(dim1=1, dim2=2).fill_(-1)
            nearest = similarity.argmax(dim=-1)
        others = rows.gather(1, nearest[..., None].expand_as(rows))
        return -(rows - others).norm(dim=-1).add(1e-8).log().mean()


class RowCorrelation(DiversityLoss):
    """Mean squared correlation of all pairs of rows: covariance off the diagonal, of rows of variance 1."""

    def of_map(self, attention: torch.Tensor) -> torch.Tensor:
        """Mean over i != j of corr(M_i, M_j)^2."""
        rows = F.normalize(attention - attention.mean(dim=-1, keepdim=True), dim=-1, eps=1e-8)
        return _off_diagonal(rows @ rows.transpose(1, 2)).square().mean()


def _off_diagonal(square: torch.Tensor) -> torch.Tensor:
    size = square.shape[-1]
    return square[:, ~torch.eye(size, dtype=torch.bool)]


REGULARISERS: dict[str, type[DiversityLoss]] = {
    "pairwise cosine": PairwiseCosine,
    "received entropy": ReceivedEntropy,
    "nearest row": NearestRow,
    "row correlation": RowCorrelation,
}
