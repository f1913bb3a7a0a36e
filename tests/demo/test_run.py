import dataclasses
import hashlib
import multiprocessing

import pytest
import torch

from tapadl.demo.bench import Bench, load_data
from tapadl.demo.folder import open_folder
from tapadl.demo.result import DemoResult
from tapadl.demo.run import run_demo
from tapadl.demo.settings import DemoSettings, ModelConfig
from tapadl.training.config import TrainingConfig

TINY = DemoSettings(
    variants=("plain", "tap+adl"),
    train_images=60,
    evaluation_images=20,
    corruptions=("gaussian_noise", "contrast"),
    severities=(2, 5),
    training=TrainingConfig(epochs=2, batch_size=20),
    model=ModelConfig(embed_dim=16, depth=2, num_heads=2),
)


class Notes:
    """Remembers what it is told."""

    def __init__(self):
        self.expected = 0
        self.work = 0
        self.stages = []
        self.told = []
        self.ended = []

    def expect(self, work):
        self.expected = work

    def begin(self, run, stage, work):
        self.stages.append(f"{run}: {stage}")

    def advance(self, run, work):
        self.work += work

    def end(self, run):
        self.ended.append(run)

    def tell(self, text):
        self.told.append(text)


def start(path, settings=TINY, observer=None, **options):
    notes = observer or Notes()
    bench = Bench.of(settings, load_data(settings))
    with open_folder(path, settings, versions={}) as folder:
        outcome = run_demo(bench, folder, command="tapadl demo", observer=notes, **options)
    return outcome, folder, notes


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return start(tmp_path_factory.mktemp("demo") / "out")


def test_results_hold_every_run_and_cell(finished):
    outcome, folder, _ = finished
    result = DemoResult.load(folder.results)
    assert result == outcome.result
    assert [(run.variant, run.seed) for run in result.runs] == [("plain", 0), ("tap+adl", 0)]
    for run in result.runs:
        assert [cell.count for cell in run.cells] == [20] * 5
        assert run.steps == 6
    assert result.corruptions["names"] == ["gaussian_noise", "contrast"]
    assert result.settings["counts"] == {"train": 60, "validation": 20, "test": 20}
    assert set(result.paired) == {"tap+adl"}


def test_weights_in_the_folder_are_those_of_the_result(finished):
    outcome, folder, _ = finished
    for run in outcome.result.runs:
        content = folder.weights(run.variant, run.seed).read_bytes()
        assert hashlib.sha256(content).hexdigest() == run.weights_sha256
        assert not outcome.models[run.variant, run.seed].training


def test_progress_adds_up_to_what_was_expected(finished):
    _, _, notes = finished
    assert notes.work == notes.expected
    assert len(notes.stages) == 4


def test_same_seed_twice_gives_bit_identical_weights(finished, tmp_path):
    again, _, _ = start(tmp_path / "again")
    first = [(run.weights_sha256, run.cells) for run in finished[0].result.runs]
    assert [(run.weights_sha256, run.cells) for run in again.result.runs] == first


def test_variants_do_not_change_one_another(finished, tmp_path):
    alone, _, _ = start(tmp_path / "alone", dataclasses.replace(TINY, variants=("tap+adl",)))
    assert alone.result.runs[0].weights_sha256 == finished[0].result.runs[1].weights_sha256


def test_stopped_demo_goes_on_and_ends_the_same(finished, tmp_path):
    class Stop(Notes):
        def begin(self, run, stage, work):
            super().begin(run, stage, work)
            if (run, stage) == ("tap+adl, seed 0", "evaluating"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "out", observer=Stop())
    again, _, notes = start(tmp_path / "out")
    assert notes.told == ["plain, seed 0: finished earlier, kept"]
    assert [stage.split(",")[0] for stage in notes.stages] == ["tap+adl", "tap+adl"]
    first = [(run.weights_sha256, run.cells) for run in finished[0].result.runs]
    assert [(run.weights_sha256, run.cells) for run in again.result.runs] == first


def test_run_whose_weights_are_gone_is_done_again(tmp_path):
    settings = dataclasses.replace(TINY, variants=("plain",))
    _, folder, _ = start(tmp_path / "out", settings)
    folder.results.unlink()
    folder.weights("plain", 0).write_bytes(b"damaged")
    _, _, notes = start(tmp_path / "out", settings)
    assert notes.told == ["plain, seed 0: finished earlier, but its weights are gone or damaged; again"]
    assert len(notes.stages) == 2


