import ast
import runpy
from pathlib import Path

PATH = Path(__file__).parents[2] / "examples" / "plain_torch.py"
EXAMPLE = runpy.run_path(str(PATH))


def test_it_learns_and_adl_takes_part(capsys):
    assert EXAMPLE["main"](steps=120) > 0.3  # ten classes
    lines = capsys.readouterr().out.splitlines()
    assert float(lines[2].rpartition("ADL ")[2]) > 0


def test_two_calls_are_all_it_takes():
    used = {
        node.attr
        for node in ast.walk(ast.parse(PATH.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tapadl"
    }
    assert used == {"attach_tap", "AttentionDiversificationLoss"}
    assert len(PATH.read_text().splitlines()) < 60
