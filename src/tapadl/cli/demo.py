"""`tapadl demo`."""

import argparse
import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tapadl.demo.settings import VARIANTS, DemoSettings, quick
from tapadl.training.config import TrainingConfig

if TYPE_CHECKING:
    from typing import Any

    Commands = argparse._SubParsersAction[Any]

_DESCRIPTION = """\
Train a small vision transformer plain and with TAP and ADL on built-in images,
corrupt the test images in twelve ways and five severities, and compare. Takes a
few minutes on two cores; needs no GPU and no network.

variants:
  plain             the transformer as it is
  tap               with token-aware average pooling before every attention
  adl               trained with the attention diversification loss
  tap+adl           both
  plain-equal-time  plain, for as many steps as fit into the time of tap+adl
"""

_EPILOG = """\
examples:
  plain against tap+adl, into a new folder under runs/:
    tapadl demo
  the same in about a minute, to see that it works:
    tapadl demo --quick
  the ablation with mean and spread:
    tapadl demo --seeds 3 --variants plain tap adl tap+adl
  all of Fashion-MNIST:
    tapadl demo --data full --data-root DIR

A demo that was stopped goes on where it was: give the same command with its
folder as --out. The folder holds results.json, report.html, explore.html (the
attention of both models) and the weights (model_VARIANT_seedN.safetensors).
"""


