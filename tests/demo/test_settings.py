import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tapadl.cli import build_parser
from tapadl.cli.demo import settings_from
from tapadl.demo.settings import DemoSettings, ModelConfig, quick
from tapadl.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"variants": ("plane",)}, "expected variants out of plain, .*'plane'"),
        ({"variants": ()}, "at least one variant"),
        ({"variants": ("tap", "tap")}, "each once"),
        ({"seeds": 0}, "seeds of at least 1, got 0"),
        ({"first_seed": -1}, "first_seed of at least 0"),
        ({"train_images": 0}, "train_images of at least 1"),
        ({"severities": (0,)}, "severities from 1 to 5"),
        ({"severities": ()}, "severities from 1 to 5"),
        ({"corruptions": ()}, "at least one corruption"),
        ({"severities": (3, 3)}, "severities each once, got 3 3"),
        ({"corruptions": ("fog", "fog")}, "corruptions each once, got fog fog"),
        ({"first_seed": 10**30}, "a last seed of at most 4294967295"),
        ({"first_seed": 2**32 - 1, "seeds": 2}, "a last seed of at most 4294967295"),
    ],
)
def test_wrong_setting_is_an_error_that_names_it(changes, problem):
    with pytest.raises(ValueError, match=problem):
        DemoSettings(**changes)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        *(({item.name: 0}, f"{item.name} of at least 1, got 0") for item in dataclasses.fields(ModelConfig)),
        ({"mlp_ratio": float("nan")}, "mlp_ratio of at least 1, got nan"),
        ({"patch_size": 5}, "multiple of patch_size, got 28 and 5"),
        ({"embed_dim": 64, "num_heads": 3}, "multiple of num_heads, got 64 and 3"),
        ({"embed_dim": 18, "num_heads": 2}, "multiple of 4, got 18"),
    ],
)
def test_impossible_model_is_an_error_that_names_it(changes, problem):
    with pytest.raises(ValueError, match=problem):
        ModelConfig(**changes)


def test_settings_are_plain_data_without_the_seed_of_a_run():
    content = DemoSettings(training=TrainingConfig(seed=3)).to_json()
    assert json.loads(json.dumps(content)) == content
    assert "seed" not in content["training"]
    assert content["training"]["batch_size"] == TrainingConfig().batch_size


def test_what_is_asked_for_goes_before_quick():
    words = ["--quick", "--train-images", "8000", "--evaluation-images", "2000", "--severities", "2"]
    settings = settings_from(build_parser().parse_args(["demo", *words]))
    assert (settings.train_images, settings.evaluation_images, settings.severities) == (8_000, 2_000, (2,))
    assert settings.training.epochs == 1


def test_quick_keeps_what_was_asked_for():
    settings = quick(DemoSettings(seeds=2))
    assert (settings.seeds, settings.train_images, settings.training.epochs) == (2, 4_000, 1)


def test_settings_load_neither_timm_nor_rich():
    names = ("timm.models", "rich", "matplotlib")
    code = f"import sys, tapadl.cli; print([name for name in {names} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_default_corruptions_are_those_of_the_published_results():
    results = json.loads((Path(__file__).parents[2] / "results" / "demo.json").read_text(encoding="utf-8"))
    assert list(DemoSettings().corruptions) == results["corruptions"]["names"]
