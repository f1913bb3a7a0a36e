r"""Scenes for segmentation that anyone can build: photographs of things pasted over photographs of places.

    apt install tuxpaint-stamps-default mate-backgrounds ukui-wallpapers \
        lomiri-wallpapers-16.04 lomiri-wallpapers-20.04
    python scripts/segmentation_scenes.py scenes

Street data need a licence; these packages of Debian are free. Their copyright files say GPL 2 or later for
the stamps, GPL 2 or later and CC BY-SA 4.0 for MATE's backgrounds, CC BY-SA 3.0 for UKUI's, CC BY 4.0 and
CC BY-SA 4.0 for Lomiri's. Scenes mix them.

The stamps of Tux Paint have an outline (alpha), and their top folders are the classes. Drawings are left out
by a rule: nothing in a folder `cartoon`, and distinct colours in one of five opaque pixels at least. A few
shaded drawings, mostly seasonal, and rendered wallpapers pass it. Flowers in a background are background.

Files of one folder whose names begin with the same word are a family: one thing in several views, mirrored,
recoloured or in several sizes. A class needs 12 families. A third of the families of backgrounds is kept for
the validation scenes: training does not show their places. It shows their things, elsewhere, in other sizes,
turned and lit otherwise: a class has too few for others to be left.

A scene follows from (seed, split, number) alone. Later stamps cover earlier ones; the class of a pixel is
that of the topmost stamp whose alpha is above one half there. The result is a folder as
`tapadl train --segmentation.dataset folder` and `tapadl evaluate --benchmark segmentation-folder` read it,
with `manifest.json`: seed, sizes, packages, and the SHA-256 of every picture that went in.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance
from rich.progress import track

STAMPS = Path("/usr/share/tuxpaint/stamps")
BACKGROUNDS = Path("/usr/share/backgrounds")
# By where their pictures lie: each package and its licence, as its copyright file has it.
PACKAGES = {
    STAMPS: {"tuxpaint-stamps-default": "GPL-2+"},
    BACKGROUNDS: {
        "mate-backgrounds": "GPL-2+ and CC-BY-SA-4.0",
        "ukui-wallpapers": "CC-BY-SA-3.0",
        "lomiri-wallpapers-16.04": "CC-BY-4.0 and CC-BY-SA-4.0",
        "lomiri-wallpapers-20.04": "CC-BY-4.0 and CC-BY-SA-4.0",
    },
}
BACKGROUND = "background"
# Of masks in pictures: dark gray for the background, then the colours of Okabe and Ito, which all can tell.
COLOURS = ("3c3c3c", "e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00", "cc79a7")
PHOTOGRAPH, SMALLEST_CLASS, SMALLEST_SIDE = 0.2, 12, 64
LARGEST_SIDE = 1024
SPLITS = ("train", "val")


class Scene(NamedTuple):
    """A picture and the class of every pixel."""

    image: Image.Image
    mask: Image.Image


class Pictures(NamedTuple):
    """What scenes of a split are made of: backgrounds, and by class the stamps."""

    backgrounds: list[Path]
    stamps: dict[str, list[Path]]


def colour_share(pixels: np.ndarray) -> float:
    """Distinct colours of pixels (N, 3), as a share of them; of 50,000 at most."""
    codes = pixels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    return len(np.unique(codes)) / max(1, min(len(pixels), 50_000))


def is_stamp(path: Path) -> bool:
    """Whether a file is a photograph with an outline, large enough to see what it shows."""
    if "cartoon" in path.parts:
        return False
    with Image.open(path) as picture:
        if picture.mode != "RGBA" or min(picture.size) < SMALLEST_SIDE:
            return False
        pixels = np.asarray(picture)
    opaque = pixels[..., 3] > 127
    return bool(0.05 < opaque.mean() < 0.97) and colour_share(pixels[opaque][:, :3]) >= PHOTOGRAPH


def is_background(path: Path) -> bool:
    """Whether a file is a photograph, judged at 320 x 200 pixels."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB").resize((320, 200), Image.Resampling.BOX))
    return colour_share(pixels.reshape(-1, 3)) >= PHOTOGRAPH


def family(path: Path) -> tuple[Path, str]:
    """The folder and the first word of the name: what pictures of one thing have in common.

    Example:
        >>> family(Path("nature/dumper_mirror.png")) == family(Path("nature/Dumper2.png"))
        True
    """
    word = re.match(r"\d*[^\W\d_]*", path.stem.lower())
    return path.parent, word.group() if word else ""


