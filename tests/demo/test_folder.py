import dataclasses
import json
import os

import pytest

from tapadl.demo.folder import open_folder
from tapadl.demo.settings import DemoSettings

VERSIONS = {"torch": "2"}
SETTINGS = DemoSettings()


def open_again(path, settings=SETTINGS, versions=VERSIONS, **options):
    """The folder as it is after a demo that was stopped at once."""
    with open_folder(path, settings, versions=versions, **options) as folder:
        return folder


def fill(folder):
    for path in (folder.results, folder.report, folder.weights("tap+adl", 3), folder.run("plain", 0)):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"old")


def tree(path):
    return {
        str(entry.relative_to(path)): entry.read_bytes()
        for entry in path.rglob("*")
        if entry.is_file() and entry.name != ".lock"
    }


def test_new_folder_holds_the_job(tmp_path):
    folder = open_again(tmp_path / "a" / "b")
    assert not folder.continued
    assert (tmp_path / "a" / "b" / "job.json").exists()


def test_without_a_name_two_demos_get_two_dated_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = open_again(None), open_again(None)
    assert first.path != second.path
    assert first.path.parent.name == "runs"
    assert first.path.name.startswith("demo-20")


def test_same_unfinished_job_goes_on(tmp_path):
    first = open_again(tmp_path / "out")
    again = open_again(tmp_path / "out")
    assert again.continued
    assert again.job == first.job


@pytest.mark.parametrize(
    ("prepare", "problem"),
    [
        (lambda path: (path / "holiday.jpg").write_bytes(b""), "holds other files; name another folder"),
        (
            lambda path: [open_again(path), (path / "results.json").write_bytes(b"")],
            r"holds a finished demo \(its page is .*report\.html\).*--overwrite",
        ),
        (
            lambda path: open_again(path, dataclasses.replace(SETTINGS, seeds=2)),
            "differs in settings seeds.*--overwrite",
        ),
        (lambda path: open_again(path, versions={"torch": "1"}), "differs in versions torch.*--overwrite"),
    ],
)
def test_folder_that_holds_anything_else_is_refused(tmp_path, prepare, problem):
    prepare(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match=problem):
        open_again(tmp_path)
    assert tree(tmp_path) == before


def test_overwrite_takes_away_an_earlier_demo_and_nothing_else(tmp_path):
    fill(open_again(tmp_path))
    mine = ("notes.txt", "model_best_seed1.safetensors", "model_plain_seedX.safetensors", "results.json.bak")
    for name in mine:
        (tmp_path / name).write_bytes(b"mine")
    again = open_again(tmp_path, overwrite=True)
    assert not again.continued
    assert set(tree(tmp_path)) == {"job.json", *mine}
    assert not (tmp_path / "runs").exists()


def test_overwrite_keeps_foreign_files_in_the_folder_of_runs(tmp_path):
    fill(open_again(tmp_path))
    (tmp_path / "runs" / "deep").mkdir()
    (tmp_path / "runs" / "deep" / "thesis.tex").write_bytes(b"mine")
    (tmp_path / "runs" / "other_seed1.json").write_bytes(b"mine")
    open_again(tmp_path, overwrite=True)
    assert set(tree(tmp_path)) == {"job.json", "runs/deep/thesis.tex", "runs/other_seed1.json"}


@pytest.mark.parametrize("options", [{}, {"overwrite": True}])
@pytest.mark.parametrize(
    "job",
    [None, "folder", "{", "null", "[]", "{}", '{"kind": "demo-job", "settings": [], "versions": {}}'],
)
def test_folder_of_others_is_refused_and_stays_as_it_is(tmp_path, job, options):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "plain_seed0.json").write_bytes(b"mine")
    (tmp_path / "results.json").write_bytes(b"mine")
    if job == "folder":
        (tmp_path / "job.json").mkdir()
    elif job is not None:
        (tmp_path / "job.json").write_text(job)
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match=r"^expected .*; name another folder$"):
        open_again(tmp_path, **options)
    assert tree(tmp_path) == before
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("options", [{}, {"overwrite": True}])
def test_linked_folder_of_runs_is_refused(tmp_path, options):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "plain_seed0.json").write_bytes(b"mine")
    open_again(tmp_path / "out")
    (tmp_path / "out" / "runs").symlink_to(elsewhere)
    with pytest.raises(FileExistsError, match=r"expected .*runs to be a folder, got a file or a link"):
        open_again(tmp_path / "out", **options)
    assert tree(elsewhere) == {"plain_seed0.json": b"mine"}


@pytest.mark.parametrize("options", [{}, {"overwrite": True}])
def test_what_a_killed_demo_left_half_written_does_not_count(tmp_path, options):
    (tmp_path / ".job.json.123.tmp").write_bytes(b"{")
    assert not open_again(tmp_path, **options).continued
    assert set(tree(tmp_path)) == {"job.json"}


def test_two_demos_at_once_in_one_folder_are_refused(tmp_path):
    with open_folder(tmp_path, SETTINGS, versions=VERSIONS) as folder:
        fill(folder)
        before = tree(tmp_path)
        folder.results.unlink()
        for options in ({}, {"overwrite": True}):
            with pytest.raises(BlockingIOError, match="another demo is at work in"):
                open_again(tmp_path, **options)
        folder.results.write_bytes(b"old")
        assert tree(tmp_path) == before
    assert not open_again(tmp_path, overwrite=True).continued


def test_job_of_another_schema_is_not_gone_on_with(tmp_path):
    open_again(tmp_path)
    job = json.loads((tmp_path / "job.json").read_text())
    (tmp_path / "job.json").write_text(json.dumps(job | {"schema": 0}))
    with pytest.raises(FileExistsError, match="differs in schema"):
        open_again(tmp_path)


def test_dated_folder_of_another_demo_is_never_shared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # another demo makes the folder after this one has looked
    monkeypatch.setattr(os.path, "exists", lambda _path: False)
    assert len({open_again(None).path for _ in range(3)}) == 3


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(FileExistsError, match="expected a folder for the results, got the file"):
        open_again(tmp_path / "out")
