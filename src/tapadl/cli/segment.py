"""`tapadl segment`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from tapadl.tasks.segmentation.prediction import PredictionSettings

    Commands = argparse._SubParsersAction[Any]

_DESCRIPTION = """\
Say what is where in your own pictures. For each picture OUT gets
  masks/NAME.png       a number for every pixel
  overlays/NAME.jpg    the picture under the colours of its classes
and classes.json says which number and colour is which class.

Nothing is overwritten: OUT is new, empty, or holds the same job unfinished. Killed,
the same command goes on where it was.
"""

_EPILOG = """\
models:
  a file               of tapadl train, or a released one through tapadl convert
  your own             module:function that returns (model, description) with
                       scheme, mean and std

examples:
  a folder of photographs:
    tapadl segment photos out --model runs/streets/model.safetensors
  two pictures, stronger colours:
    tapadl segment a.jpg b.jpg out --model model.safetensors --overlay-opacity 0.8
  large pictures in windows, as street scenes were published:
    tapadl segment frames out --model model.safetensors --window 1024 --stride 768
  slower, and often a little better:
    tapadl segment frames out --model model.safetensors --flip --scales 0.75 1 1.25

The orientation that a camera noted (EXIF) is not applied: turn such pictures first.
How good a model is says `tapadl evaluate --task segmentation`.
"""


def add_command(commands: "Commands", formatter: type[argparse.HelpFormatter]) -> None:
    """Add `segment` to the commands of the parser."""
    parser = commands.add_parser(
        "segment",
        help="masks and overlays for your own pictures",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.add_argument(
        "sources", nargs="+", type=Path, metavar="IMAGES", help="pictures, or folders of pictures"
    )
    parser.add_argument("target", type=Path, metavar="OUT", help="folder for masks and overlays")
    parser.add_argument("--model", required=True, metavar="MODEL", help="see below")
    add_prediction_options(parser.add_argument_group("how the model is asked"))
    parser.add_argument(
        "--overlay-opacity",
        type=float,
        default=0.5,
        metavar="X",
        help="of the colours, 0 to 1 (default: 0.5)",
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, ... (default: cuda where there is one)")
    parser.set_defaults(run=run, parser=parser)


def add_prediction_options(group: argparse._ArgumentGroup) -> None:
    """Add the options that `prediction_settings` reads."""
    group.add_argument(
        "--window", type=int, metavar="N", help="ask in square windows of N pixels (default: whole picture)"
    )
    group.add_argument(
        "--stride", type=int, metavar="N", help="from window to window (default: 3/4 of a window)"
    )
    group.add_argument("--flip", action="store_true", help="ask for the mirrored picture, too")
    group.add_argument(
        "--scales", nargs="+", type=float, metavar="X", help="ask at several sizes, such as 0.5 1 1.5"
    )


def prediction_settings(arguments: argparse.Namespace, precision: str = "float32") -> "PredictionSettings":
    """The settings that the options say."""
    from typing import cast

    from tapadl.evaluation.run import Precision
    from tapadl.tasks.segmentation.prediction import PredictionSettings

    return PredictionSettings(
        window=arguments.window,
        stride=arguments.stride,
        flip=arguments.flip,
        scales=tuple(arguments.scales or (1.0,)),
        precision=cast("Precision", precision),
    )


def run(arguments: argparse.Namespace) -> int:
    """Write masks and overlays; 0, or 1 where a picture could not be read."""
    from tapadl.cli.output import LastingOutput, make_console, say
    from tapadl.cli.progress import WorkBar
    from tapadl.evaluation.processes import find_device
    from tapadl.tasks.segmentation.loading import open_segmenter
    from tapadl.tasks.segmentation.pictures import (
        CLASSES,
        PictureSettings,
        find_pictures,
        segment_pictures,
    )

    settings = PictureSettings(prediction_settings(arguments), arguments.overlay_opacity)
    pictures = find_pictures(arguments.sources, arguments.target)
    device = find_device(arguments.device)
    segmenter = open_segmenter(arguments.model)
    console = make_console(LastingOutput(sys.stdout))
    with WorkBar(console, "pictures segmented", len(pictures)) as bar:
        problems = segment_pictures(
            pictures, arguments.target, segmenter, settings, device=device, on_progress=bar.advance
        )
    done = len(pictures) - len(problems)
    say(console, f"{done:,} pictures: {arguments.target / 'overlays'}, classes: {arguments.target / CLASSES}")
    for problem in problems:
        say(console, f"left out: {problem}")
    return 1 if problems else 0
