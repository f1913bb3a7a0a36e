"""ADE20K: scenes of all kinds with 150 classes, as in the scene parsing challenge of 2016."""

from pathlib import Path

from tapadl.data.segmentation.files import SegmentationFiles
from tapadl.data.segmentation.labels import LabelScheme, distinct_colours
from tapadl.data.segmentation.pairing import check_root, check_split, images_below, paired

NUM_CLASSES = 150
CLASS_FILE = "objectInfo150.txt"
_FOLDERS = {"train": "training", "val": "validation"}


def ade20k(root: str | Path, split: str) -> SegmentationFiles:
    """The images of ADE20K with the 150 classes of its challenge; 0 in a label file does not count.

    Args:
        root: The folder `ADEChallengeData2016`, with `images/training`, `annotations/training` and the same
            of `validation`. Its `objectInfo150.txt` gives the names of the classes.
        split: "train" (20,210 images) or "val" (2,000).

    Raises:
        OSError: If a folder or the label file of an image is missing.
        ValueError: If the split is none of these or has no images, a label file has no image, or the file of
            names is damaged.

    Source:
        Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017.
    """
    check_split(split)
    if split not in _FOLDERS:
        raise ValueError(f"expected the split train or val of ADE20K, got {split!r}")
    root = Path(root)
    check_root(root, ("images", "annotations"), "ADE20K")
    images = images_below(root, f"images/{_FOLDERS[split]}")
    masks = [f"annotations/{image.removeprefix('images/').rpartition('.')[0]}.png" for image in images]
    scheme = LabelScheme(
        class_names=_class_names(root / CLASS_FILE),
        values=tuple(range(1, NUM_CLASSES + 1)),
        ignored=(0,),
        colours=distinct_colours(NUM_CLASSES),
    )
    return paired(root, images, masks, scheme, {f"annotations/{_FOLDERS[split]}": ".png"})


def _class_names(path: Path) -> tuple[str, ...]:
    """The first name of each class in the table of the data set, or numbers without one."""
    if not path.exists():
        return tuple(f"class {number}" for number in range(1, NUM_CLASSES + 1))
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:] if line.strip()]
    names = tuple(row[-1].split(",")[0].strip() for row in rows)
    if len(names) != NUM_CLASSES or not all(row[0].strip() == str(n) for n, row in enumerate(rows, 1)):
        raise ValueError(
            f"expected a heading and {NUM_CLASSES} numbered rows in {path}, got {len(rows)}; remove it to go "
            f"without names"
        )
    return names
