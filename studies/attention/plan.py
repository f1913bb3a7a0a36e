"""What the study trains, from a YAML file: sections of rows, under one or several conditions, over seeds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from tapadl.corruptions import CORRUPTIONS

Changes = dict[str, Any]
"""Settings of `tapadl train` by their dotted keys, and the `study.*` ones: what differs from the recipe."""

RESULTS = Path(__file__).parents[2] / "results" / "attention"
STUDY_KEYS = {"study.pooling", "study.regulariser", "study.weight"}
# What a row may change; other settings are the condition it is trained under.
ROW_KEYS = ("tap.", "adl.", "study.")
GROUPS = ("noise", "blur", "weather", "digital")
LIGHT = ("frost", "fog", "brightness", "contrast")  # half of the mean error is theirs
MEASURES = {
    "overlap": "ADL value (overlap, tau 2)",
    "cosine": "overlap without threshold",
    "gini": "Gini of received attention",
    "effective_keys": "effective number of keys",
    "stability": "stability (cosine, clean - corrupted)",
    "divergence": "divergence (Jensen-Shannon)",
}

Interval = tuple[float, float, float]
"""Mean, and the ends of its 95 % interval."""


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        changes: As JSON with sorted keys: runs of equal changes and seed are one, whichever section asks.
        seed: Of everything random.
    """

    changes: str
    seed: int

    @classmethod
    def of(cls, changes: Changes, seed: int) -> "Run":
        """The run with these changes."""
        return cls(json.dumps(changes, sort_keys=True), seed)

    @property
    def settings(self) -> Changes:
        """What differs from the recipe, for `tapadl train`."""
        return {key: value for key, value in json.loads(self.changes).items() if key not in STUDY_KEYS}

    @property
    def extras(self) -> Changes:
        """What only this study knows."""
        return {key: value for key, value in json.loads(self.changes).items() if key in STUDY_KEYS}


@dataclass(frozen=True)
class Section:
    """One table.

    Args:
        name: As on the command line.
        title: Above the table.
        against: The row that differences are taken to.
        seeds: Of every row.
        conditions: What all rows of a part of the table have in common, by name.
        rows: What is compared, by name.
    """

    name: str
    title: str
    against: str
    seeds: int
    conditions: dict[str, Changes]
    rows: dict[str, Changes]

    def run(self, condition: str, row: str, seed: int) -> Run:
        """The training behind a cell."""
        return Run.of(self.conditions[condition] | self.rows[row], seed)

    def runs(self) -> list[Run]:
        """All of them, one seed of everything before the next."""
        return [
            self.run(condition, row, seed)
            for seed in range(self.seeds)
            for condition in self.conditions
            for row in self.rows
        ]


@dataclass(frozen=True)
class Plan:
    """The whole study.

    Args:
        name: Of its results: `results/attention/NAME.jsonl`.
        recipe: What `tapadl train --config` reads.
        test: Where the images are that are measured at the end.
        images: How many of them are corrupted.
        severities: Of every corruption.
        sections: The tables, in order of their importance.
    """

    name: str
    recipe: Path
    test: str
    images: int
    severities: tuple[int, ...]
    sections: tuple[Section, ...]


Lines = Mapping[Run, Mapping[str, Any]]


def errors(line: Mapping[str, Any]) -> dict[str, float]:
    """Percent: clean, the mean over the corruptions, by their group, and over the eleven beside `LIGHT`."""
    by_name = line["corruption_error"]
    groups = {
        group: fmean(error for name, error in by_name.items() if CORRUPTIONS[name].group == group)
        for group in GROUPS
    }
    eleven = fmean(error for name, error in by_name.items() if name not in LIGHT)
    found = {"clean": line["clean_error"], "corrupted": fmean(by_name.values()), "eleven": eleven, **groups}
    return {name: 100 * value for name, value in found.items()}


def condition_of(changes: Mapping[str, Any]) -> str:
    """What a run has in common with those it may be compared with."""
    return json.dumps(
        {key: value for key, value in changes.items() if not key.startswith(ROW_KEYS)}, sort_keys=True
    )


def load_lines(name: str) -> dict[Run, dict[str, Any]]:
    """The finished runs of a plan."""
    path = RESULTS / f"{name}.jsonl"
    lines = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    return {Run.of(line["changes"], line["seed"]): line for line in lines}


def load_plan(path: Path) -> Plan:
    """A plan; rows that several sections share are named once, under `rows`."""
    content = yaml.safe_load(path.read_text())
    shared: dict[str, Changes] = content["rows"]
    sections = []
    for name, given in content["sections"].items():
        rows = {row: shared[row] for row in given.get("shared_rows", ())} | given.get("rows", {})
        conditions = given.get("conditions", {"": {}})
        sections.append(
            Section(name, given["title"], given.get("against", "plain"), given["seeds"], conditions, rows)
        )
    return Plan(
        name=path.stem,
        recipe=path.parent / content["recipe"],
        test=content["test"],
        images=content["images"],
        severities=tuple(content["severities"]),
        sections=tuple(sections),
    )
