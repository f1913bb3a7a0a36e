import numpy as np
from rich.console import Console

from tapadl.cli.tables import demo_table, evaluation_table
from tapadl.demo.result import CellResult, DemoResult, RunResult
from tapadl.evaluation.benchmark_result import BenchmarkResult, EvaluationResult
from tapadl.evaluation.plan import Cell
from tapadl.evaluation.record import Record

VARIANTS = ("plain", "tap", "adl", "tap+adl", "plain-equal-time")
CORRUPTIONS = ("gaussian_noise", "defocus_blur", "fog", "pixelate")


def make_result(seeds) -> DemoResult:
    runs = []
    for place, variant in enumerate(VARIANTS):
        for seed in seeds:
            cells = [CellResult("clean", 0, 400 - 10 * place + seed, 1000)]
            cells += [CellResult(name, 3, 900 - 30 * place + 9 * seed, 1000) for name in CORRUPTIONS]
            runs.append(RunResult(variant, seed, 138_890, 4.0, 1600, 1234.5, 0.04, "ab", 0.2, tuple(cells)))
    return DemoResult("", "", {}, {}, {"evaluate_on": "test"}, {}, tuple(runs))


def lines_of(result: DemoResult) -> list[str]:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(demo_table(result))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_evaluation_fits_into_80_columns_and_gives_every_metric():
    draws = np.random.default_rng(0)
    cells = [Cell("clean"), Cell("fog", 3), Cell("gaussian_noise", 3), Cell("elastic_transform", 3)]
    records = tuple(Record(cell, {"correct": draws.random(1000) < 0.7}, {}) for cell in cells)
    images = {"count": 1000, "num_classes": 10}
    benchmark = BenchmarkResult("embedded-c", "in_memory_jpeg85", images, {}, records)
    result = EvaluationResult("", "", {}, {}, {"name": "vit"}, {}, (benchmark,))
    console = Console(width=80)
    with console.capture() as captured:
        console.print(evaluation_table(result))
    rows = [line.split() for line in captured.get().splitlines() if "%" in line]

    metrics, errors = benchmark.metrics(), benchmark.standard_errors()
    expected = [[f"{100 * metrics[name]:.1f}", "%", f"{100 * errors[name]:.1f}"] for name in metrics]
    assert [row[-3:] for row in rows] == expected
    assert rows[0][:3] == ["embedded-c", "in_memory_jpeg85", "1,000"]
    assert [row[0] for row in rows[2:]] == ["weather", "noise", "digital"]


def test_table_of_several_seeds_fits_into_80_columns_without_folding():
    lines = lines_of(make_result((0, 1)))

    assert all(len(line) <= 80 for line in lines)
    assert not any("…" in line for line in lines)
    # a mean and a spread for every variant, and again for every difference
    assert len([line for line in lines if line.lstrip().startswith(VARIANTS)]) == 2 * len(VARIANTS) - 1
    assert len([line for line in lines if line.lstrip().startswith("±")]) == 2 * len(VARIANTS) - 1


def test_differences_stand_below_their_title():
    lines = lines_of(make_result((0,)))

    title = next(place for place, line in enumerate(lines) if line.strip() == "minus plain:")
    assert lines[title + 1].split() == ["tap", *["-1.0"], *["-3.0"] * 5]
    assert not any("±" in line for line in lines)


def test_zero_has_no_sign():
    lines = lines_of(make_result((0,)))
    assert not any("-0.0" in line or "+0.0" in line for line in lines)


def test_brackets_in_the_name_of_a_model_are_no_markup():
    console = Console(width=120)
    records = (Record(Cell("clean"), {"correct": np.array([True, False])}, {}),)
    benchmark = BenchmarkResult("folder", "stored", {"count": 2, "fingerprints": ["a"]}, {}, records)
    model = {"name": "fan[v1].safetensors"}
    result = EvaluationResult("", "", {}, {}, model, {}, (benchmark,))
    with console.capture() as captured:
        console.print(evaluation_table(result))
    assert "fan[v1].safetensors, lower is better" in captured.get()
