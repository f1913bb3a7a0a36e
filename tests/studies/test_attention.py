"""The study of attention: its plan, the poolings and losses that stand beside TAP and ADL, and a run."""

import json
import random
import re
import sys
from dataclasses import replace

import pytest
import torch

from tapadl.corruptions import CORRUPTIONS
from tapadl.nn import TokenAwareAveragePooling
from tapadl.ops.diversification import attention_diversification_from_map
from tapadl.tasks.classification.model import build_model
from tapadl.training.settings import DataSettings, ModelSettings, Settings, TapSettings


@pytest.fixture
def folder(monkeypatch, request):
    """Where the study lies, its modules importable for the length of a test."""
    folder = request.config.rootpath / "studies" / "attention"
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in ("plan", "poolings", "regularisers", "relations", "study", "summary", "small_vit"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["fashion_mnist.yaml", "imagenet.yaml"])
def test_every_row_of_a_plan_is_a_setting_that_training_knows(folder, name):
    from plan import load_plan
    from poolings import POOLINGS
    from regularisers import REGULARISERS
    from study import settings_of

    plan = load_plan(folder / name)
    for section in plan.sections:
        assert section.against in section.rows
        for run in section.runs():
            settings_of(plan, run, [])
            extras = run.extras
            assert extras.get("study.pooling", "maximum") in POOLINGS
            assert extras.get("study.regulariser", "nearest row") in REGULARISERS
            assert not (
                extras and run.settings["tap.enabled" if "study.pooling" in extras else "adl.enabled"]
            )


def test_weights_of_the_other_losses_pull_as_hard_as_adl_and_three_times_as_hard(folder, request):
    from plan import load_plan

    content = (request.config.rootpath / "results" / "attention" / "weights.json").read_text()
    measured = {name: row["weight"] for name, row in json.loads(content).items() if name != "ADL"}
    plan = load_plan(folder / "fashion_mnist.yaml")
    (section,) = (section for section in plan.sections if section.name == "regularisers")
    given: dict[str, list[float]] = {}
    for row, changes in section.rows.items():
        if "study.regulariser" in changes:
            assert row == f"{changes['study.regulariser']}, weight {changes['study.weight']:g}"
            given.setdefault(changes["study.regulariser"], []).append(changes["study.weight"])
    rounded = {name: float(f"{weight:.1g}") for name, weight in measured.items()}
    assert given == {name: pytest.approx([weight, 3 * weight]) for name, weight in rounded.items()}


def test_runs_that_two_tables_share_are_done_once(folder):
    from plan import load_plan
    from study import missing

    plan = load_plan(folder / "fashion_mnist.yaml")
    runs = missing(plan, ["pooling", "branches"])
    assert (
        len(set(runs))
        == len(runs)
        < sum(len(section.runs()) for section in plan.sections if section.name in ("pooling", "branches"))
    )


def as_tap(pooling, grid_size=(5, 6), prefix=2):
    """What a pooling gives for some tokens, and what TAP with the same predictor gives."""
    tap = TokenAwareAveragePooling(pooling.dim, pooling.num_branches)
    if hasattr(pooling, "dilation_predictor"):
        tap.dilation_predictor.load_state_dict(pooling.dilation_predictor.state_dict())
    tokens = torch.randn(3, prefix + grid_size[0] * grid_size[1], pooling.dim)
    return [module.eval()(tokens, grid_size, prefix) for module in (pooling, tap)]


def test_the_same_averages_and_learned_kernels_at_the_start_are_tap(folder):
    from poolings import POOLINGS, Pooling, averages

    for pooling in (
        Pooling(8, averages(1, 2, 3)),
        POOLINGS["learned kernels"](8),
        Pooling(8, averages(1), 1),
    ):
        torch.testing.assert_close(*as_tap(pooling))
    for name in ("growing kernels", "only dilation 2", "equal weights", "maximum"):
        ours, tap = as_tap(POOLINGS[name](8))
        assert ours.shape == tap.shape
        assert not torch.allclose(ours, tap)
        torch.testing.assert_close(ours[:, :2], tap[:, :2])
    assert not list(POOLINGS["equal weights"](8).parameters())
    torch.manual_seed(0)
    learned = POOLINGS["learned kernels"](8).dilation_predictor.state_dict()
    torch.manual_seed(0)
    tap = TokenAwareAveragePooling(8, 4).dilation_predictor.state_dict()
    assert all(torch.equal(learned[name], tap[name]) for name in tap)  # of a seed, the same start


