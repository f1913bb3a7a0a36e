"""The command line: `tapadl COMMAND`."""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from tapadl.cli import compare, convert, corrupt, demo, evaluate, explore, models, segment, train

# What a terminal has room for at the least; longer lines read worse where it has more.
_WIDTH = 80


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Texts as they are written, and help in lines of at most 80 columns."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(_WIDTH, shutil.get_terminal_size().columns))


class _Parser(argparse.ArgumentParser):
    """argparse, with one sentence for an error and no guessing of shortened flags."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def build_parser() -> "_Parser":
    """The parser of all commands."""
    parser = _Parser(
        prog="tapadl",
        description="Robust vision transformers with token-aware average pooling (TAP) and the\n"
        "attention diversification loss (ADL).",
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tapadl {version('tapadl')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (demo, train, evaluate, compare, explore, segment, corrupt, convert, models):
        command.add_command(commands, _HelpFormatter)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Its words; None for those of the process.

    Returns:
        The exit code: 0, or 1 where the command failed. What goes wrong is told in one sentence; with
        TAPADL_TRACEBACK=1 in the environment the traceback follows.

    Raises:
        SystemExit: With code 2, if the command line is wrong.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        arguments, unknown = build_parser().parse_known_args(words)
        if getattr(arguments, "takes_settings", False):
            arguments.settings = unknown
        elif unknown:
            arguments.parser.error(f"expected only known options, got {' '.join(unknown)}")
        arguments.words = words[1:]
        code: int = arguments.run(arguments)
        return code
    except KeyboardInterrupt:
        print("\ntapadl: stopped", file=sys.stderr)
        return 130
    except (OSError, ValueError, RuntimeError) as error:
        if os.environ.get("TAPADL_TRACEBACK") == "1":
            raise
        print(f"tapadl: {_in_one_line(error)}", file=sys.stderr)
        return 1


def _in_one_line(error: Exception) -> str:
    """What it says; of what else a file may be called, a terminal gets the code instead."""
    text = " ".join(str(error).split())
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
