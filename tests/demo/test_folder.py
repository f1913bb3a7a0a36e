import dataclasses

import pytest

from tapadl.demo.folder import open_folder
from tapadl.demo.settings import DemoSettings

VERSIONS = {"torch": "2"}
SETTINGS = DemoSettings()


def open_again(path, settings=SETTINGS, versions=VERSIONS, **options):
    return open_folder(path, settings, versions=versions, **options)


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
    open_again(tmp_path / "out")
    assert open_again(tmp_path / "out").continued


@pytest.mark.parametrize(
    ("prepare", "problem"),
    [
        (lambda path: (path / "holiday.jpg").write_bytes(b""), "holds other files"),
        (
            lambda path: [open_again(path), (path / "results.json").write_bytes(b"")],
            r"holds a finished demo \(its page is .*report\.html\)",
        ),
        (lambda path: open_again(path, dataclasses.replace(SETTINGS, seeds=2)), "differs in settings seeds"),
        (lambda path: open_again(path, versions={"torch": "1"}), "differs in versions torch"),
    ],
)
def test_folder_that_holds_anything_else_is_refused(tmp_path, prepare, problem):
    prepare(tmp_path)
    with pytest.raises(FileExistsError, match=problem + ".*--overwrite"):
        open_again(tmp_path)


def test_overwrite_takes_away_an_earlier_demo_and_nothing_else(tmp_path):
    folder = open_again(tmp_path)
    for path in (folder.results, folder.report, folder.weights("tap+adl", 3), folder.run("plain", 0)):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"old")
    (tmp_path / "notes.txt").write_bytes(b"mine")
    again = open_again(tmp_path, overwrite=True)
    assert not again.continued
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.json", "notes.txt"]


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(FileExistsError, match="expected a folder for the results, got the file"):
        open_again(tmp_path / "out")
