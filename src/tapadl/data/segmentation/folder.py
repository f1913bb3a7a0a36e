"""A segmentation data set of one's own: images, masks, and a file that names the classes."""

import json
from pathlib import Path
from typing import Any

from tapadl.data.segmentation.files import SegmentationFiles
from tapadl.data.segmentation.labels import IGNORE, LabelScheme, distinct_colours
from tapadl.data.segmentation.pairing import check_root, check_split, images_below, paired

CLASSES = "classes.json"
_KEYS = ("class_names", "values", "ignored", "colours")


def folder(root: str | Path, split: str) -> SegmentationFiles:
    """Images and masks of one's own.

    `SPLIT/images/` and `SPLIT/masks/` hold files of equal names up to the ending, in folders of equal names
    if there are any; masks are png files of one number a pixel. `classes.json` beside the splits says what
    the numbers mean:

        {"class_names": ["road", "sky"], "values": [0, 1], "ignored": [255],
         "colours": [[128, 64, 128], [70, 130, 180]]}

    All but the names may be left out: then the classes are 0, 1, ..., 255 does not count, and colours are
    chosen. Without a folder `masks` the split is one to predict.

    Args:
        root: The folder of the splits.
        split: "train", "val" or "test".

    Raises:
        OSError: If a folder, `classes.json` or the mask of an image is missing.
        ValueError: If the split is none of these or has no images, `classes.json` is damaged, or there are
            masks without an image.
    """
    check_split(split)
    root = Path(root)
    check_root(root, (split,), "your images and masks")
    check_root(root / split, ("images",), f"the split {split}")
    scheme = read_scheme(root / CLASSES)
    images = images_below(root, f"{split}/images")
    if not (root / split / "masks").exists():
        return SegmentationFiles(root, tuple(images), (), scheme)
    start = len(f"{split}/images/")
    masks = [f"{split}/masks/{image[start:].rpartition('.')[0]}.png" for image in images]
    return paired(root, images, masks, scheme, {f"{split}/masks": ".png"})


def read_scheme(path: Path) -> LabelScheme:
    """The classes in a file, as `folder` describes it.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it holds something else.
    """
    try:
        content: Any = json.loads(path.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"expected the names of the classes in {path}, but there is none") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON in {path}, got {error}") from None
    if not isinstance(content, dict) or "class_names" not in content or not set(content) <= set(_KEYS):
        raise ValueError(f'expected {{"class_names": [...]}}, and no key but {", ".join(_KEYS)}, in {path}')
    try:
        names = tuple(content["class_names"])
        if not all(isinstance(name, str) for name in names) or isinstance(content["class_names"], str):
            raise ValueError("class_names that are no list of texts")
        values = tuple(content.get("values", range(len(names))))
        ignored = tuple(content.get("ignored", () if IGNORE in values else (IGNORE,)))
        if not all(type(number) is int for number in (*values, *ignored)):
            raise ValueError("values that are no whole numbers")
        colours = tuple((r, g, b) for r, g, b in content.get("colours", distinct_colours(len(names))))
        if not all(type(part) is int for colour in colours for part in colour):
            raise ValueError("parts of colours that are no whole numbers")
        return LabelScheme(names, values, ignored, colours)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"expected names, values, ignored values and colours of classes in {path}: {error}"
        ) from None
