"""How much of the attention a page keeps, so that it stays below a size: which queries, which heads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tapadl.diagnostics.explorer.layout import TokenLayout

Kind = Literal["mean_clean", "mean_corrupted", "heads_clean", "heads_corrupted"]
KINDS: tuple[Kind, ...] = ("mean_clean", "mean_corrupted", "heads_clean", "heads_corrupted")

# At a step of 1 no more rows and columns of queries than this.
_FINEST = 16


@dataclass(frozen=True)
class Detail:
    """The step from one kept query to the next, in rows and columns, for each kind of map.

    0 keeps prefix tokens alone, None nothing. What tokens receive is kept of every map that is not None.

    Args:
        mean_clean: Of attention averaged over heads, on clean pictures.
        mean_corrupted: The same, on corrupted ones.
        heads_clean: Of single heads, on clean pictures.
        heads_corrupted: The same, on corrupted ones.
    """

    mean_clean: int
    mean_corrupted: int
    heads_clean: int | None
    heads_corrupted: int | None

    def step(self, kind: Kind) -> int | None:
        """The step of a kind."""
        found: int | None = getattr(self, kind)
        return found


# From everything to little. What is kept on corrupted pictures is a part of what is kept on clean ones, so
# that both can be shown side by side.
LADDER = (
    Detail(1, 1, 1, 1),
    Detail(1, 1, 1, 2),
    Detail(1, 1, 2, 2),
    Detail(1, 2, 2, 2),
    Detail(1, 2, 2, 4),
    Detail(1, 2, 4, 4),
    Detail(1, 2, 4, 0),
    Detail(1, 2, 0, 0),
    Detail(1, 2, 0, None),
    Detail(1, 3, 0, 0),
    Detail(1, 3, 0, None),
    Detail(1, 4, 0, None),
    Detail(2, 4, 0, None),
    Detail(4, 4, 0, None),
    Detail(4, 4, None, None),
    Detail(0, 0, None, None),
)


def kept_queries(layout: TokenLayout, num_queries: int, step: int | None) -> list[int] | None:
    """The queries that a step keeps; None for none, not even what tokens receive.

    Args:
        layout: Of the attention.
        num_queries: N; 1 for class attention.
        step: See `Detail`.

    Returns:
        Numbers of tokens: prefix tokens first, then patches row by row.

    Example:
        >>> kept_queries(TokenLayout(1, (4, 4), (4, 4)), 17, 2)
        [0, 6, 8, 14, 16]
    """
    if step is None:
        return None
    if num_queries == 1:
        return [0]
    rows, cols = layout.grid
    # with pooled keys the prefix tokens may be among the queries alone
    prefix = num_queries - rows * cols if layout.windows is None else 0
    queries = list(range(prefix))
    if step:
        unit = -(-max(rows, cols) // _FINEST)
        kept_rows, kept_cols = (_every(step, unit, count) for count in (rows, cols))
        queries += [prefix + row * cols + col for row in kept_rows for col in kept_cols]
    return queries


def _every(step: int, unit: int, count: int) -> list[int]:
    """Every step-th unit of so many places; at least one, which smaller steps that divide it keep, too."""
    kept = list(range(step * unit - 1, count, step * unit))
    if kept:
        return kept
    return [count - 1] if step == 1 else [_every(2 if step == 4 else 1, unit, count)[-1]]


def choose_detail(sizes: Mapping[Detail, float], limit: float) -> Detail:
    """The first of the ladder that is expected to fit, or the last.

    Args:
        sizes: Expected bytes of each.
        limit: Bytes that there are.
    """
    return next((detail for detail in LADDER if sizes[detail] <= limit), LADDER[-1])


def describe(detail: Detail) -> list[str]:
    """What a detail leaves out, in sentences; none where it keeps everything."""
    if detail == LADDER[0]:
        return []
    names = {
        "mean_clean": "Mean of the heads, clean pictures",
        "mean_corrupted": "Mean of the heads, corrupted pictures",
        "heads_clean": "Single heads, clean pictures",
        "heads_corrupted": "Single heads, corrupted pictures",
    }
    return [f"{names[kind]}: {_words(detail.step(kind))}." for kind in KINDS if detail.step(kind) != 1]


def _words(step: int | None) -> str:
    if step is None:
        return "left out"
    if step == 0:
        return "what prefix tokens attend to and what every token receives"
    ordinal = {2: "2nd", 3: "3rd"}.get(step, f"{step}th")
    return f"every {ordinal} token of every {ordinal} row can be chosen"
