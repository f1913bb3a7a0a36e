"""What the JSON of a segmenter's evaluation holds: names, and the kind of value at each."""

from types import NoneType

from tapadl.evaluation.result_schema import CELL

BENCHMARK = {
    "benchmark": str,
    "form": str,
    "images": {"count": int, "fingerprints": [str], "split": str, "subset?": (int, NoneType)},
    "notes": {"constants_of_size?": int, "constants_scaled?": bool, "frost?": str},
    "metrics": dict,
    "iou": dict,
    "cells": [CELL | {"miou?": (int, float, NoneType)}],
}
RESULT = {
    "created": str,
    "command": str,
    "versions": dict,
    "hardware": dict,
    "model": {"name": str, "weights_sha256": str},
    "settings": {
        "seed": int,
        "prediction": {
            "window": (int, NoneType),
            "stride": (int, NoneType),
            "flip": bool,
            "scales": [(int, float)],
            "precision": str,
        },
    },
    "classes": {"names": [str], "colours": [[int]]},
    "benchmarks": [BENCHMARK],
}