def divided(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Paths by split: every third family is for validation."""
    kept = set(sorted({family(path) for path in paths})[2::3])
    return {split: [path for path in paths if (family(path) in kept) == (split == "val")] for split in SPLITS}


def find_pictures(stamps: Path, backgrounds: Sequence[Path]) -> tuple[dict[str, Pictures], dict[str, int]]:
    """The pictures of each split; and the families of each class that has too few, which is left out.

    Raises:
        SystemExit: If there are too few.
    """
    places = [
        path
        for folder in backgrounds
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in (".jpg", ".jpeg", ".png") and is_background(path)
    ]
    classes, small = {}, {}
    for folder in sorted(path for path in stamps.iterdir() if path.is_dir()) if stamps.is_dir() else ():
        found = [path for path in sorted(folder.rglob("*.png")) if is_stamp(path)]
        count = len({family(path) for path in found})
        if count >= SMALLEST_CLASS:
            classes[folder.name] = found
        else:
            small[folder.name] = count
    count = len({family(path) for path in places})
    if count < 3 or len(classes) < 2:
        raise SystemExit(
            f"expected two classes of {SMALLEST_CLASS} families of stamps in {stamps} and three families of "
            f"photographs in {', '.join(map(str, backgrounds))}, got {len(classes)} and {count}; install "
            f"{', '.join(name for names in PACKAGES.values() for name in names)}, or name other folders"
        )
    return {split: Pictures(found, classes) for split, found in divided(places).items()}, small


def make_scene(pictures: Pictures, size: tuple[int, int], generator: np.random.Generator) -> Scene:
    """A background with two to five stamps on it.

    Args:
        pictures: Of the split.
        size: (rows, cols) in pixels.
        generator: Draws everything.
    """
    rows, cols = size
    image = crop_of(pictures.backgrounds[generator.integers(len(pictures.backgrounds))], size, generator)
    mask = Image.new("L", (cols, rows), 0)
    names = list(pictures.stamps)
    for _ in range(generator.integers(2, 6)):
        label = int(generator.integers(len(names)))
        paths = pictures.stamps[names[label]]
        stamp = changed(paths[generator.integers(len(paths))], rows * generator.uniform(0.3, 0.75), generator)
        left = int(generator.integers(-stamp.width // 4, max(1, cols - 3 * stamp.width // 4)))
        top = int(generator.integers(-stamp.height // 4, max(1, rows - 3 * stamp.height // 4)))
        image.paste(stamp, (left, top), stamp)
        mask.paste(label + 1, (left, top), stamp.getchannel("A").point(lambda alpha: 255 * (alpha > 127)))
    return Scene(image, mask)


@cache
def opened(path: Path, mode: str) -> Image.Image:
    """A picture, decoded once; a large one is made smaller, for scenes are."""
    with Image.open(path) as picture:
        picture.draft(mode, (LARGEST_SIDE, LARGEST_SIDE))
        picture = picture.convert(mode)
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BICUBIC)
    return picture


def crop_of(path: Path, size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    """A random part of a photograph, a quarter of it at least along one side."""
    rows, cols = size
    picture = opened(path, "RGB")
    width, height = picture.size
    share = generator.uniform(0.25, 1.0) * min(width / cols, height / rows)
    left, top = generator.uniform(0, (width - share * cols, height - share * rows))
    box = (left, top, left + share * cols, top + share * rows)
    part = picture.resize((cols, rows), Image.Resampling.BICUBIC, box=box)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else part


def changed(path: Path, side: float, generator: np.random.Generator) -> Image.Image:
    """A stamp whose longer side has so many pixels: perhaps flipped, a little turned, brighter or darker."""
    picture = opened(path, "RGBA")
    factor = side / max(picture.size)
    size = [max(1, round(length * factor)) for length in picture.size]
    stamp = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    if generator.random() < 0.5:
        stamp = stamp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    stamp = stamp.rotate(generator.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True)
    return ImageEnhance.Brightness(stamp).enhance(generator.uniform(0.7, 1.3))


def packages_in(folders: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Licence and, if dpkg knows it, version of each package whose pictures lie in one of the folders."""
    found = {name: {"licence": text} for folder in folders for name, text in PACKAGES.get(folder, {}).items()}
    if shutil.which("dpkg-query"):
        for name, about in found.items():
            asked = subprocess.run(
                ["dpkg-query", "--show", "--showformat=${Version}", name],
                capture_output=True,
                text=True,
                check=False,
            )
            if asked.returncode == 0:
                about["version"] = asked.stdout
    return found


def describe(
    pictures: dict[str, Pictures], small: dict[str, int], arguments: argparse.Namespace
) -> dict[str, object]:
    """What the scenes were made of."""
    roots = (arguments.stamps, *arguments.backgrounds)

    def hashes(paths: Sequence[Path]) -> dict[str, str]:
        names = [
            next(path.relative_to(root) for root in roots if path.is_relative_to(root)) for path in paths
        ]
        return {
            name.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in zip(names, paths, strict=True)
        }

    return {
        "seed": arguments.seed,
        "size": [*arguments.size],
        "scenes": {split: getattr(arguments, split) for split in SPLITS},
        "packages": packages_in(roots),
        "families_of_classes_left_out": small,
        "pictures": {
            split: {
                BACKGROUND: hashes(found.backgrounds),
                **{name: hashes(paths) for name, paths in found.stamps.items()},
            }
            for split, found in pictures.items()
        },
    }


def parse_size(text: str) -> tuple[int, int]:
    """Rows x columns, such as 128x192."""
    rows, _, cols = text.partition("x")
    if not (rows.isdecimal() and cols.isdecimal() and min(int(rows), int(cols)) >= 16):
        raise argparse.ArgumentTypeError(
            f"expected ROWSxCOLUMNS of at least 16, such as 128x192, got {text!r}"
        )
    return int(rows), int(cols)


def main(words: Sequence[str] | None = None) -> None:
    """Write the scenes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--stamps", type=Path, default=STAMPS, help=f"(default: {STAMPS})")
    parser.add_argument(
        "--backgrounds", type=Path, nargs="+", default=[BACKGROUNDS], help=f"(default: {BACKGROUNDS})"
    )
    parser.add_argument("--train", type=int, default=2000, help="scenes to train on (default: 2000)")
    parser.add_argument("--val", type=int, default=300, help="scenes to evaluate on (default: 300)")
    parser.add_argument("--size", type=parse_size, default=(128, 192), help="pixels (default: 128x192)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    arguments = parser.parse_args(words)
    if min(arguments.train, arguments.val) < 1 or arguments.seed < 0:
        parser.error("expected --train and --val of at least 1, and a --seed of at least 0")
    if arguments.out.exists() and (not arguments.out.is_dir() or any(arguments.out.iterdir())):
        raise SystemExit(
            f"expected an empty folder or none at {arguments.out}, found something; name another"
        )
    pictures, small = find_pictures(arguments.stamps, arguments.backgrounds)
    for place, (split, found) in enumerate(pictures.items()):
        for kind in ("images", "masks"):
            (arguments.out / split / kind).mkdir(parents=True, exist_ok=True)
        numbers = range(getattr(arguments, split))
        for number in track(numbers, description=f"{split} scenes", disable=not sys.stderr.isatty()):
            scene = make_scene(found, arguments.size, np.random.default_rng((arguments.seed, place, number)))
            scene.image.save(arguments.out / split / "images" / f"{number:05}.jpg", quality=95)
            scene.mask.save(arguments.out / split / "masks" / f"{number:05}.png")
    names = [BACKGROUND, *pictures["train"].stamps]
    classes: dict[str, object] = {"class_names": names}
    if len(names) <= len(COLOURS):
        classes["colours"] = [list(bytes.fromhex(colour)) for colour in COLOURS[: len(names)]]
    (arguments.out / "classes.json").write_text(json.dumps(classes, indent=1) + "\n")
    # last: it says that the scenes are complete
    (arguments.out / "manifest.json").write_text(
        json.dumps(describe(pictures, small, arguments), indent=1) + "\n"
    )
    places = " + ".join(str(len(found.backgrounds)) for found in pictures.values())
    counts = ", ".join(f"{len(paths)} {name}" for name, paths in pictures["train"].stamps.items())
    print(
        f"{arguments.train} + {arguments.val} scenes in {arguments.out}; places: {places}; stamps: {counts}"
    )
    if small:
        print(f"left out, with fewer than {SMALLEST_CLASS} families: {', '.join(small)}")


if __name__ == "__main__":
    main()
