"""Two gloo processes give the gradients of one process on the joint batch: ADL is a mean over images."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_processes.py")
specification = importlib.util.spec_from_file_location("two_processes", SCRIPT)
two_processes = importlib.util.module_from_spec(specification)
specification.loader.exec_module(two_processes)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def distributed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_processes")
    command = [sys.executable, "-W", "error::UserWarning:tapadl", str(SCRIPT)]
    running = [
        subprocess.Popen([*command, str(rank), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0].decode() for process in running]
    finally:
        for process in running:
            process.kill()
    assert all(process.returncode == 0 for process in running), "\n".join(outputs)
    return torch.load(folder / "gradients.pt")


@pytest.fixture(scope="module")
def single():
    return two_processes.step(two_processes.IMAGES, two_processes.LABELS)


@pytest.mark.parametrize("name", two_processes.STEPS)
def test_two_processes_give_the_gradients_of_one(distributed, single, name):
    assert distributed[name].keys() == single.keys()
    for parameter, gradient in distributed[name].items():
        torch.testing.assert_close(gradient, single[parameter], rtol=1e-7, atol=1e-10)


def test_the_loss_takes_part_in_what_is_compared(single):
    attached = two_processes.step(two_processes.IMAGES, two_processes.LABELS, attached=True)
    model = two_processes.make_model()
    torch.nn.functional.cross_entropy(model(two_processes.IMAGES), two_processes.LABELS).backward()
    plain = model.blocks[0].attn.qkv.weight.grad
    assert (single["blocks.0.attn.qkv.weight"] - plain).abs().max() > 1e-4
    torch.testing.assert_close(attached, single)