@pytest.mark.parametrize("content", [b"", b"null", b"[1]", b"{}", b'{"job": "other"}', None])
def test_run_whose_result_is_damaged_or_of_another_job_is_done_again(tmp_path, content):
    settings = dataclasses.replace(TINY, variants=("plain",))
    _, folder, _ = start(tmp_path / "out", settings)
    folder.results.unlink()
    path = folder.run("plain", 0)
    if content is None:
        content = path.read_bytes().replace(folder.job.encode(), b"0" * 64)
    path.write_bytes(content)
    _, _, notes = start(tmp_path / "out", settings)
    (told,) = notes.told
    assert told == "plain, seed 0: finished earlier, but its result is damaged or of another job; again"
    assert len(notes.stages) == 2


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"train_images": 20_001}, "expected train_images of at most the 20000 there are, got 20001"),
        ({"evaluation_images": 4_001}, "expected evaluation_images of at most the 4000 there are"),
        ({"evaluation_images": 2_001, "evaluate_on": "validation"}, "at most the 2000 there are"),
        ({"train_images": 19}, "expected at least 20 training images for one batch, got 19"),
        ({"device": "meta"}, "expected a device that torch can use here, such as cpu, got 'meta'"),
        ({"device": "hpu"}, "expected a device that torch can use here, such as cpu, got 'hpu'"),
    ],
)
def test_job_that_cannot_be_done_is_found_out_before_any_work(changes, problem):
    settings = dataclasses.replace(TINY, **changes)
    with pytest.raises(ValueError, match=problem):
        Bench.of(settings, load_data(settings)).check()


def test_plain_at_equal_time_trains_for_the_time_of_tap_and_adl(tmp_path, monkeypatch):
    seconds = {"plain": 0.02, "tap+adl": 0.05}
    train = Bench._train

    def timed(self, model, variant, config, **options):
        fitted = train(self, model, variant, config, **options)
        return dataclasses.replace(fitted, median_step_seconds=seconds.get(variant, 1.0))

    monkeypatch.setattr(Bench, "_train", timed)
    settings = dataclasses.replace(TINY, variants=("plain-equal-time",))
    outcome, _, _ = start(tmp_path / "out", settings)
    (equal,) = outcome.result.runs
    assert equal.steps == round(6 * 0.05 / 0.02)
    assert equal.epochs == equal.steps / 3


@pytest.mark.slow
def test_runs_side_by_side_find_the_same_as_one_after_the_other(finished, tmp_path):
    beside, _, notes = start(tmp_path / "out", processes=2)
    first = [(run.weights_sha256, run.cells) for run in finished[0].result.runs]
    assert [(run.weights_sha256, run.cells) for run in beside.result.runs] == first
    assert notes.work == notes.expected
    assert sorted(notes.ended) == ["plain, seed 0", "tap+adl, seed 0"]


@pytest.mark.slow
def test_what_fails_in_a_worker_is_told_by_the_first_process(tmp_path):
    settings = dataclasses.replace(TINY, training=TrainingConfig(epochs=1, batch_size=20, learning_rate=1e30))
    with pytest.raises(RuntimeError, match="expected a finite loss, got"):
        start(tmp_path / "out", settings, processes=2)
    assert not multiprocessing.active_children()


def test_validation_images_can_take_the_place_of_test_images(finished, tmp_path):
    settings = dataclasses.replace(TINY, variants=("plain",), evaluate_on="validation")
    outcome, _, _ = start(tmp_path / "out", settings)
    assert outcome.result.runs[0].clean_error == outcome.result.runs[0].validation_error


def test_unknown_device_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="expected a device that torch can use here"):
        start(tmp_path / "out", dataclasses.replace(TINY, device="quantum"))


def test_global_random_state_changes_nothing(finished, tmp_path):
    torch.manual_seed(12345)
    settings = dataclasses.replace(TINY, variants=("plain",))
    outcome, _, _ = start(tmp_path / "out", settings)
    assert outcome.result.runs[0].weights_sha256 == finished[0].result.runs[0].weights_sha256


@pytest.mark.slow
def test_killed_worker_is_told_in_one_sentence(tmp_path):
    class Kill(Notes):
        def begin(self, run, stage, work):
            multiprocessing.active_children()[0].kill()

    with pytest.raises(RuntimeError, match="a worker process was killed, often because memory ran out"):
        start(tmp_path / "out", observer=Kill(), processes=2)
    assert not multiprocessing.active_children()
