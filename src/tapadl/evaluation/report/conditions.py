"""What decides the numbers of a benchmark, and what a reader must know before comparing them."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol

from tapadl.evaluation.benchmarks import BENCHMARKS
from tapadl.evaluation.report.findings import BenchmarkFindings
from tapadl.evaluation.report.words import fact_lines

FORMS = {
    "stored": "stored: shown as they lie on disk",
    "in_memory": "in_memory: corrupted when read, never stored",
    "in_memory_jpeg85": "in_memory_jpeg85: corrupted when read, then JPEG at quality 85 as published",
}
COMPARED = (
    "Difference: the second minus the first, in percentage points where the metric is in percent. Interval: "
    "bootstrap over images, paired. p: paired test by image, not corrected for the number of metrics. A "
    "model is called better where p is below 0.05 and the interval does not hold 0. This says what other "
    "images of the kind would show; it says nothing about other training seeds."
)
PROCEDURAL_FROST = (
    "Frost is a texture made by this package, not the published photographs: frost, weather and all means "
    "over them do not compare with published numbers."
)
MEASURED = "Every number here was measured; none was taken from a paper."
ALEXNET = (
    "AlexNet is the baseline of mCE and relative mCE: its errors on the fifteen corruptions as Hendrycks and "
    "Dietterich published them (ICLR 2019, arXiv:1903.12261), 43.5 % on clean images."
)


def baseline_note(all_findings: Sequence[BenchmarkFindings]) -> str:
    """Where numbers come from that were not measured."""
    if any(findings.relative_to_alexnet for findings in all_findings):
        return f"{ALEXNET} {MEASURED.replace('Every', 'Every other')}"
    return MEASURED


def benchmark_title(name: str) -> str:
    """One line on a benchmark."""
    title = BENCHMARKS[name].title if name in BENCHMARKS else ""
    return title[:1].upper() + title[1:]


def benchmark_facts(findings: BenchmarkFindings) -> list[tuple[str, str]]:
    """What was shown and how, as lines of name and text."""
    found, settings = findings.found[0], findings.models[0].result.settings
    lines = [("Images", _images(found.images)), ("Form", FORMS[found.form])]
    if "fingerprints" in found.images:
        prints = list(found.images["fingerprints"])
        more = f" and {len(prints) - 1} more" if len(prints) > 1 else ""
        lines.append(("Fingerprint of the images", f"{prints[0]}{more}" if prints else "none"))
    if found.form != "stored" or findings.attacks:
        lines.append(("Seed", str(settings.get("seed"))))
    if "image_size" in found.notes:
        lines.append(("Corrupted at", " x ".join(map(str, found.notes["image_size"])) + " pixels"))
    if "constants_of_size" in found.notes:
        scaled = ", lengths scaled to the size" if found.notes.get("lengths_scaled") else ""
        lines.append(("Constants", f"as published for {found.notes['constants_of_size']} pixels{scaled}"))
    if "frost" in found.notes:
        lines.append(("Frost", str(found.notes["frost"])))
    known = ("image_size", "constants_of_size", "lengths_scaled", "frost")
    lines += fact_lines({name: value for name, value in found.notes.items() if name not in known}, none=_NONE)
    if findings.attacks:
        lines.append(("Attacks", _strength(settings.get("attack") or {})))
    return lines


_NONE = "not given"


def _strength(attack: Mapping[str, Any]) -> str:
    """As "linf, eps 0.00392 = 1/255, steps 10"."""
    texts = dict(fact_lines(attack, none=_NONE))
    if "eps" in attack:
        steps = Fraction(attack["eps"] * 255).limit_denominator(100)
        texts["eps"] = f"{attack['eps']:.3g}" + (f" = {float(steps):g}/255" if steps else "")
    return ", ".join(f"{name} {text}" for name, text in texts.items())


def _images(images: Mapping[str, Any]) -> str:
    classes = f" of {images['num_classes']:,} classes" if "num_classes" in images else ""
    share = "all of the set" if images.get("subset") is None else "a fixed subset"
    return f"{images['count']:,}{classes}, {share}"


def notices(findings: BenchmarkFindings) -> list[str]:
    """What stands in the way of comparing these numbers with others, in sentences."""
    found = findings.found[0]
    lines = []
    if findings.relative_to_alexnet and found.form == "in_memory":
        lines.append(
            "Corrupted in memory: published ImageNet-C images went through JPEG at quality 85 once more, "
            "which changes errors. Compare with numbers of the same form."
        )
    if found.notes.get("frost") == "procedural":
        lines.append(PROCEDURAL_FROST)
    if found.notes.get("lengths_scaled"):
        lines.append("There are no published constants for this image size: lengths in pixels were scaled.")
    if found.images.get("subset") is not None:
        lines.append(f"A fixed subset of {found.images['count']:,} images, not the whole set.")
    if any(
        "relative_mce" in errors and one.clean_error is None
        for errors, one in zip(findings.standard_errors, findings.found, strict=True)
    ):
        lines.append("The standard error of the relative mCE takes the clean error as exact.")
    if findings.corruptions and not findings.relative_to_alexnet:
        lines.append("There is no mCE here: AlexNet's errors are known for ImageNet-C alone.")
    extra = [name for name in findings.corruptions if findings.corruption_error(0, name) is None]
    if "mce" in findings.metrics[0] and extra:
        lines.append(
            f"{len(findings.corruptions)} corruptions were shown, and mean corrupted errors are over all of "
            "them; mCE and relative mCE are over the fifteen."
        )
    for comparison in findings.comparisons:
        label = findings.models[comparison.other].label
        lines += [f"{label}: {caution}" for caution in comparison.cautions]
    return lines


class Described(Protocol):
    """What says how it came about; every kind of result does."""

    @property
    def model(self) -> Mapping[str, Any]:
        """Which model, and what else is known of it."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it was asked."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Of Python and the libraries."""

    @property
    def hardware(self) -> Mapping[str, Any]:
        """What it ran on."""

    @property
    def created(self) -> str:
        """When it was finished."""


def model_facts(result: Described) -> list[tuple[str, str]]:
    """Model, settings, versions and hardware of a result, as lines of name and text."""
    return [
        *fact_lines(result.model, none=_NONE),
        *fact_lines(result.settings, none=_NONE),
        *fact_lines(result.versions, "version of ", none=_NONE),
        *fact_lines(result.hardware, none=_NONE),
        ("finished", result.created),
    ]
