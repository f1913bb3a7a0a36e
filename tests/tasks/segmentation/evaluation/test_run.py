import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.classification import MulticlassJaccardIndex

from tapadl.corruptions import corrupt
from tapadl.data.segmentation import SegmentationFiles
from tapadl.evaluation.plan import Cell
from tapadl.tasks.segmentation.evaluation.benchmarks import Part
from tapadl.tasks.segmentation.evaluation.run import RunSettings, collect, run_plan
from tapadl.tasks.segmentation.evaluation.summary import metrics_of, totals_of

CPU = torch.device("cpu")
CELLS = (Cell("clean"), Cell("fog", 2), Cell("gaussian_noise", 3), Cell("motion_blur", 4))


@pytest.fixture
def run(segmenter):
    def run(parts, folder, **options):
        run_plan(parts, segmenter, folder, RunSettings(seed=3), device=CPU, **options)
        return collect(parts, folder)

    return run


def counted(found):
    return [
        (record.cell, record.items["pixels"].tolist(), record.totals["confusion"].tolist())
        for part in found
        for record in part
    ]


@pytest.mark.parametrize("constants", [224, None])
def test_miou_is_that_of_torchmetrics_on_the_corrupted_images(run, segmenter, scenes, tmp_path, constants):
    found = run([Part(scenes, CELLS, "in_memory", constants)], tmp_path)[0]
    reader = segmenter.model
    for record in found:
        oracle = MulticlassJaccardIndex(num_classes=3, ignore_index=255)
        for index in range(len(scenes)):
            image, mask = scenes.pair(index)
            shown = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
            if record.cell.severity:
                shown = corrupt(
                    shown,
                    record.cell.condition,
                    record.cell.severity,
                    seed=3,
                    indices=torch.tensor([index]),
                    image_size=constants,
                )
                shown = (shown * 255).round() / 255
            oracle.update(reader(shown).argmax(1)[0], torch.from_numpy(mask).long())
        (value,) = metrics_of({Cell("clean"): totals_of([record])[record.cell]}).values()
        assert float(value) == pytest.approx(float(oracle.compute()), abs=1e-6)
        assert record.count == len(scenes)


def test_workers_change_no_count(run, scenes, tmp_path):
    parts = [Part(scenes, CELLS, "in_memory")]
    alone = counted(run(parts, tmp_path / "alone"))
    assert counted(run(parts, tmp_path / "workers", num_workers=2)) == alone


def test_processes_share_the_images_and_give_the_same_result(run, segmenter, scenes, tmp_path, monkeypatch):
    parts = [Part(scenes, CELLS, "in_memory"), Part(scenes.subset(2), CELLS[:1])]
    alone = counted(run(parts, tmp_path / "alone"))
    shown = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        seen = []
        run_plan(parts, segmenter, tmp_path / "two", RunSettings(seed=3), device=CPU, on_progress=seen.append)
        shown.append(sum(seen))
    assert sum(shown) == 5 * 4 + 2
    assert max(shown) < 5 * 4
    assert counted(collect(parts, tmp_path / "two")) == alone


class Stopped(Exception):
    pass


@pytest.mark.parametrize("after", [1, 6])
def test_stopped_run_goes_on_where_it_was_and_reads_each_image_once(
    run, scenes, tmp_path, monkeypatch, after
):
    parts = [Part(scenes, CELLS, "in_memory")]
    alone = counted(run(parts, tmp_path / "alone"))
    told = []

    def stop(count):
        told.append(count)
        if sum(told) > after:
            raise Stopped

    with pytest.raises(Stopped):
        run(parts, tmp_path / "stopped", on_progress=stop)
    # torn in the middle of a line
    torn = sorted((tmp_path / "stopped" / "units").iterdir())[-1]
    torn.write_bytes(torn.read_bytes()[:-20])
    reads = []
    pair = SegmentationFiles.pair

    def counting(files, index):
        reads.append(index)
        return pair(files, index)

    monkeypatch.setattr(SegmentationFiles, "pair", counting)
    seen = []
    assert counted(run(parts, tmp_path / "stopped", on_progress=seen.append)) == alone
    assert sum(seen) == 5 * 4
    assert len(reads) == len(set(reads)) == 5 - after // 4


def test_nothing_is_collected_while_a_record_is_missing(run, scenes, tmp_path):
    parts = [Part(scenes, CELLS[:1])]
    run(parts, tmp_path)
    next((tmp_path / "units").iterdir()).unlink()
    with pytest.raises(RuntimeError, match=r"expected records of clean in .*jsonl, got none; run it again"):
        collect(parts, tmp_path)


def test_predictions_have_the_numbers_of_label_files_and_the_names_of_images(run, scenes, scheme, tmp_path):
    parts = [Part(scenes, CELLS[:2], "in_memory")]
    run(parts, tmp_path, predictions=[tmp_path / "predictions"])
    for index in range(len(scenes)):
        mask = np.array(Image.open(tmp_path / "predictions" / "clean" / f"{index}_photo.png"))
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) <= set(scheme.values)
        truth = scenes.mask(index)
        assert (scheme.to_classes(mask) == truth)[truth != 255].mean() > 0.9
    assert len(list((tmp_path / "predictions" / "fog" / "2").iterdir())) == len(scenes)


def test_images_without_labels_are_predicted_and_not_counted(run, write_scenes, tmp_path):
    files = write_scenes(tmp_path / "test", count=2, labelled=False)
    (records,) = run([Part(files, CELLS[:1])], tmp_path, predictions=[tmp_path / "predictions"])
    assert records[0].items["predicted"].all()
    assert "pixels" not in records[0].items
    assert len(list((tmp_path / "predictions" / "clean").iterdir())) == 2


def test_subset_is_corrupted_as_in_the_whole_set(run, scenes, tmp_path):
    subset = scenes.subset(3)
    whole = run([Part(scenes, CELLS, "in_memory")], tmp_path / "whole")[0]
    part = run([Part(subset, CELLS, "in_memory")], tmp_path / "part")[0]
    for all_of_them, some in zip(whole, part, strict=True):
        assert np.array_equal(all_of_them.items["pixels"][list(subset.positions)], some.items["pixels"])


def test_mask_of_another_size_is_named(run, scenes, tmp_path):
    Image.new("L", (5, 5), 7).save(scenes.root / scenes.masks[2])
    with pytest.raises(ValueError, match=r"expected a label for every pixel of .*2_photo\.png"):
        run([Part(scenes, CELLS[:1])], tmp_path)


def test_image_that_the_segmenter_fails_on_is_named(segmenter, scenes, tmp_path, monkeypatch):
    def fail(images):
        raise RuntimeError("kernel larger than image")

    monkeypatch.setattr(segmenter.model, "forward", fail)
    with pytest.raises(ValueError, match=r"reader fails on 24 x 36 pixels .*kernel .*0_photo\.png"):
        run_plan([Part(scenes, CELLS)], segmenter, tmp_path, RunSettings(), device=CPU)
