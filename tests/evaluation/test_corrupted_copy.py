import hashlib
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from tapadl.corruptions import constants_for, corrupt, frost_source
from tapadl.data.stored import stored_corruptions
from tapadl.evaluation import corrupted_copy, corrupted_image
from tapadl.evaluation.corrupted_copy import CorruptedCopy
from tapadl.evaluation.corrupted_image import CopySettings

NAMES = ("cat/a.png", "cat/b.jpg", "cat-big/c.png", "dog/d.PNG", "e.png")
SETTINGS = CopySettings(("gaussian_noise", "contrast"), (1, 4), size=32, seed=7)


def picture(seed, width=60, height=48):
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "images"
    for seed, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(folder / name)
    (folder / "cat" / "notes.txt").write_text("no image")
    (folder / ".hidden").mkdir()
    picture(9).save(folder / ".hidden" / "f.png")
    return folder


def hashes(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def corrupted_files(folder):
    return {name: sha for name, sha in hashes(folder).items() if name.count("/") >= 2}


def test_every_image_is_there_in_every_way_under_its_own_path(source, tmp_path):
    out = tmp_path / "out"
    summary = CorruptedCopy(source, out, SETTINGS).run()
    expected = {
        f"{cell}/{path}"
        for cell in ("gaussian_noise/1", "gaussian_noise/4", "contrast/1", "contrast/4")
        for path in ("cat/a.png", "cat/b.png", "cat-big/c.png", "dog/d.png", "e.png")
    }
    assert set(hashes(out)) == expected | {"manifest.json", "job.json", ".lock"}
    assert (summary.images, summary.files, summary.continued, summary.skipped) == (5, 20, 0, {})


@pytest.mark.parametrize(("path", "index"), [("cat/b.jpg", 1), ("cat-big/c.png", 2), ("e.png", 4)])
def test_a_file_is_the_resized_cropped_image_corrupted_with_its_position(source, tmp_path, path, index):
    out = tmp_path / "out"
    CorruptedCopy(source, out, SETTINGS).run()
    published = v2.Compose([v2.Resize(int(32 * 8 / 7)), v2.CenterCrop(32), v2.PILToTensor()])
    with Image.open(source / path) as image:
        images = published(image.convert("RGB"))[None].float() / 255
    for corruption, severity in (("gaussian_noise", 4), ("contrast", 1)):
        corrupted = corrupt(images, corruption, severity, seed=7, indices=torch.tensor([index]))
        with Image.open((out / corruption / str(severity) / path).with_suffix(".png")) as written:
            pixels = torch.from_numpy(np.array(written)).permute(2, 0, 1).float()
        assert (pixels - corrupted[0] * 255).abs().max() <= 0.5001


def test_at_224_the_crop_is_the_published_one(tmp_path):
    image = picture(3, 500, 375)
    published = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()])
    assert torch.equal(CopySettings(("fog",)).prepare(image), published(image))


def test_images_keep_their_size_and_the_manifest_says_whose_constants(source, tmp_path):
    settings = CopySettings(("contrast",), (3,), size=None)
    CorruptedCopy(source, tmp_path / "out", settings).run()
    with Image.open(tmp_path / "out" / "contrast" / "3" / "e.png") as image:
        assert image.size == (60, 48)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["constants"]["of"].startswith("the shorter side of each image")


def test_jpeg_is_at_quality_85_and_keeps_the_names_of_jpeg_files(source, tmp_path):
    CorruptedCopy(source, tmp_path / "png", CopySettings(("contrast",), (1,), size=32)).run()
    CorruptedCopy(source, tmp_path / "out", CopySettings(("contrast",), (1,), 32, "jpeg85")).run()
    cell = tmp_path / "out" / "contrast" / "1"
    assert (cell / "cat" / "b.jpg").exists()
    assert (cell / "e.jpg").exists()
    with Image.open(tmp_path / "png" / "contrast" / "1" / "e.png") as exact:
        exact.save(tmp_path / "again.jpg", quality=85)
    with Image.open(tmp_path / "again.jpg") as again, Image.open(cell / "e.jpg") as written:
        assert written.quantization == again.quantization
        assert np.array_equal(np.array(written), np.array(again))


def test_gray_images_have_one_channel_of_noise(source, tmp_path):
    CorruptedCopy(source, tmp_path / "out", CopySettings(("gaussian_noise",), (5,), 32, gray=True)).run()
    with Image.open(tmp_path / "out" / "gaussian_noise" / "5" / "e.png") as image:
        assert image.mode == "L"


def test_the_manifest_lists_hashes_constants_seed_and_versions(source, tmp_path):
    out = tmp_path / "out"
    settings = CopySettings(("gaussian_noise", "frost"), (2,), size=48, seed=3)
    CorruptedCopy(source, out, settings).run(command="tapadl corrupt IN OUT")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["files"] == corrupted_files(out)
    assert manifest["command"] == "tapadl corrupt IN OUT"
    assert (manifest["settings"]["seed"], manifest["settings"]["frost"]) == (3, frost_source())
    expected = constants_for("gaussian_noise", 2, 48)
    assert manifest["constants"]["gaussian_noise/2"] == {
        **expected.values,
        "published_size": expected.published_size,
        "scaled": False,
    }
    assert {"tapadl", "torch", "numpy", "pillow", "python"} <= set(manifest["versions"])
    assert str(tmp_path) not in (out / "manifest.json").read_text()


