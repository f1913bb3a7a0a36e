"""Time an image of each corruption, in batches, against `imagecorruptions-imaug`, on one thread.

    OMP_NUM_THREADS=1 python benchmarks/corruptions.py            write benchmarks/results/corruptions.json
    OMP_NUM_THREADS=1 python benchmarks/corruptions.py --quick    a batch of two, a check that this file runs

Both sides start from images in the form they want, 8-bit pictures there and a float tensor here, and end in
the float32 batch in 0..1 that a model takes. What that conversion costs the oracle is stated, and which
ratios would be under 0.9 without it. The oracle works image by image, has the constants of 224 pixels at
every size and another, weaker elastic transform without the affine map, and reads its frost photograph from
disk each time. Ours take the constants published for the size.
Before anything is timed both must change the images equally much with the same constants.
"""

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import cv2
import imagecorruptions.corruptions as oracle
import numpy as np
import torch
from PIL import Image

from measure import Step, as_row, compare, median_ms, write_results
from tapadl.corruptions import CORRUPTIONS, corrupt, frost_source

RESULTS = Path(__file__).parent / "results" / "corruptions.json"
SEVERITIES = (1, 3, 5)
OTHERWISE_DEFINED = {"elastic_transform", "frost"}
TOLERANCE = 0.25  # of the mean absolute change; tests compare with many more draws


class Setting(NamedTuple):
    """Side of the images in pixels and how many are corrupted at once."""

    side: int
    batch: int


SETTINGS = (Setting(224, 32), Setting(32, 256))
QUICK_SETTINGS = (Setting(32, 2),)


def make_pictures(setting: Setting) -> list[Image.Image]:
    """Smooth waves, a hard-edged disk and fine texture, another mixture each."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0 : setting.side, 0 : setting.side, 0:1][:2] / setting.side
    pictures = []
    for _ in range(setting.batch):
        down, right, phase = generator.uniform(-12, 12, (3, 3))
        waves = np.sin(2 * np.pi * (down * y + right * x) + phase)
        centre, radius = generator.uniform(0.2, 0.8, 2), generator.uniform(0.1, 0.3)
        disk = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        values = 0.5 + 0.2 * waves + 0.2 * disk + generator.normal(0, 0.03, waves.shape)
        pictures.append(Image.fromarray(np.uint8(255 * values.clip(0, 1))))
    return pictures


def to_batch(arrays: list[np.ndarray]) -> torch.Tensor:
    """Pictures (H, W, C) in 0..255 as a float32 batch in 0..1."""
    return torch.stack([torch.from_numpy(array).permute(2, 0, 1).float() for array in arrays]).div_(255)


def steps(corruption: str, severity: int, pictures: list[Image.Image]) -> tuple[Step, Step]:
    """The oracle and ours on the same images."""
    function: Callable[..., object] = getattr(oracle, corruption)
    images, indices = to_batch([np.array(picture) for picture in pictures]), torch.arange(len(pictures))

    def baseline() -> torch.Tensor:
        return to_batch([np.array(function(picture, severity)) for picture in pictures])

    def candidate() -> torch.Tensor:
        return corrupt(images, corruption, severity, seed=0, indices=indices)

    return baseline, candidate


def check_changes(corruption: str, pictures: list[Image.Image]) -> None:
    """End if the mean absolute changes differ by more than the tolerance."""
    images = to_batch([np.array(picture) for picture in pictures])
    indices = torch.arange(len(images))
    ours = corrupt(images, corruption, 3, seed=0, indices=indices, image_size=224)
    theirs = steps(corruption, 3, pictures)[0]()
    changes = [float((changed - images).abs().mean()) for changed in (ours, theirs)]
    if abs(changes[0] - changes[1]) > TOLERANCE * changes[1]:
        raise SystemExit(f"{corruption}: expected equal changes, got {changes}; nothing was timed")


def measure(setting: Setting, pairs: int) -> list[dict[str, object]]:
    """One row for each corruption and severity; times are those of an image."""
    pictures, rows = make_pictures(setting), []
    for corruption in CORRUPTIONS:
        for severity in SEVERITIES:
            comparison = compare(*steps(corruption, severity, pictures), pairs=pairs, warmup=1)
            row = as_row(comparison, **setting._asdict(), corruption=corruption, severity=severity)
            for name in ("baseline_ms", "candidate_ms"):
                row[name] = round(row[name] / setting.batch, 4)
            rows.append(row)
        own = rows[-len(SEVERITIES) :]
        times = [mean(row[name] for row in own) for name in ("baseline_ms", "candidate_ms")]
        ratio = times[0] / times[1]
        print(f"{setting.side:4d} {corruption:18s} {times[0]:8.3f} -> {times[1]:7.3f} ms, {ratio:6.2f} x")
    return rows


def summarise(setting: Setting, rows: list[dict], conversion_ms: float) -> dict[str, object]:
    """Sums over the corruptions of the mean times over severities, and the smallest ratio."""
    times = {
        name: [
            mean(row[side] for row in rows if row["corruption"] == name)
            for side in ("baseline_ms", "candidate_ms")
        ]
        for name in CORRUPTIONS
    }
    sums = [sum(pair[side] for pair in times.values()) for side in (0, 1)]
    without_frost = [total - frost for total, frost in zip(sums, times["frost"], strict=True)]
    conversion = conversion_ms / setting.batch
    slowest = min(times, key=lambda name: times[name][0] / times[name][1])
    return {
        **setting._asdict(),
        "sum_baseline_ms": round(sums[0], 3),
        "sum_candidate_ms": round(sums[1], 3),
        "speedup_of_the_sum": round(sums[0] / sums[1], 2),
        "speedup_of_the_sum_without_frost": round(without_frost[0] / without_frost[1], 2),
        "lowest_speedup": round(times[slowest][0] / times[slowest][1], 2),
        "lowest_speedup_of": slowest,
        "conversion_in_baseline_ms": round(conversion, 4),
        "under_0.9_without_conversion": [
            name for name, (slow, fast) in times.items() if (slow - conversion) / fast < 0.9
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a batch of two, one pair, nothing written")
    parser.add_argument("--pairs", type=int, default=5, help="interleaved pairs a row (default 5)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    # The oracle's spatter divides 0 by 0 on images that stay dry.
    warnings.filterwarnings("ignore", "invalid value encountered in divide")
    # A process that has once freed a large buffer, as any that runs a model has, keeps what it frees.
    torch.zeros(2**20 * 31 // 4)

    rows, summaries = [], []
    for setting in QUICK_SETTINGS if arguments.quick else SETTINGS:
        pictures = make_pictures(setting)
        if not arguments.quick:
            for corruption in sorted(set(CORRUPTIONS) - OTHERWISE_DEFINED):
                check_changes(corruption, pictures)
        arrays = [np.array(picture, dtype=np.float64) for picture in pictures]
        conversion_ms = median_ms(lambda arrays=arrays: to_batch(arrays), runs=10)
        own = measure(setting, 1 if arguments.quick else arguments.pairs)
        rows += own
        summaries.append(summarise(setting, own, conversion_ms))
        print(summaries[-1], flush=True)
    if not arguments.quick:
        write_results(arguments.out, rows=rows, summary=summaries, frost_source=frost_source())


if __name__ == "__main__":
    main()
