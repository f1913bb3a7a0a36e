import errno
import os

import pytest

from tapadl.data.atomic import remove_half_written, write_atomically


def test_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "deep" / "result.json"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["result.json"]


def test_full_disk_keeps_the_old_file_and_says_so(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_atomically(path, b"old")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=r"could not write .*result\.json: No space left on device; free some space"
    ):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="could not write") as raised:
        write_atomically(tmp_path / "file" / "result.json", b"")
    assert "space" not in str(raised.value)


def test_pieces_become_one_file_and_an_error_on_the_way_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, (piece for piece in (b"one ", b"two")))
    assert path.read_bytes() == b"one two"

    def pieces():
        yield b"three"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"could not write .*a\.txt"):
        write_atomically(path, pieces())
    assert path.read_bytes() == b"one two"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_kill_left_half_written_is_taken_away_and_nothing_else(tmp_path):
    names = [".a.png.17.tmp", "deep/.b.txt.3.tmp"]
    kept = ["a.png", ".own.tmp", "deep/b.17.tmp", ".hidden"]
    for name in (*names, *kept):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    remove_half_written(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(kept)
    remove_half_written(tmp_path / "missing")
