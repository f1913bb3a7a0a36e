import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tapadl.corruptions import corrupt
from tapadl.corruptions.perturbations import perturb
from tapadl.data.embedded import EmbeddedImages
from tapadl.evaluation import evaluate
from tapadl.evaluation.benchmark_result import EvaluationResult
from tapadl.evaluation.evaluate import job_of, summarise
from tapadl.evaluation.loading import LoadedModel
from tapadl.evaluation.plan import Cell, Part, units_of
from tapadl.evaluation.preprocessing import Preprocessing
from tapadl.evaluation.run import AttackSettings, Clock, RunSettings, collect, run_plan
from tapadl.evaluation.shown import in_cell

CPU = torch.device("cpu")
CELLS = (Cell("clean"), Cell("fog", 2), Cell("gaussian_noise", 5), Cell("contrast", 4))


@pytest.fixture(scope="module")
def images():
    return EmbeddedImages.load().subset(50)


@pytest.fixture(scope="module")
def loaded():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()
    return LoadedModel("linear", model, Preprocessing((28, 28), (0.286,), (0.353,)), "0" * 64, {})


def records(parts, loaded, folder, settings=None, **options):
    settings = settings or RunSettings(batch_size=16)
    run_plan(parts, loaded, folder, settings, device=CPU, **options)
    return collect(parts, folder, settings)


def answers(found):
    return [(record.cell, record.items["correct"].tolist()) for part in found for record in part]


@pytest.mark.parametrize("seed", [0, 3])
def test_answers_are_those_of_the_model_on_corrupted_images(images, loaded, tmp_path, seed):
    settings = RunSettings(batch_size=16, seed=seed)
    found = records([Part(images, CELLS, "in_memory")], loaded, tmp_path, settings)[0]
    labels, indices = torch.tensor(images.labels), torch.tensor(images.positions)
    for record in found:
        shown = images.pixels / 255
        if record.cell.severity:
            shown = corrupt(shown, record.cell.condition, record.cell.severity, seed=seed, indices=indices)
            shown = (shown * 255).round() / 255
        logits = loaded.model((shown - 0.286) / 0.353)
        assert record.items["correct"].tolist() == (logits.argmax(dim=1) == labels).tolist()


@pytest.mark.parametrize("options", [{"num_workers": 2}, {"settings": RunSettings(batch_size=7)}])
def test_workers_and_batches_change_no_answer(images, loaded, tmp_path, options):
    parts = [Part(images, CELLS, "in_memory")]
    alone = answers(records(parts, loaded, tmp_path / "alone"))
    assert answers(records(parts, loaded, tmp_path / "other", **options)) == alone


def test_processes_share_the_units_and_give_the_same_result(images, loaded, tmp_path, monkeypatch):
    parts = [Part(images, CELLS, "in_memory"), Part(images.subset(20), CELLS[:1], "stored")]
    alone = answers(records(parts, loaded, tmp_path / "alone"))
    shown = []
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        seen = []
        run_plan(
            parts,
            loaded,
            tmp_path / "shared",
            RunSettings(batch_size=16),
            device=CPU,
            on_progress=seen.append,
        )
        shown.append(sum(seen))
    assert sum(shown) == 50 * 4 + 20
    assert max(shown) < 50 * 4
    assert answers(collect(parts, tmp_path / "shared", RunSettings(batch_size=16))) == alone


class Stopped(Exception):
    pass


