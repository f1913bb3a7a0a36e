import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapadl.training.settings import (
    AugmentationSettings,
    DataSettings,
    ModelSettings,
    ScheduleSettings,
    Settings,
    TrainingSettings,
)
from tapadl.training.step_plan import StepPlan


def settings_of(training: TrainingSettings, warmup_epochs: float = 0.0, mixup: float = 0.0) -> Settings:
    return Settings(
        ModelSettings("vit_tiny_patch16_224"),
        DataSettings("embedded"),
        training=training,
        schedule=ScheduleSettings(warmup_epochs=warmup_epochs),
        augmentation=AugmentationSettings(mixup=mixup),
    )


def test_imagenet_in_batches_of_4096_is_312_steps_an_epoch_and_rests_with_64_images_on_64_gpus() -> None:
    settings = settings_of(TrainingSettings(epochs=350, batch_size=4096), warmup_epochs=10, mixup=0.8)
    assert StepPlan.of(settings, num_samples=1_281_167, world_size=64) == StepPlan(312, 109_200, 3120, 64)


def test_processes_and_accumulation_cut_a_batch_the_same_way() -> None:
    plans = {
        StepPlan.of(settings_of(TrainingSettings(batch_size=8, accumulation=parts)), 100, world_size)
        for world_size, parts in [(1, 4), (2, 2), (4, 1)]
    }
    assert {plan.micro_batch_size for plan in plans} == {2}
    assert len(plans) == 1


def test_a_run_that_is_cut_short_keeps_the_share_of_its_warm_up() -> None:
    training = TrainingSettings(epochs=10, batch_size=10, max_steps=50)
    assert StepPlan.of(settings_of(training, warmup_epochs=2), 1000) == StepPlan(100, 50, 10, 10)


def test_more_steps_than_the_epochs_have_change_nothing() -> None:
    training = TrainingSettings(epochs=2, batch_size=10, max_steps=10_000)
    assert StepPlan.of(settings_of(training), 1000).total_steps == 200


def test_the_place_of_a_step_is_its_epoch_and_what_is_left() -> None:
    plan = StepPlan(steps_per_epoch=7, total_steps=21, warmup_steps=0, micro_batch_size=1)
    assert [plan.place(step) for step in (0, 6, 7, 20)] == [(0, 0), (0, 6), (1, 0), (2, 6)]


@pytest.mark.parametrize(
    ("training", "world_size", "message"),
    [
        (TrainingSettings(batch_size=200), 1, "at least 200 training images for one batch, got 100"),
        (TrainingSettings(batch_size=8), 3, r"a multiple of 3 \(3 processes x 1 parts .*\), got 8"),
        (TrainingSettings(batch_size=8, accumulation=4), 4, r"a multiple of 16 .*, got 8"),
        (TrainingSettings(batch_size=9), 1, "an even number of images .* for mixup and cutmix, got 9"),
    ],
)
def test_a_batch_that_cannot_be_cut_is_refused(
    training: TrainingSettings, world_size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        StepPlan.of(settings_of(training, mixup=0.8), num_samples=100, world_size=world_size)


@given(
    epochs=st.integers(1, 400),
    max_steps=st.none() | st.integers(1, 500),
    images=st.integers(16, 5000),
    warmup_share=st.floats(0, 0.999),
)
def test_a_step_is_always_left_after_the_warm_up(
    epochs: int, max_steps: int | None, images: int, warmup_share: float
) -> None:
    training = TrainingSettings(epochs=epochs, max_steps=max_steps, batch_size=16)
    plan = StepPlan.of(settings_of(training, warmup_epochs=warmup_share * epochs), images)
    assert 0 <= plan.warmup_steps < plan.total_steps
    assert abs(plan.warmup_steps - warmup_share * plan.total_steps) <= 1
