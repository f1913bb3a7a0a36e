import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image
from timm.data.readers.reader_image_in_tar import ReaderImageInTar

from tapadl.data.tar_shards import tar_images


def png(number):
    content = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def write_tar(path, members, mode="w"):
    """A tar file with the given (name, content) in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_shards(folder, labels, *, suffix="cls"):
    """Two webdataset shards whose samples have these labels."""
    for shard in range(2):
        members = []
        for number, label in list(enumerate(labels))[shard::2]:
            text = str(label) if suffix == "cls" else json.dumps({"label": label, "caption": "x"})
            members += [(f"{number:04}.{suffix}", text.encode()), (f"{number:04}.png", png(number))]
        write_tar(folder / f"train-{shard:04}.tar", members)
    return folder


def contents(images):
    return {
        (images.image(index).tobytes(), images.class_names[images.labels[index]])
        for index in range(len(images))
    }


def as_timm_reads(root):
    reader = ReaderImageInTar(str(root))
    found = set()
    for index in range(len(reader)):
        file, label = reader[index]
        found.add((Image.open(file).tobytes(), reader.class_idx_to_name[label]))
    for state in [reader.tar_state] if reader.root_is_tar else reader.tar_state.values():
        state.tf.fileobj.close()
    return found


def test_class_folders_in_a_tar_file_are_read_as_timm_reads_them(tmp_path):
    members = [(f"train/{name}/{number}.png", png(number)) for number, name in enumerate("bacab")]
    path = write_tar(
        tmp_path / "train.tar", [*members, ("train/readme.txt", b"x"), ("train/a/._1.png", b"x")]
    )
    images = tar_images(str(path))
    assert images.class_names == ("a", "b", "c")
    assert images.labels == (1, 0, 2, 0, 1)
    assert contents(images) == as_timm_reads(write_tar(tmp_path / "plain" / "train.tar", members))


def test_a_folder_with_one_tar_file_a_class_is_read_as_timm_reads_it(tmp_path):
    for number, name in enumerate(("n02", "n01")):
        write_tar(tmp_path / f"{name}.tar", [(f"{name}_{k}.png", png(10 * number + k)) for k in range(3)])
    images = tar_images(str(tmp_path))
    assert images.class_names == ("n01", "n02")
    assert images.labels == (0, 0, 0, 1, 1, 1)
    assert contents(images) == as_timm_reads(tmp_path)


def test_tar_files_inside_a_tar_file_are_read_as_timm_reads_them(tmp_path):
    inner = []
    for number, name in enumerate(("n01", "n02")):
        path = write_tar(
            tmp_path / "inner" / f"{name}.tar", [(f"{k}.png", png(10 * number + k)) for k in range(3)]
        )
        inner.append((path.name, path.read_bytes()))
    path = write_tar(tmp_path / "all.tar", inner)
    images = tar_images(str(path))
    assert images.class_names == ("n01", "n02")
    assert contents(images) == as_timm_reads(path)
    assert images.location(4) == f"{path}/n02/1.png"


@pytest.mark.parametrize("suffix", ["cls", "json"])
@pytest.mark.parametrize("pattern", ["", "train-{0000..0001}.tar", "train-*.tar"])
def test_webdataset_shards_give_images_with_their_numbers(tmp_path, suffix, pattern):
    write_shards(tmp_path, [2, 0, 2, 1, 0], suffix=suffix)
    images = tar_images(f"{tmp_path}/{pattern}" if pattern else str(tmp_path))
    assert images.class_names == ("0", "1", "2")
    assert images.labels == (2, 2, 0, 0, 1)
    for index, number in enumerate((0, 2, 4, 1, 3)):
        assert images.image(index).tobytes() == Image.open(io.BytesIO(png(number))).tobytes()


def test_other_files_of_a_sample_are_left_alone(tmp_path):
    members = [
        ("a/000.jpg", png(0)),
        ("a/000.seg.png", png(1)),
        ("a/000.cls", b"1"),
        ("a/000.txt", b"caption"),
        ("b/000.jpg", png(2)),
        ("b/000.cls", b"0"),
    ]
    images = tar_images(str(write_tar(tmp_path / "x.tar", members)))
    assert images.labels == (1, 0)
    assert images.class_names == ("0", "1")


def test_long_names_and_gnu_and_pax_headers_are_read(tmp_path):
    for number, form in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w", format=form) as tar:
            info = tarfile.TarInfo(f"klasse/{'ä' * 150}.png")
            info.size = len(png(number))
            tar.addfile(info, io.BytesIO(png(number)))
        images = tar_images(str(path))
        assert images.class_names == ("klasse",)
        assert images.image(0).tobytes() == Image.open(io.BytesIO(png(number))).tobytes()


def test_a_pickled_set_reads_the_same_and_has_the_same_fingerprint(tmp_path):
    write_shards(tmp_path, [2, 0, 2, 1, 0])
    images = tar_images(str(tmp_path))
    images.image(0)
    copy = pickle.loads(pickle.dumps(images))
    assert contents(copy) == contents(images)
    assert copy.fingerprint == images.fingerprint == tar_images(str(tmp_path)).fingerprint
    write_shards(tmp_path, [2, 0, 2, 1, 1])
    assert tar_images(str(tmp_path)).fingerprint != images.fingerprint


def test_a_subset_keeps_images_labels_and_positions_together(tmp_path):
    write_shards(tmp_path, [number % 3 for number in range(30)])
    images = tar_images(str(tmp_path))
    subset = images.subset(6)
    assert sorted(subset.labels) == [0, 0, 1, 1, 2, 2]
    for index, position in enumerate(subset.positions):
        assert subset.labels[index] == images.labels[position]
        assert subset.image(index).tobytes() == images.image(position).tobytes()
        assert subset.location(index) == images.location(position)
    assert set(subset.subset(3).positions) < set(subset.positions)
    assert subset.fingerprint != images.fingerprint


def test_an_image_that_does_not_decode_is_named_with_its_tar_file(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("cat/0.png", png(0)), ("cat/1.png", b"no image")])
    images = tar_images(str(path))
    with pytest.raises(OSError, match=r"x\.tar/cat/1\.png, but it does not decode"):
        images.image(1)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(OSError, match=r"x\.tar/cat/0\.png, but it does not decode"):
        images.image(0)
    path.unlink()
    with pytest.raises(OSError, match=r"bytes of an image at .*x\.tar/cat/0\.png"):
        images.image(0)


def test_a_tar_file_cut_short_is_refused(tmp_path):
    path = write_tar(tmp_path / "x.tar", [(f"cat/{number}.png", png(number)) for number in range(3)])
    path.write_bytes(path.read_bytes()[:1700])
    with pytest.raises(OSError, match=r"expected a whole, uncompressed tar file at .*x\.tar"):
        tar_images(str(path))


def test_a_compressed_tar_file_is_refused(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("cat/0.png", png(0))], mode="w:gz")
    with pytest.raises(OSError, match="uncompressed tar file"):
        tar_images(str(path))


@pytest.mark.parametrize("label", ["none", "-1", "3.5"])
def test_a_sample_without_a_label_is_refused(tmp_path, label):
    members = [("0.png", png(0)), ("0.cls", b"0"), ("1.png", png(1)), ("1.cls", label.encode())]
    path = write_tar(tmp_path / "x.tar", members)
    with pytest.raises(ValueError, match=r"its label .* in .*x\.tar, got none at 1\.png"):
        tar_images(str(path))


@pytest.mark.parametrize(
    "told", [("cls", b"cat"), ("json", b'{"class_id": 1}'), ("json", b'{"label": "cat"}')]
)
def test_label_files_that_tell_no_class_are_no_reason_to_take_the_name_of_the_shard(tmp_path, told):
    suffix, content = told
    path = write_tar(tmp_path / "x.tar", [("0.png", png(0)), (f"0.{suffix}", content)])
    with pytest.raises(ValueError, match=rf"expected a class.* beside 0\.png in .*, got none in 0\.{suffix}"):
        tar_images(str(path))
    folders = write_tar(tmp_path / "y.tar", [("cat/0.png", png(0)), (f"cat/0.{suffix}", content)])
    assert tar_images(str(folders)).class_names == ("cat",)


def test_two_images_of_one_sample_are_refused(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("0.png", png(0)), ("0.cls", b"0"), ("0.jpg", png(1))])
    with pytest.raises(ValueError, match=r"got a second one of the same sample at 0\.jpg"):
        tar_images(str(path))


def test_no_images_and_no_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected images .* got none"):
        tar_images(str(write_tar(tmp_path / "x.tar", [("a.txt", b"x")])))
    for pattern in ("y.tar", "y-*.tar", "empty"):
        with pytest.raises(FileNotFoundError, match="but there is no such file"):
            tar_images(f"{tmp_path}/{pattern}")
    with pytest.raises(FileNotFoundError, match=r"there is no .*train-0002\.tar"):
        tar_images(f"{write_shards(tmp_path, [0, 1])}/train-{{0000..0003}}.tar")


@pytest.mark.parametrize("damage", ["cut in a header", "damaged header", "a second archive"])
def test_what_tarfile_passes_over_in_silence_is_refused(tmp_path, damage):
    path = write_tar(tmp_path / "a.tar", [(f"cat/{k}.png", png(k)) for k in range(3)])
    with tarfile.open(path) as tar:
        second = tar.getmembers()[1].offset
    content = bytearray(path.read_bytes())
    if damage == "cut in a header":
        del content[second + 100 :]
    elif damage == "damaged header":
        content[second + 10] ^= 0xFF
    else:
        content += write_tar(tmp_path / "b.tar", [("cat/9.png", png(9))]).read_bytes()
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"a whole, uncompressed tar file at .*a\.tar"):
        tar_images(str(path))


def test_an_image_that_is_a_link_is_refused(tmp_path):
    path = tmp_path / "a.tar"
    write_tar(path, [("cat/0.png", png(0))])
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("cat/1.png")
        info.type, info.linkname = tarfile.LNKTYPE, "cat/0.png"
        tar.addfile(info)
    with pytest.raises(OSError, match=r"the image cat/1\.png is a link to cat/0\.png"):
        tar_images(str(path))


def test_two_splits_in_one_tar_file_are_not_mixed(tmp_path):
    members = [(f"{split}/{name}/0.png", png(0)) for split in ("train", "val") for name in ("cat", "dog")]
    path = write_tar(tmp_path / "data.tar", members)
    with pytest.raises(
        ValueError, match=r"one set of class folders in .*data\.tar, got .* train/cat/0\.png and"
    ):
        tar_images(str(path))


def test_a_number_that_is_no_class_is_told(tmp_path):
    write_shards(tmp_path, [0, 3735928559], suffix="json")
    with pytest.raises(ValueError, match=r"label .* for each sample .* got none at 0001\.png"):
        tar_images(str(tmp_path))
