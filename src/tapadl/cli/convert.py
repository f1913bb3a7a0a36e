"""`tapadl convert`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    Commands = argparse._SubParsersAction[Any]

_DESCRIPTION = """\
Read a released checkpoint of FAN or RVT, plain or with TAP, and write it as
safetensors. The file is read without running anything that stands in it; a class
that is not known to be harmless is refused by its name.
"""

_EPILOG = """\
examples:
  one file, for timm.create_model(..., checkpoint_path=):
    tapadl convert released.pth.tar fan.safetensors --model fan_base_16_p4_hybrid
  a folder, for timm.create_model("local-dir:fan", pretrained=True) after
  import tapadl.models:
    tapadl convert released.pth.tar fan --model tap_fan_base_16_p4_hybrid

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
    parser.add_argument("--overwrite", action="store_true", help="replace what is at OUT")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Convert and say what was written; 0."""
    from tapadl.models.sharing import convert

    facts = convert(arguments.source, arguments.target, arguments.model, overwrite=arguments.overwrite)
    found = f" under {facts['source_wrapper']}" if facts["source_wrapper"] else ""
    print(f"wrote {arguments.target}: {facts['model_name']}, from the weights{found} in {arguments.source}")
    print(f"sha256 of the source: {facts['source_sha256']}")
    if "licence" in facts:
        print(f"licence of the weights: {facts['licence']}")
    return 0
