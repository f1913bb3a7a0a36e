"""`tapadl explore`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from tapadl.diagnostics.explorer import Picture, Subject
    from tapadl.evaluation.loading import LoadedModel

    Commands = argparse._SubParsersAction[Any]

# More would leave too little room for each.
_MOST_PICTURES = 24

_DESCRIPTION = """\
Write an interactive page: choose a picture, a corruption and its severity, a layer
and a head, and click on a token to see what it attends to, clean and corrupted. One
HTML file that needs no network. Pictures of attention are no proof of robustness;
errors on many pictures: tapadl evaluate.

models:
  a timm name          vit_tiny_patch16_224, hf-hub:ORG/NAME, local-dir:FOLDER
  a file               one of tapadl train or convert; NAME with --checkpoint FILE
  another library      transformers:ID_OR_FOLDER, torchvision:vit_b_16
  your own             module:function that returns a model, or (model, Preprocessing)
"""

_EPILOG = """\
examples:
  one model, three pictures:
    tapadl explore --model deit_tiny_patch16_224 cat.jpg dog.jpg bird.jpg --out look.html
  two models side by side, each with its own crop of the picture:
    tapadl explore --model deit_tiny_patch16_224 --compare fan.safetensors photos \\
        --out look.html
  other damage, at every severity:
    tapadl explore --model deit_tiny_patch16_224 cat.jpg --out look.html \\
        --corruptions snow glass_blur --severities 1 2 3 4 5

The page stays below --megabytes: of many pictures, conditions and layers fewer tokens
and heads can be chosen, and the page says which.
"""


def add_command(commands: "Commands", formatter: type[argparse.HelpFormatter]) -> None:
    """Add `explore` to the commands of the parser."""
    parser = commands.add_parser(
        "explore",
        help="a page to explore what models attend to, clean and corrupted",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="IMAGES",
        help="pictures, or folders of them, at most 24 in all",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the page, such as look.html")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")
    what = parser.add_argument_group("what is explored")
    what.add_argument("--model", required=True, metavar="MODEL", help="see above")
    what.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights for a model given by name")
    what.add_argument("--compare", metavar="MODEL", help="a second model, beside the first")
    what.add_argument("--compare-checkpoint", type=Path, metavar="FILE", help="weights for the second")
    what.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="a name a line, in the order of the outputs (default: those of the model or of ImageNet)",
    )
    what.add_argument(
        "--corruptions",
        nargs="+",
        metavar="NAME",
        help="of the nineteen (default: gaussian_noise motion_blur fog jpeg_compression)",
    )
    what.add_argument(
        "--severities", nargs="+", type=int, default=[1, 3, 5], metavar="N", help="of 1 to 5 (default: 1 3 5)"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--megabytes", type=float, default=10, metavar="X", help="most that the page may have (default: 10)"
    )
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of the corruptions (default: 0)")
    how.add_argument("--device", metavar="NAME", help="cpu, cuda, ... (default: cuda where there is one)")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the page; 0."""
    from tapadl.cli.output import LastingOutput, make_console, say
    from tapadl.cli.progress import WorkBar
    from tapadl.diagnostics.explorer import DEFAULT_CORRUPTIONS, all_conditions, write_explorer
    from tapadl.evaluation.loading import load_model
    from tapadl.evaluation.processes import find_device

    _check(arguments)
    conditions = all_conditions(arguments.corruptions or DEFAULT_CORRUPTIONS, arguments.severities)
    pictures = _pictures(arguments.sources)
    names = None if arguments.classes is None else _class_names(arguments.classes)
    device = find_device(arguments.device)
    specs = [(arguments.model, arguments.checkpoint)]
    if arguments.compare is not None:
        specs.append((arguments.compare, arguments.compare_checkpoint))
    loaded = [load_model(spec, checkpoint=checkpoint) for spec, checkpoint in specs]
    subjects = [_subject(model, names) for model in loaded]
    for subject in subjects:
        subject.model.to(device)
    console = make_console(LastingOutput(sys.stdout))
    work = len(subjects) * len(pictures) * len(conditions)
    with WorkBar(console, "looks", work) as bar:
        written = write_explorer(
            _told_apart(subjects),
            pictures,
            conditions,
            arguments.out,
            megabytes=arguments.megabytes,
            seed=arguments.seed,
            on_progress=bar.advance,
        )
    if written.thinned:
        say(console, f"thinned out to stay below {arguments.megabytes:g} MB:")
        for sentence in written.thinned:
            say(console, f"  {sentence}")
    say(console, f"page: {arguments.out} ({written.size / 1e6:.1f} MB)")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    out = arguments.out
    if out.is_dir():
        raise IsADirectoryError(f"expected --out to name a file, such as {out / 'look.html'}, got a folder")
    if out.exists() and not arguments.overwrite:
        raise FileExistsError(f"{out} is there already; name another file, or give --overwrite")
    if arguments.compare_checkpoint is not None and arguments.compare is None:
        raise ValueError("expected --compare beside --compare-checkpoint, got none")
    if not arguments.megabytes > 0:
        raise ValueError(f"expected --megabytes above 0, got {arguments.megabytes:g}")


