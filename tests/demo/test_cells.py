import pytest
import torch

from tapadl.demo.cells import Cell, CorruptedImages, benchmark_cells, evaluate_cells


@pytest.fixture
def images():
    return torch.randint(0, 256, (7, 1, 28, 28), dtype=torch.uint8)


def test_all_cells_are_clean_and_nineteen_corruptions_at_five_severities():
    cells = benchmark_cells()
    assert len(cells) == len(set(cells)) == 96
    assert cells[0] == Cell("clean", 0)


@pytest.mark.parametrize(
    ("names", "severities", "problem"),
    [
        (["rain"], [1], "expected corruptions out of .*'rain'"),
        (["fog"], [0], "severities from 1 to 5, got 0"),
    ],
)
def test_unknown_cells_are_an_error(names, severities, problem):
    with pytest.raises(ValueError, match=problem):
        benchmark_cells(names, severities)


def test_batch_size_changes_no_image(images):
    for name in ("gaussian_noise", "motion_blur", "fog", "jpeg_compression"):
        cell = Cell(name, 3)
        whole = CorruptedImages(images, seed=1).in_cell(cell)
        parts = CorruptedImages(images, seed=1, batch_size=3).in_cell(cell)
        assert whole.dtype == torch.uint8
        assert torch.equal(whole, parts)
        assert not torch.equal(whole, images)


def test_each_cell_is_made_once_and_shown_to_all_models(images, monkeypatch):
    made = []

    def corrupt(batch, name, severity, *, seed, indices):
        made.append((name, severity, indices.tolist()))
        return batch

    monkeypatch.setattr("tapadl.demo.cells.corrupt", corrupt)
    seen = []

    def count_errors(model, shown, labels):
        seen.append((model, shown.data_ptr()))
        return len(seen)

    models = {"a": torch.nn.Identity(), "b": torch.nn.Flatten()}
    benchmark = CorruptedImages(images, seed=0, batch_size=4)
    cells = benchmark_cells(["fog"], [2])
    told = []
    results = evaluate_cells(
        models, benchmark, torch.zeros(7), cells, count_errors=count_errors, on_cell=told.append
    )
    benchmark.in_cell(Cell("fog", 2))
    assert made == [("fog", 2, [0, 1, 2, 3]), ("fog", 2, [4, 5, 6])]
    assert seen[2][1] == seen[3][1]
    assert [(cell.corruption, cell.errors, cell.count) for cell in results["b"]] == [
        ("clean", 2, 7),
        ("fog", 4, 7),
    ]
    assert told == list(cells)
