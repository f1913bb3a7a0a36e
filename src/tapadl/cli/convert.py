"""`tapadl convert`."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from torch import Tensor

    Commands = argparse._SubParsersAction[Any]

_DESCRIPTION = """\
Read a released checkpoint of FAN or RVT, plain or with TAP, and write it as
safetensors. The file is read without running anything that stands in it; a class
that is not known to be harmless is refused by its name. A pickle is taken for a
release, whose licence and page are written beside the weights; safetensors keep
what is written about them.
"""

_EPILOG = """\
examples:
  one file, for timm.create_model(..., checkpoint_path=):
    tapadl convert released.pth.tar fan.safetensors --model fan_base_16_p4_hybrid
  a folder with the scores of an evaluation in its model card, to be shared:
    tapadl evaluate --model fan.safetensors --benchmark imagenet --data VAL --out eval
    tapadl convert fan.safetensors fan --model fan_base_16_p4_hybrid \\
        --result eval/result.json
  a folder, for timm.create_model("local-dir:fan", pretrained=True) after
  import tapadl.models:
    tapadl convert released.pth.tar fan --model tap_fan_base_16_p4_hybrid
  a segmenter, for tapadl evaluate --task segmentation and tapadl segment:
    tapadl convert released.pth streets.safetensors \\
        --model tap_fan_base_16_p4_hybrid

`tapadl models` lists the names, and where the weights are offered.
"""


def add_command(commands: "Commands", formatter: type[argparse.HelpFormatter]) -> None:
    """Add `convert` to the commands of the parser."""
    parser = commands.add_parser(
        "convert",
        help="released checkpoints as safetensors",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.add_argument("source", type=Path, metavar="IN", help="the released checkpoint")
    parser.add_argument("target", type=Path, metavar="OUT", help="a .safetensors file, or a folder for timm")
    parser.add_argument("--model", required=True, metavar="NAME", help="its official name")
    parser.add_argument("--result", type=Path, metavar="FILE", help="of tapadl evaluate, for the model card")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at OUT")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Convert and say what was written; 0."""
    from tapadl.models.sharing import convert

    if arguments.result is not None and arguments.target.suffix == ".safetensors":
        raise ValueError(
            f"expected a folder as OUT for --result, which fills a model card, got {arguments.target}"
        )
    facts = convert(
        arguments.source,
        arguments.target,
        arguments.model,
        metrics=None if arguments.result is None else partial(_scores, arguments.result),
        overwrite=arguments.overwrite,
    )
    found = f" under {facts['source_wrapper']}" if facts["source_wrapper"] else ""
    print(f"wrote {arguments.target}: {facts['model_name']}, from the weights{found} in {arguments.source}")
    print(f"sha256 of the source: {facts['source_sha256']}")
    if "licence" in facts:
        print(f"licence of the weights: {facts['licence']}")
    return 0


def _scores(path: Path, weights: "Mapping[str, Tensor]") -> dict[str, float]:
    """The metrics in a result, fractions in percent, if it is one of these weights."""
    from tapadl.evaluation.benchmark_result import EvaluationResult
    from tapadl.evaluation.weights import state_sha256

    result = EvaluationResult.load(path)
    if result.model["weights_sha256"] != state_sha256(weights):
        raise ValueError(
            f"expected a result of these weights in {path}, got one of {result.name} with other weights; "
            "evaluate the converted file"
        )
    return {
        f"{one.benchmark} {name}{'' if 't5d' in name else ' (%)'}": value if "t5d" in name else 100 * value
        for one in result.benchmarks
        for name, value in result.metrics(one.benchmark).items()
    }
