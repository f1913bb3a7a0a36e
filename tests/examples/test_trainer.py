import runpy
from pathlib import Path

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "trainer.py"))


def test_it_trains_saves_and_loads(capsys):
    accuracy = EXAMPLE["main"](train_images=1_000, test_images=500)
    assert accuracy > 0.15  # ten classes
    assert f"accuracy of the loaded model on 500 test images: {accuracy:.1%}" in capsys.readouterr().out
