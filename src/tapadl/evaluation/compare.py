"""Two or more models on the same images: differences of every metric, and how sure they are."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tapadl.evaluation.benchmark_result import BenchmarkResult, EvaluationResult
from tapadl.metrics import bootstrap_interval, paired_test

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """One metric of two models; lower is better in all of them.

    Args:
        metric: Its name, such as "mce".
        reference: Value of the first model, as a fraction.
        other: Value of the other.
        interval: 95 % bootstrap interval of other - reference over images; None where the metric is no
            mean over the images that both were shown.
        p_value: Of the paired test by image; None together with the interval.
    """

    metric: str
    reference: float
    other: float
    interval: tuple[float, float] | None
    p_value: float | None

    @property
    def difference(self) -> float:
        """Other - reference: below 0 where the other is better."""
        return self.other - self.reference

    @property
    def better(self) -> int | None:
        """0 for the reference, 1 for the other, None where interval and test do not both tell them apart."""
        if self.interval is None or self.p_value is None or self.p_value >= 1 - LEVEL:
            return None
        if self.interval[0] <= 0 <= self.interval[1]:
            return None
        return int(self.difference < 0)


@dataclass(frozen=True)
class ModelComparison:
    """A model against the reference on one benchmark.

    Args:
        reference: Place of the reference among the results: 0.
        other: Place of the model.
        differences: By metric.
        cautions: What differs and does not forbid to compare, in sentences.
    """

    reference: int
    other: int
    differences: tuple[Difference, ...]
    cautions: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Results side by side.

    Args:
        results: The first is the reference.
        labels: How they are called, each different.
        by_benchmark: For every benchmark that all have: one comparison a model behind the first.
        left_out: Benchmarks that not all of them have.
    """

    results: tuple[EvaluationResult, ...]
    labels: tuple[str, ...]
    by_benchmark: Mapping[str, tuple[ModelComparison, ...]]
    left_out: tuple[str, ...]


def compare(results: Sequence[EvaluationResult], benchmarks: Sequence[str] | None = None) -> Comparison:
    """Compare models image by image with the first of them.

    A metric that is a mean over images is compared by the differences of its share of each image, so that
    the images that are hard for both do not blur the difference. The p values are not corrected for their
    number.

    Args:
        results: At least two.
        benchmarks: Only these; None for all that the results have in common.

    Raises:
        ValueError: If there are fewer than two, a benchmark is missing, or the models were not shown the
            same images in the same conditions; the message names what differs.
    """
    labels = model_labels(results)
    chosen, left_out = choose_benchmarks(
        [[one.benchmark for one in result.benchmarks] for result in results], labels, benchmarks
    )
    return Comparison(
        results=tuple(results),
        labels=labels,
        by_benchmark={
            name: tuple(_compare_pair(name, results, labels, place) for place in range(1, len(results)))
            for name in chosen
        },
        left_out=left_out,
    )


