"""`tapadl evaluate`."""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tapadl.cli.segment import add_prediction_options

if TYPE_CHECKING:
    from typing import Any

    from tapadl.evaluation.benchmarks import Conditions
    from tapadl.evaluation.run import AttackSettings, RunSettings

    Commands = argparse._SubParsersAction[Any]

_DESCRIPTION = """\
Measure how a model holds: on clean, corrupted, perturbed, adversarial and shifted
images. Writes result.json, report.md and report.html. Killed, the same command with
the same --out goes on where it was. With --task segmentation a segmenter is measured
by mIoU, one image at a time: it takes no --checkpoint, --jpeg85, --attack,
--batch-size or --compile.

models:
  a timm name          vit_tiny_patch16_224, hf-hub:ORG/NAME, local-dir:FOLDER
  a file or folder     one of tapadl train or convert; NAME with --checkpoint FILE
  another library      transformers:ID_OR_FOLDER, torchvision:vit_b_16
  your own             module:function that returns a model, or (model, Preprocessing)
  a segmenter          a .safetensors file of tapadl train or tapadl convert, or
                       module:function that returns (model, description)

benchmarks:
"""

# Written here, for what knows them takes seconds to import; tests hold the two together.
_OF_SCENES = (
    *("cityscapes", "cityscapes-c", "acdc", "ade20k", "ade20k-c"),
    *("segmentation-folder", "segmentation-folder-c"),
)
_SCENES = """
benchmarks of segmentation:
  cityscapes       Cityscapes, 19 classes
  cityscapes-c     Cityscapes-C: stored, or corrupted in memory
  acdc             ACDC: fog, night, rain, snow
  ade20k           ADE20K, 150 classes
  ade20k-c         ADE20K, corrupted in memory
  segmentation-folder, segmentation-folder-c
                   your images, masks and classes.json, as they are or corrupted
"""

_EPILOG = """\
examples:
  an mCE, corrupting the validation images in memory:
    tapadl evaluate --model deit_tiny_patch16_224 --benchmark imagenet-c \\
        --data /data/imagenet/val --out runs/deit
  stored ImageNet-C, and clean images for the relative mCE:
    tapadl evaluate --model deit_tiny_patch16_224 --benchmark imagenet imagenet-c \\
        --data imagenet=/data/imagenet/val imagenet-c=/data/imagenet-c --out runs/deit
  a first look in minutes: 1,000 images, three corruptions:
    tapadl evaluate --model deit_tiny_patch16_224 --benchmark imagenet-c \\
        --data /data/imagenet/val --subset 1000 --corruptions fog snow jpeg_compression
  a segmenter on Cityscapes-C, in the published windows:
    tapadl evaluate --task segmentation --model runs/streets/model.safetensors \\
        --benchmark cityscapes-c --data /data/cityscapes --window 1024 --stride 768
  masks for the server of ACDC:
    tapadl evaluate --task segmentation --model runs/streets/model.safetensors \\
        --benchmark acdc --data /data/acdc --split test --predictions
  on 8 GPUs, the same result:
    torchrun --nproc-per-node 8 -m tapadl evaluate ... --device cuda --out runs/deit

Compare results with `tapadl compare A/result.json B/result.json`.
"""


