"""What `tapadl train --help` says about the settings, taken from their docstrings and defaults."""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_type_hints

from tapadl.training.settings import Settings
from tapadl.training.yaml_text import write_text

_INTRODUCTION = """\
settings:
  --config FILE         YAML with the sections below; later files win
  --SECTION.KEY VALUE   one setting, as --optimizer.lr 1e-3; it wins over files.
                        Values are YAML: true, null, 1e-3, [0.5, 1], fog

Each line has a key, its default, and what it is.
"""

_TOP = "in no section: What kind of task"

_EXAMPLES = """\
examples:
  a minute on two cores, with the images in this package:
    tapadl train --config recipes/fashion_mnist_tiny.yaml --out runs/tiny
  your own images, a folder for each class, from pretrained weights:
    tapadl train --config recipes/finetune_timm.yaml \\
        --data.train flowers/train --data.val flowers/val --out runs/flowers
  the same without TAP and ADL, to compare: add
        --tap.enabled false --adl.enabled false
    and to a model called tap_* its --model.name without
  scenes with a class for every pixel, on one GPU, from ImageNet weights:
    tapadl train --config recipes/fan_base_hybrid_segmentation_cityscapes.yaml \\
        --data.train cityscapes --data.val cityscapes \\
        --model.checkpoint weights/fan_base.safetensors \\
        --training.accumulation 8 --out runs/cityscapes
  a look at 500 steps of a long recipe, saved every 100:
    tapadl train --config recipes/deit_small_tap_adl.yaml \\
        --data.train imagenet/train --data.val imagenet/val \\
        --training.max_steps 500 --checkpoint.every_steps 100 --out runs/look
  eight GPUs, the same batch:
    torchrun --nproc-per-node 8 -m tapadl train \\
        --config recipes/rvt_base_tap_adl.yaml \\
        --data.train imagenet/train --data.val imagenet/val --out runs/rvt
"""


def help_text() -> str:
    """Every setting, by section: key, default, what it is; then examples."""
    kinds: dict[str, Any] = get_type_hints(Settings)
    top = [item for item in fields(Settings) if not is_dataclass(kinds[item.name])]
    sections = [_section(name, kinds[name]) for name in kinds if is_dataclass(kinds[name])]
    return "\n".join([_INTRODUCTION, _lines(_TOP, top, descriptions(Settings)), *sections, _EXAMPLES])


def _section(name: str, kind: type[Any]) -> str:
    summary = (inspect.getdoc(kind) or "").partition("\n")[0].rstrip(".")
    return _lines(f"{name}: {summary}", fields(kind), descriptions(kind))


def _lines(title: str, items: "Sequence[Field[Any]]", described: Mapping[str, str]) -> str:
    lines = [f"  {item.name:<18} {_default(item):<15} {described.get(item.name, '')}" for item in items]
    return "\n".join([title, *(line.rstrip() for line in lines)]) + "\n"


def descriptions(kind: type[Any]) -> dict[str, str]:
    """What the docstring of a class says about each of its arguments, up to the first semicolon or period.

    Example:
        >>> from tapadl.training.settings import OptimizerSettings
        >>> descriptions(OptimizerSettings)["lr"]
        'Learning rate after the warm-up'
    """
    _, _, arguments = (inspect.getdoc(kind) or "").partition("Args:\n")
    arguments = re.split(r"\n(?=\S)", arguments)[0]
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", arguments, flags=re.MULTILINE)
    return {name: re.split(r"(?:;|(?<!\.)\.)(?:\s|$)", " ".join(text.split()))[0] for name, text in found}


def _default(item: "Field[Any]") -> str:
    if item.default_factory is not MISSING:
        return write_text(item.default_factory()).strip()
    if item.default is MISSING:
        return "required"
    if isinstance(item.default, str):
        return item.default
    value = item.default
    if isinstance(value, tuple):
        value = [float(f"{number:.4g}") if isinstance(number, float) else number for number in value]
    return write_text(value).removesuffix("...\n").strip()