def choose_benchmarks(
    names: Sequence[Sequence[str]], labels: Sequence[str], wanted: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The benchmarks on which results are compared, and those that not all of them have.

    Args:
        names: The benchmarks of each result.
        labels: What each is called.
        wanted: Only these; None for all in common.

    Raises:
        ValueError: If there are fewer than two results, or they have no benchmark in common and none is
            wanted.
    """
    if len(names) < 2:
        raise ValueError(f"expected at least two results to compare, got {len(names)}")
    common = [name for name in names[0] if all(name in others for others in names)]
    if wanted is None and not common:
        found = "; ".join(f"{', '.join(own)} of {label}" for own, label in zip(names, labels, strict=True))
        raise ValueError(f"expected results with a benchmark in common, got {found}")
    left_out = dict.fromkeys(name for own in names for name in own if name not in common)
    return tuple(common if wanted is None else dict.fromkeys(wanted)), tuple(left_out)


class OfModel(Protocol):
    """What says which model it is of; every kind of result does."""

    @property
    def name(self) -> str:
        """Of the model."""

    @property
    def model(self) -> Mapping[str, Any]:
        """What else is known of it."""


def model_labels(results: Sequence[OfModel]) -> tuple[str, ...]:
    """A name for each result: of its model; if need be of its checkpoint, then with the weights' hash.

    What is still the same gets its place.
    """
    labels = [result.name for result in results]
    for name_of in (_checkpoint, _with_hash):
        longer = [name_of(result) for result in results]
        labels = [
            other if Counter(labels)[label] > 1 else label
            for label, other in zip(labels, longer, strict=True)
        ]
    return tuple(
        f"{label} ({place})" if Counter(labels)[label] > 1 else label
        for place, label in enumerate(labels, start=1)
    )


def _checkpoint(result: OfModel) -> str:
    return Path(str(result.model.get("checkpoint", result.name))).stem


def _with_hash(result: OfModel) -> str:
    return f"{_checkpoint(result)} {str(result.model.get('weights_sha256'))[:8]}"


def _compare_pair(
    name: str, results: Sequence[EvaluationResult], labels: Sequence[str], place: int
) -> ModelComparison:
    first, other = results[0], results[place]
    benchmarks = first.benchmark(name), other.benchmark(name)
    differing = _differing(*benchmarks, first.settings, other.settings)
    if differing:
        raise ValueError(
            f"expected {labels[0]} and {labels[place]} in the same conditions on {name}, to compare them "
            f"image by image, got {'; '.join(differing)}"
        )
    return ModelComparison(
        0,
        place,
        tuple(_differences(first, other, *benchmarks)),
        tuple(_cautions(*benchmarks, first, other)),
    )


def _differing(
    first: BenchmarkResult,
    other: BenchmarkResult,
    settings: Mapping[str, Any],
    other_settings: Mapping[str, Any],
) -> list[str]:
    """What forbids a comparison by image, each as a few words."""
    found = []
    cells, other_cells = (
        {record.cell: record.count for record in benchmark.records} for benchmark in (first, other)
    )
    if first.form != other.form:
        found.append(f"images that are {first.form} and {other.form}")
    if set(cells) != set(other_cells):
        only = sorted(cell.key for cell in set(cells) ^ set(other_cells))
        more = f" and {len(only) - 3} more" if len(only) > 3 else ""
        found.append(f"conditions that only one was shown ({', '.join(only[:3])}{more})")
    counts, other_counts = sorted(set(cells.values())), sorted(set(other_cells.values()))
    if counts != other_counts:
        found.append(f"{_numbers(counts)} and {_numbers(other_counts)} images")
    elif any(first.images.get(key) != other.images.get(key) for key in ("fingerprints", "num_classes")):
        found.append("other images (their fingerprints differ)")
    attacked = any(name.startswith("error_") for name in first.shares())
    if (attacked or first.form != "stored") and settings.get("seed") != other_settings.get("seed"):
        found.append(f"seeds {settings.get('seed')} and {other_settings.get('seed')}")
    if first.notes.get("frost") != other.notes.get("frost"):
        found.append(f"frost from {first.notes.get('frost')} and {other.notes.get('frost')}")
    if attacked and settings.get("attack") != other_settings.get("attack"):
        found.append("attacks of other strength")
    return found


def _numbers(counts: Sequence[int]) -> str:
    return " or ".join(f"{count:,}" for count in counts)


def _cautions(
    first: BenchmarkResult, other: BenchmarkResult, result: EvaluationResult, other_result: EvaluationResult
) -> list[str]:
    """What a reader should know: the models' own choices, which change what they are shown."""
    found = []
    sizes = [one.notes.get("image_size") for one in (first, other)]
    if sizes[0] != sizes[1]:
        found.append(f"Images were corrupted at {_size(sizes[0])} for the reference, {_size(sizes[1])} here.")
    precisions = [one.settings.get("precision") for one in (result, other_result)]
    if precisions[0] != precisions[1]:
        found.append(f"The reference ran in {precisions[0]}, this model in {precisions[1]}.")
    if result.model.get("weights_sha256") == other_result.model.get("weights_sha256"):
        found.append("Both have the same weights.")
    return found


def _size(size: Any) -> str:
    return " x ".join(map(str, size)) + " pixels" if size else "an unknown size"


def _differences(
    first: EvaluationResult, other: EvaluationResult, benchmark: BenchmarkResult, second: BenchmarkResult
) -> list[Difference]:
    metrics, others = first.metrics(benchmark.benchmark), other.metrics(benchmark.benchmark)
    # without the clean error of another benchmark, whose images are not these
    shares, other_shares = benchmark.shares(), second.shares()
    found = []
    for name in metrics:
        if name not in others:
            continue
        interval = p_value = None
        if name in shares and len(shares[name]) > 1:
            interval = bootstrap_interval(other_shares[name] - shares[name], confidence_level=LEVEL)
            p_value = paired_test(other_shares[name], shares[name])
        found.append(Difference(name, metrics[name], others[name], interval, p_value))
    return found
