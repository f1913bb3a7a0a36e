"""`tapadl corrupt`."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from tapadl.evaluation.corrupted_image import CopySettings

    Commands = argparse._SubParsersAction[Any]

_DESCRIPTION = """\
Write a corrupted copy of a folder of images, laid out as ImageNet-C is:
  OUT/<corruption>/<severity>/<path of the image in IN>
Each image is read once, resized to 256 pixels, cropped to 224 (see --size) and
corrupted in every way. Its random numbers depend on --seed and on its position
among the sorted images alone. OUT/manifest.json lists the SHA-256 of every
file, the constants, the seed and the versions.

Killed at any moment, the same command goes on where it was. Nothing is
overwritten: OUT is new, empty, or holds the same job unfinished.
"""

_EPILOG = """\
examples:
  the fifteen corruptions of ImageNet-C, as published at 224 pixels:
    tapadl corrupt /data/imagenet/val /data/imagenet-c --format jpeg85
  two corruptions of your own pictures, in full size:
    tapadl corrupt photos photos-c --corruptions fog motion_blur --size keep
  large pictures with the constants of 224 pixels, as for Cityscapes-C:
    tapadl corrupt streets streets-c --corruptions all --size keep \\
        --constants 224
  a data set with images that do not decode:
    tapadl corrupt photos photos-c --on-error skip

A copy of ImageNet's validation images in all five severities, as large as the
model takes them, is evaluated with
  tapadl evaluate --model NAME --benchmark imagenet-c --data OUT
one of other class folders with --benchmark folder-c; where not all fifteen were
made, name those that were: --corruptions fog motion_blur
The fifteen at five severities are 75 files an image; png takes several times
the room of jpeg85.
"""


def add_command(commands: "Commands", formatter: type[argparse.HelpFormatter]) -> None:
    """Add `corrupt` to the commands of the parser."""
    parser = commands.add_parser(
        "corrupt",
        help="a corrupted copy of a folder of images",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.add_argument("source", type=Path, metavar="IN", help="folder of images, of any depth")
    parser.add_argument("target", type=Path, metavar="OUT", help="folder of the copy")
    what = parser.add_argument_group("what is written")
    what.add_argument(
        "--corruptions",
        nargs="+",
        metavar="NAME",
        help="only these, or all for all nineteen (default: the fifteen of mCE)",
    )
    what.add_argument(
        "--severities", nargs="+", type=int, default=[1, 2, 3, 4, 5], metavar="N", help="only these of 1 to 5"
    )
    what.add_argument(
        "--size",
        type=_size,
        default=224,
        metavar="N",
        help="resize the shorter side to 8/7 of N pixels and crop N x N, or keep for images as they are "
        "(default: 224)",
    )
    what.add_argument(
        "--format",
        default="png",
        metavar="NAME",
        help="png, or jpeg85: JPEG at quality 85, as ImageNet-C is published (default: png)",
    )
    what.add_argument("--seed", type=int, default=0, metavar="N", help="of the random numbers (default: 0)")
    what.add_argument("--gray", action="store_true", help="gray images of one channel (default: RGB)")
    what.add_argument(
        "--constants",
        type=int,
        metavar="N",
        help="use the constants for images of N pixels (default: the shorter side of what is corrupted)",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--workers", type=int, metavar="N", help="processes at once (default: one a core)")
    how.add_argument(
        "--on-error",
        default="stop",
        metavar="WHAT",
        help="stop at an image that does not decode, or skip it and list it in the manifest (default: stop)",
    )
    parser.set_defaults(run=run, parser=parser)


def _size(word: str) -> int | None:
    if word == "keep":
        return None
    try:
        return int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number of pixels or keep, got {word!r}") from None


def run(arguments: argparse.Namespace) -> int:
    """Write the copy and say what was written; 0."""
    from tapadl.cli.output import LastingOutput, make_console, say
    from tapadl.cli.progress import WorkBar
    from tapadl.evaluation.corrupted_copy import CorruptedCopy
    from tapadl.evaluation.processes import spare_cores

    console = make_console(LastingOutput(sys.stdout))
    copy = CorruptedCopy(arguments.source, arguments.target, _settings(arguments))
    with WorkBar(console, "images corrupted", len(copy)) as bar:
        summary = copy.run(
            workers=spare_cores() + 1 if arguments.workers is None else arguments.workers,
            on_error=arguments.on_error,
            command=_command(arguments),
            advance=bar.advance,
        )
    if summary.continued:
        say(console, f"{summary.continued:,} images were finished before")
    for problem in summary.skipped.values():
        say(console, f"skipped: {problem}")
    skipped = f", {len(summary.skipped):,} skipped" if summary.skipped else ""
    say(console, f"wrote {summary.files:,} files from {summary.images:,} images{skipped}: {summary.manifest}")
    return 0


def _settings(arguments: argparse.Namespace) -> "CopySettings":
    from tapadl.corruptions import CORRUPTIONS
    from tapadl.evaluation.corrupted_image import CopySettings

    names: Sequence[str] = arguments.corruptions or [n for n, row in CORRUPTIONS.items() if row.in_mce]
    return CopySettings(
        corruptions=tuple(CORRUPTIONS) if list(names) == ["all"] else tuple(names),
        severities=tuple(arguments.severities),
        size=arguments.size,
        format=arguments.format,
        seed=arguments.seed,
        gray=arguments.gray,
        constants_size=arguments.constants,
    )


def _command(arguments: argparse.Namespace) -> str:
    """What was typed, without folders of this machine."""
    folders = {str(arguments.source): "IN", str(arguments.target): "OUT"}
    words = (folders.get(str(Path(word)), word) for word in arguments.words)
    return shlex.join(["tapadl", "corrupt", *words])
