import contextlib
import hashlib
import json
import os
import pickle
import resource
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

from tapadl.training import checkpoint as module
from tapadl.training import checkpoint_files
from tapadl.training.checkpoint import Checkpoints
from tapadl.training.checkpoint_files import CheckpointReader, DamagedCheckpointError, check_files, is_whole
from tapadl.training.objective import SupervisedObjective
from tapadl.training.state import TrainingState, flatten
from tapadl.training.weight_average import WeightAverage

IDENTITY = {"model": {"name": "small"}, "optimizer": {"lr": 0.1, "betas": (0.9, 0.99)}}


@pytest.fixture(autouse=True)
def _alone(one_process):
    pass


def make_state(width=4, *, average=True, steps=0, channels_last=False):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(4 * width, 2)
    )
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    state = TrainingState(
        model,
        torch.optim.AdamW(model.parameters(), lr=0.1),
        torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3),
        SupervisedObjective(nn.functional.cross_entropy),
        WeightAverage(model, 0.9) if average else None,
    )
    advance(state, steps)
    return state


def advance(state, steps):
    for _ in range(steps):
        torch.manual_seed(state.step)
        state.optimizer.zero_grad()
        state.scaler.scale(state.model(torch.randn(4, 3, 4, 4)).square().mean()).backward()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.average is not None:
            state.average.update()
        state.step += 1


def snapshot(state):
    tensors, plain = flatten(state.tree())
    return {path: tensor.clone() for path, tensor in tensors.items()}, plain


def assert_is(state, expected):
    tensors, plain = snapshot(state)
    assert plain == expected[1]
    assert tensors.keys() == expected[0].keys()
    for path, tensor in tensors.items():
        assert torch.equal(tensor, expected[0][path]), path


@contextlib.contextmanager
def opened(folder, identity=IDENTITY, **options):
    checkpoints = Checkpoints(folder, identity, **options)
    try:
        yield checkpoints
    finally:
        checkpoints.close()


def save_steps(folder, *steps, **options):
    """A run with a checkpoint after each of these steps; what it was at the last one."""
    state = make_state()
    with opened(folder, **options) as checkpoints:
        for step in steps:
            advance(state, step - state.step)
            checkpoints.save(state)
        checkpoints.wait()
    return snapshot(state)


def save_and_wait(checkpoints, state):
    checkpoints.save(state)
    checkpoints.wait()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_what_is_restored_is_what_was_saved_to_the_bit(tmp_path, asynchronous):
    state = make_state(steps=3)
    state.best = {"step": 2, "score": 0.1 + 0.2}
    with opened(tmp_path, asynchronous=asynchronous) as checkpoints:
        checkpoints.save(state)
        expected = snapshot(state)
        # training goes on while it is written
        advance(state, 2)
        checkpoints.wait()
    restored = make_state()
    with opened(tmp_path) as checkpoints:
        assert checkpoints.restore(restored)
        assert checkpoints.saved_step == 3
    assert_is(restored, expected)
    advance(restored, 2)
    assert_is(restored, (snapshot(state)[0], snapshot(restored)[1]))


def test_the_next_save_does_not_touch_what_is_still_being_written(tmp_path):
    state = make_state()
    with opened(tmp_path) as checkpoints:
        for _ in range(3):
            advance(state, 1)
            checkpoints.save(state)
        checkpoints.wait()
    for step in (1, 2, 3):
        (tmp_path / f"step-{step:08d}").rename(tmp_path / "kept")
        with opened(tmp_path) as checkpoints:
            other = make_state()
            (tmp_path / "kept").rename(tmp_path / f"step-{step + 90:08d}")
            checkpoints.restore(other)
        assert_is(other, snapshot(make_state(steps=step)))


