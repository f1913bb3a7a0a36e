"""A corrupted copy of a data set on disk, in the layout of ImageNet-C, that a kill cannot spoil."""

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from importlib.metadata import version
from itertools import compress
from pathlib import Path
from typing import Any, Literal

from tapadl.corruptions import constants_for, frost_source
from tapadl.data.atomic import remove_half_written, write_atomically
from tapadl.data.job_folder import JobKind, open_job_folder
from tapadl.evaluation.corrupted_image import Copied, CopySettings, check_names, copy_image
from tapadl.evaluation.image_tree import ImageTree, find_images
from tapadl.evaluation.provenance import versions
from tapadl.evaluation.worker_processes import map_side_by_side

MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
SCHEMA = 1

JOB_KIND = JobKind(
    name="corrupted copy",
    schema=SCHEMA,
    parts="unfinished",
    made=rf"{MANIFEST}|{JOURNAL}",
    finished=MANIFEST,
    page=MANIFEST,
    advice="name another folder",
)

# Of what decides pixels and bytes; copies of different versions are not mixed.
_DECIDING = ("tapadl", "torch", "numpy", "scipy", "pillow")


@dataclass(frozen=True)
class CopySummary:
    """What came of a corrupted copy.

    Args:
        manifest: The file that lists everything, written last.
        images: How many were corrupted.
        files: How many files they became.
        continued: How many of the images an earlier start had finished.
        skipped: Why each image that could not be read is left out, by its path.
    """

    manifest: Path
    images: int
    files: int
    continued: int
    skipped: dict[str, str] = field(default_factory=dict)


class CorruptedCopy:
    """A job: the images of one folder, corrupted into another.

    Each file is written at once or not at all, and its hash is noted in a journal. Killed at any moment, the
    same job started again goes on where it was and ends with the same bytes.

    Args:
        source: The folder of the images, of any depth.
        target: The folder of the copy: new, empty, or with the same job unfinished in it.
        settings: What the copy holds.

    Raises:
        OSError: If a folder cannot be read.
        ValueError: If there are no images, two of them would get the same file, or a folder is in the other.
    """

    def __init__(self, source: str | Path, target: str | Path, settings: CopySettings) -> None:
        self.source, self.target = Path(source).expanduser(), Path(target).expanduser()
        self.settings = settings
        inside = "the copies would be read as images the next time"
        here, there = self.source.resolve(), self.target.resolve()
        if here in (there, *there.parents):
            raise ValueError(
                f"expected a folder outside of {self.source} to write to, got {self.target}: {inside}"
            )
        if there in here.parents:
            raise ValueError(
                f"expected images outside of {self.target}, got {self.source}, which lies inside it"
            )
        self.tree: ImageTree = find_images(self.source)
        check_names(settings, self.tree.paths)

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.tree.paths)

    def run(
        self,
        *,
        workers: int = 1,
        on_error: Literal["stop", "skip"] = "stop",
        command: str | None = None,
        advance: Callable[[int], None] = lambda images: None,
    ) -> CopySummary:
        """Do the job, or what is left of it.

        Args:
            workers: Processes at once; the result does not depend on it.
            on_error: "stop" at an image that cannot be read, or "skip" it and note it in the manifest.
            command: What was typed, for the manifest.
            advance: Is told of so many more finished images.

        Raises:
            ValueError: If `workers` or `on_error` is not as described, an image cannot be read, or none can.
            FileExistsError: If the target holds anything but the same job unfinished.
            BlockingIOError: If another process is at work in it.
            OSError: If it cannot be written.
            RuntimeError: If a worker dies.
        """
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise ValueError(f"expected a number of workers of at least 1, got {workers!r}")
        if on_error not in ("stop", "skip"):
            raise ValueError(f"expected on_error out of stop, skip, got {on_error!r}")
        with open_job_folder(self.target, JOB_KIND, self._job) as folder:
            if folder.continued:
                remove_half_written(self.target)
            journal = _Journal(self.target)
            finished = journal.finished_images(self.tree)
            advance(len(finished))
            skipped: dict[str, str] = {}
            with closing(self._copy(finished, workers)) as results:
                for copied in results:
                    if copied.problem is None:
                        journal.add(copied, self.tree.size(copied.path))
                    elif on_error == "stop":
                        raise ValueError(f"{copied.problem}; --on-error skip goes on without it")
                    else:
                        skipped[copied.path] = copied.problem
                        for corruption, severity in self.settings.cells:  # of when it could be read
                            name = self.settings.name(copied.path)
                            (self.target / corruption / str(severity) / name).unlink(missing_ok=True)
                    advance(1)
            if len(skipped) == len(self):
                raise ValueError(f"expected images in {self.source}, but none of {len(self)} can be read")
            skipped = {path: skipped[path] for path in self.tree.paths if path in skipped}
            self._write_manifest(journal, skipped, command)
            journal.path.unlink()
        images = len(self) - len(skipped)
        files = images * len(self.settings.cells)
        return CopySummary(self.target / MANIFEST, images, files, len(finished), skipped)

    def _copy(self, finished: set[str], workers: int) -> Generator[Copied, None, None]:
        left = [path not in finished for path in self.tree.paths]
        tasks = compress(enumerate(self.tree.paths), left)
        function = partial(_copy_one, self.settings, self.source, self.target)
        return map_side_by_side(function, tasks, processes=workers)

    @cached_property
    def _job(self) -> dict[str, dict[str, Any]]:
        settings = asdict(self.settings) | {"images": len(self), "paths_sha256": self.tree.fingerprint}
        if "frost" in self.settings.corruptions:
            settings["frost"] = frost_source()
        return {"settings": settings, "versions": {name: version(name) for name in _DECIDING}}

    def _write_manifest(self, journal: "_Journal", skipped: dict[str, str], command: str | None) -> None:
        head = {
            "schema": SCHEMA,
            "kind": "corrupted-copy",
            "command": command,
            "settings": self._job["settings"],
            "layout": "<corruption>/<severity>/<path of the image>",
            "constants": self._constants(),
            "versions": versions(),
            "skipped": {
                path: problem.replace(str(self.source / path), path) for path, problem in skipped.items()
            },
        }
        opening = json.dumps(head, indent=1).removesuffix("\n}")
        paths = (path for path in self.tree.paths if path not in skipped)

        def pieces() -> Iterator[bytes]:
            yield f'{opening},\n "files": {{'.encode()
            comma = ""
            for path in paths:
                lines = (
                    f"  {json.dumps(name)}: {json.dumps(sha)}" for name, sha in journal.files(path).items()
                )
                yield (comma + "\n" + ",\n".join(lines)).encode()
                comma = ","
            yield b"\n }\n}\n"

        write_atomically(self.target / MANIFEST, pieces())

    def _constants(self) -> dict[str, Any]:
        """By corruption and severity; without a fixed size a rule."""
        side = self.settings.constants_size or self.settings.size
        if side is None:
            return {"of": "the shorter side of each image, as tapadl.corruptions.constants_for gives them"}
        cells = ((cell, constants_for(*cell, side)) for cell in self.settings.cells)
        return {"of": f"{side} pixels"} | {
            f"{corruption}/{severity}": dict(constants.values)
            | {"published_size": constants.published_size, "scaled": constants.scaled}
            for (corruption, severity), constants in cells
        }


