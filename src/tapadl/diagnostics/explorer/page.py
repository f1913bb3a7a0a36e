"""The interactive page: one HTML file that needs nothing else."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from torch import nn

from tapadl.corruptions import SEVERITIES
from tapadl.data.atomic import write_atomically
from tapadl.diagnostics.explorer.detail import KINDS, LADDER, describe
from tapadl.diagnostics.explorer.exploration import DEFAULT_MEGABYTES, Exploration, explore
from tapadl.diagnostics.explorer.looking import Layer, LayerLook, Watcher
from tapadl.diagnostics.explorer.packing import LEVELS, SCALE_UNIT, pack_dilation, pack_page, pack_rows
from tapadl.diagnostics.explorer.subject import Condition, Picture, Subject

TEMPLATE = "explorer.html.j2"


@dataclass(frozen=True)
class WrittenPage:
    """What `write_explorer` did.

    Args:
        size: Of the file in bytes.
        thinned: What was left out, in sentences; none where all of the attention is in the page.
    """

    size: int
    thinned: tuple[str, ...]


def write_explorer(
    subjects: Sequence[Subject],
    pictures: Sequence[Picture],
    conditions: Sequence[Condition],
    path: str | Path,
    *,
    megabytes: float = DEFAULT_MEGABYTES,
    seed: int = 0,
    back: tuple[str, str] | None = None,
    on_progress: Callable[[int], None] = lambda count: None,
) -> WrittenPage:
    """Look at pictures with one model or two, and write the page to explore what they attend to.

    As much of the attention is kept as fits: first of the mean of the heads, then of single heads, of fewer
    queries where that is too much. The page says what was left out.

    Args:
        subjects: One model or two.
        pictures: At least one.
        conditions: Of `all_conditions`.
        path: The file.
        megabytes: What it may have, in units of 1,000,000 bytes.
        seed: Of the corruptions.
        back: Name and relative address of a page to link to.
        on_progress: Called with how many of models x pictures x conditions are done; a page that comes out
            larger than expected is done again.

    Raises:
        ValueError: If nothing fits, there is no picture, or a model has no attention that can be shown.
        OSError: If the file cannot be written.
    """
    limit = megabytes * 1e6
    found = explore(subjects, pictures, conditions, limit=limit, seed=seed, on_progress=on_progress)
    page = render_explorer(found, back=back)
    while len(page) > limit:
        if found.detail == LADDER[-1]:
            raise ValueError(
                f"expected a page of at most {megabytes:g} MB, got {len(page) / 1e6:.2f} MB with as little "
                f"attention as possible; name fewer pictures, corruptions or severities, or allow more"
            )
        less = LADDER[LADDER.index(found.detail) + 1]
        found = explore(subjects, pictures, conditions, detail=less, seed=seed)
        page = render_explorer(found, back=back)
    write_atomically(path, page)
    return WrittenPage(len(page), tuple(describe(found.detail)))


def render_explorer(found: Exploration, *, back: tuple[str, str] | None = None) -> bytes:
    """The page of an exploration, in UTF-8."""
    environment = Environment(
        loader=PackageLoader("tapadl.diagnostics.explorer"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    packed = pack_page(header(found), body(found))
    page = environment.get_template(TEMPLATE).render(
        names=[subject.name for subject in found.subjects],
        num_pictures=len(found.pictures),
        data=Markup(packed),
        back=back,
    )
    return page.encode()


def header(found: Exploration) -> dict[str, Any]:
    """Everything of a page but pictures and maps, as plain data; how the body is laid out follows from it."""
    return {
        "levels": LEVELS,
        "scaleUnit": SCALE_UNIT,
        "seed": found.seed,
        "conditions": [dataclasses.asdict(condition) for condition in found.conditions],
        "corruptions": list(dict.fromkeys(c.corruption for c in found.conditions if c.severity)),
        "severities": [s for s in (0, *SEVERITIES) if any(c.severity == s for c in found.conditions)],
        "pictures": [picture.name for picture in found.pictures],
        "bookLength": len(found.book.content),
        "thinned": describe(found.detail),
        "models": [_model(found, place) for place in range(len(found.subjects))],
    }


def body(found: Exploration) -> bytes:
    """The pictures, then maps: by model, picture, condition and layer."""
    parts = [bytes(found.book.content)]
    for watcher, of_model in zip(found.watchers, found.looks, strict=True):
        for looks in of_model:
            for condition, look in zip(found.conditions, looks, strict=True):
                seen = zip(watcher.layers, look.layers, look.dilation, strict=True)
                for layer, layer_look, dilation in seen:
                    parts += _maps(found, layer, layer_look, is_clean=not condition.severity)
                    if dilation is not None:
                        parts.append(pack_dilation(dilation, layer.num_branches))
    return b"".join(parts)


def _maps(found: Exploration, layer: Layer, look: LayerLook, *, is_clean: bool) -> Iterator[bytes]:
    """Of the mean of the heads, then of each head: what is received, then the rows of the kept queries."""
    places = {query: place for place, query in enumerate(look.queries)}
    for kind in KINDS:
        queries = layer.queries(found.detail, kind)
        if kind.endswith("clean") != is_clean or queries is None:
            continue
        rows = [places[query] for query in queries]
        for head in [-1] if kind.startswith("mean") else range(layer.num_heads):
            yield pack_rows(look.received[head : head + 1 or None])
            if rows:
                yield pack_rows(look.attention[head, rows])


def _model(found: Exploration, place: int) -> dict[str, Any]:
    subject, watcher, looks = found.subjects[place], found.watchers[place], found.looks[place]
    tables: list[tuple[tuple[int, ...], ...]] = []
    layers = [_layer(found, layer, tables) for layer in watcher.layers]
    return {
        "name": subject.name,
        "layers": layers,
        "windows": tables,
        "leftOut": watcher.left_out,
        "pictures": found.shown[place],
        "answers": [
            [
                [[subject.class_name(output), _short(share), output] for output, share in look.answers]
                for look in of_picture
            ]
            for of_picture in looks
        ],
        # by picture, condition and layer
        "focus": [
            [[_table(layer.focus) for layer in look.layers] for look in of_picture] for of_picture in looks
        ],
        "stability": [
            [
                [[_short(layer.cosine), _short(layer.divergence)] for layer in look.layers]
                for look in of_picture
            ]
            for of_picture in looks
        ],
        "hasTap": _has_tap(watcher),
        "classToken": _has_class_token(subject.model),
    }


def _layer(found: Exploration, layer: Layer, tables: list[tuple[tuple[int, ...], ...]]) -> dict[str, Any]:
    tokens = layer.tokens
    if tokens.windows is not None and tokens.windows not in tables:
        tables.append(tokens.windows)
    return {
        "name": layer.name,
        "prefix": tokens.num_prefix_tokens,
        "queryPrefix": _prefix_of_queries(layer),
        "grid": tokens.grid,
        "keyGrid": tokens.key_grid,
        "window": None if tokens.windows is None else tables.index(tokens.windows),
        "classAttention": layer.is_class_attention,
        "keys": layer.num_keys,
        "heads": layer.num_heads,
        "branches": layer.num_branches,
        "queries": {kind: layer.queries(found.detail, kind) for kind in KINDS},
    }


def _prefix_of_queries(layer: Layer) -> int:
    """Tokens in front of the patches that attend; with pooled keys they may be no keys."""
    rows, cols = layer.tokens.grid
    if layer.is_class_attention:
        return 1
    return 0 if layer.tokens.windows is not None else layer.num_queries - rows * cols


def _has_tap(watcher: Watcher) -> bool:
    return any(layer.num_branches for layer in watcher.layers)


def _has_class_token(model: nn.Module) -> bool:
    """Whether the first prefix token is one: timm, transformers and torchvision call its weights so."""
    names = ("cls_token", "class_token", "class_embedding")
    return any(
        isinstance(getattr(part, name, None), torch.Tensor) for part in model.modules() for name in names
    )


def _table(numbers: Any) -> list[list[float]]:
    return [[_short(value) for value in row] for row in numbers.tolist()]


def _short(value: float) -> float:
    return float(f"{value:.4g}")
