import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tapadl.cli import main
from tapadl.data.image_file import read_image

MODEL = """
import torch
from tapadl.data.segmentation import LabelScheme
from tapadl.tasks.segmentation.model import SegmenterDescription

SCHEME = LabelScheme(("dark", "red"), (7, 24), (), ((0, 0, 255), (255, 255, 0)))
CALLS = []

class Reader(torch.nn.Module):
    def forward(self, images):
        CALLS.append(tuple(images.shape))
        red = images[:, :1]
        return torch.cat((0.5 - red, red - 0.5), dim=1)

def reader():
    CALLS.clear()
    return Reader(), SegmenterDescription("Reader", SCHEME, (0.0,) * 3, (1.0,) * 3)
"""


@pytest.fixture(autouse=True)
def own_model(tmp_path, monkeypatch):
    (tmp_path / "own_segmenter.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def write(path, size=(20, 12), **save):
    """The left half red."""
    image = Image.new("RGB", size)
    image.paste((255, 0, 0), (0, 0, size[0] // 2, size[1]))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **save)


def read(path):
    with Image.open(path) as file:
        return np.array(file)


def segment(*words):
    return main(["segment", *words, "--model", "own_segmenter:reader", "--device", "cpu"])


def calls():
    import own_segmenter

    return own_segmenter.CALLS


def test_pictures_become_masks_overlays_and_names_of_classes(capsys):
    write("photos/a.png")
    write("photos/deep/b.png", (31, 17))
    write("c.png")
    assert segment("photos", "c.png", "out") == 0
    files = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*.*g"))
    names = ["a", "c", "deep/b"]
    assert files == [f"masks/{name}.png" for name in names] + [f"overlays/{name}.jpg" for name in names]
    mask = read("out/masks/deep/b.png")
    assert mask.shape == (17, 31)
    assert (mask[:, :15] == 24).all()
    assert (mask[:, 15:] == 7).all()
    overlay = read("out/overlays/a.jpg").astype(int)
    np.testing.assert_allclose(overlay[6, 4], (255, 127, 0), atol=12)  # half red, half yellow
    np.testing.assert_allclose(overlay[6, 15], (0, 0, 127), atol=12)
    assert json.loads(Path("out/classes.json").read_text()) == {
        "class_names": ["dark", "red"],
        "values": [7, 24],
        "ignored": [],
        "colours": [[0, 0, 255], [255, 255, 0]],
    }
    assert "3 pictures: out/overlays" in capsys.readouterr().out


def test_opacity_and_windows_are_taken():
    write("a.png", (40, 24))
    assert segment("a.png", "out", "--overlay-opacity", "1", "--window", "16", "--stride", "8") == 0
    overlay = read("out/overlays/a.jpg").astype(int)
    np.testing.assert_allclose(overlay[12, 8], (255, 255, 0), atol=12)
    assert set(calls()) == {(1, 3, 16, 16)}


def test_orientation_of_a_camera_is_not_applied_so_that_mask_and_file_fit():
    exif = Image.Exif()
    exif[0x0112] = 6
    write("a.jpg", exif=exif, quality=95)
    assert segment("a.jpg", "out") == 0
    assert read("out/masks/a.png").shape == read("a.jpg").shape[:2] == (12, 20)


def test_finished_folder_and_other_files_are_left_alone(capsys):
    write("a.png")
    assert segment("a.png", "out") == 0
    before = Path("out/masks/a.png").read_bytes()
    assert segment("a.png", "out") == 1
    assert "holds a finished segmentation" in capsys.readouterr().err
    assert Path("out/masks/a.png").read_bytes() == before
    write("mine/own.png")
    assert segment("a.png", "mine") == 1
    assert "mine holds other files" in capsys.readouterr().err


def test_partly_finished_folder_goes_on_where_it_was():
    for name in "abc":
        write(f"photos/{name}.png")
    assert segment("photos", "out") == 0
    Path("out/.finished").unlink()
    Path("out/overlays/b.jpg").unlink()
    assert segment("photos", "out") == 0
    assert len(calls()) == 1
    assert Path("out/overlays/b.jpg").exists()
    Path("out/.finished").unlink()
    assert segment("photos", "out", "--flip") == 1


def test_a_picture_that_could_not_be_read_for_a_while_is_done_by_the_same_command(monkeypatch, capsys):
    for name in "ab":
        write(f"photos/{name}.png")

    def unreadable(path):
        if path.name == "a.png":
            raise OSError(f"could not read {path}")
        return read_image(path)

    with monkeypatch.context() as patch:
        patch.setattr("tapadl.tasks.segmentation.pictures.read_image", unreadable)
        assert segment("photos", "out") == 1
    assert Path("out/classes.json").exists()
    assert segment("photos", "out") == 0
    assert len(calls()) == 1
    assert {path.name for path in Path("out/masks").iterdir()} == {"a.png", "b.png"}
    assert segment("photos", "out") == 1
    assert "holds a finished segmentation" in capsys.readouterr().err


def test_pictures_that_do_not_decode_are_named_and_the_others_done(capsys):
    write("photos/a.png")
    Path("photos/bad.png").write_bytes(b"\x89PNG")
    assert segment("photos", "out") == 1
    assert "left out: expected a whole image at photos/bad.png" in capsys.readouterr().out
    assert Path("out/masks/a.png").exists()
    assert Path("out/classes.json").exists()


def test_results_inside_of_the_folder_of_pictures_are_no_pictures():
    for name in "abc":
        write(f"{name}.png")
    assert segment(".", "out") == 0
    Path("out/.finished").unlink()  # as if it had been killed
    Path("out/masks/b.png").unlink()
    Path("out/masks/.b.png.7.tmp").write_bytes(b"half")
    assert segment(".", "out") == 0
    assert len(calls()) == 1
    assert sorted(path.name for path in Path("out/masks").iterdir()) == ["a.png", "b.png", "c.png"]


def test_a_picture_that_was_replaced_is_another_job(capsys):
    for name in "ab":
        write(f"photos/{name}.bmp")
    assert segment("photos", "out") == 0
    Path("out/.finished").unlink()
    size = Path("photos/a.bmp").stat().st_size
    Image.new("RGB", (20, 12)).save("photos/a.bmp")
    assert Path("photos/a.bmp").stat().st_size == size
    assert segment("photos", "out") == 1
    assert "differs in settings pictures" in capsys.readouterr().err


def test_a_link_that_leads_nowhere_is_left_out(capsys):
    write("photos/a.png")
    Path("photos/b.png").symlink_to("gone.png")
    assert segment("photos", "out") == 1
    assert "left out: " in capsys.readouterr().out
    assert Path("out/masks/a.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "out"], "expected a picture or a folder of pictures at nowhere"),
        (["empty", "out"], "expected images in empty"),
        (["photos/a.png", "photos/a.jpg", "out"], "expected pictures of different names, got photos/a.png"),
        (["photos", "photos"], "expected pictures outside of photos"),
        (["out/masks/a.png", "out"], "expected pictures outside of out"),
        (["photos/a.png", "out", "--overlay-opacity", "2"], "an opacity from 0 to 1, got 2"),
        (["photos/a.png", "out", "--stride", "2"], "a window for the stride 2"),
        (["photos/a.png", "out", "--scales", "0"], "scales from 0.1 to 10"),
    ],
)
def test_bad_input_is_one_sentence(words, message, capsys):
    write("photos/a.png")
    write("photos/a.jpg") if "photos/a.jpg" in words else None
    write("out/masks/a.png") if "out/masks/a.png" in words else None
    Path("empty").mkdir()
    assert segment(*words) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_help_teaches_by_example(capsys):
    with pytest.raises(SystemExit):
        main(["segment", "--help"])
    printed = capsys.readouterr().out
    for words in ("masks/NAME.png", "--window 1024 --stride 768", "EXIF"):
        assert words in printed
