"""Cityscapes: streets of 50 cities, and corrupted copies of its validation images."""

from pathlib import Path

from tapadl.data.segmentation.files import SegmentationFiles
from tapadl.data.segmentation.labels import CITYSCAPES, CITYSCAPES_TRAIN_IDS
from tapadl.data.segmentation.pairing import check_root, check_split, files_below, images_below, paired
from tapadl.data.stored import IMAGENET_C, IMAGENET_C_EXTRA

IMAGES, LABELS, STORED = "leftImg8bit", "gtFine", "leftImg8bit-c"
_IMAGE_END = f"_{IMAGES}.png"


def cityscapes(root: str | Path, split: str) -> SegmentationFiles:
    """The finely labelled images of Cityscapes.

    Args:
        root: The folder with `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and
            `gtFine/SPLIT/CITY/*_gtFine_labelIds.png`, or `*_gtFine_labelTrainIds.png` where these are not.
        split: "train" (2,975 images), "val" (500) or "test" (1,525, whose labels its authors keep).

    Returns:
        Of the test split without label files.

    Raises:
        OSError: If a folder or the label file of an image is missing.
        ValueError: If the split is none of these or has no images, or a label file has no image.

    Source:
        Cordts et al., "The Cityscapes Dataset", CVPR 2016, arXiv:1604.01685.
    """
    check_split(split)
    root = Path(root)
    check_root(root, (IMAGES,) if split == "test" else (IMAGES, LABELS), "Cityscapes")
    images = files_below(root, f"{IMAGES}/{split}", _IMAGE_END)
    if split == "test":
        return SegmentationFiles(root, tuple(images), (), CITYSCAPES)
    stems = [image.removeprefix(f"{IMAGES}/").removesuffix(_IMAGE_END) for image in images]
    return _with_labels(root, images, stems, split)


def _with_labels(root: Path, images: list[str], stems: list[str], split: str) -> SegmentationFiles:
    ids, train_ids = (f"_{LABELS}_{kind}.png" for kind in ("labelIds", "labelTrainIds"))
    first = root / LABELS / stems[0]
    only_train_ids = Path(f"{first}{train_ids}").is_file() and not Path(f"{first}{ids}").is_file()
    end, scheme = (train_ids, CITYSCAPES_TRAIN_IDS) if only_train_ids else (ids, CITYSCAPES)
    masks = [f"{LABELS}/{stem}{end}" for stem in stems]
    return paired(root, images, masks, scheme, {f"{LABELS}/{split}": end})


def looks_stored(root: str | Path) -> bool:
    """Whether corrupted copies of the validation images lie in a folder of Cityscapes."""
    return (Path(root) / STORED).is_dir()


def stored_cityscapes_c(root: str | Path) -> dict[tuple[str, int], SegmentationFiles]:
    """Corrupted copies of the validation images, by corruption and severity.

    They lie in `leftImg8bit-c/CORRUPTION/SEVERITY/CITY/`, named as the images, beside `gtFine`:

        tapadl corrupt ROOT/leftImg8bit/val ROOT/leftImg8bit-c --corruptions all --size keep --constants 224

    Raises:
        OSError: If a folder or the label file of an image is missing.
        ValueError: If a folder is named like no corruption or severity, or lacks an image that has labels.
    """
    root = Path(root)
    check_root(root, (STORED, LABELS), "stored Cityscapes-C")
    found = {}
    for corruption in _folders(root / STORED, [*IMAGENET_C, *IMAGENET_C_EXTRA]):
        for severity in _folders(root / STORED / corruption, [str(number) for number in range(1, 6)]):
            folder = f"{STORED}/{corruption}/{severity}"
            images = images_below(root, folder)
            stems = [f"val/{_stem(image.removeprefix(f'{folder}/'), root)}" for image in images]
            found[corruption, int(severity)] = _with_labels(root, images, stems, "val")
    return found


def _stem(path: str, root: Path) -> str:
    """The path without its ending; copies may be stored as jpeg."""
    stem = path.rpartition(".")[0]
    if not stem.endswith(f"_{IMAGES}") or path.count("/") != 1:
        raise ValueError(
            f"expected an image CITY/NAME_{IMAGES} below each severity in {root / STORED}, got {path}"
        )
    return stem.removesuffix(f"_{IMAGES}")


def _folders(folder: Path, known: list[str]) -> list[str]:
    found = [child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")]
    strangers = sorted(set(found) - set(known))
    if strangers or not found:
        raise ValueError(
            f"expected folders out of {', '.join(known)} in {folder}, got {', '.join(strangers) or 'none'}"
        )
    return [name for name in known if name in found]
