"""Cityscapes, ACDC and ADE20K as they are published, and folders that are not."""

import shutil

import numpy as np
import pytest

from tapadl.data.segmentation import open_segmentation
from tapadl.data.segmentation.acdc import acdc
from tapadl.data.segmentation.cityscapes import cityscapes, looks_stored, stored_cityscapes_c


def test_cityscapes_by_split_in_order_with_its_train_ids(cityscapes_root):
    train = open_segmentation("cityscapes", cityscapes_root, "train")
    assert [path.split("/")[2] for path in train.images] == ["bonn", "ulm"]
    assert [train.mask(index)[0, 0] for index in range(2)] == [1, 0]  # ids 8 and 7
    val = cityscapes(cityscapes_root, "val")
    assert (len(val), val.mask(0)[0, 0], val.class_names[13]) == (1, 255, "car")  # id 9: parking


def test_the_test_split_has_no_labels(cityscapes_root):
    test = cityscapes(cityscapes_root, "test")
    assert (len(test), test.labelled) == (1, False)


def test_train_ids_are_read_where_ids_are_not(cityscapes_root, write):
    for path in list((cityscapes_root / "gtFine" / "val").rglob("*labelIds.png")):
        write(path.with_name(path.name.replace("labelIds", "labelTrainIds")), np.full((4, 6), 18))
        path.unlink()
    assert cityscapes(cityscapes_root, "val").mask(0)[0, 0] == 18


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: shutil.rmtree(root / "gtFine"), "got no gtFine; there is leftImg8bit"),
        (lambda root: shutil.rmtree(root / "leftImg8bit"), "got no leftImg8bit"),
        (lambda root: shutil.rmtree(root / "leftImg8bit" / "val" / "lindau"), "got none"),
        (
            lambda root: next((root / "gtFine" / "val").rglob("*labelIds.png")).unlink(),
            "1 without, such as leftImg8bit/val/lindau/lindau_000002_000019_leftImg8bit.png",
        ),
        (
            lambda root: shutil.copytree(root / "gtFine" / "val" / "lindau", root / "gtFine" / "val" / "x"),
            "1 without, such as gtFine/val/x/lindau_000002_000019_gtFine_labelIds.png",
        ),
    ],
)
def test_what_is_missing_is_named(cityscapes_root, change, message):
    change(cityscapes_root)
    with pytest.raises((OSError, ValueError), match=message):
        cityscapes(cityscapes_root, "val")


def test_a_level_too_high_or_too_low_is_told(cityscapes_root):
    with pytest.raises(FileNotFoundError, match=f"one level too high: give {cityscapes_root}"):
        cityscapes(cityscapes_root.parent, "val")
    with pytest.raises(FileNotFoundError, match="too low: give the folder above leftImg8bit"):
        cityscapes(cityscapes_root / "leftImg8bit", "val")
    with pytest.raises(FileNotFoundError, match="too low"):
        cityscapes(cityscapes_root / "leftImg8bit" / "val", "val")
    with pytest.raises(FileNotFoundError, match="got none"):
        cityscapes(cityscapes_root / "nowhere", "val")


def test_stored_corruptions_have_the_labels_of_the_clean_images(cityscapes_root):
    assert not looks_stored(cityscapes_root)
    clean = cityscapes_root / "leftImg8bit" / "val"
    for corruption, severity in (("fog", 2), ("fog", 5), ("speckle_noise", 1)):
        shutil.copytree(clean, cityscapes_root / "leftImg8bit-c" / corruption / str(severity))
    assert looks_stored(cityscapes_root)
    stored = stored_cityscapes_c(cityscapes_root)
    assert list(stored) == [("fog", 2), ("fog", 5), ("speckle_noise", 1)]
    assert stored["fog", 5].masks == cityscapes(cityscapes_root, "val").masks


def test_stored_folders_of_another_name_are_refused(cityscapes_root):
    shutil.copytree(cityscapes_root / "leftImg8bit" / "val", cityscapes_root / "leftImg8bit-c" / "haze" / "1")
    with pytest.raises(ValueError, match="got haze"):
        stored_cityscapes_c(cityscapes_root)
    shutil.move(cityscapes_root / "leftImg8bit-c" / "haze", cityscapes_root / "leftImg8bit-c" / "fog")
    (cityscapes_root / "leftImg8bit-c" / "fog" / "6").mkdir()
    with pytest.raises(ValueError, match="got 6"):
        stored_cityscapes_c(cityscapes_root)


@pytest.fixture
def acdc_root(tmp_path, write):
    for number, condition in enumerate(("fog", "night", "rain", "snow")):
        name = f"{condition}/val/GOPR0{number}/GOPR0{number}_frame_000001"
        write(tmp_path / f"rgb_anon/{name}_rgb_anon.png", np.full((4, 6, 3), number))
        write(tmp_path / f"gt/{name}_gt_labelTrainIds.png", np.full((4, 6), number))
        reference = name.replace("/val/", "/val_ref/").replace("_frame", "_ref_frame")
        write(tmp_path / f"rgb_anon/{reference}_rgb_anon.png", np.zeros((4, 6, 3)))
    return tmp_path


def test_acdc_by_condition_without_good_weather(acdc_root):
    every = open_segmentation("acdc", acdc_root, "val")
    assert [every.mask(index)[0, 0] for index in range(len(every))] == [0, 1, 2, 3]
    night = acdc(acdc_root, "val", "night")
    assert (len(night), night.mask(0)[0, 0]) == (1, 1)
    with pytest.raises(ValueError, match="out of fog, night, rain, snow, got 'dusk'"):
        acdc(acdc_root, "val", "dusk")
    with pytest.raises(FileNotFoundError, match="rgb_anon/fog/train"):
        acdc(acdc_root, "train")


@pytest.fixture
def ade20k_root(tmp_path, write):
    for split in ("training", "validation"):
        write(tmp_path / f"images/{split}/ADE_1.jpg", np.zeros((4, 6, 3)))
        write(tmp_path / f"annotations/{split}/ADE_1.png", [[0, 1, 2, 3, 149, 150]] * 4)
    return tmp_path


def test_zero_does_not_count_in_ade20k_and_one_is_the_first_class(ade20k_root):
    val = open_segmentation("ade20k", ade20k_root, "val")
    assert val.mask(0)[0].tolist() == [255, 0, 1, 2, 148, 149]
    assert (val.class_names[0], val.scheme.num_classes) == ("class 1", 150)


def test_names_of_ade20k_come_with_it(ade20k_root):
    rows = [f"{number}\t0.1\t10\t2\tname {number}, other" for number in range(1, 151)]
    table = ade20k_root / "objectInfo150.txt"
    table.write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]) + "\n")
    assert open_segmentation("ade20k", ade20k_root, "train").class_names[149] == "name 150"
    table.write_text("\n".join(rows))
    with pytest.raises(ValueError, match=r"150 numbered rows in .*objectInfo150\.txt, got 149"):
        open_segmentation("ade20k", ade20k_root, "train")


@pytest.mark.parametrize(
    ("dataset", "split", "message"),
    [("kitti", "val", "out of cityscapes, acdc, ade20k, folder, got 'kitti'"), ("acdc", "dev", "got 'dev'")],
)
def test_unknown_names_are_refused(tmp_path, dataset, split, message):
    with pytest.raises(ValueError, match=message):
        open_segmentation(dataset, tmp_path, split)
