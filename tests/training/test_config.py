import pytest

from tapadl.training.config import TrainingConfig

FLOATS = ("learning_rate", "weight_decay", "adl_weight", "adl_tau", "label_smoothing", "warmup_fraction")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("steps", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("weight_decay", -0.1),
        ("warmup_fraction", 1.0),
        ("label_smoothing", -0.1),
        ("adl_weight", -1.0),
        ("adl_tau", float("nan")),
        ("seed", -1),
        ("seed", 2**32),
        *((name, bad) for name in FLOATS for bad in (float("inf"), float("-inf"), float("nan"))),
    ],
)
def test_value_out_of_range_is_an_error_that_names_it(name, value):
    with pytest.raises(ValueError, match=f"expected {name} .*got"):
        TrainingConfig(**{name: value})


def test_steps_replace_whole_epochs():
    assert TrainingConfig(epochs=3, batch_size=10).total_steps(105) == 30
    assert TrainingConfig(epochs=3, batch_size=10, steps=7).total_steps(105) == 7


def test_fewer_images_than_a_batch_are_an_error():
    with pytest.raises(ValueError, match="at least 50 training images for one batch, got 49"):
        TrainingConfig(batch_size=50).total_steps(49)
