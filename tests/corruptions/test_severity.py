import inspect
import json
import math
import pickle
from dataclasses import FrozenInstanceError
from importlib import resources

import pytest

from tapadl.corruptions import CORRUPTIONS, SEVERITIES, blur, constants_for, digital, noise, weather

MODULES = {"noise": noise, "blur": blur, "weather": weather, "digital": digital}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_every_corruption_has_all_constants_and_a_function_that_takes_them(corruption):
    row = CORRUPTIONS[corruption]
    assert row.name == corruption
    assert set(row.in_pixels) <= set(row.parameters)
    assert list(row.constants) == [224, 64, 32]
    for by_severity in row.constants.values():
        assert len(by_severity) == len(SEVERITIES)
        assert all(len(values) == len(row.parameters) for values in by_severity)
    signature = inspect.signature(getattr(MODULES[row.group], corruption))
    keywords = [
        name for name, parameter in signature.parameters.items() if parameter.kind == parameter.KEYWORD_ONLY
    ]
    assert tuple(keywords) == row.parameters
    assert ("draws" in signature.parameters) == row.random


def test_groups_follow_one_another_in_published_order():
    groups = [row.group for row in CORRUPTIONS.values()]
    assert list(dict.fromkeys(groups)) == ["noise", "blur", "weather", "digital"]
    assert groups == sorted(groups, key=list(MODULES).index)


def test_four_are_for_validation_and_fifteen_belong_to_mce():
    validation = [name for name, row in CORRUPTIONS.items() if not row.in_mce]
    assert validation == ["speckle_noise", "gaussian_blur", "spatter", "saturate"]
    assert len(CORRUPTIONS) == 19


def test_the_rows_of_mce_are_corruptions_of_the_alexnet_table():
    table = json.loads((resources.files("tapadl.metrics") / "alexnet.json").read_text(encoding="utf-8"))
    assert {name for name, row in CORRUPTIONS.items() if row.in_mce} == set(table["errors"])


@pytest.mark.parametrize("size", [224, 64, 32])
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_published_sizes_are_taken_as_they_are(corruption, size):
    for severity in SEVERITIES:
        constants = constants_for(corruption, severity, size)
        assert tuple(constants.values.values()) == CORRUPTIONS[corruption].constants[size][severity - 1]
        assert (constants.published_size, constants.scaled) == (size, False)


def test_lengths_in_pixels_are_scaled_and_nothing_else():
    constants = constants_for("defocus_blur", 5, 28)
    assert constants.values == {"radius": 1.5 * 28 / 32, "alias_blur": 0.1}
    assert (constants.published_size, constants.scaled) == (32, True)
    noise_constants = constants_for("gaussian_noise", 5, 28)
    assert noise_constants.values == {"sigma": 0.1}
    assert (noise_constants.published_size, noise_constants.scaled) == (32, False)


@pytest.mark.parametrize(
    ("size", "published_size"),
    [(1, 32), (28, 32), (45, 32), (46, 64), (96, 64), (119, 64), (120, 224), (448, 224), (1024, 224)],
)
def test_the_version_nearest_in_ratio_is_taken(size, published_size):
    constants = constants_for("gaussian_blur", 3, size)
    assert constants.published_size == published_size
    assert constants.values["sigma"] == pytest.approx(
        constants_for("gaussian_blur", 3, published_size).values["sigma"] * size / published_size
    )


def test_rows_and_constants_cannot_be_changed_and_constants_can_be_pickled():
    with pytest.raises(FrozenInstanceError):
        CORRUPTIONS["fog"].name = "mist"
    with pytest.raises(TypeError):
        CORRUPTIONS["mist"] = CORRUPTIONS["fog"]
    constants = constants_for("zoom_blur", 1, 32)
    assert pickle.loads(pickle.dumps(constants)) == constants


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mist", 1, 32), "expected a corruption out of gaussian_noise, .* got 'mist'"),
        (("fog", 7, 32), "expected a severity out of 1, 2, 3, 4, 5, got 7"),
        (("fog", 1, 0), "expected image_size to be an integer from 1 to 65536 pixels, got 0"),
        (("fog", 1, True), "integer from 1 to 65536 pixels, got True"),
        (("fog", 1, 224.0), r"integer from 1 to 65536 pixels, got 224\.0"),
        (("fog", 1, math.inf), "integer from 1 to 65536 pixels, got inf"),
        (("fog", 1, math.nan), "integer from 1 to 65536 pixels, got nan"),
        (("fog", 1, 65537), "integer from 1 to 65536 pixels, got 65537"),
        (("fog", 1, "224"), "integer from 1 to 65536 pixels, got '224'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        constants_for(*arguments)
