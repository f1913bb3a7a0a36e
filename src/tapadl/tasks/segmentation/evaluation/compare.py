"""Two or more segmenters on the same images: differences of every metric, and how sure they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tapadl.evaluation.compare import choose_benchmarks, model_labels
from tapadl.tasks.segmentation.evaluation.counts import interval
from tapadl.tasks.segmentation.evaluation.result import BenchmarkResult, SegmentationResult

FEWEST = 6
"""Images of a condition below which all of them may point one way by chance: 2 / 2 ** 6 is below 5 %."""


@dataclass(frozen=True)
class Difference:
    """One metric of two models; higher is better.

    Args:
        metric: Its name, such as "miou".
        reference: Value of the first model, 0..1.
        other: Value of the other.
        interval: 95 % bootstrap interval of other - reference over images; None for fewer than `FEWEST`.
    """

    metric: str
    reference: float
    other: float
    interval: tuple[float, float] | None

    @property
    def difference(self) -> float:
        """Other - reference: above 0 where the other is better."""
        return self.other - self.reference

    @property
    def better(self) -> int | None:
        """0 for the reference, 1 for the other, None where the interval does not tell them apart."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return None
        return int(self.difference > 0)


@dataclass(frozen=True)
class ModelComparison:
    """A model against the reference on one benchmark.

    Args:
        other: Place of the model among the results; the reference has 0.
        differences: By metric.
        cautions: What differs and does not forbid to compare, in sentences.
    """

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

    results: tuple[SegmentationResult, ...]
    labels: tuple[str, ...]
    by_benchmark: Mapping[str, tuple[ModelComparison, ...]]
    left_out: tuple[str, ...]


def compare(results: Sequence[SegmentationResult], benchmarks: Sequence[str] | None = None) -> Comparison:
    """Compare segmenters with the first of them, on the same draws of images.

    Args:
        results: At least two.
        benchmarks: Only these; None for all that the results have in common.

    Raises:
        ValueError: If there are fewer than two, a benchmark is missing, or the models were not shown the same
            images in the same conditions; the message names what differs.
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


def _compare_pair(
    name: str, results: Sequence[SegmentationResult], labels: Sequence[str], place: int
) -> ModelComparison:
    first, other = results[0], results[place]
    found, other_found = first.benchmark(name), other.benchmark(name)
    differing = _differing(found, other_found, first, other)
    if differing:
        raise ValueError(
            f"expected {labels[0]} and {labels[place]} in the same conditions on {name}, to compare them "
            f"image by image, got {'; '.join(differing)}"
        )
    metrics, other_metrics = found.metrics, other_found.metrics
    differences = tuple(
        Difference(
            metric,
            metrics[metric],
            other_metrics[metric],
            interval(other_found.resamples[metric] - found.resamples[metric])
            if found.fewest >= FEWEST
            else None,
        )
        for metric in metrics
    )
    return ModelComparison(place, differences, tuple(_cautions(first, other)))


def _differing(
    found: BenchmarkResult, other_found: BenchmarkResult, first: SegmentationResult, other: SegmentationResult
) -> list[str]:
    """What forbids a comparison by image, each as a few words."""
    differing = []
    if not (found.labelled and other_found.labelled):
        differing.append("predictions without labels")
    if list(first.classes["names"]) != list(other.classes["names"]):
        differing.append("other classes")
    if found.form != other_found.form:
        differing.append(f"images that are {found.form} and {other_found.form}")
    cells, other_cells = ({record.cell for record in one.records} for one in (found, other_found))
    only = sorted(cell.key for cell in cells ^ other_cells)
    if only:
        more = f" and {len(only) - 3} more" if len(only) > 3 else ""
        differing.append(f"conditions that only one was shown ({', '.join(only[:3])}{more})")
    if found.images["count"] != other_found.images["count"]:
        differing.append(f"{found.images['count']:,} and {other_found.images['count']:,} images")
    elif found.images["fingerprints"] != other_found.images["fingerprints"]:
        differing.append("other images (their fingerprints differ)")
    if found.form == "in_memory" and first.settings["seed"] != other.settings["seed"]:
        differing.append(f"seeds {first.settings['seed']} and {other.settings['seed']}")
    for note, words in (("frost", "frost"), ("constants_of_size", "constants of the size")):
        if found.notes.get(note) != other_found.notes.get(note):
            differing.append(f"{words} {found.notes.get(note)} and {other_found.notes.get(note)}")
    return differing


def _cautions(first: SegmentationResult, other: SegmentationResult) -> list[str]:
    """What a reader should know: choices that differ and belong to the model."""
    found = []
    asked, other_asked = (result.settings["prediction"] for result in (first, other))
    differing = [name.replace("_", " ") for name in asked if asked[name] != other_asked.get(name)]
    if differing:
        found.append(f"The reference was asked in another way ({', '.join(differing)}).")
    if first.model["weights_sha256"] == other.model["weights_sha256"]:
        found.append("Both have the same weights.")
    return found