def add_command(commands: "Commands", formatter: type[argparse.HelpFormatter]) -> None:
    """Add `demo` to the commands of the parser."""
    parser = commands.add_parser(
        "demo",
        help="train plain and robust models on built-in images, corrupt, compare",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    defaults, training = DemoSettings(), TrainingConfig()
    what = parser.add_argument_group("what is compared")
    what.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=list(defaults.variants), metavar="VARIANT",
        help=f"what to train, out of the above (default: {' '.join(defaults.variants)})",
    )  # fmt: skip
    what.add_argument("--seeds", type=int, default=1, metavar="N", help="train each N times (default: 1)")
    what.add_argument(
        "--first-seed", type=int, default=0, metavar="N", help="first of the seeds (default: 0)"
    )
    what.add_argument(
        "--quick", action="store_true", help="fewer images, one epoch, three severities: about a minute"
    )

    data = parser.add_argument_group("images")
    data.add_argument(
        "--data", choices=("embedded", "full"), default="embedded",
        help="the built-in 26,000 images of Fashion-MNIST, or all 70,000 (default: embedded)",
    )  # fmt: skip
    data.add_argument(
        "--data-root", type=Path, metavar="DIR", help="folder of the four original .gz files, for full"
    )
    data.add_argument("--download", action="store_true", help="let torchvision fetch them into --data-root")
    data.add_argument(
        "--evaluate-on", choices=("test", "validation"), default="test",
        help="images to corrupt and classify; choose settings on validation (default: test)",
    )  # fmt: skip
    data.add_argument("--train-images", type=int, metavar="N", help="train on the first N (default: all)")
    data.add_argument(
        "--evaluation-images",
        type=int,
        metavar="N",
        help=f"evaluate on the first N (default: {defaults.evaluation_images} of 4,000 test images)",
    )
    data.add_argument(
        "--corruptions",
        nargs="+",
        default=defaults.corruptions,
        metavar="NAME",
        help="these out of all that the library has (default: twelve)",
    )
    data.add_argument(
        "--severities",
        nargs="+",
        type=int,
        metavar="N",
        default=None,
        help="only these, out of 1 to 5 (default: all)",
    )

    learn = parser.add_argument_group("training")
    for name, meaning in (
        ("epochs", "passes over the training images"),
        ("batch_size", "images a step"),
        ("learning_rate", "of AdamW"),
        ("weight_decay", "of AdamW"),
        ("label_smoothing", "of the cross-entropy"),
        ("adl_weight", "weight of ADL in the loss"),
        ("adl_tau", "threshold multiple of ADL"),
    ):
        value = getattr(training, name)
        learn.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(value),
            metavar="N" if isinstance(value, int) else "X",
            help=f"{meaning} (default: {value})",
        )
    learn.add_argument(
        "--num-branches", type=int, metavar="N", help=f"of TAP (default: {defaults.model.num_branches})"
    )

    where = parser.add_argument_group("where")
    where.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the results (default: a new one in runs/)"
    )
    where.add_argument("--overwrite", action="store_true", help="replace an earlier demo in --out")
    where.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda, ... (default: cpu)")
    where.add_argument(
        "--processes", type=int, metavar="N",
        help="runs side by side, one thread each (default: one a core, at most 4; 1 on a GPU)",
    )  # fmt: skip
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo and print its table; 0."""
    try:
        settings = settings_from(arguments)
    except ValueError as error:
        arguments.parser.error(str(error))
    import torch

    from tapadl.cli.output import LastingOutput, make_console, repeatable_command, say
    from tapadl.cli.progress import DemoBars
    from tapadl.cli.tables import demo_table
    from tapadl.demo.bench import Bench, load_data
    from tapadl.demo.cells import benchmark_cells
    from tapadl.demo.folder import open_folder
    from tapadl.demo.report.findings import Findings
    from tapadl.demo.run import run_demo
    from tapadl.evaluation.processes import find_device
    from tapadl.evaluation.provenance import versions

    # A model this small is hardly faster on several threads; several runs side by side are.
    torch.set_num_threads(1)
    processes = arguments.processes or (min(os.cpu_count() or 1, 4) if arguments.device == "cpu" else 1)
    try:
        benchmark_cells(settings.corruptions, settings.severities)
        find_device(settings.device)
    except ValueError as error:
        arguments.parser.error(str(error))
    data = load_data(settings, arguments.data_root, download=arguments.download)
    output = LastingOutput(sys.stdout)
    console = make_console(output)
    with ExitStack() as stack:
        try:
            bench = Bench.of(settings, data)
            # before the folder is opened: --overwrite takes nothing away for a job that cannot be done
            bench.check()
            folder = stack.enter_context(
                open_folder(arguments.out, settings, versions=versions(), overwrite=arguments.overwrite)
            )
        except (ValueError, FileExistsError) as error:
            arguments.parser.error(str(error))
        if folder.continued:
            say(console, f"going on with the unfinished demo in {folder.path}")
        with DemoBars(console) as bars:
            outcome = run_demo(
                bench,
                folder,
                command=repeatable_command("demo", arguments.words, folders=["--data-root"]),
                observer=bars,
                data_root=arguments.data_root,
                processes=processes,
            )
    console.print(demo_table(outcome.result))
    if note := Findings(outcome.result.to_json()).quick_note:
        say(console, note)
    say(console, f"results and weights: {folder.path}")
    say(console, f"page: {folder.report}")
    if output.failure is not None:
        raise OSError(f"could not print everything ({output.failure}), but the results are in {folder.path}")
    return 0


def settings_from(arguments: argparse.Namespace) -> DemoSettings:
    """The settings that a command line asks for.

    Raises:
        ValueError: If they contradict one another or are out of range.
    """
    if arguments.data == "full" and arguments.data_root is None:
        raise ValueError(
            "expected --data-root with the folder of the original files for --data full, got none"
        )
    if arguments.data != "full" and (arguments.data_root is not None or arguments.download):
        raise ValueError("expected --data-root and --download with --data full only, got --data embedded")
    if arguments.processes is not None and arguments.processes < 1:
        raise ValueError(f"expected --processes of at least 1, got {arguments.processes}")
    settings = DemoSettings(
        variants=tuple(arguments.variants),
        seeds=arguments.seeds,
        first_seed=arguments.first_seed,
        data=arguments.data,
        evaluate_on=arguments.evaluate_on,
        corruptions=tuple(arguments.corruptions),
        device=arguments.device,
    )
    settings = quick(settings) if arguments.quick else settings
    given = {
        name: value
        for name in TrainingConfig.__dataclass_fields__
        if (value := getattr(arguments, name, None)) is not None
    }
    settings = replace(settings, training=replace(settings.training, **given))
    if arguments.num_branches is not None:
        settings = replace(settings, model=replace(settings.model, num_branches=arguments.num_branches))
    for name in ("train_images", "evaluation_images"):
        if getattr(arguments, name) is not None:
            settings = replace(settings, **{name: getattr(arguments, name)})
    if arguments.severities is not None:
        settings = replace(settings, severities=tuple(arguments.severities))
    return settings
