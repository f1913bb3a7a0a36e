"""Attention of the demo's models: numbers for the results, examples for the page."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from tapadl.corruptions import CORRUPTIONS
from tapadl.demo.cells import CLEAN, Cell, CorruptedImages
from tapadl.diagnostics import (
    attention_focus,
    attention_stability,
    dilation_maps,
    head_mean_attention,
)

TOP_FRACTION = 0.05
TAU = 2.0
# Enough for numbers that hardly move with more, in seconds.
NUM_IMAGES = 100
NUM_SAMPLES = 3


@dataclass(frozen=True, eq=False)
class Look:
    """One model at one image.

    Args:
        prediction: Name of the class it finds most probable.
        confidence: That probability, 0 to 1.
        attention: For each layer the head-averaged map (N, M) on the CPU.
        dilation: For each TAP the mean dilation (rows, cols) on the CPU; empty for a model without TAP.
    """

    prediction: str
    confidence: float
    attention: tuple[torch.Tensor, ...]
    dilation: tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class AttentionExample:
    """One image, clean and corrupted, and how models look at both.

    Args:
        class_name: What it shows.
        corruption: Name of the corruption.
        severity: Its strength, 1 to 5.
        clean: The image (C, H, W), float32 in 0..1.
        corrupted: The same, corrupted.
        grid_size: Rows and columns of patches.
        looks: For each variant its look at the clean and at the corrupted image.
    """

    class_name: str
    corruption: str
    severity: int
    clean: torch.Tensor
    corrupted: torch.Tensor
    grid_size: tuple[int, int]
    looks: Mapping[str, tuple[Look, Look]]


@dataclass(frozen=True, eq=False)
class CorruptionSample:
    """A few images under one corruption.

    Args:
        corruption: Its name.
        severities: 0 for clean, then those shown.
        images: (R, S, C, H, W), float32 in 0..1: R images at the S severities.
        class_names: What the R images show.
    """

    corruption: str
    severities: tuple[int, ...]
    images: torch.Tensor
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class ReportExamples:
    """Everything that the page shows beyond the results.

    Args:
        samples: One for each corruption.
        attention: A few examples.
        seed: Of the models in `attention`.
        explorer: Address of the page to explore their attention, relative to the report; None without.
    """

    samples: tuple[CorruptionSample, ...] = ()
    attention: tuple[AttentionExample, ...] = ()
    seed: int | None = None
    explorer: str | None = None


def attention_numbers(
    model: nn.Module,
    images: CorruptedImages,
    cells: Sequence[Cell],
    *,
    normalise: Callable[[torch.Tensor], torch.Tensor],
    count: int = NUM_IMAGES,
) -> dict[str, Any]:
    """Over-focus and stability of a trained model's attention, layer by layer, as plain data.

    The first `count` images are looked at clean and under every corruption in `cells`, at the middle one of
    the severities there. Over-focus under corruption is the mean over corruptions.

    Args:
        model: Trained; images (B, C, H, W) to logits.
        images: Makes the images of a cell.
        cells: Those of the evaluation.
        normalise: What the model expects of its images in [0, 1].
        count: How many images, at least 1.

    Returns:
        `{"images", "severity", "corruptions", "top_fraction", "tau", "layers"}`; each layer has "clean" and
        "corrupted" (the fields of `AttentionFocus`), "stability" (`AttentionStability`),
        "stability_by_corruption" and, with TAP, "mean_dilation".
    """
    severity = middle_severity(cells)
    names = list(dict.fromkeys(cell.corruption for cell in cells if cell.severity == severity))
    device = next(model.parameters()).device

    def shown(cell: Cell) -> torch.Tensor:
        return normalise(images.in_cell(cell)[:count].to(device) / 255)

    clean_images = shown(Cell(CLEAN, 0))
    clean = head_mean_attention(model, clean_images)
    focus = [_focus(attention) for attention in clean]
    corrupted_focus: list[list[dict[str, float]]] = [[] for _ in clean]
    stability: list[dict[str, dict[str, float]]] = [{} for _ in clean]
    for name in names:
        corrupted = head_mean_attention(model, shown(Cell(name, severity)))
        for layer, (before, after) in enumerate(zip(clean, corrupted, strict=True)):
            corrupted_focus[layer].append(_focus(after))
            stability[layer][name] = asdict(attention_stability(before, after))
    layers = [
        {
            "clean": focus[layer],
            "corrupted": _mean_of(corrupted_focus[layer]),
            "stability": _mean_of(list(stability[layer].values())),
            "stability_by_corruption": stability[layer],
        }
        for layer in range(len(clean))
    ]
    dilations = dilation_maps(model, clean_images)
    if len(dilations) == len(layers):
        for numbers, dilation in zip(layers, dilations, strict=True):
            numbers["mean_dilation"] = dilation.mean().item()
    return {
        "images": len(clean_images),
        "severity": severity,
        "corruptions": names,
        "top_fraction": TOP_FRACTION,
        "tau": TAU,
        "layers": layers,
    }


def collect_examples(
    models: Mapping[str, nn.Module],
    images: CorruptedImages,
    labels: torch.Tensor,
    cells: Sequence[Cell],
    *,
    class_names: Sequence[str],
    normalise: Callable[[torch.Tensor], torch.Tensor],
    grid_size: tuple[int, int],
    seed: int | None = None,
) -> ReportExamples:
    """Images under corruption and the attention of models on some of them, chosen by rule, not by eye.

    Shown are the first images of the first classes that occur. Attention is shown for one image a group of
    corruptions: the next image, under the first corruption of the group, at the middle severity.

    Args:
        models: Trained, by variant.
        images: Makes the images of a cell.
        labels: (N,), int64, their classes.
        cells: Those of the evaluation.
        class_names: In the order of the labels.
        normalise: What the models expect of their images in [0, 1].
        grid_size: Rows and columns of patches.
        seed: Of the models, for the caption.
    """
    names = list(dict.fromkeys(cell.corruption for cell in cells if cell.severity))
    first_of_group = list({CORRUPTIONS[name].group: name for name in reversed(names)}.values())[::-1]
    chosen = list(first_of_classes(labels, max(NUM_SAMPLES, len(first_of_group))))
    titles = [class_names[int(labels[index])] for index in chosen]

    def shown(cell: Cell) -> torch.Tensor:
        return images.in_cell(cell)[chosen].float() / 255

    clean = shown(Cell(CLEAN, 0))
    samples = []
    for name in names:
        severities = sorted({cell.severity for cell in cells if cell.corruption == name})
        columns = [clean, *(shown(Cell(name, severity)) for severity in severities)]
        stacked = torch.stack(columns, dim=1)[:NUM_SAMPLES]
        samples.append(CorruptionSample(name, (0, *severities), stacked, tuple(titles[:NUM_SAMPLES])))
    severity = middle_severity(cells)
    attention = []
    for index, name in zip(range(len(chosen)), first_of_group, strict=False):
        corrupted = shown(Cell(name, severity))[index]
        pair = torch.stack((clean[index], corrupted))
        looks = {variant: _looks(model, normalise(pair), class_names) for variant, model in models.items()}
        attention.append(
            AttentionExample(titles[index], name, severity, clean[index], corrupted, grid_size, looks)
        )
    return ReportExamples(tuple(samples), tuple(attention), seed)


def middle_severity(cells: Sequence[Cell]) -> int:
    """The middle one of the severities in a list of cells, the lower of two.

    Raises:
        ValueError: If there is none.

    Example:
        >>> middle_severity([Cell("clean", 0), Cell("fog", 1), Cell("fog", 3), Cell("fog", 5)])
        3
    """
    severities = sorted({cell.severity for cell in cells if cell.severity})
    if not severities:
        raise ValueError("expected cells with at least one corruption, got none")
    return severities[(len(severities) - 1) // 2]


def _looks(model: nn.Module, pair: torch.Tensor, class_names: Sequence[str]) -> tuple[Look, Look]:
    pair = pair.to(next(model.parameters()).device)
    attention = [layer.cpu() for layer in head_mean_attention(model, pair)]
    dilation = [layer.cpu() for layer in dilation_maps(model, pair)]
    model.eval()
    with torch.inference_mode():
        confidence, prediction = model(pair).softmax(dim=1).max(dim=1)
    clean, corrupted = (
        Look(
            class_names[int(prediction[image])],
            float(confidence[image]),
            tuple(layer[image] for layer in attention),
            tuple(layer[image] for layer in dilation),
        )
        for image in range(2)
    )
    return clean, corrupted


def first_of_classes(labels: torch.Tensor, count: int) -> Iterator[int]:
    """The places of the first image of each of the first `count` classes that occur."""
    seen: set[int] = set()
    for index, label in enumerate(labels.tolist()):
        if label not in seen and len(seen) < count:
            seen.add(label)
            yield index


def _focus(attention: torch.Tensor) -> dict[str, float]:
    return asdict(attention_focus(attention, top_fraction=TOP_FRACTION, tau=TAU))


def _mean_of(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.fmean(numbers[name] for numbers in found) for name in found[0]}
