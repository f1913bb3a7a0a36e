import importlib
import json

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
WORDS = {5: "beast fur claws mouth", 20: "leaf stem flower root", 28: "day hour year night"}


@pytest.fixture
def study(monkeypatch, request):
    monkeypatch.syspath_prepend(request.config.rootpath / "studies")
    return importlib.import_module("text")


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    lines = ["  1 licence"]
    for i in range(600):
        file = int(random.choice(list(WORDS)))
        gloss = " ".join(random.choice([*WORDS[file].split(), "the", "of", str(i)], 6))
        lines.append(f"{i:08} {file:02} n 01 word 0 000 | {gloss} {i}")
    (tmp_path / "data.noun").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.slow
def test_the_study_writes_every_run_its_spread_and_the_paired_differences(study, folder):
    out = folder / "text.json"
    study.main(["--quick", "--wordnet", str(folder), "--seeds", "0", "1", "--out", str(out)])
    results = json.loads(out.read_text())
    assert [(row["variant"], row["seed"]) for row in results["runs"]] == [
        (variant, seed) for seed in (0, 1) for variant in study.VARIANTS
    ]
    assert len({row["steps"] for row in results["runs"]}) == 1
    assert results["versions"]["transformers"]
    assert "--quick" in results["command"]
    clean = {(row["variant"], row["seed"]): row["clean_error"] for row in results["runs"]}
    differences = [clean["tap", seed] - clean["plain", seed] for seed in (0, 1)]
    paired = results["paired"]["tap"]["clean_error"]
    assert paired["mean"] == pytest.approx(np.mean(differences))
    assert paired["std"] == pytest.approx(np.std(differences, ddof=1))
    parameters = {row["variant"]: row["parameters"] for row in results["runs"]}
    assert parameters["tap"] - parameters["plain"] == 2 * (3 * 32 * 4 + 3 * 4 * 4 + 2 * 4)
    assert parameters["adl"] == parameters["plain"]


@pytest.mark.slow
def test_a_clean_task_is_learned_by_every_variant(study, folder):
    settings = study.replace(study.QUICK, epochs=25, learning_rate=3e-3)
    data = study.Data.of(folder / "data.noun", settings)
    for variant in ("plain", "tap+adl"):
        row = study.run(variant, 0, data, settings)
        assert row["clean_error"] < 0.1
        assert row["noise_5_error"] > row["clean_error"]
        assert (row["diversification"] > 0) == ("adl" in variant)


def test_a_text_gets_the_same_answer_alone_and_in_a_padded_batch(study):
    settings = study.QUICK
    model, _ = study.build("tap", 0, settings, vocabulary=50)
    model.double().eval()
    short, long = torch.randint(4, 50, (1, 5)), torch.randint(4, 50, (1, 12))
    batch = torch.cat((torch.nn.functional.pad(short, (0, 7)), long))
    mask = torch.ones_like(batch)
    mask[0, 5:] = 0
    together = model(input_ids=batch, attention_mask=mask).logits
    alone = [model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits for ids in (short, long)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_variants_of_a_seed_start_from_the_same_weights(study):
    plain, _ = study.build("plain", 3, study.QUICK, vocabulary=50)
    both, loss = study.build("tap+adl", 3, study.QUICK, vocabulary=50)
    other, _ = study.build("plain", 4, study.QUICK, vocabulary=50)
    shared = both.state_dict()
    assert loss is not None
    assert all(torch.equal(value, shared[name]) for name, value in plain.state_dict().items())
    assert not torch.equal(plain.classifier.weight, other.classifier.weight)


def test_batches_hold_every_text_once_and_those_of_like_length_together(study):
    ids = [[2] * int(length) for length in np.random.default_rng(0).integers(2, 60, 100)]
    texts = study.EncodedTexts(ids, list(range(100)))
    batches = texts.batches(16, np.random.default_rng(0))
    assert sorted(i for batch in batches for i in batch) == list(range(100))
    assert batches == texts.batches(16, np.random.default_rng(0))
    spreads = [np.ptp([len(ids[i]) for i in batch]) for batch in batches]
    assert max(spreads) < 20


def test_missing_wordnet_ends_the_study_with_one_sentence(study, tmp_path):
    with pytest.raises(SystemExit, match=r"expected WordNet.s data.noun .*`apt install wordnet-base`"):
        study.main(["--quick", "--wordnet", str(tmp_path), "--out", str(tmp_path / "text.json")])
