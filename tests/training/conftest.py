"""Runs of several processes for the tests of this folder; what they are stands in `several_processes.py`."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tapadl.training.parallel import joined

SCRIPT = Path(__file__).with_name("several_processes.py")


@pytest.fixture
def one_process():
    """A group of processes that has this one in it."""
    with joined(torch.device("cpu")):
        yield


@pytest.fixture(scope="session")
def runs():
    """The module, to run in this process what it runs in several."""
    specification = importlib.util.spec_from_file_location("several_processes", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def in_processes(tmp_path_factory):
    """What every process of every run returned: name -> one value for each process."""
    folder = tmp_path_factory.mktemp("several_processes")
    process = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stdout.decode()
    return torch.load(folder / "returned.pt")