def add_command(commands: "Commands", formatter: type[argparse.HelpFormatter]) -> None:
    """Add `evaluate` to the commands of the parser."""
    parser = commands.add_parser(
        "evaluate",
        help="how a model holds under corruption, perturbation, attack and shift",
        description=_DESCRIPTION + _benchmarks() + _SCENES,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    what = parser.add_argument_group("what is evaluated")
    what.add_argument(
        "--task",
        choices=("classification", "segmentation"),
        default="classification",
        help="what the model does (default: classification)",
    )
    what.add_argument("--model", required=True, metavar="MODEL", help="see above")
    what.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights for a model given by name")
    what.add_argument("--benchmark", required=True, nargs="+", metavar="NAME", help="one or several")
    what.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="the folder of the benchmark, or NAME=FOLDER for each",
    )
    what.add_argument(
        "--corruptions",
        nargs="+",
        metavar="NAME",
        help="only these, or all, such as all nineteen (default: the benchmark's own)",
    )
    what.add_argument(
        "--severities", nargs="+", type=int, default=[1, 2, 3, 4, 5], metavar="N", help="only these of 1 to 5"
    )
    what.add_argument("--subset", type=int, metavar="N", help="only N images, a fixed list (default: all)")
    what.add_argument(
        "--jpeg85", action="store_true", help="put corrupted images through JPEG at quality 85 as published"
    )
    scenes = parser.add_argument_group("segmentation alone")
    scenes.add_argument("--split", metavar="NAME", help="of the data set (default: val)")
    add_prediction_options(scenes)
    scenes.add_argument(
        "--predictions",
        action="store_true",
        help="write masks with the numbers of the data set's label files",
    )
    attack = parser.add_argument_group("attacks on clean images")
    attack.add_argument("--attack", nargs="+", default=[], metavar="NAME", help="fgsm, pgd, autoattack")
    attack.add_argument("--attack-norm", choices=("linf", "l2"), help="(default: linf)")
    attack.add_argument("--attack-eps", metavar="X", help="radius (default: 1/255 in linf; none in l2)")
    attack.add_argument("--attack-steps", type=int, metavar="N", help="of pgd (default: 10)")

    how = parser.add_argument_group("how")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of the corruptions (default: 0)")
    how.add_argument("--batch-size", type=int, metavar="N", help="images at a time (default: 64)")
    how.add_argument(
        "--workers", type=int, metavar="N", help="processes that read and corrupt (default: cores - 1)"
    )
    how.add_argument("--device", metavar="NAME", help="cpu, cuda, ... (default: cuda where there is one)")
    how.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of the model (default: float32)",
    )
    how.add_argument("--compile", action="store_true", help="run the model through torch.compile")
    how.add_argument("--out", type=Path, metavar="DIR", help="folder for the results (default: new in runs/)")
    how.add_argument("--overwrite", action="store_true", help="replace an earlier evaluation in --out")
    parser.set_defaults(run=run, parser=parser)


