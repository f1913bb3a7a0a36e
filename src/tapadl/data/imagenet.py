"""ImageNet's validation set, its relatives with other images, and any folder of classes."""

import hashlib
from pathlib import Path

from tapadl.data.class_names import are_numbers_of_v2, outputs_of, wordnet_ids
from tapadl.data.labelled_files import LabelledFiles, class_folders, read_classes
from tapadl.data.stored import is_stored_cell, looks_stored, stored_corruptions

__all__ = [
    "CLASSES_SHA256",
    "PUBLISHED_IMAGES",
    "image_folder",
    "imagenet",
    "imagenet_a",
    "imagenet_r",
    "imagenet_sketch",
    "imagenet_v2",
    "looks_stored",
    "stored_corruptions",
]

PUBLISHED_IMAGES = {
    "imagenet": 50_000,
    "imagenet-a": 7_500,
    "imagenet-r": 30_000,
    "imagenet-sketch": 50_889,
    "imagenet-v2": 10_000,
}
# SHA-256 of the sorted WordNet ids, joined by line feeds: tells the 200 classes without listing them.
CLASSES_SHA256 = {
    "imagenet-a": "f6aa4b23244554d9b864fd715ae20048f6a9686388911b2dfbf1ada01bf0f520",
    "imagenet-r": "e19a59d84e3746fafd34d2ccf6ae604a44e9a0500a596f343c878a89e30ce624",
}


def imagenet(root: str | Path) -> LabelledFiles:
    """ImageNet's validation set: 1,000 folders named by WordNet id.

    Args:
        root: The folder of the class folders. The official archive is flat; it has to be sorted into them.

    Raises:
        OSError: If the folder is missing or may not be read.
        ValueError: If the classes are others, a class is empty, or there are more than the 50,000 images of
            the validation set. Fewer images of each class are taken; `PUBLISHED_IMAGES` tells.

    Source:
        Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", arXiv:1409.0575.
    """
    if is_stored_cell(_folder(root)):
        raise ValueError(
            f"expected clean images, got {root}, one severity of a stored corruption; evaluate the folder "
            "above the corruptions as a stored benchmark"
        )
    return _thousand_classes(_folder(root), "imagenet")


def imagenet_sketch(root: str | Path) -> LabelledFiles:
    """ImageNet-Sketch: 50,889 drawings of the 1,000 classes, in folders named by WordNet id.

    Raises:
        OSError: If the folder is missing or may not be read.
        ValueError: If the classes are others, a class is empty, or there are more images than published.

    Source:
        Wang, Ge, Xing, Lipton, "Learning Robust Global Representations by Penalizing Local Predictive Power",
        arXiv:1905.13549.
    """
    return _thousand_classes(_folder(root), "imagenet-sketch")


def imagenet_a(root: str | Path) -> LabelledFiles:
    """ImageNet-A: 7,500 photographs of 200 classes, chosen because a ResNet-50 got them wrong.

    Raises:
        OSError: If the folder is missing or may not be read.
        ValueError: If the classes are others, a class is empty, or there are more images than published.

    Source:
        Hendrycks, Zhao, Basart, Steinhardt, Song, "Natural Adversarial Examples", arXiv:1907.07174.
    """
    return _two_hundred_classes(_folder(root), "imagenet-a")


def imagenet_r(root: str | Path) -> LabelledFiles:
    """ImageNet-R: 30,000 renditions (art, cartoons, toys and others) of 200 classes.

    Raises:
        OSError: If the folder is missing or may not be read.
        ValueError: If the classes are others, a class is empty, or there are more images than published.

    Source:
        Hendrycks et al., "The Many Faces of Robustness", arXiv:2006.16241.
    """
    return _two_hundred_classes(_folder(root), "imagenet-r")


def imagenet_v2(root: str | Path) -> LabelledFiles:
    """ImageNetV2, any of its three sets of 10,000 images: folders 0 to 999, taken in the order of numbers.

    Raises:
        OSError: If the folder is missing or may not be read.
        ValueError: If the folders are others, a class is empty, or there are more images than published.

    Source:
        Recht, Roelofs, Schmidt, Shankar, "Do ImageNet Classifiers Generalize to ImageNet?", arXiv:1902.10811.
    """
    folder = _folder(root)
    names = class_folders(folder)
    if not are_numbers_of_v2(names):
        raise ValueError(
            f"expected the class folders 0 to 999 of ImageNetV2 in {folder}, got {_shown(names)}"
        )
    return _at_most_published(read_classes(folder, sorted(names, key=int)), "imagenet-v2")


def image_folder(root: str | Path) -> LabelledFiles:
    """Any folder whose folders are classes, in the order of their names as torchvision's ImageFolder has it.

    Where all names are WordNet ids of ImageNet and some of the 1,000 are missing, `outputs` says which of
    the 1,000 outputs the classes are.

    Raises:
        OSError: If the folder is missing or may not be read.
        ValueError: If a class is empty, images lie beside or folders inside the classes, or the folders are
            0 to 999, which sorted as text are not the classes of ImageNetV2.
    """
    folder = _folder(root)
    names = class_folders(folder)
    if are_numbers_of_v2(names):
        raise ValueError(
            f"expected class folders that can be sorted as text in {folder}, got 0 to 999 as in ImageNetV2; "
            "read it as imagenet-v2"
        )
    return read_classes(folder, names, outputs_of(names))


def _thousand_classes(folder: Path, name: str) -> LabelledFiles:
    names = class_folders(folder)
    if names != wordnet_ids():
        raise ValueError(
            f"expected the 1000 class folders of ImageNet, named by WordNet id, in {folder}, "
            f"got {_shown(names)}; a part of the classes is evaluated as an image folder"
        )
    return _at_most_published(read_classes(folder, names), name)


def _two_hundred_classes(folder: Path, name: str) -> LabelledFiles:
    names = class_folders(folder)
    found = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    if found != CLASSES_SHA256[name]:
        other = next((other for other, sha256 in CLASSES_SHA256.items() if sha256 == found), None)
        raise ValueError(
            f"expected the 200 class folders of {name}, named by WordNet id, in {folder}, "
            f"got {f'those of {other}' if other else _shown(names)}; "
            "a part of the classes is evaluated as an image folder"
        )
    return _at_most_published(read_classes(folder, names, outputs_of(names)), name)


def _at_most_published(files: LabelledFiles, name: str) -> LabelledFiles:
    published = PUBLISHED_IMAGES[name]
    if len(files) > published:
        hint = "; is this the training set?" if name == "imagenet" else ""
        raise ValueError(
            f"expected at most the {published} images of {name} in {files.root}, got {len(files)}{hint}"
        )
    return files


def _folder(root: str | Path) -> Path:
    return Path(root).expanduser()


def _shown(names: tuple[str, ...]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
