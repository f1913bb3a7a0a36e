"""Killed at any moment and started again, a run ends with the weights of one that nobody disturbed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("killed_runs.py")

pytestmark = pytest.mark.slow


def call(*arguments: object, **environment: str) -> None:
    process = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stdout.decode()


def told_of_steps(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def assert_same_run(folder: Path, undisturbed: Path) -> None:
    weights, expected = (torch.load(path / "weights.pt") for path in (folder, undisturbed))
    assert weights.keys() == expected.keys()
    assert [name for name in weights if not torch.equal(weights[name], expected[name])] == []
    assert told_of_steps(folder) == told_of_steps(undisturbed)
    best = [(path / "checkpoints" / "best.json").read_bytes() for path in (folder, undisturbed)]
    assert best[0] == best[1]


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def runs(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    call(SCRIPT, "disturb", folder, request.param, 20231)
    return folder


def test_a_run_killed_again_and_again_ends_bit_identical(runs):
    going_on = (runs / "killed" / "output-0.txt").read_text()
    assert going_on.count("going on from step") >= 5
    assert_same_run(runs / "killed", runs / "undisturbed")


def test_a_run_stopped_by_sigterm_goes_on_and_ends_bit_identical(runs):
    assert (runs / "stopped" / "output-0.txt").read_text().count("going on from step") == 3
    assert_same_run(runs / "stopped", runs / "undisturbed")


def test_what_is_compared_differs_between_steps(runs):
    folders = sorted(runs.glob("undisturbed/checkpoints/step-*"))
    assert len(folders) >= 2
    sums = [(folder / "SHA256SUMS").read_text().splitlines() for folder in folders]
    assert not set(sums[0]) & set(sums[1])


def test_torchrun_restarts_a_run_of_which_a_process_died(tmp_path, runs, request):
    if request.node.callspec.params["runs"] == 1:
        pytest.skip("torchrun restarts several processes")
    restarting = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1")
    call(*restarting, SCRIPT, "run", tmp_path, DIE_AT="9")
    assert_same_run(tmp_path, runs / "undisturbed")