def test_weights_kept_channels_last_come_back_as_they_were(tmp_path):
    state = make_state(steps=2, channels_last=True)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(state)
    restored = make_state(channels_last=True)
    with opened(tmp_path) as checkpoints:
        checkpoints.restore(restored)
    assert_is(restored, snapshot(state))
    assert restored.model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_in_an_empty_folder_there_is_nothing_to_go_on_with(tmp_path):
    state = make_state()
    expected = snapshot(state)
    with opened(tmp_path / "none") as checkpoints:
        assert not checkpoints.restore(state)
        assert checkpoints.saved_step is None
    assert_is(state, expected)
    assert not (tmp_path / "none").exists()


def test_its_sums_are_those_that_sha256sum_checks(tmp_path):
    save_steps(tmp_path, 1)
    folder = tmp_path / "step-00000001"
    assert {".metadata", "__0_0.distcp", "checkpoint.json"} == {
        line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()
    }
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)


@pytest.mark.parametrize("missing", ["SHA256SUMS", ".metadata"])
def test_a_folder_that_was_left_half_written_is_passed_over_and_taken_away(tmp_path, missing):
    expected = save_steps(tmp_path, 2)
    whole = save_steps(tmp_path / "other", 3)
    (tmp_path / "other" / "step-00000003").rename(tmp_path / "step-00000003")
    (tmp_path / "step-00000003" / missing).unlink()
    (tmp_path / "other").rmdir()
    told = []
    state = make_state()
    with opened(tmp_path, tell=told.append) as checkpoints:
        assert checkpoints.restore(state)
        assert_is(state, expected)
        assert told == []
        assert names(tmp_path) == ["step-00000002"]
        advance(state, 1)
        checkpoints.save(state)
        checkpoints.wait()
    assert_is(state, whole)
    assert names(tmp_path) == ["step-00000002", "step-00000003"]


def test_a_half_written_folder_of_the_same_step_is_written_anew(tmp_path):
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    (folder / "__0_0.distcp").write_bytes(b"half")
    (folder / "__9_0.distcp").write_bytes(b"of a process that is no more")
    (folder / ".metadata").write_bytes(b"half")
    expected = save_steps(tmp_path, 1)
    assert names(folder) == [".metadata", "SHA256SUMS", "__0_0.distcp", "checkpoint.json"]
    state = make_state()
    with opened(tmp_path) as checkpoints:
        checkpoints.restore(state)
    assert_is(state, expected)


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "checkpoint.json", "SHA256SUMS"])
def test_a_damaged_checkpoint_is_passed_over_with_a_sentence(tmp_path, name):
    expected = save_steps(tmp_path, 1)
    save_steps(tmp_path / "other", 2)
    (tmp_path / "other" / "step-00000002").rename(tmp_path / "step-00000002")
    flip_a_bit(tmp_path / "step-00000002" / name)
    told, state = [], make_state()
    with opened(tmp_path, tell=told.append) as checkpoints:
        assert checkpoints.restore(state)
        assert checkpoints.saved_step == 1
    assert_is(state, expected)
    (sentence,) = told
    assert sentence.startswith(f"passed over a damaged checkpoint, {tmp_path / 'step-00000002'}: ")
    # where a sum is damaged, so is seemingly what it is the sum of
    assert (
        sentence.endswith("is damaged") if name == "SHA256SUMS" else sentence.endswith(f"{name} is damaged")
    )
    assert not (tmp_path / "step-00000002").exists()


def test_a_file_that_is_missing_is_named(tmp_path):
    save_steps(tmp_path, 1)
    (tmp_path / "step-00000001" / "__0_0.distcp").unlink()
    with pytest.raises(DamagedCheckpointError, match=r"^__0_0\.distcp is missing$"):
        check_files(tmp_path / "step-00000001", 0, 1)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff\xfe\n", b"00  .\n", b"00  ..\n00  .metadata\n"])
def test_sums_that_are_none_are_damage(tmp_path, content):
    save_steps(tmp_path, 1)
    (tmp_path / "step-00000001" / "SHA256SUMS").write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=r"^SHA256SUMS is damaged$"):
        check_files(tmp_path / "step-00000001", 0, 1)