def test_the_copy_is_read_as_a_stored_benchmark(tmp_path):
    for name in ("cat/a.png", "dog/b.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        picture(0).save(tmp_path / "in" / name)
    settings = CopySettings(("gaussian_blur", "brightness"), size=32)
    CorruptedCopy(tmp_path / "in", tmp_path / "out", settings).run()
    stored = stored_corruptions(tmp_path / "out", ["brightness"])
    assert sorted(stored) == [("brightness", severity) for severity in range(1, 6)]
    assert stored["brightness", 2].class_names == ("cat", "dog")


def test_workers_change_nothing(source, tmp_path):
    CorruptedCopy(source, tmp_path / "one", SETTINGS).run(workers=1)
    CorruptedCopy(source, tmp_path / "two", SETTINGS).run(workers=2)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


@pytest.mark.parametrize("files_before", [1, 6, 19])
def test_an_interrupted_job_goes_on_and_ends_with_the_same_bytes(source, tmp_path, monkeypatch, files_before):
    CorruptedCopy(source, tmp_path / "whole", SETTINGS).run()
    out, written = tmp_path / "out", []

    def write_until_killed(path, content):
        if len(written) == files_before:
            # what a kill leaves: a temporary file, and a line of the journal cut short
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.77.tmp").write_bytes(content[:10])
            with (out / "journal.jsonl").open("ab") as journal:
                journal.write(b'{"image": "cat/a')
            raise KeyboardInterrupt
        written.append(path)
        real(path, content)

    real = corrupted_image.write_atomically
    monkeypatch.setattr(corrupted_image, "write_atomically", write_until_killed)
    with pytest.raises(KeyboardInterrupt):
        CorruptedCopy(source, out, SETTINGS).run()
    assert not (out / "manifest.json").exists()
    finished = [
        name
        for line in (out / "journal.jsonl").read_text().splitlines()[:-1]
        for name in json.loads(line)["files"]
    ]
    stamps = {name: os.stat(out / name).st_mtime_ns for name in finished}
    assert len(stamps) == files_before // 4 * 4
    monkeypatch.setattr(corrupted_image, "write_atomically", real)
    steps = []
    summary = CorruptedCopy(source, out, SETTINGS).run(advance=steps.append)
    assert hashes(out) == hashes(tmp_path / "whole")
    assert {name: os.stat(out / name).st_mtime_ns for name in stamps} == stamps
    assert (summary.continued, sum(steps)) == (files_before // 4, 5)


def test_a_file_that_was_removed_is_written_again(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    CorruptedCopy(source, tmp_path / "whole", SETTINGS).run()
    monkeypatch.setattr(CorruptedCopy, "_write_manifest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        CorruptedCopy(source, out, SETTINGS).run()
    monkeypatch.undo()
    (out / "contrast" / "1" / "e.png").unlink()
    assert CorruptedCopy(source, out, SETTINGS).run().continued == 4
    assert hashes(out) == hashes(tmp_path / "whole")


def test_a_damaged_journal_costs_time_and_nothing_else(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    CorruptedCopy(source, tmp_path / "whole", SETTINGS).run()
    monkeypatch.setattr(CorruptedCopy, "_write_manifest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        CorruptedCopy(source, out, SETTINGS).run()
    monkeypatch.undo()
    lines = (out / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (out / "journal.jsonl").write_bytes(b"".join((*lines[:2], b"\0" * 40 + b"\n", *lines[3:])))
    assert CorruptedCopy(source, out, SETTINGS).run().continued == 2
    assert hashes(out) == hashes(tmp_path / "whole")


def test_a_finished_copy_is_not_touched(source, tmp_path):
    out = tmp_path / "out"
    CorruptedCopy(source, out, SETTINGS).run()
    before = hashes(out)
    with pytest.raises(FileExistsError, match=r"holds a finished corrupted copy .*; name another folder$"):
        CorruptedCopy(source, out, SETTINGS).run()
    assert hashes(out) == before


@pytest.mark.parametrize(
    "change", [{"seed": 8}, {"severities": (1,)}, {"size": 40}, {"format": "jpeg85"}, "images"]
)
def test_another_job_is_not_gone_on_with(source, tmp_path, monkeypatch, change):
    out = tmp_path / "out"
    monkeypatch.setattr(CorruptedCopy, "_copy", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        CorruptedCopy(source, out, SETTINGS).run()
    monkeypatch.undo()
    settings = SETTINGS if change == "images" else replace(SETTINGS, **change)
    if change == "images":
        picture(5).save(source / "more.png")
    with pytest.raises(FileExistsError, match=r"expected the same unfinished job .* differs in settings"):
        CorruptedCopy(source, out, settings).run()


def test_a_folder_with_other_files_is_refused(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds other files; name another folder"):
        CorruptedCopy(source, tmp_path / "out", SETTINGS).run()


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("images", "outside of"),
        ("images/out", "outside of"),
        ("images/../images/cat", "outside of"),
        (".", "lies inside it"),
    ],
)
def test_neither_folder_may_lie_in_the_other(source, tmp_path, inside, message):
    with pytest.raises(ValueError, match=message):
        CorruptedCopy(source, tmp_path / inside, SETTINGS)
    assert not (source / "out").exists()


def test_an_image_that_does_not_decode_stops_the_job_or_is_skipped_and_listed(source, tmp_path):
    broken = source / "cat" / "b.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cat/b\.jpg, but it does not decode .*; --on-error skip goes on"):
        CorruptedCopy(source, tmp_path / "out", SETTINGS).run()
    # the others keep their random numbers, and what is finished stays
    summary = CorruptedCopy(source, tmp_path / "out", SETTINGS).run(on_error="skip")
    assert list(summary.skipped) == ["cat/b.jpg"]
    assert (summary.images, summary.files) == (4, 16)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert "does not decode" in manifest["skipped"]["cat/b.jpg"]
    assert str(tmp_path) not in json.dumps(manifest)
    assert manifest["files"] == corrupted_files(tmp_path / "out")
    picture(1).save(broken)
    CorruptedCopy(source, tmp_path / "whole", SETTINGS).run()
    whole = corrupted_files(tmp_path / "whole")
    assert all(whole[name] == sha for name, sha in manifest["files"].items())


def test_a_job_goes_on_when_a_damaged_image_was_replaced_and_one_that_changed_is_done_again(source, tmp_path):
    broken, changed = source / "cat" / "b.jpg", source / "cat" / "a.png"
    whole, before = broken.read_bytes(), changed.read_bytes()
    broken.write_bytes(whole[:200])
    picture(9).save(changed)
    assert len(changed.read_bytes()) != len(before)
    with pytest.raises(ValueError, match="does not decode"):
        CorruptedCopy(source, tmp_path / "out", SETTINGS).run()
    broken.write_bytes(whole)
    changed.write_bytes(before)
    CorruptedCopy(source, tmp_path / "out", SETTINGS).run()
    CorruptedCopy(source, tmp_path / "fresh", SETTINGS).run()
    assert hashes(tmp_path / "out") == hashes(tmp_path / "fresh")


def test_files_of_an_image_that_can_no_longer_be_read_do_not_stay(source, tmp_path, monkeypatch):
    monkeypatch.setattr(CorruptedCopy, "_write_manifest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        CorruptedCopy(source, tmp_path / "out", SETTINGS).run()
    monkeypatch.undo()
    broken = source / "cat" / "b.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    CorruptedCopy(source, tmp_path / "out", SETTINGS).run(on_error="skip")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["files"] == corrupted_files(tmp_path / "out")


def test_where_no_image_decodes_the_job_fails(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="none of 1 can be read"):
        CorruptedCopy(tmp_path / "in", tmp_path / "out", SETTINGS).run(on_error="skip")


def test_two_images_for_one_file_are_named(source, tmp_path):
    picture(0).save(source / "cat" / "a.webp")
    with pytest.raises(ValueError, match=r"got cat/a\.png and cat/a\.webp; rename one"):
        CorruptedCopy(source, tmp_path / "out", SETTINGS)


def test_another_process_at_work_is_waited_for(source, tmp_path, monkeypatch):
    def meanwhile(*_):
        with pytest.raises(BlockingIOError, match="another corrupted copy is at work"):
            CorruptedCopy(source, tmp_path / "out", SETTINGS).run()
        yield from ()

    monkeypatch.setattr(corrupted_copy, "map_side_by_side", lambda *_, **__: meanwhile())
    monkeypatch.setattr(CorruptedCopy, "_write_manifest", lambda *_: None)
    CorruptedCopy(source, tmp_path / "out", SETTINGS).run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corruptions": ("mist",)}, "expected a corruption out of"),
        ({"corruptions": ()}, "at least one corruption"),
        ({"corruptions": ("fog", "fog")}, "expected each once, got fog, fog"),
        ({"severities": (0,)}, "expected a severity"),
        ({"size": 0}, "expected image_size"),
        ({"constants_size": -1}, "expected image_size"),
        ({"seed": -1}, "expected seed"),
        ({"format": "gif"}, "expected a format out of png, jpeg85, got 'gif'"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        CopySettings(**({"corruptions": ("fog",)} | changes))


@pytest.mark.parametrize(
    ("arguments", "message"), [({"workers": 0}, "workers"), ({"on_error": "go"}, "on_error")]
)
def test_wrong_ways_to_run_are_named(source, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        CorruptedCopy(source, tmp_path / "out", SETTINGS).run(**arguments)
