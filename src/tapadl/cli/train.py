"""`tapadl train`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Commands = argparse._SubParsersAction[Any]

_DESCRIPTION = """\
Train a model with TAP and ADL as a recipe says. The same command with the same --out
goes on after a kill, and on CPUs ends with the same weights to the bit. Under
torchrun it trains with many processes, on one machine or several.
"""


class _SettingsHelp(argparse.Action):
    """Help with every setting; they are read only when somebody asks."""

    def __init__(self, option_strings: "Sequence[str]", dest: str, **_: object) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show this help, with all settings")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from tapadl.training.arguments import help_text

        parser.epilog = help_text()
        parser.print_help()
        parser.exit()


def add_command(commands: "Commands", formatter: type[argparse.HelpFormatter]) -> None:
    """Add `train` to the commands of the parser."""
    parser = commands.add_parser(
        "train",
        help="train or fine-tune a model with TAP and ADL as a recipe says",
        usage="tapadl train [--config FILE] [--SECTION.KEY VALUE ...] [--out DIR]",
        description=_DESCRIPTION,
        formatter_class=formatter,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action=_SettingsHelp)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: new in runs/)")
    parser.set_defaults(run=run, parser=parser, takes_settings=True)


def run(arguments: argparse.Namespace) -> int:
    """Train, and say where the result is; 0, also where it was asked to stop and has saved."""
    from tapadl.cli.output import LastingOutput, make_console, repeatable_command, say
    from tapadl.cli.progress import TrainingBars
    from tapadl.evaluation import processes
    from tapadl.tasks.training_run import run_training
    from tapadl.training.arguments import parse

    settings = parse(arguments.settings)
    output = LastingOutput(sys.stdout if processes.rank() == 0 else None)
    console = make_console(output)
    with TrainingBars(console) as bars:
        outcome = run_training(
            settings, arguments.out, bars, command=repeatable_command("train", arguments.words)
        )
    if outcome is None:
        say(console, "stopped before the first step")
    return 0
