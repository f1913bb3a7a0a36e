import sys

import av
import numpy as np
import pytest
import torch

from tapadl.data.perturbation import PerturbationSequences, read_film, stored_perturbations


def write_film(path, frames, codec="libx264rgb", pixels="rgb24", options=None):
    """Frames (T, H, W, 3) as mp4; without loss unless asked otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(codec, rate=1, options=options or {"crf": "0"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def film_frames(count=31, seed=0):
    """Smooth pictures that change a little."""
    phase = np.random.default_rng(seed).uniform(0, 6, 3)
    time, y, x = np.mgrid[0:count, 0:48, 0:64]
    waves = [np.sin(x / 9 + time / 20 + p) * np.cos(y / 7 - p) for p in phase]
    return np.round(127.5 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagenet-p")
    for name in ("tilt", "gaussian_noise"):
        for class_name, films in (("n02", ("b", "a")), ("n01", ("d", "c"))):
            for film in films:
                write_film(folder / name / class_name / f"{film}.mp4", film_frames(4, seed=ord(film)))
    (folder / "tilt" / "n01" / "notes.txt").write_text("no film")
    return folder


def test_frames_without_loss_come_back_exactly(tmp_path):
    frames = film_frames()
    film = read_film(write_film(tmp_path / "a.mp4", frames))
    assert (film.dtype, film.shape) == (torch.uint8, (31, 3, 48, 64))
    assert torch.equal(film, torch.from_numpy(frames).permute(0, 3, 1, 2))


def test_frames_stored_as_imagenet_p_was_come_back_nearly(tmp_path):
    frames = film_frames()
    film = read_film(write_film(tmp_path / "a.mp4", frames, "libx264", "yuv444p", {"crf": "20"}))
    difference = film.permute(0, 2, 3, 1).int() - torch.from_numpy(frames).int()
    assert film.shape == (31, 3, 48, 64)
    assert difference.abs().float().mean() < 3
    assert difference.float().mean().abs() < 1


def test_films_are_listed_class_by_class_by_name(root):
    sequences = PerturbationSequences(root / "tilt")
    assert len(sequences) == 4
    assert sequences.paths == ("n01/c.mp4", "n01/d.mp4", "n02/a.mp4", "n02/b.mp4")
    assert sequences.labels == (0, 0, 1, 1)
    assert sequences.class_names == ("n01", "n02")
    assert sequences.outputs is None
    expected = torch.from_numpy(film_frames(4, seed=ord("d"))).permute(0, 3, 1, 2)
    assert torch.equal(sequences.frames(1), expected)


def test_a_subset_holds_as_many_of_each_class(root):
    part = PerturbationSequences(str(root / "tilt")).subset(2)
    assert len(part) == 2
    assert part.labels == (0, 1)
    whole = PerturbationSequences(root / "tilt")
    assert [whole.paths[position] for position in part.positions] == list(part.paths)
    assert part.frames(1).shape == (4, 3, 48, 64)
    assert part.fingerprint != PerturbationSequences(root / "tilt").fingerprint


def test_a_benchmark_is_its_perturbations(root):
    stored = stored_perturbations(root)
    assert list(stored) == ["gaussian_noise", "tilt"]
    assert stored["tilt"].fingerprint == PerturbationSequences(root / "tilt").fingerprint


@pytest.mark.parametrize("depth", ["too high", "too low"])
def test_a_folder_on_another_level_is_named(root, depth):
    with pytest.raises(ValueError, match=f"is one level {depth}"):
        PerturbationSequences(root) if depth == "too high" else stored_perturbations(root / "tilt")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_film_cut_short_is_named(tmp_path, share):
    path = write_film(tmp_path / "short.mp4", film_frames())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(OSError, match=r"whole mp4 film at .*short\.mp4, but it does not decode"):
        read_film(path)


@pytest.mark.parametrize("content", [b"", b"not a film at all" * 100])
def test_what_is_no_film_is_named(tmp_path, content):
    path = tmp_path / "other.mp4"
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"whole mp4 film at .*other\.mp4"):
        read_film(path)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a film at .*gone\.mp4"):
        read_film(tmp_path / "gone.mp4")
    with pytest.raises(FileNotFoundError, match="expected a folder at"):
        PerturbationSequences(tmp_path / "gone")
    (tmp_path / "n01").mkdir()
    with pytest.raises(ValueError, match=r"expected films \(\.mp4\) in the class folder .*n01, got none"):
        PerturbationSequences(tmp_path)


def test_without_the_decoder_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(RuntimeError, match=r"pip install 'tapadl\[video\]'"):
        read_film(tmp_path / "a.mp4")
