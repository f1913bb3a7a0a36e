"""`tapadl compare`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from rich.table import Table

    Pages = tuple[()] | tuple[Path, Path]
    # what loads a result, compares several, writes their page, and makes tables for the terminal
    Kind = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any], Callable[..., Any]]
    Commands = argparse._SubParsersAction[Any]

# The kind of a segmenter's result, known here so that a classifier's is read without its code.
SEGMENTATION = "segmentation"

_DESCRIPTION = """\
Compare results of `tapadl evaluate`, image by image, with the first of them. For every
metric: both values, the difference with its 95 % bootstrap interval over images, and,
of classifiers, the p value of a paired test. Results that do not show the same images
in the same conditions are refused, and what differs is named.

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
    from tapadl.data.json_file import load_json
    from tapadl.evaluation.evaluate import RESULT

    if len(arguments.results) < 2:
        raise ValueError(f"expected at least two results to compare, got {len(arguments.results)}")
    paths = [path / RESULT if path.is_dir() else path for path in arguments.results]
    segmentation = [load_json(path).get("kind") == SEGMENTATION for path in paths]
    if any(segmentation) and not all(segmentation):
        other = paths[segmentation.index(False)]
        raise ValueError(
            f"expected results of one task, got one of segmentation in {paths[segmentation.index(True)]} and "
            f"another kind in {other}"
        )
    pages = () if arguments.out is None else _pages(arguments.out)
    load, compare, write_report, tables = (_of_segmenters if all(segmentation) else _of_classifiers)()
    results = [load(path) for path in paths]
    _check_pages(arguments, pages)
    comparison = compare(results, arguments.benchmark)
    if pages:
        write_report(results, *pages, comparison=comparison)
    _print(tables(comparison), comparison.left_out, pages)
    return 0


def _of_classifiers() -> "Kind":
    from tapadl.cli.tables import comparison_tables
    from tapadl.evaluation.benchmark_result import EvaluationResult
    from tapadl.evaluation.compare import compare
    from tapadl.evaluation.report import write_report

    return EvaluationResult.load, compare, write_report, comparison_tables


def _of_segmenters() -> "Kind":
    from tapadl.cli.segmentation_tables import comparison_tables
    from tapadl.tasks.segmentation.evaluation.compare import compare
    from tapadl.tasks.segmentation.evaluation.report import write_report
    from tapadl.tasks.segmentation.evaluation.result import SegmentationResult

    return SegmentationResult.load, compare, write_report, comparison_tables


def _check_pages(arguments: argparse.Namespace, pages: "Pages") -> None:
    for page in pages:
        if page.exists() and not arguments.overwrite:
            raise FileExistsError(
                f"expected no {page.name} in {page.parent}, found one; name another folder, "
                "or pass --overwrite to replace it"
            )


def _print(tables: "Iterable[Table]", left_out: "Sequence[str]", pages: "Pages") -> None:
    from tapadl.cli.output import LastingOutput, make_console, say

    output = LastingOutput(sys.stdout)
    console = make_console(output)
    for table in tables:
        console.print(table)
    if left_out:
        say(console, f"left out, as not all results have them: {', '.join(left_out)}")
    if pages:
        say(console, f"page: {pages[0]}")
    if output.failure is not None:
        where = f", but the page is {pages[0]}" if pages else ""
        raise OSError(f"could not print everything ({output.failure}){where}")


def _pages(out: Path) -> tuple[Path, Path]:
    """The page and the text that `--out` means."""
    from tapadl.evaluation.evaluate import PAGE, TEXT

    if out.suffix == ".html":
        return out, out.with_suffix(".md")
    return out / PAGE, out / TEXT