def test_growing_kernels_are_means_over_larger_squares(folder):
    from poolings import growing

    token_map = torch.zeros(1, 1, 9, 9)
    token_map[0, 0, 4, 4] = 1.0
    for reach, branch in enumerate(growing(token_map), 1):
        inside = branch[0, 0, 4 - reach : 5 + reach, 4 - reach : 5 + reach]
        torch.testing.assert_close(inside, torch.full_like(inside, 1 / (2 * reach + 1) ** 2))
        torch.testing.assert_close(branch.sum(), torch.tensor(1.0))


def test_losses_are_largest_where_all_queries_attend_alike(folder):
    from regularisers import REGULARISERS

    model = build_model(
        Settings(
            ModelSettings("vit_tiny_patch16_224", options={"img_size": 32, "depth": 1}),
            DataSettings("embedded"),
            tap=TapSettings(enabled=False),
        ),
        num_classes=3,
    ).model
    alike = torch.zeros(2, 6, 6)
    alike[..., 0] = 1.0
    apart, flat = torch.eye(6).expand(2, 6, 6), torch.full((2, 6, 6), 1 / 6)
    for name, kind in REGULARISERS.items():
        loss = kind(model)
        assert loss.of_map(alike) > loss.of_map(apart), name
        # flat rows are alike: only the distance to the nearest one says so
        assert (loss.of_map(flat) > loss.of_map(apart)) == (name == "nearest row")
        model(torch.randn(2, 3, 32, 32))
        loss().backward()
        loss.close()
    pairwise = REGULARISERS["pairwise cosine"](model)
    assert pairwise.of_map(alike) == 1
    assert pairwise.of_map(apart) == 0
    two = torch.tensor([[[0.8, 0.2, 0.0], [0.2, 0.8, 0.0], [0.9, 0.1, 0.0]]])
    # by hand, all kept with tau 0: the pairs (1, 2), (1, 3), (2, 3)
    pairwise.tau = 0.0
    cosines = [
        torch.nn.functional.cosine_similarity(two[0, i], two[0, j], dim=0)
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    torch.testing.assert_close(pairwise.of_map(two), torch.stack(cosines).mean())
    assert attention_diversification_from_map(alike[:, None]) == 1


def fabricated(plan, noise=0.002):
    """Lines in which the ADL value alone decides what corruption adds to the clean error."""
    draws, lines = random.Random(0), {}
    for run in dict.fromkeys(run for section in plan.sections for run in section.runs()):
        clean, overlap = draws.gauss(0.15, 0.01), draws.random() / 2
        lines[run] = {
            "changes": json.loads(run.changes),
            "parameters": 7,
            "clean_error": clean,
            "validation_error": [[400, 2 * clean], [800, clean]],
            "corruption_error": {
                name: 0.5 * clean + 0.1 * overlap + draws.gauss(0.2, noise)
                for name, corruption in CORRUPTIONS.items()
                if corruption.in_mce
            },
            "attention": {"overlap": overlap, "stability": draws.random()}
            | {name: draws.random() for name in ("cosine", "gini", "effective_keys", "divergence")},
        }
    return lines


def test_what_decides_the_corruption_error_is_found_and_what_does_not_is_not(folder):
    from plan import load_plan
    from relations import VIEWS, Sample

    lines = fabricated(load_plan(folder / "fashion_mnist.yaml"))
    for how in VIEWS.values():
        sample = Sample.of(lines, **how)
        mean, low, high = sample.correlation("overlap")
        assert 0.95 < low <= mean <= high <= 1
        assert sample.correlation("overlap", given_clean=False)[0] < mean
        _, low, high = sample.correlation("stability")
        assert low < 0 < high


def test_rows_of_a_kind_are_no_independent_findings(folder, monkeypatch):
    """What is true of each kind of row by chance does not become sure because a kind has many rows."""
    from plan import load_plan
    from relations import Sample, kind_of

    lines = fabricated(load_plan(folder / "fashion_mnist.yaml"), noise=0.0)
    monkeypatch.setattr("relations.DRAWS", 300)
    found = 0
    for seed in range(30):
        draws = random.Random(seed)
        of_kind: dict[object, tuple[float, float]] = {}
        for run, line in lines.items():
            own = of_kind.setdefault(kind_of(json.loads(run.changes)), (draws.random(), draws.random()))
            line["attention"]["overlap"] = own[0] + draws.gauss(0, 0.05)
            line["corruption_error"] = dict.fromkeys(line["corruption_error"], 0.3 + 0.1 * own[1])
        _, low, high = Sample.of(lines).correlation("overlap", given_clean=False)
        found += not low < 0 < high
    assert found <= 5  # 12 if every row counts for itself


def test_what_is_true_of_seeds_alone_does_not_speak_for_rows(folder):
    """Simpson's paradox: more overlap goes with less error from row to row, with more from seed to seed."""
    from plan import load_plan
    from relations import Sample

    lines = fabricated(load_plan(folder / "fashion_mnist.yaml"), noise=0.0)
    draws = random.Random(1)
    of_row = {run.changes: draws.random() for run in lines}
    for run, line in lines.items():
        of_seed = draws.gauss(0, 0.1)
        line["attention"]["overlap"] = of_row[run.changes] + of_seed
        added = -3 * of_row[run.changes] + 5 * of_seed
        line["corruption_error"] = dict.fromkeys(line["corruption_error"], 0.3 + 0.1 * added)
    assert Sample.of(lines).correlation("overlap")[0] < -0.5
    assert Sample.of(lines, within_rows=True).correlation("overlap")[0] > 0.95


def test_rows_with_a_loss_or_a_pooling_can_be_left_out_and_small_conditions_are(folder):
    from plan import load_plan
    from relations import Sample, acts_on_attention, pools

    lines = fabricated(load_plan(folder / "fashion_mnist.yaml"))
    every = Sample.of(lines)
    for option, has in (("without_losses", acts_on_attention), ("without_poolings", pools)):
        assert any(has(json.loads(name)) for name in every.names)
        without = Sample.of(lines, **{option: True})
        assert without.names
        assert not any(has(json.loads(name)) for name in without.names)
    # the plain model alone was trained for as long as TAP + ADL takes
    assert not any(json.loads(name).get("training.epochs") == 22 for name in every.names)


def test_an_interval_of_three_seeds_knows_the_spread_of_all_runs(folder):
    from plan import Run, load_plan
    from summary import deviations, intervals

    draws = random.Random(0)
    plan = load_plan(folder / "fashion_mnist.yaml")
    lines = fabricated(plan)
    of_row = {run.changes: draws.gauss(0, 0.1) for run in lines}
    of_seed = [draws.gauss(0, 0.1) for _ in range(5)]
    for run, line in lines.items():
        error = 0.5 + of_row[run.changes] + of_seed[run.seed] + draws.gauss(0, 0.01)
        line["corruption_error"] = dict.fromkeys(line["corruption_error"], error)
    missing = Run.of(plan.sections[0].rows["TAP"] | {"training.epochs": 12}, 3)
    del lines[missing]  # not all need be there
    pool = deviations(lines, "corrupted")
    # percent; what rows differ in, and what seeds have in common, is no spread
    assert float((pool**2).mean() ** 0.5) == pytest.approx(1.0, rel=0.15)
    assert deviations({missing: fabricated(plan)[missing]}, "corrupted").tolist() == [0.0]
    differences = {"three": [1.0, 1.0, 1.0], "one": [2.0]}
    found = intervals(differences, pool)
    for (mean, low, high), own in zip(found.values(), differences.values(), strict=True):
        assert mean == pytest.approx(sum(own) / len(own))
        assert high - mean == pytest.approx(1.96 * (2 / len(own)) ** 0.5, rel=0.2)
        assert mean - low == pytest.approx(1.96 * (2 / len(own)) ** 0.5, rel=0.2)


def test_tables_and_pictures_are_made_of_the_lines(folder, tmp_path):
    from plan import load_plan
    from relations import prediction_table, predictions
    from summary import (
        comparisons,
        deviations,
        draw_curves,
        draw_differences,
        draw_predictions,
        errors,
        intervals,
        pairs_table,
        table,
        with_tables,
    )

    plan = load_plan(folder / "fashion_mnist.yaml")
    lines = fabricated(plan)
    main = plan.sections[0]
    tap, plain = (
        [errors(lines[main.run("", row, seed)])["corrupted"] for seed in range(5)] for row in ("TAP", "plain")
    )
    apart = comparisons(lines, plan, "corrupted")
    assert apart["main", "", "TAP"] == pytest.approx(
        [one - other for one, other in zip(tap, plain, strict=True)]
    )
    cost = {main.run("", row, 0).changes: ms for row, ms in (("plain", 20.0), ("TAP", 30.0))}
    pool = {name: deviations(lines, name) for name in ("clean", "corrupted", "eleven")}
    shown = table(lines, cost, main, intervals(apart, pool["corrupted"]))
    lower = sum(one < other for one, other in zip(tap, plain, strict=True))
    mean = sum(tap) / 5 - sum(plain) / 5
    assert re.search(
        rf"\| TAP - plain \| [^|]* \| {re.escape(f'{mean:+.1f}')} \([^|]*\), {lower} of 5 \|",
        pairs_table(lines, main, pool),
    )
    assert (
        f"| TAP | {sum(errors(lines[main.run('', 'TAP', seed)])['clean'] for seed in range(5)) / 5:.1f} ±"
        in shown
    )
    assert "1.5 x |" in shown
    text = "before\n<!-- table main -->\nold\n<!-- end -->\nafter"
    assert with_tables(text, {"main": shown}) == text.replace("old", shown)
    found = predictions(lines)
    raw, partial = (found["all rows"][key]["overlap"][0] for key in ("correlation", "partial_correlation"))
    (line,) = [
        line
        for line in prediction_table(found).split("**rows without TAP")[0].splitlines()
        if line.startswith("| ADL value (overlap, tau 2) |")
    ]
    assert re.fullmatch(
        rf"\| ADL.* \| {re.escape(f'{raw:+.2f}')} \(.*\) \| {re.escape(f'{partial:+.2f}')} \(.*\) \|", line
    )
    draw_differences(lines, plan, tmp_path / "differences.svg")
    draw_predictions(lines, tmp_path / "prediction.svg")
    draw_curves(lines, main, tmp_path / "curves.svg")
    assert len(list(tmp_path.iterdir())) == 3
    assert {path.suffix for path in tmp_path.iterdir() if path.stat().st_size > 1000} == {".svg"}


def test_tables_of_the_page_are_those_of_the_committed_lines(folder):
    from plan import load_lines, load_plan
    from summary import DOCUMENT, PLAN, tables, with_tables

    plan = load_plan(PLAN)
    found = tables(load_lines(plan.name), plan)
    text = DOCUMENT.read_text()
    assert with_tables(text, found) == text
    assert found["main"] in text
    assert all(found[name] in text for name in ("attention", "pairs", "corruptions"))


def test_other_settings_for_every_run_are_refused(folder, monkeypatch, tmp_path):
    import study
    from plan import load_plan

    monkeypatch.setattr("plan.RESULTS", tmp_path)
    plan = load_plan(folder / "fashion_mnist.yaml")
    study.check_words(plan, ["--training.batch_size=2"])
    line = {"changes": {}, "seed": 0, "words": ["--training.batch_size=2"]}
    (tmp_path / "fashion_mnist.jsonl").write_text(json.dumps(line) + "\n")
    study.check_words(plan, ["--training.batch_size=2"])
    with pytest.raises(SystemExit, match=r"batch_size=2, got none; give those, or copy the plan"):
        study.check_words(plan, [])


def test_a_run_trains_measures_and_is_a_line(folder, tmp_path):
    from plan import Run, load_plan
    from study import do_run

    plan = replace(load_plan(folder / "fashion_mnist.yaml"), images=20, severities=(2,))
    run = Run.of({"tap.enabled": False, "adl.enabled": False, "study.pooling": "learned kernels"}, seed=3)
    words = ["--training.max_steps=2", "--evaluation.every_epochs=9"]
    line = do_run(plan, run, words, tmp_path)
    assert json.loads(json.dumps(line)) == line
    assert (line["steps"], line["seed"], len(line["corruption_error"])) == (2, 3, 15)
    assert 0.5 < line["clean_error"] <= 1
    assert not list(tmp_path.iterdir())
