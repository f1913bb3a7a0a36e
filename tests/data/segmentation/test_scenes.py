"""The script that builds scenes, on small made pictures."""

import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tapadl.data.segmentation import open_segmentation

SCRIPT = Path(__file__).parents[3] / "scripts" / "segmentation_scenes.py"


@pytest.fixture(scope="module")
def script():
    specification = importlib.util.spec_from_file_location("segmentation_scenes", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Stamps of noise: two classes; flat drawings, cartoons and views of few things, which are none."""
    root, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    every = {name: [f"{number:02}" for number in range(12)] for name in ("animals", "plants", "drawings")}
    every["animals"] += ["02_mirror", "02-big"]
    every["toys"] = [f"cartoon/{number:02}" for number in range(12)]
    every["few"] = [f"{number % 3}_{number}" for number in range(18)]
    for name, stems in every.items():
        for stem in stems:
            pixels = generator.integers(0, 256, (64, 64, 4), dtype=np.uint8)
            if name == "drawings":
                pixels[..., :3] = 200
            pixels[..., 3] = 0
            pixels[16:48, 16:48, 3] = 255
            path = root / "stamps" / name / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    for number in range(3):
        path = root / "places" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (200, 320, 3), dtype=np.uint8)).save(path)
    return root


def build(script, pictures, out, *words):
    places = ["--stamps", str(pictures / "stamps"), "--backgrounds", str(pictures / "places")]
    script.main([str(out), *places, "--train", "3", "--val", "2", "--size", "32x48", *words])


def test_scenes_are_a_data_set_that_can_be_opened(script, pictures, tmp_path):
    build(script, pictures, tmp_path)
    train = open_segmentation("folder", tmp_path, "train")
    assert train.class_names == ("background", "animals", "plants")
    assert (len(train), len(open_segmentation("folder", tmp_path, "val"))) == (3, 2)
    labels = [train.pair(index)[1] for index in range(3)]
    assert labels[0].shape == (32, 48)
    assert {0, 1, 2} == set(np.unique(labels))


def test_validation_scenes_show_the_same_things_at_other_places(script, pictures, tmp_path):
    build(script, pictures, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    train, val = manifest["pictures"]["train"], manifest["pictures"]["val"]
    assert [(train[name] == val[name], len(train[name])) for name in train] == [
        (False, 2),
        (True, 14),
        (True, 12),
    ]
    assert not set(train["background"].values()) & set(val["background"].values())
    name, sha256 = next(iter(val["plants"].items()))
    assert manifest["families_of_classes_left_out"] == {"drawings": 0, "few": 3, "toys": 0}
    assert manifest["packages"] == {}  # these pictures come from none
    assert hashlib.sha256((pictures / "stamps" / name).read_bytes()).hexdigest() == sha256


def test_a_scene_follows_from_the_seed_and_its_number(script, pictures, tmp_path):
    for folder, words in (("a", ()), ("more", ("--train", "4")), ("other", ("--seed", "1"))):
        build(script, pictures, tmp_path / folder, *words)
    first = [(tmp_path / folder / "train/images/00001.jpg").read_bytes() for folder in ("a", "more", "other")]
    assert first[0] == first[1] != first[2]


def test_the_class_of_a_pixel_is_that_of_the_stamp_on_top(script, pictures):
    found = script.find_pictures(pictures / "stamps", [pictures / "places"])[0]["train"]
    generator = np.random.default_rng(3)
    image, mask = script.make_scene(found, (64, 96), generator)
    # backgrounds are noise that a smooth resize grays; stamps have brighter and darker pixels
    assert image.size == mask.size == (96, 64)
    assert set(np.unique(mask)) <= {0, 1, 2}
    assert 0 < (np.asarray(mask) > 0).mean() < 0.9


def test_what_is_there_is_not_overwritten(script, pictures, tmp_path):
    build(script, pictures, tmp_path)
    with pytest.raises(SystemExit, match="expected an empty folder or none"):
        build(script, pictures, tmp_path)


def test_too_few_pictures_are_told_with_the_packages_to_install(script, pictures, tmp_path):
    with pytest.raises(SystemExit, match=r"got 0 and 3; install tuxpaint-stamps-default"):
        script.main([str(tmp_path), "--stamps", str(tmp_path), "--backgrounds", str(pictures / "places")])
