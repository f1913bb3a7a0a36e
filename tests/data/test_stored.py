import json
import os
import shutil
from importlib.resources import files

import pytest

from tapadl.data.class_names import wordnet_ids
from tapadl.data.imagenet import looks_stored, stored_corruptions
from tapadl.data.stored import IMAGENET_3DCC, IMAGENET_C, IMAGENET_C_ARCHIVES, IMAGENET_C_EXTRA

CLASSES = {"n01440764": ("a.JPEG", "b.JPEG"), "n01443537": ("c.JPEG",)}
CELLS = [(name, severity) for name in IMAGENET_C for severity in range(1, 6)]


def write_corruption(folder, classes=CLASSES):
    for severity in "12345":
        for name, images in classes.items():
            (folder / severity / name).mkdir(parents=True)
            for image in images:
                (folder / severity / name / image).touch()


def write_flat(root, names=IMAGENET_C):
    for name in names:
        write_corruption(root / name)
    return root


@pytest.fixture
def flat(tmp_path):
    return write_flat(tmp_path / "imagenet-c")


@pytest.fixture
def archives(tmp_path):
    for archive, names in IMAGENET_C_ARCHIVES.items():
        write_flat(tmp_path / "archives" / archive, names)
    return tmp_path / "archives"


def test_names_are_those_of_the_published_constants():
    constants = json.loads((files("tapadl.corruptions") / "corruption_constants.json").read_text())
    assert {name for name, entry in constants.items() if entry["in_mce"]} == set(IMAGENET_C)
    assert set(constants) == {*IMAGENET_C, *IMAGENET_C_EXTRA}


def test_flat_layout_gives_every_cell_its_own_files(flat):
    cells = stored_corruptions(flat)
    assert list(cells) == CELLS
    for (name, severity), cell in cells.items():
        assert cell.root == flat / name / str(severity)
        assert cell.paths == ("n01440764/a.JPEG", "n01440764/b.JPEG", "n01443537/c.JPEG")
        assert (cell.labels, cell.outputs) == ((0, 0, 1), (0, 1))
    assert looks_stored(flat)


def test_equal_lists_of_paths_are_kept_once(flat):
    cells = stored_corruptions(flat)
    assert len({id(cell.paths) for cell in cells.values()}) == 1


def test_official_archives_are_read_as_they_unpack(archives):
    cells = stored_corruptions(archives)
    assert list(cells) == [*CELLS, *((name, s) for name in IMAGENET_C_EXTRA for s in range(1, 6))]
    assert cells["fog", 3].root == archives / "weather" / "fog" / "3"
    assert looks_stored(archives)


def test_additional_corruptions_may_be_absent(archives):
    shutil.rmtree(archives / "extra" / "spatter")
    assert len(stored_corruptions(archives)) == 18 * 5
    shutil.rmtree(archives / "extra")
    assert list(stored_corruptions(archives)) == CELLS


def test_both_layouts_at_once_are_refused(archives):
    write_corruption(archives / "fog")
    with pytest.raises(ValueError, match="expected each corruption once"):
        stored_corruptions(archives)


def test_3dcc_keeps_its_own_names(tmp_path):
    write_flat(tmp_path, IMAGENET_3DCC)
    assert list(stored_corruptions(tmp_path)) == [(name, s) for name in IMAGENET_3DCC for s in range(1, 6)]
    shutil.rmtree(tmp_path / "flash")
    with pytest.raises(ValueError, match=r"all 12 corruptions of ImageNet-3DCC in .*, flash missing"):
        stored_corruptions(tmp_path)


def test_names_nobody_published_are_read_as_they_are(tmp_path):
    write_flat(tmp_path, ["zigzag", "blur"])
    assert list(stored_corruptions(tmp_path)) == [
        (name, s) for name in ("blur", "zigzag") for s in range(1, 6)
    ]
    assert looks_stored(tmp_path)


def test_numbered_classes_of_v2_are_in_the_order_of_numbers(tmp_path):
    write_corruption(tmp_path / "fog", {str(number): ("a.png",) for number in range(1000)})
    cell = stored_corruptions(tmp_path, ["fog"])["fog", 5]
    assert cell.class_names == tuple(str(number) for number in range(1000))
    assert cell.outputs is None


def test_hidden_files_and_notes_change_nothing(flat):
    for place in ("", "fog", "fog/1", "fog/1/n01440764"):
        (flat / place / ".DS_Store").touch()
        (flat / place / "notes.txt").touch()
    (flat / ".cache").mkdir()
    assert list(stored_corruptions(flat)) == CELLS


