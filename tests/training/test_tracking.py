import importlib.util
import shutil
import sys
import types
from functools import partial

import pytest

from tapadl.training.settings import LoggingSettings
from tapadl.training.tracking import open_trackers

CONFIG = {"optimizer": {"lr": 0.1}}


class FakeRun:
    def __init__(self, options):
        self.options, self.logged, self.finished = options, [], False

    def log(self, values, step=None):
        assert not self.finished
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def begun(monkeypatch):
    """What was begun with wandb and trackio, which are not the real ones."""
    found = {"wandb": [], "trackio": []}

    def begin(runs, **options):
        runs.append(FakeRun(options))
        return runs[-1]

    for name, runs in found.items():
        module = types.ModuleType(name)
        module.init = partial(begin, runs)
        monkeypatch.setitem(sys.modules, name, module)
    return found


def test_nothing_is_tracked_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"imported {name}"))
    assert open_trackers(LoggingSettings(), tmp_path, CONFIG) == []


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_numbers_reach_the_tracker_with_their_step(tmp_path, begun, name):
    (tracker,) = open_trackers(LoggingSettings(**{name: "robust"}), tmp_path / "my run", CONFIG)
    tracker.log(3, {"train/loss": 0.5})
    tracker.log(4, {"evaluation/top1": 0.25})
    tracker.close()
    (run,) = begun[name]
    assert run.logged == [(3, {"train/loss": 0.5}), (4, {"evaluation/top1": 0.25})]
    assert run.finished
    assert run.options["project"] == "robust"
    assert run.options["config"] == CONFIG
    assert run.options["resume"] == "allow"


@pytest.mark.parametrize(("name", "option"), [("wandb", "id"), ("trackio", "name")])
def test_a_run_that_goes_on_is_the_same_and_one_elsewhere_is_another(
    tmp_path, begun, monkeypatch, name, option
):
    (tmp_path / "a").mkdir()
    for folder in (tmp_path / "a" / "run 1é", tmp_path / "b" / "run 1é"):
        for _ in range(2):
            open_trackers(LoggingSettings(**{name: "robust"}), folder, CONFIG)
    monkeypatch.chdir(tmp_path / "a")
    open_trackers(
        LoggingSettings(**{name: "robust"}), (tmp_path / "a" / "run 1é").relative_to(tmp_path / "a"), {}
    )
    names = [run.options[option] for run in begun[name]]
    assert names[0] == names[1] == names[4]
    assert names[2] == names[3] != names[0]
    # begun anew in the place of one that was removed
    shutil.rmtree(tmp_path / "a" / "run 1é")
    open_trackers(LoggingSettings(**{name: "robust"}), tmp_path / "a" / "run 1é", CONFIG)
    assert begun[name][-1].options[option] != names[0]
    # what Weights & Biases takes
    assert all(character.isascii() and (character.isalnum() or character == "-") for character in names[0])
    assert names[0].startswith("run-1-")


def test_several_at_once(tmp_path, begun):
    assert len(open_trackers(LoggingSettings(wandb="a", trackio="b"), tmp_path, CONFIG)) == 2
    assert begun["wandb"][0].options["project"] == "a"
    assert begun["trackio"][0].options["project"] == "b"


@pytest.mark.parametrize(
    ("settings", "package"),
    [({"tensorboard": True}, "tensorboard"), ({"wandb": "a"}, "wandb"), ({"trackio": "a"}, "trackio")],
)
def test_a_package_that_is_missing_is_named_with_what_to_do(tmp_path, monkeypatch, settings, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        RuntimeError,
        match=rf"^expected the package {package} for logging.{package}, but it is not installed; "
        rf'pip install "tapadl\[tracking\]", or leave logging.{package} out$',
    ):
        open_trackers(LoggingSettings(**settings), tmp_path, CONFIG)


class FakeWriter:
    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.scalars, self.closed = folder, purge_step, [], False

    def add_scalar(self, *arguments):
        self.scalars.append(arguments)

    def close(self):
        self.closed = True


def test_tensorboard_gets_every_number_and_hides_what_an_interrupted_run_wrote_later(tmp_path, monkeypatch):
    writers = []
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = lambda *args, **options: (
        writers.append(FakeWriter(*args, **options)) or writers[-1]
    )
    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    (tracker,) = open_trackers(LoggingSettings(tensorboard=True), tmp_path, CONFIG, step=7)
    tracker.log(8, {"train/loss": 0.5, "train/adl": 0.25})
    tracker.close()
    (writer,) = writers
    assert (writer.folder, writer.purge_step) == (str(tmp_path / "tensorboard"), 8)
    assert writer.scalars == [("train/loss", 0.5, 8), ("train/adl", 0.25, 8)]
    assert writer.closed


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs tensorboard")
@pytest.mark.filterwarnings("default")
def test_what_tensorboard_writes_can_be_read_by_it(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for step, losses in ((0, {1: 3.0, 2: 2.0}), (1, {2: 1.0})):
        (tracker,) = open_trackers(LoggingSettings(tensorboard=True), tmp_path, CONFIG, step=step)
        for at, loss in losses.items():
            tracker.log(at, {"train/loss": loss})
        tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")
    assert [(event.step, event.value) for event in events] == [(1, 3.0), (2, 1.0)]