def test_every_file_is_looked_at_by_one_of_the_processes(tmp_path):
    save_steps(tmp_path, 1)
    folder = tmp_path / "step-00000001"
    for name in (".metadata", "__0_0.distcp", "checkpoint.json"):
        before = (folder / name).read_bytes()
        flip_a_bit(folder / name)
        found = []
        for rank in range(2):
            with contextlib.suppress(DamagedCheckpointError):
                check_files(folder, rank, 2)
                found.append(rank)
        assert len(found) == 1
        (folder / name).write_bytes(before)


def test_where_all_are_damaged_the_run_does_not_begin_anew_by_itself(tmp_path):
    save_steps(tmp_path, 1, 2)
    for folder in tmp_path.iterdir():
        flip_a_bit(folder / "__0_0.distcp")
    with opened(tmp_path) as checkpoints, pytest.raises(RuntimeError) as raised:
        checkpoints.restore(make_state())
    assert str(raised.value) == (
        f"expected a checkpoint to go on with in {tmp_path}, but all are damaged "
        f"({tmp_path / 'step-00000002'}: __0_0.distcp is damaged; "
        f"{tmp_path / 'step-00000001'}: __0_0.distcp is damaged); remove that folder to begin anew"
    )
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize(("keep", "kept"), [(1, [5]), (2, [4, 5]), (9, [1, 2, 3, 4, 5])])
def test_the_newest_stay(tmp_path, keep, kept):
    save_steps(tmp_path, 1, 2, 3, 4, 5, keep=keep)
    assert names(tmp_path) == [f"step-{step:08d}" for step in kept]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_the_best_stays_beside_the_newest(tmp_path, asynchronous):
    state = make_state()
    with opened(tmp_path, keep=1, asynchronous=asynchronous) as checkpoints:
        for step in range(1, 6):
            advance(state, 1)
            checkpoints.save(state)
            if step in (1, 3):
                state.best = {"step": step, "score": step / 10, "top1": step / 10}
                checkpoints.keep_best(state.best)
                assert is_whole(tmp_path / f"step-{step:08d}")
        checkpoints.wait()
        assert names(tmp_path) == ["best.json", "step-00000003", "step-00000005"]
    best = json.loads((tmp_path / "best.json").read_text())
    assert best == {"folder": "step-00000003", "step": 3, "score": 0.3, "top1": 0.3}
    with opened(tmp_path, keep=1) as checkpoints:
        other = make_state()
        checkpoints.restore(other)
        assert other.best == state.best
        advance(other, 1)
        checkpoints.save(other)
        checkpoints.wait()
    assert names(tmp_path) == ["best.json", "step-00000003", "step-00000006"]


def test_a_best_that_the_newest_checkpoint_does_not_know_yet_is_forgotten(tmp_path):
    """It was evaluated after the checkpoint, and will be again."""
    state = make_state(steps=1)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(state)
        checkpoints.keep_best({"step": 1, "score": 0.5})
    with opened(tmp_path) as checkpoints:
        checkpoints.restore(make_state())
    assert names(tmp_path) == ["step-00000001"]


