import pytest

from tapadl.data.labelled_files import class_folders, read_classes
from tapadl.evaluation.image_tree import find_images


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def test_class_folders_have_the_order_of_an_evaluation(tmp_path):
    make(tmp_path, "a b/x.png", "a/y.png", "a-c/z.JPEG", "a/b.webp", "B/k.jpg", "a/notes.txt")
    tree = find_images(tmp_path)
    assert tree.paths == read_classes(tmp_path, class_folders(tmp_path)).paths
    assert tree.paths == ("B/k.jpg", "a/b.webp", "a/y.png", "a b/x.png", "a-c/z.JPEG")


def test_any_depth_is_found_and_hidden_things_are_left_out(tmp_path):
    make(tmp_path, "a.png", "deep/er/b.png", ".git/c.png", "deep/.d.png")
    assert find_images(tmp_path).paths == ("a.png", "deep/er/b.png")


def test_linked_folders_count_and_circles_are_named(tmp_path):
    make(tmp_path / "elsewhere", "a.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    assert find_images(tmp_path / "root").paths == ("link/a.png",)
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "root")
    with pytest.raises(ValueError, match="leads back to"):
        find_images(tmp_path / "root")


def test_the_fingerprint_knows_names(tmp_path):
    make(tmp_path, "a.png", "b.png")
    first = find_images(tmp_path).fingerprint
    assert find_images(tmp_path).fingerprint == first
    (tmp_path / "a.png").rename(tmp_path / "c.png")
    assert find_images(tmp_path).fingerprint != first


def test_a_folder_without_images_or_none_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"expected images in .* or in folders inside it, got none"):
        find_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected a folder at"):
        find_images(tmp_path / "gone")
    with pytest.raises(NotADirectoryError, match="got a file"):
        find_images(tmp_path / "notes.txt")


def test_a_link_to_nothing_has_no_size(tmp_path):
    make(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    tree = find_images(tmp_path)
    assert [tree.size(path) for path in tree.paths] == [5, -1]
