"""examples/finetune.py in a quick mode."""

import importlib.util
import re
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "finetune.py"


@pytest.fixture
def finetune():
    specification = importlib.util.spec_from_file_location("finetune", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


QUICK = [
    *("--pretrain-steps", "30", "--finetune-steps", "20", "--images", "200"),
    *("--corruptions", "brightness", "fog", "--severities", "3"),
]


@pytest.mark.slow
def test_fine_tuning_leaves_the_output_at_first_and_lets_tap_grow_in(finetune, capsys):
    results = finetune.main(QUICK)
    shown = capsys.readouterr().out
    assert "attached in front of 4 attentions: the output is the same, bit for bit" in shown
    gates = re.search(r"gates of TAP, zero before: (.*)", shown).group(1).split(", ")
    assert len(gates) == 4
    assert all(float(gate) > 0 for gate in gates)
    assert list(results) == ["pretrained", "fine-tuned, plain", "fine-tuned, TAP + ADL"]
    for cells in results.values():
        assert [cell.corruption for cell in cells] == ["clean", "brightness", "fog"]
        assert all(cell.count == 200 for cell in cells)
        assert cells[0].error < 0.8  # chance is 0.9
    assert "fine-tuned, TAP + ADL" in shown


def test_help_says_what_it_does(finetune, capsys):
    with pytest.raises(SystemExit) as stop:
        finetune.main(["--help"])
    assert stop.value.code == 0
    assert "--finetune-steps" in capsys.readouterr().out
