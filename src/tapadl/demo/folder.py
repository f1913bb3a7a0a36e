"""The output folder of a demo: refused, continued or started."""

import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tapadl.demo.settings import DemoSettings
from tapadl.evaluation.result import SCHEMA, RunResult, load_json, load_run, save_json, save_run

JOB = "job.json"
RESULTS = "results.json"
REPORT = "report.html"


@dataclass(frozen=True)
class DemoFolder:
    """Where a demo keeps what it makes.

    Args:
        path: The folder, which exists.
        continued: Whether it already held a part of the same job.
    """

    path: Path
    continued: bool

    @property
    def results(self) -> Path:
        """The results of all runs, written last."""
        return self.path / RESULTS

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.path / REPORT

    def weights(self, variant: str, seed: int) -> Path:
        """The trained weights of one run."""
        return self.path / f"model_{variant}_seed{seed}.safetensors"

    def run(self, variant: str, seed: int) -> Path:
        """The result of one run, written as soon as it is finished."""
        return self.path / "runs" / f"{variant}_seed{seed}.json"

    def finished_run(self, variant: str, seed: int) -> RunResult | None:
        """The result of one run from an earlier start, or None.

        Raises:
            ValueError: If the file is damaged.
        """
        path = self.run(variant, seed)
        return load_run(path) if path.exists() else None

    def keep_run(self, run: RunResult) -> None:
        """Write the result of one run.

        Raises:
            OSError: If the folder cannot be written.
        """
        save_run(run, self.run(run.variant, run.seed))


def open_folder(
    path: Path | None, settings: DemoSettings, *, versions: dict[str, str], overwrite: bool = False
) -> DemoFolder:
    """A folder ready for the job.

    Args:
        path: The folder; None for a new one under `runs/`, named after the time.
        settings: What the job is.
        versions: Of the libraries; runs of different versions are not mixed.
        overwrite: Take away what a demo has left in the folder. Other files stay.

    Raises:
        FileExistsError: If the folder holds anything but the same unfinished job, or is a file.
        OSError: If it cannot be made or written.
    """
    path = _new_dated_folder() if path is None else path
    job: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "demo-job",
        "settings": settings.to_json(),
        "versions": versions,
    }
    if path.exists() and not path.is_dir():
        raise FileExistsError(
            f"expected a folder for the results, got the file {path}; name another with --out"
        )
    if overwrite:
        _remove_earlier(path)
    elif path.exists() and any(path.iterdir()):
        _check_same_job(path, job)
        return DemoFolder(path, continued=True)
    save_json(job, path / JOB)
    return DemoFolder(path, continued=False)


def _new_dated_folder() -> Path:
    name = datetime.now().strftime("demo-%Y%m%d-%H%M%S")
    path = Path("runs") / name
    number = 2
    while path.exists():
        path = Path("runs") / f"{name}-{number}"
        number += 1
    return path


def _check_same_job(path: Path, job: dict[str, Any]) -> None:
    advice = "name another folder, or pass --overwrite to replace what is there"
    if not (path / JOB).exists():
        raise FileExistsError(f"expected an empty folder, but {path} holds other files; {advice}")
    if (path / RESULTS).exists():
        raise FileExistsError(
            f"expected an empty folder, but {path} holds a finished demo (its page is "
            f"{path / REPORT}); {advice}"
        )
    found = load_json(path / JOB)
    differing = [
        f"{part} {name}"
        for part in ("settings", "versions")
        for name, value in job[part].items()
        if found.get(part, {}).get(name) != value
    ]
    if differing:
        raise FileExistsError(
            f"expected the same unfinished job in {path}, got one that differs in "
            f"{', '.join(differing)}; {advice}"
        )


def _remove_earlier(path: Path) -> None:
    for name in (RESULTS, REPORT, JOB):
        (path / name).unlink(missing_ok=True)
    for weights in path.glob("model_*_seed*.safetensors"):
        weights.unlink()
    if (path / "runs").is_dir():
        shutil.rmtree(path / "runs")
