"""`tapadl evaluate --task segmentation`."""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tapadl.tasks.segmentation.evaluation.benchmarks import Conditions
    from tapadl.tasks.segmentation.evaluation.run import RunSettings

# Options of classification, by their names here, with what they are when nobody gives them.
_OTHERS: dict[str, tuple[str, object]] = {
    "--checkpoint": ("checkpoint", None),
    "--jpeg85": ("jpeg85", False),
    "--attack": ("attack", []),
    "--attack-norm": ("attack_norm", None),
    "--attack-eps": ("attack_eps", None),
    "--attack-steps": ("attack_steps", None),
    "--batch-size": ("batch_size", None),
    "--compile": ("compile", False),
}


def run(arguments: argparse.Namespace, roots: dict[str, Path], workers: int) -> int:
    """Evaluate a segmenter and print the table; 0.

    Args:
        arguments: Of the command.
        roots: The folder of every benchmark.
        workers: Processes that read and corrupt.
    """
    from tapadl.cli.output import LastingOutput, make_console, repeatable_command, say
    from tapadl.cli.progress import WorkBar
    from tapadl.cli.segmentation_tables import segmentation_table
    from tapadl.data.atomic import remove_half_written
    from tapadl.data.job_folder import open_job_folder
    from tapadl.evaluation import processes
    from tapadl.evaluation.evaluate import PAGE, RESULT, TEXT
    from tapadl.tasks.segmentation.evaluation.benchmarks import check_benchmarks, make_parts
    from tapadl.tasks.segmentation.evaluation.evaluate import (
        JOB_KIND,
        PREDICTIONS,
        check_classes,
        check_labels,
        check_predictions,
        job_of,
        parts_of,
        shown_in,
        summarise,
    )
    from tapadl.tasks.segmentation.evaluation.report import write_report
    from tapadl.tasks.segmentation.evaluation.report.overlays import make_overlays
    from tapadl.tasks.segmentation.evaluation.run import check_prediction_names, run_plan
    from tapadl.tasks.segmentation.loading import open_segmenter
    from tapadl.tasks.segmentation.prediction import Predictor

    conditions, settings = _conditions(arguments), _settings(arguments)
    check_benchmarks(arguments.benchmark, conditions)
    with processes.joined():
        device = processes.find_device(arguments.device)
        plan = {name: make_parts(name, roots.get(name), conditions) for name in arguments.benchmark}
        check_labels(plan, predictions=arguments.predictions)
        if arguments.predictions:
            check_prediction_names(parts_of(plan))
        segmenter = open_segmenter(arguments.model)
        check_classes(segmenter, plan)
        output = LastingOutput(sys.stdout if processes.rank() == 0 else None)
        console = make_console(output)
        with ExitStack() as stack:
            path = arguments.out
            if processes.rank() == 0:
                if path is not None and arguments.overwrite:
                    check_predictions(path)
                job = job_of(segmenter, plan, settings, predictions=arguments.predictions)
                folder = stack.enter_context(
                    open_job_folder(path, JOB_KIND, job, overwrite=arguments.overwrite)
                )
                path = folder.path
                remove_half_written(path / PREDICTIONS)
                if folder.continued:
                    say(console, f"going on with the unfinished evaluation in {folder.path}")
            path = processes.told_by_first(path)
            predictions = [path / PREDICTIONS / name for name, parts in plan.items() for _ in parts]
            with WorkBar(console, "images", shown_in(plan) // processes.world_size()) as bar:
                run_plan(
                    parts_of(plan),
                    segmenter,
                    path,
                    settings,
                    device=device,
                    num_workers=workers,
                    predictions=predictions if arguments.predictions else None,
                    on_progress=bar.advance,
                )
            processes.wait_for_all()
            if processes.rank() != 0:
                return 0
            model_file = ["--model"] if Path(arguments.model).is_file() else []
            command = repeatable_command("evaluate", arguments.words, folders=model_file, several=["--data"])
            result = summarise(
                segmenter, arguments.model, plan, conditions, settings, path, command=command, device=device
            )
            predictor = Predictor(segmenter, settings.prediction, device)
            overlays = {
                name: make_overlays(parts, predictor, seed=settings.seed) for name, parts in plan.items()
            }
            write_report([result], path / PAGE, path / TEXT, overlays=overlays)
            result.save(path / RESULT)
        console.print(segmentation_table(result))
        say(console, f"result: {path / RESULT}")
        say(console, f"page: {path / PAGE}")
        if arguments.predictions:
            say(console, f"predictions: {path / PREDICTIONS}")
        if output.failure is not None:
            raise OSError(f"could not print everything ({output.failure}), but the results are in {path}")
    return 0


def _conditions(arguments: argparse.Namespace) -> "Conditions":
    from tapadl.corruptions import CORRUPTIONS
    from tapadl.tasks.segmentation.evaluation.benchmarks import Conditions

    for option, (name, nothing) in _OTHERS.items():
        if getattr(arguments, name) != nothing:
            raise ValueError(f"expected no {option} with --task segmentation, which has nothing of the kind")
    names = list(CORRUPTIONS) if arguments.corruptions == ["all"] else arguments.corruptions
    return Conditions(
        split=arguments.split or "val",
        corruptions=None if names is None else tuple(names),
        severities=tuple(dict.fromkeys(arguments.severities)),
        subset=arguments.subset,
    )


def _settings(arguments: argparse.Namespace) -> "RunSettings":
    from tapadl.cli.segment import prediction_settings
    from tapadl.tasks.segmentation.evaluation.run import RunSettings

    return RunSettings(arguments.seed, prediction_settings(arguments, arguments.precision))
