import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest

import tapadl

SOURCE = Path(tapadl.__file__).parent
HEAVY = (
    "timm",
    "triton",
    "transformers",
    "torchvision",
    "matplotlib",
    "jinja2",
    "rich",
    "jsonargparse",
    "scipy",
)


def modules_after(statement: str) -> set[str]:
    """Modules that a fresh interpreter holds after `statement` but not after `import torch`."""
    show = "print(*sorted(set(sys.modules) - before))"
    code = f"import sys, torch; before = set(sys.modules); {statement}; {show}"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(output.split())


def test_import_tapadl_loads_no_model_zoo_and_no_plotting():
    loaded = modules_after("import tapadl")
    assert "tapadl.attach.tap" in loaded
    assert not {name for name in loaded if name.split(".")[0] in HEAVY}


@pytest.mark.parametrize("package", ["ops", "nn", "tokens", "metrics.corruption", "corruptions"])
def test_the_core_runs_without_a_model_zoo(package):
    loaded = modules_after(f"import tapadl.{package}")
    assert not {name for name in loaded if name.split(".")[0] in HEAVY} - {
        name for name in loaded if name.startswith("scipy")
    }


def test_import_layers_are_kept():
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter], cwd=SOURCE.parents[1], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_package_on_disk_has_a_layer():
    config = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())
    (layers,) = [
        contract for contract in config["tool"]["importlinter"]["contracts"] if contract["type"] == "layers"
    ]
    assert layers["exhaustive"]
    placed = {name.strip(" ()") for layer in layers["layers"] for name in re.split(r"[|:]", layer)}
    packages = {entry.name for entry in SOURCE.iterdir() if entry.is_dir() and any(entry.glob("*.py"))}
    assert packages <= placed


def test_no_module_is_a_drawer():
    names = {path.stem for path in SOURCE.rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc", "base"}


def test_implementations_exist_for_every_name_of_impl():
    from tapadl.ops.diversification.api import DiversificationImpl
    from tapadl.ops.pooling.api import PoolingImpl

    for folder, names in (("pooling", PoolingImpl), ("diversification", DiversificationImpl)):
        files = {path.stem for path in (SOURCE / "ops" / folder).glob("*.py")}
        assert set(get_args(names)) - {"auto"} <= files