def _pictures(sources: Sequence[Path]) -> "list[Picture]":
    from tapadl.data.image_file import read_image
    from tapadl.diagnostics.explorer import Picture
    from tapadl.evaluation.image_tree import find_images

    paths: list[Path] = []
    for source in sources:
        paths += [source / path for path in find_images(source).paths] if source.is_dir() else [source]
    if len(paths) > _MOST_PICTURES:
        raise ValueError(
            f"expected at most {_MOST_PICTURES} pictures for one page, got {len(paths)}; name some of them"
        )
    return [Picture(path.stem, read_image(path), index) for index, path in enumerate(paths)]


def _subject(loaded: "LoadedModel", names: Sequence[str] | None) -> "Subject":
    from tapadl.diagnostics.explorer import Subject

    preprocessing = loaded.preprocessing
    outputs = int(loaded.facts["outputs"])
    if names is not None and len(names) != outputs:
        raise ValueError(f"expected --classes with a line for each of {outputs} outputs, got {len(names)}")
    return Subject(
        name=_name(loaded),
        model=loaded.model,
        prepare=preprocessing.prepare,
        normalise=preprocessing.normalise,
        class_name=names.__getitem__ if names is not None else _own_class_names(loaded, outputs),
    )


def _name(loaded: "LoadedModel") -> str:
    name = loaded.facts.get("checkpoint", loaded.name)
    return Path(name).stem if name.endswith((".safetensors", ".pth", ".pt")) else name


def _told_apart(subjects: "Sequence[Subject]") -> "list[Subject]":
    from dataclasses import replace

    alike = len({subject.name for subject in subjects}) < len(subjects)
    return [
        replace(subject, name=f"{subject.name} ({number})") if alike else subject
        for number, subject in enumerate(subjects, start=1)
    ]


def _class_names(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(
            f"expected a text file of UTF-8 with a class a line at {path}, got another"
        ) from None
    return [line.strip() for line in lines if line.strip()]


def _own_class_names(loaded: "LoadedModel", outputs: int) -> Callable[[int], str]:
    """What the model calls its outputs; those of ImageNet where there are 1,000; numbers otherwise."""
    inner = getattr(loaded.model, "model", loaded.model)
    described = getattr(inner, "pretrained_cfg", None)
    names = described.get("label_names") if isinstance(described, dict) else None
    if isinstance(names, list) and len(names) == outputs:
        return lambda output: str(names[output])
    labels = getattr(getattr(inner, "config", None), "id2label", None)
    if isinstance(labels, dict) and not any(str(name).startswith("LABEL_") for name in labels.values()):
        return lambda output: str(labels.get(output, f"class {output}"))
    if outputs == 1000 and loaded.facts["library"] != "own":
        from timm.data.imagenet_info import ImageNetInfo

        info = ImageNetInfo("imagenet-1k")
        return lambda output: str(info.index_to_description(output)).split(",")[0]
    return "class {}".format