@pytest.mark.parametrize("after", [1, 5, 11])
def test_stopped_run_goes_on_where_it_was(images, loaded, tmp_path, after):
    parts = [Part(images, CELLS, "in_memory")]
    alone = answers(records(parts, loaded, tmp_path / "alone"))
    told = []

    def stop(count):
        told.append(count)
        if sum(1 for one in told if one) > after:
            raise Stopped

    with pytest.raises(Stopped):
        records(parts, loaded, tmp_path / "stopped", on_progress=stop)
    reads = []

    class Counting:
        outputs, labels, class_names = images.outputs, images.labels, images.class_names
        fingerprint, positions = images.fingerprint, images.positions

        def __len__(self):
            return len(images)

        def image(self, index):
            reads.append(index)
            return images.image(index)

    again = [Part(Counting(), CELLS, "in_memory")]
    seen = []
    assert answers(records(again, loaded, tmp_path / "stopped", on_progress=seen.append)) == alone
    assert sum(seen) == 50 * 4
    # finished units are not read again, and no image is read twice for its cells
    assert len(reads) == len(set(reads)) <= 50 - 16 * (after // 4)


def test_nothing_is_collected_while_a_record_is_missing(images, loaded, tmp_path):
    parts = [Part(images, CELLS, "in_memory")]
    records(parts, loaded, tmp_path)
    next((tmp_path / "units").iterdir()).unlink()
    with pytest.raises(RuntimeError, match=r"expected records of clean in .*jsonl, got none; run it again"):
        collect(parts, tmp_path, RunSettings(batch_size=16))


def test_units_of_other_images_or_cells_have_other_files(images, loaded, tmp_path):
    for parts in (
        [Part(images, CELLS, "in_memory")],
        [Part(images, CELLS, "in_memory_jpeg85")],
        [Part(images, CELLS[:2], "in_memory")],
        [Part(images.subset(30), CELLS, "in_memory")],
    ):
        before = len(list(tmp_path.glob("units/*")))
        records(parts, loaded, tmp_path)
        assert len(list(tmp_path.glob("units/*"))) == before + len(units_of(parts, 16))


def test_jpeg_form_is_what_a_file_of_quality_85_gives(images):
    pixels = torch.stack([torch.from_numpy(np.array(images.image(i)))[None] for i in range(2)])
    plain = in_cell(pixels, Cell("fog", 3), "in_memory", indices=torch.tensor([4, 5]), seed=1)
    jpeg = in_cell(pixels, Cell("fog", 3), "in_memory_jpeg85", indices=torch.tensor([4, 5]), seed=1)
    for before, after in zip(plain, jpeg, strict=True):
        file = io.BytesIO()
        Image.fromarray(before[0].numpy()).save(file, "JPEG", quality=85)
        assert np.array_equal(np.array(Image.open(file)), after[0].numpy())
    assert not torch.equal(plain, jpeg)


def test_stored_images_and_clean_ones_stay_as_they_are(images):
    pixels = images.pixels[:2]
    assert in_cell(pixels, Cell("fog", 3), "stored", indices=torch.arange(2), seed=0) is pixels
    assert in_cell(pixels, Cell("clean"), "in_memory_jpeg85", indices=torch.arange(2), seed=0) is pixels


def test_sequences_are_perturbed_and_scored(images, loaded, tmp_path):
    some = images.subset(20)
    part = Part(some, (Cell("gaussian_noise"), Cell("tilt")), "in_memory", sequences=True)
    found = records([part], loaded, tmp_path, RunSettings(batch_size=16, seed=3))[0]
    # a little larger than what the model sees, so that what moves brings little black in
    wide = replace(loaded.preprocessing, image_size=(32, 32), crop_pct=1.0)
    prepared = torch.stack([wide.prepare(some.image(index)) for index in range(20)]) / 255
    for record in found:
        name = record.cell.condition
        frames = perturb(prepared, name, seed=3, indices=torch.tensor(some.positions), crop_size=28)
        shown = (frames * 255).round() / 255
        answers = loaded.model((shown.flatten(0, 1) - 0.286) / 0.353).argmax(dim=1).reshape(20, -1)
        before = answers[:, :1] if "noise" in name else answers[:, :-1]
        assert record.items["flips"].tolist() == (answers[:, 1:] != before).sum(dim=1).tolist()
        assert (record.items["pairs"] == 30).all()
        assert 0 < record.items["flips"].sum() < 20 * 30


def test_sequences_made_in_memory_have_a_result_that_says_how(images, tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()
    facts = {"library": "own", "parameters": "7850", "outputs": "10"}
    loaded = LoadedModel("linear", model, Preprocessing((28, 28), (0.286,), (0.353,)), "0" * 64, facts)
    cells = (Cell("gaussian_noise"), Cell("snow"), Cell("tilt"))
    plan = {"imagenet-p": [Part(images.subset(10), cells, "in_memory", sequences=True)]}
    settings = RunSettings(batch_size=16)
    run_plan(plan["imagenet-p"], loaded, tmp_path, settings, device=CPU)
    result = summarise(loaded, plan, settings, tmp_path, command="", device=CPU, subset=10)
    assert result.benchmarks[0].notes == {
        "image_size": [28, 28],
        "constants_of_size": 32,
        "lengths_scaled": True,
    }
    result.save(tmp_path / "result.json")
    metrics = EvaluationResult.load(tmp_path / "result.json").metrics("imagenet-p")
    assert 0 < metrics["flip_probability_gaussian_noise"] < 1


def test_frost_of_another_kind_is_another_job(images, loaded, monkeypatch):
    plan = {"embedded-c": [Part(images, (Cell("frost", 1),), "in_memory")]}
    jobs = []
    for kind in ("photographs", "procedural"):
        monkeypatch.setattr(evaluate, "frost_source", lambda kind=kind: kind)
        jobs.append(job_of(loaded, plan, RunSettings()))
    assert jobs[0] != jobs[1]
    stored = {"imagenet-c": [Part(images, (Cell("frost", 1),), "stored")]}
    assert "frost" not in job_of(loaded, stored, RunSettings())["settings"]


def test_attacks_hurt_and_stay_in_their_ball(images, loaded, tmp_path):
    cells = (Cell("clean"), Cell("fgsm"), Cell("pgd"))
    part = Part(images, cells, "stored", attacks=("fgsm", "pgd"))
    settings = RunSettings(batch_size=16, attack=AttackSettings(eps=8 / 255))
    right = {
        record.cell.condition: record.items["correct"].sum()
        for record in records([part], loaded, tmp_path, settings)[0]
    }
    assert right["clean"] > right["fgsm"] >= right["pgd"]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks_are_as_strong_as_the_settings_say(images, loaded, tmp_path, monkeypatch, norm):
    told = []

    def record(_model, attacked, _labels, **options):
        told.append(options | {"indices": list(options["indices"])})
        return attacked

    monkeypatch.setattr("tapadl.evaluation.run.pgd", record)
    part = Part(images.subset(20), (Cell("clean"), Cell("pgd")), "stored", attacks=("pgd",))
    settings = RunSettings(batch_size=20, seed=5, attack=AttackSettings(0.3, norm, 7))
    records([part], loaded, tmp_path, settings)
    positions = list(images.subset(20).positions)
    assert told == [{"eps": 0.3, "norm": norm, "steps": 7, "seed": 5, "indices": positions}]


def test_attacks_with_gradients_in_float16_are_refused(images, loaded):
    plan = {"embedded": [Part(images, (Cell("clean"), Cell("fgsm")), "stored", attacks=("fgsm",))]}
    job_of(loaded, plan, RunSettings(precision="bfloat16"))
    with pytest.raises(ValueError, match="float32 or bfloat16 for attacks, got float16"):
        job_of(loaded, plan, RunSettings(precision="float16"))


def test_clock_is_told_where_the_time_went(images, loaded, tmp_path):
    clock = Clock()
    records([Part(images, CELLS, "in_memory")], loaded, tmp_path, clock=clock)
    assert clock.images > 0
    assert clock.model > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RunSettings(batch_size=0), "batch_size of at least 1"),
        (lambda: RunSettings(seed=-1), "seed from 0"),
        (lambda: AttackSettings(eps=0.0), "eps above 0"),
        (lambda: AttackSettings(norm="l1"), "norm out of linf, l2"),
        (lambda: AttackSettings(steps=0), "steps of at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_subset_gives_the_answers_of_the_whole_set_on_its_images(images, loaded, tmp_path):
    subset = images.subset(20)
    whole = records([Part(images, CELLS, "in_memory")], loaded, tmp_path / "whole")[0]
    part = records([Part(subset, CELLS, "in_memory")], loaded, tmp_path / "part")[0]
    places = [images.positions.index(position) for position in subset.positions]
    for all_of_them, some in zip(whole, part, strict=True):
        assert all_of_them.items["correct"][places].tolist() == some.items["correct"].tolist()