def test_missing_corruptions_are_named_and_the_rest_read_on_request(flat):
    shutil.rmtree(flat / "fog")
    shutil.rmtree(flat / "snow")
    with pytest.raises(
        ValueError, match=r"all 15 corruptions of ImageNet-C in .*, snow, fog missing; fetch them or"
    ):
        stored_corruptions(flat)
    assert list(stored_corruptions(flat, ["frost"])) == [("frost", severity) for severity in range(1, 6)]
    with pytest.raises(ValueError, match=r"expected corruptions out of .*frost.*got fog"):
        stored_corruptions(flat, ["frost", "fog"])
    with pytest.raises(ValueError, match=r"expected corruptions out of .*got none"):
        stored_corruptions(flat, [])


def test_missing_severities_are_named(flat):
    shutil.rmtree(flat / "fog" / "2")
    shutil.rmtree(flat / "fog" / "5")
    with pytest.raises(ValueError, match=r"severities 1 to 5 as folders in .*fog, 2, 5 missing$"):
        stored_corruptions(flat)
    (flat / "fog" / "5").touch()
    with pytest.raises(ValueError, match=r"fog, 2, 5 missing \(5 there as a file\)"):
        stored_corruptions(flat)


def test_corruption_without_any_severity_is_named(flat):
    shutil.rmtree(flat / "fog")
    (flat / "fog").mkdir()
    with pytest.raises(ValueError, match=r"fog, 1, 2, 3, 4, 5 missing"):
        stored_corruptions(flat)


def test_further_folders_beside_the_severities_are_refused(flat):
    (flat / "fog" / "6").mkdir()
    with pytest.raises(ValueError, match=r"severities 1 to 5 and no more in .*fog, got also 6"):
        stored_corruptions(flat)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ("..", r"expected folders <corruption>/<severity>/<class> in .*one level too high"),
        ("fog", r"got severities; .*fog is one level too low: give the folder above"),
        ("fog/3", r"got no folders in n01440764; .*if n01440764 is a class, too low"),
        ("fog/3/n01440764", r"expected folders <corruption>/<severity>/<class> in .*n01440764, got none"),
    ],
)
def test_wrong_level_is_named(flat, levels, message):
    with pytest.raises(ValueError, match=message):
        stored_corruptions(flat / levels)


def test_one_archive_alone_is_missing_the_rest(archives):
    with pytest.raises(ValueError, match=r"all 15 .*defocus_blur.*jpeg_compression missing"):
        stored_corruptions(archives / "noise")


def test_level_between_severity_and_class_is_refused_not_merged(flat):
    for severity in "12345":
        (flat / "fog" / severity).rename(flat / "fog" / "moved")
        (flat / "fog" / severity).mkdir()
        (flat / "fog" / "moved").rename(flat / "fog" / severity / "val")
    with pytest.raises(ValueError, match=r"expected images in .*fog/1/val, got the folder 'n01440764'"):
        stored_corruptions(flat)


def test_severities_with_other_classes_are_refused(flat):
    shutil.rmtree(flat / "snow" / "4" / "n01443537")
    with pytest.raises(
        ValueError, match=r"same class folders in .*snow/4 as in .*only one of them has n01443537"
    ):
        stored_corruptions(flat)


def test_severities_with_another_number_of_images_are_refused(flat):
    os.remove(flat / "snow" / "4" / "n01440764" / "b.JPEG")
    with pytest.raises(ValueError, match=r"as many images of n01440764 in .*snow/4 .*got 1 and 2"):
        stored_corruptions(flat)


def test_empty_class_is_named(flat):
    os.remove(flat / "snow" / "4" / "n01443537" / "c.JPEG")
    with pytest.raises(ValueError, match=r"class folder .*snow/4/n01443537, got an empty folder"):
        stored_corruptions(flat)


def test_subset_shows_the_same_images_in_every_cell(flat):
    subsets = [cell.subset(2) for cell in stored_corruptions(flat).values()]
    assert {subset.paths for subset in subsets} == {subsets[0].paths}
    assert len(subsets[0]) == 2


def test_missing_root_is_named(tmp_path):
    for read in (stored_corruptions, looks_stored):
        with pytest.raises(FileNotFoundError, match=r"expected a folder at .*nowhere"):
            read(tmp_path / "nowhere")


def test_classes_do_not_look_stored(tmp_path):
    for name in ("1", "2", "7", wordnet_ids()[0], "blur"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").touch()
    assert not looks_stored(tmp_path)


def test_incomplete_folders_and_those_on_another_level_look_stored_so_that_advice_can_follow(flat):
    assert looks_stored(flat.parent)
    assert looks_stored(flat / "fog")
    assert not looks_stored(flat / "fog" / "3")
    for name in IMAGENET_C[1:]:
        shutil.rmtree(flat / name)
    shutil.rmtree(flat / IMAGENET_C[0] / "1")
    assert looks_stored(flat)