def _copy_one(settings: CopySettings, source: Path, target: Path, task: tuple[int, str]) -> Copied:
    index, path = task
    return copy_image(settings, source, target, path, index)


class _Journal:
    """One line for every finished image: its path, and the hash of each of its files.

    Args:
        target: The folder of the copy.
    """

    def __init__(self, target: Path) -> None:
        self.path = target / JOURNAL
        self._target = target
        self._places: dict[str, int] = {}

    def finished_images(self, tree: ImageTree) -> set[str]:
        """The images, of the same size as then, whose files are all there.

        A line cut short or damaged, and what follows, is dropped.
        """
        self.path.touch()
        whole = 0
        with self.path.open("rb+") as journal:
            for line in journal:
                try:
                    content = json.loads(line if line.endswith(b"\n") else b"")
                except ValueError:
                    break
                same = tree.size(content["image"]) == content["size"]
                if same and all((self._target / name).exists() for name in content["files"]):
                    self._places[content["image"]] = whole
                whole += len(line)
            journal.truncate(whole)
        return set(self._places)

    def add(self, copied: Copied, size: int) -> None:
        """Note a finished image, whose file has so many bytes."""
        line = json.dumps({"image": copied.path, "size": size, "files": copied.files}) + "\n"
        with self.path.open("ab") as journal:
            self._places[copied.path] = journal.tell()
            journal.write(line.encode())

    def files(self, image: str) -> dict[str, str]:
        """The hash of each file of an image, by its path in the copy."""
        with self.path.open("rb") as journal:
            journal.seek(self._places[image])
            files: dict[str, str] = json.loads(journal.readline())["files"]
        return files
