"""The output folder of a demo: refused, continued or started."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tapadl.data.job_folder import JobKind, open_job_folder
from tapadl.demo.result import SCHEMA, RunResult, load_run, save_run
from tapadl.demo.settings import VARIANTS, DemoSettings

RESULTS = "results.json"
REPORT = "report.html"
EXPLORER = "explore.html"
RUNS = "runs"

_RUN = rf"(?:{'|'.join(map(re.escape, VARIANTS))})_seed\d+"
_DEMO = JobKind(
    name="demo",
    schema=SCHEMA,
    parts=RUNS,
    made=rf"results\.json|report\.html|explore\.html|model_{_RUN}\.safetensors|{RUNS}/{_RUN}\.json",
    finished=RESULTS,
    page=REPORT,
)


@dataclass(frozen=True)
class DemoFolder:
    """Where a demo keeps what it makes.

    Args:
        path: The folder, which exists.
        continued: Whether it already held a part of the same job.
        job: What tells the job from others; every run carries it, and one of another job is not used.
    """

    path: Path
    continued: bool
    job: str

    @property
    def results(self) -> Path:
        """The results of all runs, written last."""
        return self.path / RESULTS

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.path / REPORT

    @property
    def explorer(self) -> Path:
        """The page to explore attention on."""
        return self.path / EXPLORER

    def weights(self, variant: str, seed: int) -> Path:
        """The trained weights of one run."""
        return self.path / f"model_{variant}_seed{seed}.safetensors"

    def run(self, variant: str, seed: int) -> Path:
        """The result of one run, written as soon as it is finished."""
        return self.path / RUNS / f"{variant}_seed{seed}.json"

    def finished_run(self, variant: str, seed: int) -> RunResult | None:
        """The result of one run from an earlier start, or None.

        Raises:
            ValueError: If the file is damaged, or is of another job or another run.
        """
        path = self.run(variant, seed)
        if not path.exists():
            return None
        run = load_run(path, job=self.job)
        if (run.variant, run.seed) != (variant, seed):
            raise ValueError(f"expected {variant}, seed {seed} in {path}, got {run.variant}, seed {run.seed}")
        return run

    def keep_run(self, run: RunResult) -> None:
        """Write the result of one run.

        Raises:
            OSError: If the folder cannot be written.
        """
        save_run(run, self.run(run.variant, run.seed), job=self.job)


@contextmanager
def open_folder(
    path: Path | None, settings: DemoSettings, *, versions: dict[str, str], overwrite: bool = False
) -> Iterator[DemoFolder]:
    """A folder ready for the job, and for this job alone until the block is left.

    Args:
        path: The folder; None for a new one under `runs/`, named after the time.
        settings: What the job is.
        versions: Of the libraries; runs of different versions are not mixed.
        overwrite: Take away what a demo has left in the folder. Other files stay.

    Raises:
        FileExistsError: If the folder holds anything but the same unfinished job, or with `overwrite`
            anything but a demo; or if it is a file.
        BlockingIOError: If another demo is at work in it.
        OSError: If it cannot be made or written.
    """
    job = {"settings": settings.to_json(), "versions": versions}
    with open_job_folder(path, _DEMO, job, overwrite=overwrite) as folder:
        yield DemoFolder(folder.path, folder.continued, folder.fingerprint)
