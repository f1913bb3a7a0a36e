"""ACDC: streets in fog, at night, in rain and in snow, with the classes of Cityscapes."""

from pathlib import Path

from tapadl.data.segmentation.files import SegmentationFiles
from tapadl.data.segmentation.labels import CITYSCAPES, CITYSCAPES_TRAIN_IDS
from tapadl.data.segmentation.pairing import check_root, check_split, files_below, paired

CONDITIONS = ("fog", "night", "rain", "snow")
IMAGES, LABELS = "rgb_anon", "gt"
_IMAGE_END = f"_{IMAGES}.png"


def acdc(root: str | Path, split: str, condition: str | None = None) -> SegmentationFiles:
    """The images of ACDC in adverse conditions; those of the same places in good weather are left out.

    Args:
        root: The folder with `rgb_anon/CONDITION/SPLIT/SEQUENCE/*_rgb_anon.png` and
            `gt/CONDITION/SPLIT/SEQUENCE/*_gt_labelTrainIds.png`, or `*_gt_labelIds.png` where these are not.
        split: "train" (1,600 images), "val" (406) or "test" (2,000, whose labels its authors keep).
        condition: One of `CONDITIONS`; None for all.

    Returns:
        Of the test split without label files.

    Raises:
        OSError: If a folder or the label file of an image is missing.
        ValueError: If the split or the condition is none of these or has no images, or a label file has none.

    Source:
        Sakaridis, Dai, Van Gool, "ACDC: The Adverse Conditions Dataset with Correspondences", ICCV 2021,
        arXiv:2104.13395.
    """
    check_split(split)
    if condition not in (None, *CONDITIONS):
        raise ValueError(f"expected a condition out of {', '.join(CONDITIONS)}, got {condition!r}")
    root = Path(root)
    check_root(root, (IMAGES,) if split == "test" else (IMAGES, LABELS), "ACDC")
    folders = [f"{one}/{split}" for one in (CONDITIONS if condition is None else (condition,))]
    images = [image for folder in folders for image in files_below(root, f"{IMAGES}/{folder}", _IMAGE_END)]
    if split == "test":
        return SegmentationFiles(root, tuple(images), (), CITYSCAPES)
    stems = [image.removeprefix(f"{IMAGES}/").removesuffix(_IMAGE_END) for image in images]
    ids, train_ids = (f"_{LABELS}_{kind}.png" for kind in ("labelIds", "labelTrainIds"))
    first = root / LABELS / stems[0]
    only_ids = Path(f"{first}{ids}").is_file() and not Path(f"{first}{train_ids}").is_file()
    end, scheme = (ids, CITYSCAPES) if only_ids else (train_ids, CITYSCAPES_TRAIN_IDS)
    masks = [f"{LABELS}/{stem}{end}" for stem in stems]
    return paired(root, images, masks, scheme, {f"{LABELS}/{folder}": end for folder in folders})
