from pathlib import Path

import pytest

from tapadl.corruptions import CORRUPTIONS
from tapadl.evaluation.plan import Cell
from tapadl.tasks.segmentation.evaluation import benchmarks
from tapadl.tasks.segmentation.evaluation.benchmarks import Conditions, check_benchmarks, make_parts


@pytest.fixture(autouse=True)
def opened(scenes, monkeypatch):
    """What was opened; every data set is the small scenes."""
    found = []

    def open_segmentation(dataset, root, split):
        found.append((dataset, root, split))
        return scenes

    monkeypatch.setattr(benchmarks, "open_segmentation", open_segmentation)
    return found


ROOT = Path("root")


def test_cityscapes_c_in_memory_has_the_published_cells_and_constants(opened):
    (part,) = make_parts("cityscapes-c", ROOT, Conditions())
    assert opened == [("cityscapes", ROOT, "val")]
    assert part.constants == 224
    assert part.cells[0] == Cell("clean")
    corrupted = part.cells[1:]
    assert len(corrupted) == 4 * 3 + 12 * 5
    left_out = {"zoom_blur", "elastic_transform", "pixelate"}
    assert {cell.condition for cell in corrupted} == set(CORRUPTIONS) - left_out
    for cell in corrupted:
        if "noise" in cell.condition:
            assert cell.severity <= 3


@pytest.mark.parametrize("name", ["ade20k-c", "segmentation-folder-c"])
def test_other_corrupted_benchmarks_have_all_nineteen_and_lengths_that_grow(name):
    (part,) = make_parts(name, ROOT, Conditions())
    assert len(part.cells) == 1 + 19 * 5
    assert part.constants is None
    assert part.form == "in_memory"


def test_conditions_choose_corruptions_severities_images_and_split(opened):
    conditions = Conditions("test", ("fog", "shot_noise"), (3, 5), subset=2)
    (part,) = make_parts("cityscapes-c", ROOT, conditions)
    assert part.cells == (Cell("clean"), Cell("fog", 3), Cell("fog", 5), Cell("shot_noise", 3))
    assert len(part.files) == 2
    assert opened[0][2] == "test"
    with pytest.raises(ValueError, match="for noise 1 to 3, got 4, 5"):
        make_parts("cityscapes-c", ROOT, Conditions(corruptions=("shot_noise",), severities=(4, 5)))


def test_clean_benchmarks_show_images_as_they_are():
    (part,) = make_parts("ade20k", ROOT, Conditions())
    assert (part.cells, part.form) == ((Cell("clean"),), "stored")


def test_parts_of_other_cells_constants_or_images_have_other_files(scenes):
    fog = (Cell("fog", 1),)
    parts = [
        benchmarks.Part(scenes, fog, "in_memory"),
        benchmarks.Part(scenes, fog, "in_memory", 224),
        benchmarks.Part(scenes, fog),
        benchmarks.Part(scenes, (*fog, Cell("fog", 2)), "in_memory"),
        benchmarks.Part(scenes.subset(2), fog, "in_memory"),
    ]
    assert len({part.key for part in parts}) == len(parts)


@pytest.mark.parametrize(
    ("names", "conditions", "message"),
    [
        (["cityscape"], {}, "did you mean cityscapes?"),
        (["imagenet-p"], {}, "a benchmark of segmentation out of cityscapes, cityscapes-c"),
        (["acdc", "acdc"], {}, "each benchmark once"),
        (["acdc"], {"corruptions": ("fog",)}, "a benchmark with corruptions, got acdc"),
        (["cityscapes"], {"severities": (1,)}, "a benchmark with corruptions, got cityscapes"),
    ],
)
def test_what_does_not_fit_is_refused(names, conditions, message):
    with pytest.raises(ValueError, match=message):
        check_benchmarks(names, Conditions(**conditions))


def test_folder_must_be_named():
    with pytest.raises(ValueError, match="name it with --data acdc=FOLDER"):
        make_parts("acdc", None, Conditions())
