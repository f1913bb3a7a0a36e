"""`tapadl compare`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    Commands = argparse._SubParsersAction[Any]

_DESCRIPTION = """\
Compare results of `tapadl evaluate`, image by image, with the first of them. For every
metric: both values, the difference with its 95 % bootstrap interval over images, and
the p value of a paired test. Results that do not show the same images in the same
conditions are refused, and what differs is named.

Whether a difference is one of two sets of weights says nothing about the method that
made them: that takes several seeds of training.
"""

_EPILOG = """\
examples:
  a table:              tapadl compare runs/plain runs/tap
  a page to show:       tapadl compare runs/plain runs/tap --out runs/compared
"""


def add_command(commands: "Commands", formatter: type[argparse.HelpFormatter]) -> None:
    """Add `compare` to the commands of the parser."""
    parser = commands.add_parser(
        "compare",
        help="results side by side, with intervals and paired tests",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.add_argument(
        "results",
        nargs="+",
        type=Path,
        metavar="RESULT",
        help="a result.json or the folder of one; the first is the reference",
    )
    parser.add_argument("--benchmark", nargs="+", metavar="NAME", help="only these (default: all in common)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write report.html and report.md there; or a name with .html",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier report in --out")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the table and write the pages; 0."""
    from tapadl.cli.output import LastingOutput, make_console, say
    from tapadl.cli.tables import comparison_tables
    from tapadl.evaluation.benchmark_result import EvaluationResult
    from tapadl.evaluation.compare import compare
    from tapadl.evaluation.evaluate import RESULT
    from tapadl.evaluation.report import write_report

    if len(arguments.results) < 2:
        raise ValueError(f"expected at least two results to compare, got {len(arguments.results)}")
    paths = [path / RESULT if path.is_dir() else path for path in arguments.results]
    results = [EvaluationResult.load(path) for path in paths]
    pages = () if arguments.out is None else _pages(arguments.out)
    for page in pages:
        if page.exists() and not arguments.overwrite:
            raise FileExistsError(
                f"expected no {page.name} in {page.parent}, found one; name another folder, "
                "or pass --overwrite to replace it"
            )
    comparison = compare(results, arguments.benchmark)
    if pages:
        write_report(results, *pages, comparison=comparison)
    console = make_console(LastingOutput(sys.stdout))
    for table in comparison_tables(comparison):
        console.print(table)
    if comparison.left_out:
        say(console, f"left out, as not all results have them: {', '.join(comparison.left_out)}")
    if pages:
        say(console, f"page: {pages[0]}")
    return 0


def _pages(out: Path) -> tuple[Path, Path]:
    """The page and the text that `--out` means."""
    from tapadl.evaluation.evaluate import PAGE, TEXT

    if out.suffix == ".html":
        return out, out.with_suffix(".md")
    return out / PAGE, out / TEXT
