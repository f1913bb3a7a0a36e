import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tapadl import cli

OPTIONS = ["--corruptions", "motion_blur", "impulse_noise", "jpeg_compression", "--size", "64", "--seed", "5"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for number in range(40):
        (folder / f"class{number % 3}").mkdir(exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        coarse.resize((90, 80)).save(folder / f"class{number % 3}" / f"{number:02}.png")
    return folder


def hashes(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def images(folder):
    return {name: sha for name, sha in hashes(folder).items() if name.endswith(".png")}


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_same_files(source, tmp_path, capsys):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert cli.main(["corrupt", str(source), str(whole), *OPTIONS, "--workers", "1"]) == 0
    capsys.readouterr()
    command = [sys.executable, "-m", "tapadl", "corrupt", str(source), str(out), *OPTIONS, "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while sum(1 for _ in out.glob("*/*/*/[!.]*.png")) < 150 and time.monotonic() < deadline:
        time.sleep(0.005)
    # the first process alone: its workers have to notice
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    time.sleep(0.5)
    killed = images(out)
    assert 150 <= sum("/." not in name for name in killed) < 600
    # of an image in the journal; what a worker was at is done again
    noted = (out / "journal.jsonl").read_bytes().split(b"\n")[:-1]
    finished = [name for line in noted for name in json.loads(line)["files"]]
    stamps = {name: os.stat(out / name).st_mtime_ns for name in finished}
    assert len(stamps) >= 15
    assert not (out / "manifest.json").exists()
    time.sleep(0.5)
    assert images(out) == killed, "a worker is still at work"
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "images were finished before" in again.stdout
    assert "wrote 600 files from 40 images" in again.stdout
    assert images(out) == images(whole)
    assert set(hashes(out)) == set(hashes(whole))
    assert json.loads((out / "manifest.json").read_text())["files"] == images(whole)
    # what was finished was not done again
    assert {name: os.stat(out / name).st_mtime_ns for name in stamps} == stamps


def test_the_manifest_holds_the_command_without_folders_of_this_machine(source, tmp_path, capsys):
    out = tmp_path / "my out"
    words = [str(source), f"{out}/", "--corruptions", "contrast", "--severities", "2", "--workers", "1"]
    assert cli.main(["corrupt", *words]) == 0
    assert f"wrote 40 files from 40 images: {out / 'manifest.json'}" in capsys.readouterr().out
    command = json.loads((out / "manifest.json").read_text())["command"]
    assert shlex.split(command)[:4] == ["tapadl", "corrupt", "IN", "OUT"]
    with Image.open(out / "contrast" / "2" / "class0" / "00.png") as image:
        assert image.size == (224, 224)


def test_skipped_images_are_told(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (40, 40)).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"no image")
    words = ["corrupt", str(folder), str(tmp_path / "out"), "--corruptions", "contrast", "--workers", "1"]
    assert cli.main(words) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{folder / 'b.png'}" in error
    assert "--on-error skip" in error
    assert cli.main([*words, "--on-error", "skip"]) == 0
    output = capsys.readouterr().out
    assert f"skipped: expected a whole image at {folder / 'b.png'}" in output
    assert "wrote 5 files from 1 images, 1 skipped" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "big"], "expected a number of pixels or keep, got 'big'"),
        (["--corruptions", "mist"], "expected a corruption out of"),
        (["--format", "gif"], "expected a format out of png, jpeg85"),
        (["--workers", "0"], "expected a number of workers"),
        (["--overwrite"], "expected only known options, got --overwrite"),
    ],
)
def test_wrong_words_are_one_sentence(source, tmp_path, capsys, words, message):
    try:
        code = cli.main(["corrupt", str(source), str(tmp_path / "out"), *words])
    except SystemExit as exit_:
        code = exit_.code
    error = capsys.readouterr().err
    assert code in (1, 2)
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_help_teaches_by_examples(capsys):
    with pytest.raises(SystemExit):
        cli.main(["corrupt", "--help"])
    text = capsys.readouterr().out
    assert "tapadl corrupt photos photos-c --corruptions fog motion_blur --size keep" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_hostile_file_name_does_not_reach_the_terminal(tmp_path, capsys):
    assert cli.main(["corrupt", str(tmp_path / "a\x1b[2Jb"), str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert "a\\x1b[2Jb" in told
    assert "\x1b" not in told
