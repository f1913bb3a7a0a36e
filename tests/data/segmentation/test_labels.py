"""Between the numbers in label files and classes."""

import numpy as np
import pytest

from tapadl.data.segmentation import CITYSCAPES, LabelScheme
from tapadl.data.segmentation.labels import CITYSCAPES_TRAIN_IDS, distinct_colours

# The table of the data set's authors, by id: the train id, 255 where none.
TRAIN_IDS = """
0:255 1:255 2:255 3:255 4:255 5:255 6:255 7:0 8:1 9:255 10:255 11:2 12:3 13:4 14:255 15:255 16:255 17:5
18:255 19:6 20:7 21:8 22:9 23:10 24:11 25:12 26:13 27:14 28:15 29:255 30:255 31:16 32:17 33:18 255:255
"""


def test_ids_of_cityscapes_become_its_train_ids():
    table = dict(tuple(map(int, pair.split(":"))) for pair in TRAIN_IDS.split())
    ids = np.array([list(table)], dtype=np.uint8)
    assert CITYSCAPES.to_classes(ids).tolist() == [list(table.values())]
    assert CITYSCAPES_TRAIN_IDS.to_classes(np.array([[0, 18, 255]], np.uint8)).tolist() == [[0, 18, 255]]


def test_classes_become_the_ids_that_servers_read():
    classes = np.arange(19, dtype=np.uint8)[None]
    ids = CITYSCAPES.to_values(classes)
    assert ids.tolist() == [[7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]]
    assert (CITYSCAPES.to_classes(ids) == classes).all()


def test_names_and_colours_of_cityscapes():
    names, colours = CITYSCAPES.class_names, CITYSCAPES.colours
    assert (names[0], colours[0]) == ("road", (128, 64, 128))
    assert (names[13], colours[13]) == ("car", (0, 0, 142))
    assert (names[18], colours[18]) == ("bicycle", (119, 11, 32))
    assert len(set(names)) == 19


def test_a_number_that_is_no_label_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="got 40"):
        CITYSCAPES.to_classes(np.array([[7, 40]], np.uint8))


def test_pixels_without_a_class_are_painted_black_and_have_no_number():
    scheme = LabelScheme(("a", "b"), (0, 1), (255,), ((10, 20, 30), (40, 50, 60)))
    classes = np.array([[1, 255]], np.uint8)
    assert scheme.paint(classes).tolist() == [[[40, 50, 60], [0, 0, 0]]]
    with pytest.raises(ValueError, match="expected classes below 2, got 255"):
        scheme.to_values(classes)


@pytest.mark.parametrize(
    ("values", "ignored", "colours", "message"),
    [
        ((0,), (), ((0, 0, 0),) * 2, "a value and a colour for each of 2 classes, got 1 and 2"),
        ((0, 0), (), ((0, 0, 0),) * 2, "different values from 0 to 255"),
        ((0, 1), (1,), ((0, 0, 0),) * 2, "different values from 0 to 255"),
        ((0, 256), (), ((0, 0, 0),) * 2, "different values from 0 to 255"),
        ((0, 1), (), ((0, 0, 0), (0, 300, 0)), r"colours from 0 to 255, got \(0, 300, 0\)"),
    ],
)
def test_what_does_not_fit_is_refused(values, ignored, colours, message):
    with pytest.raises(ValueError, match=message):
        LabelScheme(("a", "b"), values, ignored, colours)


def test_colours_of_150_classes_differ_visibly():
    colours = np.array(distinct_colours(150), dtype=int)
    distances = np.abs(colours[:, None] - colours[None]).sum(axis=2)
    assert distances[~np.eye(150, dtype=bool)].min() > 5
