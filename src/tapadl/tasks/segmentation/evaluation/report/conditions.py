"""What decides the numbers of a benchmark, and what a reader must know before comparing them."""

from collections.abc import Mapping
from typing import Any

from tapadl.evaluation.report.conditions import FORMS, PROCEDURAL_FROST
from tapadl.tasks.segmentation.evaluation.report.findings import BenchmarkFindings

COMPARED = (
    "Difference: the second minus the first, in percentage points. Interval: 95 % bootstrap over images, the "
    "same draws for both, mIoU computed anew from the pixels of each draw. A model is called better where "
    "the interval does not hold 0. This says what other images of the kind would show; it says nothing about "
    "other training seeds."
)
INTERVALS = "Small print: 95 % bootstrap interval over images."


def benchmark_facts(findings: BenchmarkFindings) -> list[tuple[str, str]]:
    """What was shown and how, as lines of name and text."""
    found, settings = findings.found[0], findings.models[0].result.settings
    share = "all of the split" if found.images.get("subset") is None else "a fixed subset"
    lines = [
        ("Images", f"{found.images['count']:,}, split {found.images['split']}, {share}"),
        ("Form", FORMS[found.form]),
        ("Asked for", asked(settings["prediction"])),
    ]
    if found.form == "in_memory":
        lines.append(("Seed", str(settings["seed"])))
        lines.append(("Constants", _constants(found.notes)))
    if "frost" in found.notes:
        lines.append(("Frost", str(found.notes["frost"])))
    prints = list(found.images["fingerprints"])
    more = f" and {len(prints) - 1} more" if len(prints) > 1 else ""
    lines.append(("Fingerprint of the images", f"{prints[0]}{more}" if prints else "none"))
    return lines


def asked(prediction: Mapping[str, Any]) -> str:
    """How a segmenter was asked.

    Example:
        >>> asked({"window": 1024, "stride": None, "flip": True, "scales": [1.0], "precision": "float32"})
        'windows of 1024 pixels every 768, also mirrored'
    """
    window, stride = prediction["window"], prediction["stride"]
    step = stride or max(1, (window or 0) * 3 // 4)
    words = ["the whole picture" if window is None else f"windows of {window} pixels every {step}"]
    if prediction["flip"]:
        words.append("also mirrored")
    if list(prediction["scales"]) != [1.0]:
        words.append(f"at scales {', '.join(f'{scale:g}' for scale in prediction['scales'])}")
    if prediction["precision"] != "float32":
        words.append(f"in {prediction['precision']}")
    return ", ".join(words)


def _constants(notes: Mapping[str, Any]) -> str:
    if "constants_of_size" in notes:
        return f"as published for {notes['constants_of_size']} pixels, whatever the size of the images"
    return "lengths in pixels grow with the shorter side of each image"


def notices(findings: BenchmarkFindings) -> list[str]:
    """What stands in the way of comparing these numbers with others, in sentences."""
    found = findings.found[0]
    lines = []
    if not findings.labelled:
        lines.append("This split comes without labels: there are predictions, and no numbers.")
    if findings.name == "cityscapes-c" and not findings.as_published:
        lines.append(
            "Not all cells of Cityscapes-C: the mean does not compare with published ones, which are over "
            "sixteen corruptions, noise at severities 1 to 3 and the others at 1 to 5."
        )
    if found.notes.get("frost") == "procedural":
        lines.append(PROCEDURAL_FROST)
    if found.notes.get("constants_scaled"):
        lines.append(
            "Lengths in pixels grow with the image, which Cityscapes-C does not do: mean corrupted mIoUs of "
            "the two are different measures."
        )
    if found.images.get("subset") is not None:
        lines.append(f"A fixed subset: {found.images['count']:,} images, not the whole split.")
    for comparison in findings.comparisons:
        label = findings.models[comparison.other].label
        lines += [f"{label}: {caution}" for caution in comparison.cautions]
    return lines
