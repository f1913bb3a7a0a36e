import itertools

import pytest

from tapadl.diagnostics.explorer.detail import LADDER, Detail, choose_detail, describe, kept_queries
from tapadl.diagnostics.explorer.layout import TokenLayout

LAYOUTS = [
    (TokenLayout(1, (14, 14), (14, 14)), 197),
    (TokenLayout(0, (7, 7), (7, 7)), 49),
    (TokenLayout(3, (4, 6), (4, 6)), 27),
    (TokenLayout(1, (2, 4), (2, 4)), 1),
    (TokenLayout(0, (56, 56), (56, 56), ((0,),)), 49),
    (TokenLayout(0, (1, 1), (1, 1)), 1),
    (TokenLayout(0, (3, 3), (3, 3)), 9),
    (TokenLayout(2, (3, 40), (3, 40)), 122),
    (TokenLayout(0, (2, 5), (2, 5)), 10),
]


@pytest.mark.parametrize(("layout", "num_queries"), LAYOUTS)
def test_queries_on_corrupted_pictures_are_kept_on_clean_ones(layout, num_queries):
    for kind, detail in itertools.product(("mean", "heads"), LADDER):
        clean, corrupted = (
            kept_queries(layout, num_queries, detail.step(f"{kind}_{state}"))
            for state in ("clean", "corrupted")
        )
        assert set(corrupted or ()) <= set(clean or ())
        assert clean is not None or corrupted is None


@pytest.mark.parametrize(("layout", "num_queries"), LAYOUTS)
def test_every_step_keeps_some_token_and_more_steps_fewer(layout, num_queries):
    counts = [len(kept_queries(layout, num_queries, step)) for step in (1, 2, 3, 4)]
    assert min(counts) >= 1
    assert counts == sorted(counts, reverse=True)
    assert counts[0] <= 16 * 16 + 3


def test_every_step_down_the_ladder_keeps_less():
    layout = TokenLayout(1, (14, 14), (14, 14))

    def rows(detail: Detail) -> int:
        cells = itertools.product((("clean", 1), ("corrupted", 12)), (("mean", 1), ("heads", 6)))
        return sum(
            count * maps * (1 + len(kept_queries(layout, 197, step)))
            for (state, count), (kind, maps) in cells
            if (step := detail.step(f"{kind}_{state}")) is not None
        )

    sizes = [rows(detail) for detail in LADDER]
    assert all(following < size for size, following in itertools.pairwise(sizes))


def test_the_most_that_fits_is_chosen_and_the_least_where_nothing_does():
    sizes = {detail: 100.0 - place for place, detail in enumerate(LADDER)}
    assert choose_detail(sizes, 97) == LADDER[3]
    assert choose_detail(sizes, 1000) == LADDER[0]
    assert choose_detail(sizes, 1) == LADDER[-1]


def test_what_is_left_out_is_said():
    assert describe(LADDER[0]) == []
    assert describe(Detail(1, 3, 0, None)) == [
        "Mean of the heads, corrupted pictures: every 3rd token of every 3rd row can be chosen.",
        "Single heads, clean pictures: what prefix tokens attend to and what every token receives.",
        "Single heads, corrupted pictures: left out.",
    ]
