"""`tapadl models`."""

import argparse
from fnmatch import fnmatch
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    Commands = argparse._SubParsersAction[Any]

_DESCRIPTION = """\
List the models of tapadl: name, parameters in millions, those of TAP among them,
megabytes of their float32 weights, and what is published of them (percent; mCE
and mFR: lower is better). Weights are offered by their authors on the pages named
below the list; none are downloaded, because no hash of them is known.
"""

_EPILOG = """\
examples:
  all:                       tapadl models
  those with TAP:            tapadl models "tap_*"
  build one:                 timm.create_model(NAME) after import tapadl.models
"""


def add_command(commands: "Commands", formatter: type[argparse.HelpFormatter]) -> None:
    """Add `models` to the commands of the parser."""
    parser = commands.add_parser(
        "models",
        help="what can be built, parameters, published scores with their source",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.add_argument("pattern", nargs="?", default="*", help="only names like this, such as 'tap_fan_*'")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the list; 0."""
    import timm
    import torch
    from rich.console import Console
    from rich.table import Table

    from tapadl.models import VARIANTS
    from tapadl.models.weights import PUBLISHED, RELEASES, expected_bytes, release_of

    names = [prefix + name for name in VARIANTS for prefix in ("", "tap_")]
    chosen = [name for name in names if fnmatch(name, arguments.pattern)]
    if not chosen:
        raise ValueError(
            f"expected a pattern of a model's name, such as 'tap_fan_*', got {arguments.pattern!r}; "
            f"tapadl models lists all"
        )
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for header in ("model", "M params", "of TAP", "MB", "top-1", "mCE", "IN-A", "mFR"):
        table.add_column(header, justify="left" if header == "model" else "right", no_wrap=True)
    for name in chosen:
        with torch.device("meta"):
            model = timm.create_model(name)
        parameters = dict(model.named_parameters())
        of_tap = sum(p.numel() for key, p in parameters.items() if ".tap." in key)
        total = sum(p.numel() for p in parameters.values())
        published = PUBLISHED.get(name)
        scores = (
            [published.top1, published.mce, published.imagenet_a, published.mfr] if published else [None] * 4
        )
        table.add_row(
            name,
            f"{total / 1e6:.1f}",
            f"{of_tap / 1e6:.2f}" if of_tap else "-",
            f"{expected_bytes(model) / 1e6:.0f}",
            *("-" if score is None else f"{score:.1f}" for score in scores),
        )
    Console().print(table)
    for source in sorted({PUBLISHED[name].source for name in chosen if name in PUBLISHED}):
        print(f"scores: {source}")
    for family, release in RELEASES.items():
        if any(release_of(name) is release for name in chosen):
            print(f"weights of {family}_*: {release.page}; licence: {release.licence}")
    return 0