@pytest.mark.parametrize(
    ("identity", "difference"),
    [
        ({**IDENTITY, "model": {"name": "large"}}, "model.name is 'small' there and 'large' now"),
        ({**IDENTITY, "seed": 1}, "seed is None there and 1 now"),
        (
            {"model": {"name": "small"}, "optimizer": {"lr": 0.1}},
            "optimizer.betas is [0.9, 0.99] there and None",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path, identity, difference):
    save_steps(tmp_path, 1)
    state = make_state()
    expected = snapshot(state)
    with opened(tmp_path, identity) as checkpoints, pytest.raises(ValueError, match="another") as raised:
        checkpoints.restore(state)
    sentence = str(raised.value)
    assert sentence.startswith(
        f"expected a checkpoint of this run in {tmp_path / 'step-00000001'}, got one of"
    )
    assert difference in sentence
    assert sentence.endswith("; name another folder to begin anew")
    assert_is(state, expected)
    assert names(tmp_path) == ["step-00000001"]


def test_a_checkpoint_of_another_model_is_refused_with_what_differs(tmp_path):
    save_steps(tmp_path, 1)
    other = make_state(width=5)
    expected = snapshot(other)
    with opened(tmp_path) as checkpoints, pytest.raises(ValueError, match="of this model") as raised:
        checkpoints.restore(other)
    assert "0.weight ((4, 3, 3, 3) there, (5, 3, 3, 3) here)" in str(raised.value)
    assert "14 tensors differ" in str(raised.value)
    assert_is(other, expected)


def test_a_checkpoint_without_an_average_is_refused_where_there_is_to_be_one(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(make_state(average=False, steps=1))
    with opened(tmp_path) as checkpoints, pytest.raises(ValueError, match=r"average\.0\.weight \(none there"):
        checkpoints.restore(make_state())


def test_a_checkpoint_of_another_version_is_refused(tmp_path, monkeypatch):
    save_steps(tmp_path, 1)
    monkeypatch.setattr(module, "SCHEMA", 2)
    with (
        opened(tmp_path) as checkpoints,
        pytest.raises(ValueError, match=r"of schema 2 in .*, got 1; finish"),
    ):
        checkpoints.restore(make_state())


def test_another_number_of_processes_is_told(tmp_path, monkeypatch):
    save_steps(tmp_path, 1)
    told = []
    with opened(tmp_path, tell=told.append) as checkpoints:
        plain = module.read_plain(tmp_path / "step-00000001")
        monkeypatch.setattr(module, "read_plain", lambda folder: plain | {"world_size": 4})
        checkpoints.restore(make_state())
    assert told == [
        "step-00000001 was saved by 4 processes, now there are 1: the run goes on, but not bit for bit as it "
        "would have"
    ]


@contextlib.contextmanager
def small_files(size):
    """Files cannot grow beyond that many bytes: what a full disk looks like to who writes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("size", [0, 100, 3000])
def test_a_full_disk_is_a_sentence_and_the_last_good_checkpoint_can_be_gone_on_with(
    tmp_path, asynchronous, size
):
    state = make_state(steps=1)
    expected = snapshot(state)
    with opened(tmp_path, keep=1, asynchronous=asynchronous) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
        advance(state, 1)
        with small_files(size), pytest.raises(OSError, match="could not write") as raised:
            save_and_wait(checkpoints, state)
    sentence = str(raised.value)
    assert sentence.startswith(f"could not write the checkpoint {tmp_path / 'step-00000002'}: ")
    assert sentence.endswith("File too large; the last good one is step-00000001")
    assert "\n" not in sentence
    assert names(tmp_path) == ["step-00000001"]
    restored = make_state()
    with opened(tmp_path) as checkpoints:
        assert checkpoints.restore(restored)
    assert_is(restored, expected)


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("name", ["checkpoint.json", "SHA256SUMS"])
def test_a_disk_that_is_full_at_the_end_is_a_sentence_too(tmp_path, monkeypatch, asynchronous, name):
    write = checkpoint_files.write_atomically

    def full(path, content):
        if Path(path).name == name:
            raise OSError(f"could not write {path}: No space left on device")
        write(path, content)

    save_steps(tmp_path, 1)
    monkeypatch.setattr(checkpoint_files, "write_atomically", full)
    state = make_state(steps=2)
    sentence = rf"{name}: No space left on device; the last good one is step-0+1$"
    with (
        opened(tmp_path, asynchronous=asynchronous) as checkpoints,
        pytest.raises(OSError, match=sentence),
    ):
        save_and_wait(checkpoints, state)
    assert names(tmp_path) == ["step-00000001"]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path, asynchronous):
    (tmp_path / "file").write_bytes(b"")
    with (
        opened(tmp_path / "file" / "checkpoints", asynchronous=asynchronous) as checkpoints,
        pytest.raises(OSError, match=r"step-00000001: Not a directory; there is none before it$"),
    ):
        save_and_wait(checkpoints, make_state(steps=1))


@contextlib.contextmanager
def no_superuser():
    """The superuser may write everywhere; meanwhile it is nobody."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_folder_that_may_not_be_written_is_a_sentence():
    # not in the folder of pytest, which others may not enter
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        with (
            opened(Path(folder) / "checkpoints") as checkpoints,
            pytest.raises(OSError, match=r"Permission denied; there is none before it$"),
            no_superuser(),
        ):
            save_and_wait(checkpoints, make_state(steps=1))


def test_an_error_that_is_none_of_the_disk_is_told_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("tapadl.training.checkpoint_files._sha256", lambda path: 1 / 0)
    with (
        opened(tmp_path) as checkpoints,
        pytest.raises(RuntimeError, match="division by zero; there is none"),
    ):
        save_and_wait(checkpoints, make_state(steps=1))


class Payload:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def rewrite(folder, name, content):
    """Put a file into a checkpoint and sign it, as a stranger could."""
    (folder / name).write_bytes(content)
    names = (".metadata", "__0_0.distcp", "checkpoint.json")
    lines = [f"{hashlib.sha256((folder / each).read_bytes()).hexdigest()}  {each}\n" for each in names]
    (folder / "SHA256SUMS").write_text("".join(lines))


@pytest.mark.parametrize(
    ("function", "named"),
    [(os.system, r"posix\.system"), (eval, r"builtins\.eval"), (torch.load, r"torch\.serialization\.load")],
    ids=["system", "eval", "load"],
)
def test_metadata_that_would_run_code_is_refused(tmp_path, function, named):
    save_steps(tmp_path, 1)
    marker = tmp_path / "ran"
    folder = tmp_path / "step-00000001"
    command = f"touch {marker}" if function is os.system else f"open({str(marker)!r}, 'w')"
    rewrite(folder, ".metadata", pickle.dumps(Payload(function, command)))
    sentence = rf"^expected the description of tensors in {folder / '.metadata'}, got {named}$"
    with opened(tmp_path) as checkpoints, pytest.raises(ValueError, match=sentence):
        checkpoints.restore(make_state())
    assert not marker.exists()


def test_metadata_cannot_reach_code_through_what_it_may_name(tmp_path):
    for name in ("torch.nn.Module", "torch.hub.load", "torch.Size.__class__", "pathlib.os"):
        where, _, attribute = name.rpartition(".")
        code = b"\x80\x04" + pickle.SHORT_BINUNICODE + bytes([len(where)]) + where.encode()
        code += pickle.SHORT_BINUNICODE + bytes([len(attribute)]) + attribute.encode()
        (tmp_path / ".metadata").write_bytes(code + pickle.STACK_GLOBAL + pickle.STOP)
        with pytest.raises(ValueError, match="expected the description of tensors"):
            CheckpointReader(tmp_path).read_metadata()


def test_tensors_that_would_run_code_are_refused(tmp_path):
    save_steps(tmp_path, 1)
    folder, marker = tmp_path / "step-00000001", tmp_path / "ran"
    size = (folder / "__0_0.distcp").stat().st_size
    torch.save(Payload(os.system, f"touch {marker}"), folder / "evil")
    evil = (folder / "evil").read_bytes()
    (folder / "evil").unlink()
    rewrite(folder, "__0_0.distcp", evil.ljust(size, b"\0"))
    with opened(tmp_path) as checkpoints, pytest.raises(ValueError, match="got UnpicklingError;"):
        checkpoints.restore(make_state())
    assert not marker.exists()


def test_closing_waits_for_what_is_being_written(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(make_state(steps=1))
    check_files(tmp_path / "step-00000001", 0, 1)
    assert is_whole(tmp_path / "step-00000001")
