"""Masks and overlays for pictures of one's own, in a folder that a kill cannot spoil."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from tapadl.data.atomic import remove_half_written, write_atomically
from tapadl.data.image_file import read_image
from tapadl.data.job_folder import JobKind, open_job_folder
from tapadl.data.segmentation.labels import LabelScheme, Mask
from tapadl.evaluation.image_tree import find_images
from tapadl.evaluation.provenance import versions
from tapadl.tasks.segmentation.model import LoadedSegmenter
from tapadl.tasks.segmentation.prediction import PredictionSettings, Predictor

CLASSES = "classes.json"
FINISHED = ".finished"
MASKS = "masks"
OVERLAYS = "overlays"

JOB_KIND = JobKind(
    name="segmentation",
    schema=1,
    parts="unfinished",
    made=r"classes\.json|\.finished",
    finished=FINISHED,
    page=OVERLAYS,
    advice="name another folder",
)


@dataclass(frozen=True)
class Picture:
    """A picture to segment.

    Args:
        path: Of the file.
        name: Of its outputs, without an ending; may lie in folders.
    """

    path: Path
    name: str


@dataclass(frozen=True)
class PictureSettings:
    """What is made of each picture.

    Args:
        prediction: How the segmenter is asked.
        opacity: Of the colours over the picture, 0 to 1.

    Raises:
        ValueError: If the opacity is out of range.
    """

    prediction: PredictionSettings = field(default_factory=PredictionSettings)
    opacity: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.opacity <= 1:
            raise ValueError(f"expected an opacity from 0 to 1, got {self.opacity:g}")


def find_pictures(sources: Sequence[Path], target: Path) -> list[Picture]:
    """The pictures in files and folders, by name.

    A picture of a folder keeps its path there, one given by itself the name of its file.

    Args:
        sources: Files and folders.
        target: Folder of the results; what lies in it, inside a source, is left out.

    Raises:
        OSError: If one is missing.
        ValueError: If a folder has no pictures, or two pictures would have the same outputs.
    """
    pictures: list[Picture] = []
    results = target.resolve()
    for source in sources:
        if source.is_dir():
            tree = find_images(source)
            inside = source.resolve().is_relative_to(results)
            pictures += [
                Picture(source / path, _without_ending(path))
                for path in tree.paths
                if inside or not (source / path).resolve().is_relative_to(results)
            ]
        elif source.exists():
            pictures.append(Picture(source, source.stem))
        else:
            raise FileNotFoundError(f"expected a picture or a folder of pictures at {source}, found none")
    seen: dict[str, Path] = {}
    for picture in pictures:
        other = seen.setdefault(picture.name, picture.path)
        if other != picture.path:
            raise ValueError(
                f"expected pictures of different names, got {other} and {picture.path}, which would write "
                "the same files; rename one, or segment them into two folders"
            )
    return list({picture.path: picture for picture in pictures}.values())


def _without_ending(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def segment_pictures(
    pictures: Sequence[Picture],
    target: Path,
    segmenter: LoadedSegmenter,
    settings: PictureSettings,
    *,
    device: torch.device,
    on_progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Write a mask and an overlay of each picture, and what the numbers and colours mean.

    `masks/NAME.png` has the numbers of the classes, `overlays/NAME.jpg` the picture with their colours,
    `classes.json` names and colours. Pictures that are finished are not asked for again, also where one could
    not be read. As everywhere, the orientation that a camera noted (EXIF) is not applied: mask and picture
    fit each other as they are stored.

    Args:
        pictures: Of `find_pictures`.
        target: A new or empty folder, or one with the same job unfinished.
        segmenter: What is asked.
        settings: How.
        device: Where it runs.
        on_progress: Called with the number of pictures that are done.

    Returns:
        A sentence for each picture that could not be read.

    Raises:
        OSError: If the folder holds anything else or cannot be written.
        ValueError: If the segmenter fails on a picture.
    """
    tell = on_progress or (lambda count: None)
    inside = target.resolve()
    for picture in pictures:
        if inside in picture.path.resolve().parents:
            raise ValueError(
                f"expected pictures outside of {target}, got {picture.path}; name another folder"
            )
    problems = []
    with open_job_folder(target, JOB_KIND, _job_of(pictures, segmenter, settings)):
        for folder in (MASKS, OVERLAYS):
            remove_half_written(target / folder)
        predictor = Predictor(segmenter, settings.prediction, device)
        scheme = segmenter.description.scheme
        for picture in pictures:
            files = target / MASKS / f"{picture.name}.png", target / OVERLAYS / f"{picture.name}.jpg"
            if not all(file.exists() for file in files):
                try:
                    image = read_image(picture.path)
                except OSError as error:
                    problems.append(str(error))
                    tell(1)
                    continue
                pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
                try:
                    classes = predictor.classes(pixels).byte().cpu().numpy()
                except ValueError as error:
                    raise ValueError(f"{error} ({picture.path})") from error
                write_atomically(files[0], _png(scheme.to_values(classes)))
                write_atomically(files[1], _jpeg(overlay(image, classes, scheme, settings.opacity)))
            tell(1)
        write_atomically(target / CLASSES, _classes_text(scheme).encode())
        if not problems:
            write_atomically(target / FINISHED, b"")
    return problems


def overlay(picture: Image.Image, classes: Mask, scheme: LabelScheme, opacity: float) -> Image.Image:
    """A picture with the colours of its classes over it."""
    return Image.blend(picture, Image.fromarray(scheme.paint(classes)), opacity)


def _job_of(
    pictures: Sequence[Picture], segmenter: LoadedSegmenter, settings: PictureSettings
) -> dict[str, dict[str, object]]:
    shown = {picture.name: _state_of(picture.path) for picture in pictures}
    own = {"model": segmenter.name, "weights": segmenter.weights_sha256, "pictures": shown}
    return {"settings": own | asdict(settings), "versions": dict(versions())}


def _state_of(path: Path) -> list[int] | None:
    """Size and time of the last change, which tell a replaced picture; None of a link that leads nowhere."""
    if not path.exists():
        return None
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def _classes_text(scheme: LabelScheme) -> str:
    """As a data set of one's own has it; see `tapadl.data.segmentation.folder`."""
    return json.dumps(asdict(scheme), indent=1) + "\n"


def _png(numbers: Mask) -> bytes:
    buffer = BytesIO()
    Image.fromarray(numbers).save(buffer, "PNG")
    return buffer.getvalue()


def _jpeg(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
