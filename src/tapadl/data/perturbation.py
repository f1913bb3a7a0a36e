"""Perturbation sequences that lie on disk as mp4 films, as ImageNet-P is published."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tapadl.data.labelled_files import LabelledFiles, class_folders, list_folder

LAYOUT = "<perturbation>/<class>/<film>.mp4"
SUFFIX = ".mp4"


class PerturbationSequences:
    """The films of one perturbation: class folders of mp4 files.

    A film is decoded when it is asked for. Its frames went through 8 bits and a codec when they were stored;
    here nothing is resized or cropped.

    Args:
        root: The folder above the class folders, such as `ImageNet-P/tilt`.
        films: Which films; by default all that are there.

    Raises:
        OSError: If a folder is missing, is a file, or may not be read.
        ValueError: If there are no class folders or a class has no films.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     film = Path(folder) / "n01440764" / "ILSVRC2012_val_00000293.mp4"
        ...     film.parent.mkdir()
        ...     film.touch()
        ...     PerturbationSequences(folder).paths
        ('n01440764/ILSVRC2012_val_00000293.mp4',)
    """

    def __init__(self, root: str | Path, films: LabelledFiles | None = None) -> None:
        self.root = Path(root).expanduser()
        self._films = _find_films(self.root) if films is None else films

    @property
    def paths(self) -> tuple[str, ...]:
        """Of the films, relative to `root`, class by class, by name within a class."""
        return self._films.paths

    @property
    def labels(self) -> tuple[int, ...]:
        """The class of each film, an index into `class_names`."""
        return self._films.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class folders, sorted."""
        return self._films.class_names

    @property
    def outputs(self) -> tuple[int, ...] | None:
        """None: all outputs of a model count, for flips and distances compare answers and need no labels."""
        return self._films.outputs

    @property
    def positions(self) -> Sequence[int]:
        """The position of each film in the whole set."""
        return self._films.positions

    @property
    def fingerprint(self) -> str:
        """Tells these films from others, as `LabelledFiles.fingerprint` does."""
        return self._films.fingerprint

    def __len__(self) -> int:
        return len(self._films)

    def frames(self, index: int) -> torch.Tensor:
        """The frames of one film, (T, 3, H, W) uint8; those of ImageNet-P have 31 or more.

        Raises:
            OSError: If the file is missing, cut short or no film; the message names it.
            RuntimeError: If the decoder is not installed.
        """
        return read_film(self.root / self.paths[index])

    def subset(self, count: int) -> "PerturbationSequences":
        """`count` of the films, as many of each class; the same ones everywhere (`balanced_subset`).

        Raises:
            ValueError: If `count` is no multiple of the number of classes or a class has too few films.
        """
        return PerturbationSequences(self.root, self._films.subset(count))


def stored_perturbations(root: str | Path) -> dict[str, PerturbationSequences]:
    """The films of a stored benchmark by perturbation, in the order of the folder names.

    Args:
        root: The folder above the perturbations; it holds nothing else. Stronger noises have folders of their
            own, such as `gaussian_noise_2`.

    Raises:
        OSError: If a folder is missing, is a file, or may not be read.
        ValueError: If the layout is another or a class has no films.
    """
    root = Path(root).expanduser()
    names, _ = list_folder(root)
    if not names:
        raise ValueError(f"expected folders {LAYOUT} in {root}, got none")
    for name in names:
        folders, files = list_folder(root / name)
        if not folders and any(map(_is_film, files)):
            raise ValueError(
                f"expected folders {LAYOUT} in {root}, got the class {name!r}; "
                f"{root} is one level too low: give the folder above"
            )
    return {name: PerturbationSequences(root / name) for name in names}


def read_film(path: Path) -> torch.Tensor:
    """All frames of an mp4 film, (T, 3, H, W) uint8, in RGB.

    Raises:
        OSError: If the file is missing, cut short or no film; the message names it.
        RuntimeError: If the decoder is not installed.
    """
    try:
        import av
    except ImportError:
        raise RuntimeError(
            f"expected the package av, which decodes {path}, but it is not installed; "
            "get it with pip install 'tapadl[video]'"
        ) from None
    if not path.is_file():
        raise FileNotFoundError(f"expected a film at {path}, but there is none")
    reason = "it holds no film"
    try:
        with av.open(str(path)) as container:
            streams = container.streams.video
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(streams[0])]
            announced = streams[0].frames or len(frames)
        if frames and len(frames) == announced:
            return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()
        reason = f"{len(frames)} of {announced} frames"
    except IndexError:
        pass
    except av.FFmpegError as error:
        reason = error.strerror or type(error).__name__
    raise OSError(f"expected a whole mp4 film at {path}, but it does not decode ({reason}); fetch it again")


def _find_films(root: Path) -> LabelledFiles:
    class_names = class_folders(root)
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        films = _films_in(root / name)
        paths += [f"{name}/{film}" for film in films]
        labels += [label] * len(films)
    return LabelledFiles(root, tuple(paths), tuple(labels), class_names)


def _films_in(folder: Path) -> list[str]:
    folders, files = list_folder(folder)
    if folders:
        raise ValueError(
            f"expected films in {folder}, got the folder {folders[0]!r}, so {folder.parent} is one level too "
            "high; give the folder right above the classes"
        )
    films = [name for name in files if _is_film(name)]
    if not films:
        raise ValueError(f"expected films ({SUFFIX}) in the class folder {folder}, got none")
    return films


def _is_film(name: str) -> bool:
    return name.lower().endswith(SUFFIX)