def _benchmarks() -> str:
    from tapadl.evaluation.benchmarks import BENCHMARKS

    return "".join(f"  {name:<16} {benchmark.title}\n" for name, benchmark in BENCHMARKS.items())


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print the table; 0."""
    from tapadl.cli.output import LastingOutput, make_console, repeatable_command, say
    from tapadl.cli.progress import WorkBar
    from tapadl.cli.tables import evaluation_table
    from tapadl.data.job_folder import open_job_folder
    from tapadl.evaluation import processes
    from tapadl.evaluation.benchmarks import check_benchmarks, make_parts
    from tapadl.evaluation.evaluate import (
        JOB_KIND,
        PAGE,
        RESULT,
        TEXT,
        job_of,
        parts_of,
        shown_in,
        summarise,
    )
    from tapadl.evaluation.loading import load_model
    from tapadl.evaluation.report import write_report
    from tapadl.evaluation.run import run_plan

    workers = arguments.workers if arguments.workers is not None else processes.spare_cores()
    if workers < 0:
        raise ValueError(f"expected --workers of at least 0, got {workers}")
    if arguments.task == "segmentation":
        from tapadl.cli.evaluate_segmentation import run as run_segmentation

        return run_segmentation(arguments, _roots(arguments), workers)
    _check_no_segmentation(arguments)
    conditions, settings = _conditions(arguments), _settings(arguments)
    check_benchmarks(arguments.benchmark, conditions)
    roots = _roots(arguments)
    with processes.joined():
        device = processes.find_device(arguments.device)
        plan = {name: make_parts(name, roots.get(name), conditions) for name in arguments.benchmark}
        loaded = load_model(arguments.model, checkpoint=arguments.checkpoint)
        output = LastingOutput(sys.stdout if processes.rank() == 0 else None)
        console = make_console(output)
        with ExitStack() as stack:
            path = arguments.out
            if processes.rank() == 0:
                folder = stack.enter_context(
                    open_job_folder(
                        path, JOB_KIND, job_of(loaded, plan, settings), overwrite=arguments.overwrite
                    )
                )
                path = folder.path
                if folder.continued:
                    say(console, f"going on with the unfinished evaluation in {folder.path}")
            path = processes.told_by_first(path)
            with WorkBar(console, "images", shown_in(plan) // processes.world_size()) as bar:
                run_plan(
                    parts_of(plan),
                    loaded,
                    path,
                    settings,
                    device=device,
                    num_workers=workers,
                    on_progress=bar.advance,
                )
            processes.wait_for_all()
            if processes.rank() != 0:
                return 0
            result = summarise(
                loaded,
                plan,
                settings,
                path,
                command=repeatable_command(
                    "evaluate", arguments.words, folders=["--checkpoint"], several=["--data"]
                ),
                device=device,
                subset=arguments.subset,
            )
            write_report([result], path / PAGE, path / TEXT)
            result.save(path / RESULT)
        console.print(evaluation_table(result))
        say(console, f"result: {path / RESULT}")
        say(console, f"page: {path / PAGE}")
        if output.failure is not None:
            raise OSError(f"could not print everything ({output.failure}), but the results are in {path}")
    return 0


def _check_no_segmentation(arguments: argparse.Namespace) -> None:
    given = [
        f"--{name}"
        for name in ("split", "window", "stride", "flip", "scales", "predictions")
        if getattr(arguments, name)
    ]
    given += [name for name in arguments.benchmark if name in _OF_SCENES]
    if given:
        raise ValueError(f"expected {given[0]} with --task segmentation alone, got it without")


def _conditions(arguments: argparse.Namespace) -> "Conditions":
    from tapadl.evaluation.benchmarks import Conditions

    return Conditions(
        corruptions=None if arguments.corruptions is None else tuple(arguments.corruptions),
        severities=tuple(dict.fromkeys(arguments.severities)),
        subset=arguments.subset,
        jpeg=arguments.jpeg85,
        attacks=tuple(dict.fromkeys(arguments.attack)),
    )


def _settings(arguments: argparse.Namespace) -> "RunSettings":
    from tapadl.evaluation.run import RunSettings

    return RunSettings(
        seed=arguments.seed,
        batch_size=64 if arguments.batch_size is None else arguments.batch_size,
        precision=arguments.precision,
        compile=arguments.compile,
        attack=_attack(arguments),
    )


def _attack(arguments: argparse.Namespace) -> "AttackSettings":
    from tapadl.evaluation.run import AttackSettings

    eps, norm, steps = arguments.attack_eps, arguments.attack_norm, arguments.attack_steps
    given = {"--attack-eps": eps, "--attack-norm": norm, "--attack-steps": steps}
    for option, value in given.items():
        if value is not None and not arguments.attack:
            raise ValueError(f"expected {option} beside --attack, got it alone; name an attack, such as pgd")
    if steps is not None and "pgd" not in arguments.attack:
        raise ValueError(f"expected --attack-steps with pgd, got it with {', '.join(arguments.attack)}")
    if norm == "l2" and eps is None:
        raise ValueError("expected --attack-eps for the l2 norm, which has no usual radius, got none")
    defaults = AttackSettings()
    return AttackSettings(
        defaults.eps if eps is None else _fraction(eps),
        norm or defaults.norm,
        defaults.steps if steps is None else steps,
    )


def _fraction(text: str) -> float:
    from fractions import Fraction

    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"expected --attack-eps as a number such as 1/255 or 0.5, got {text!r}") from None


def _roots(arguments: argparse.Namespace) -> dict[str, Path]:
    """The folder of every benchmark."""
    twice = [name for name in arguments.benchmark if arguments.benchmark.count(name) > 1]
    if twice:
        raise ValueError(f"expected each benchmark once, got {twice[0]} twice")
    named: dict[str, Path] = {}
    single: list[str] = []
    for word in arguments.data:
        name, given, folder = word.partition("=")
        if name in named:
            raise ValueError(f"expected one folder for {name}, got {named[name]} and {folder}")
        if given and name in arguments.benchmark:
            named[name] = Path(folder)
        else:
            single.append(word)
    if len(single) > 1 or (single and (named or len(arguments.benchmark) > 1)):
        raise ValueError(
            f"expected --data with one folder, or with NAME=FOLDER for each of "
            f"{', '.join(arguments.benchmark)}, got {' '.join(arguments.data)}"
        )
    return {arguments.benchmark[0]: Path(single[0])} if single else named
