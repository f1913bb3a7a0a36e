"""Models looked at on pictures, clean and corrupted, in as much detail as fits into a page."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tapadl.corruptions import CORRUPTIONS, SEVERITIES
from tapadl.diagnostics.explorer.detail import (
    KINDS,
    LADDER,
    Detail,
    Kind,
    choose_detail,
    kept_queries,
)
from tapadl.diagnostics.explorer.looking import Layer, LayerLook, Look, Watcher
from tapadl.diagnostics.explorer.packing import pack_rows, squeezed
from tapadl.diagnostics.explorer.pictures import PictureBook, under_conditions
from tapadl.diagnostics.explorer.subject import CLEAN, Condition, Picture, Subject

DEFAULT_CORRUPTIONS = ("gaussian_noise", "motion_blur", "fog", "jpeg_compression")
DEFAULT_SEVERITIES = (1, 3, 5)
DEFAULT_MEGABYTES = 10.0
_CODE = 70_000  # bytes of a page without data, about
# base64 makes four characters of three bytes
BASE64 = 4 / 3
# of what attention packs to, estimated from one picture
_MARGIN = 1.12
_NUMBERS = 14  # bytes of the numbers of a head, packed
# on one picture: all queries of the mean, a part of those of heads
_SAMPLE = Detail(1, 1, 2, 2)


@dataclass(frozen=True, eq=False)
class Exploration:
    """What a page shows.

    Args:
        subjects: One model or two.
        pictures: At least one.
        conditions: Clean, then every corruption at every severity.
        detail: How much of the attention is kept.
        watchers: Of each model.
        shown: Of each model and picture its crop under every condition: start and length in the book.
        looks: Of each model, picture and condition.
        book: The pictures.
        seed: Of the corruptions.
    """

    subjects: tuple[Subject, ...]
    pictures: tuple[Picture, ...]
    conditions: tuple[Condition, ...]
    detail: Detail
    watchers: tuple[Watcher, ...]
    shown: tuple[tuple[tuple[tuple[int, int], ...], ...], ...]
    looks: tuple[tuple[tuple[Look, ...], ...], ...]
    book: PictureBook
    seed: int


def all_conditions(corruptions: Sequence[str], severities: Sequence[int]) -> tuple[Condition, ...]:
    """Clean, then every corruption at every severity, upwards.

    Raises:
        ValueError: If there is no corruption or severity, or one is unknown.

    Example:
        >>> [condition.severity for condition in all_conditions(["fog"], [5, 1])]
        [0, 1, 5]
    """
    for name in corruptions:
        if name not in CORRUPTIONS:
            raise ValueError(f"expected corruptions out of {', '.join(CORRUPTIONS)}, got {name!r}")
    for severity in severities:
        if severity not in SEVERITIES:
            raise ValueError(f"expected severities from 1 to 5, got {severity!r}")
    if not corruptions or not severities:
        raise ValueError("expected at least one corruption and one severity, got none")
    cells = itertools.product(dict.fromkeys(corruptions), sorted(set(severities)))
    return (CLEAN, *(Condition(name, severity) for name, severity in cells))


def explore(
    subjects: Sequence[Subject],
    pictures: Sequence[Picture],
    conditions: Sequence[Condition],
    *,
    limit: float = DEFAULT_MEGABYTES * 1e6,
    seed: int = 0,
    detail: Detail | None = None,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Exploration:
    """Look at every picture with every model under every condition.

    Args:
        subjects: One model or two.
        pictures: At least one.
        conditions: Of `all_conditions`.
        limit: Bytes that the page may have; decides how much of the attention is kept.
        seed: Of the corruptions.
        detail: What is kept; None for as much as is expected to fit.
        on_progress: Called with how many of models x pictures x conditions are done.

    Raises:
        ValueError: If there is no picture, or a model has no attention that can be shown.
        RuntimeError: If a site computed no attention.
    """
    if not pictures or not subjects:
        raise ValueError("expected at least one model and one picture, got none")
    book = PictureBook()
    crops = [[subject.prepare(picture.image) for picture in pictures] for subject in subjects]
    watchers = tuple(Watcher(subject, own[0]) for subject, own in zip(subjects, crops, strict=True))
    made = _Corrupted(conditions, seed)
    shown = tuple(
        tuple(
            tuple(book.add(image) for image in made(crop, picture.index))
            for crop, picture in zip(own, pictures, strict=True)
        )
        for own in crops
    )
    if detail is None:
        room = limit - len(book.content) * BASE64 - _CODE
        sample = [own[0] for own in crops]
        detail = choose_detail(_expected_sizes(watchers, None, len(pictures), len(conditions)), room)
        if detail != LADDER[0]:  # packed, more may fit
            detail = choose_detail(_expected_sizes(watchers, sample, len(pictures), len(conditions)), room)
    looks = tuple(
        tuple(
            tuple(watcher.look(made(crop, picture.index), detail, on_progress))
            for crop, picture in zip(own, pictures, strict=True)
        )
        for watcher, own in zip(watchers, crops, strict=True)
    )
    return Exploration(
        tuple(subjects), tuple(pictures), tuple(conditions), detail, watchers, shown, looks, book, seed
    )


class _Corrupted:
    """Crops under every condition; those of models that crop alike are made once."""

    def __init__(self, conditions: Sequence[Condition], seed: int) -> None:
        self._conditions = conditions
        self._seed = seed
        self._made: dict[tuple[int, bytes], torch.Tensor] = {}

    def __call__(self, crop: torch.Tensor, index: int) -> torch.Tensor:
        key = (index, bytes(str(tuple(crop.shape)), "ascii") + crop.numpy().tobytes())
        if key not in self._made:
            self._made[key] = under_conditions(crop, self._conditions, index, self._seed)
        return self._made[key]


def _expected_sizes(
    watchers: Sequence[Watcher], crops: Sequence[torch.Tensor] | None, num_pictures: int, num_conditions: int
) -> dict[Detail, float]:
    """Bytes of a page without its pictures, for every detail.

    From how the maps of one picture of each model pack; of None as if they did not pack at all.
    """
    sizes = dict.fromkeys(LADDER, 0.0)
    for place, watcher in enumerate(watchers):
        ratios = [{"mean": 1.0, "heads": 1.0}] * len(watcher.layers)
        if crops is not None:
            (look,) = watcher.look(crops[place][None], _SAMPLE)
            ratios = [_packing(seen) for seen in look.layers]
        for layer, ratio in zip(watcher.layers, ratios, strict=True):
            numbers = _NUMBERS * (layer.num_heads + 1) * num_conditions * num_pictures
            for detail in LADDER:
                sizes[detail] += numbers
                for kind in KINDS:
                    count = num_pictures * (1 if kind.endswith("clean") else num_conditions - 1)
                    packed = _bytes_of(layer, kind, detail) * ratio[kind.partition("_")[0]]
                    sizes[detail] += count * packed * BASE64 * _MARGIN
    return sizes


def _packing(seen: LayerLook) -> dict[str, float]:
    """What compression leaves of the maps of a layer."""
    parts = {
        "mean": pack_rows(seen.received[-1:]) + pack_rows(seen.attention[-1]),
        "heads": pack_rows(seen.received[:-1]) + pack_rows(seen.attention[:-1]),
    }
    return {name: len(squeezed(packed)) / len(packed) for name, packed in parts.items()}


def _bytes_of(layer: Layer, kind: Kind, detail: Detail) -> int:
    """Before compression, of one picture."""
    queries = kept_queries(layer.tokens, layer.num_queries, detail.step(kind))
    if queries is None:
        return 0
    maps = 1 if kind.startswith("mean") else layer.num_heads
    return maps * (2 + layer.num_places + len(queries) * (2 + layer.num_keys))
