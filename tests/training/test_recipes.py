import re
from pathlib import Path

import pytest
import timm
from timm.data import create_transform
from timm.optim import list_optimizers

import tapadl.models  # registers its names with timm
from tapadl.training.arguments import dump, known_keys, parse
from tapadl.training.settings import Settings
from tapadl.training.step_plan import StepPlan
from tapadl.training.yaml_text import read_file

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
LABELS = ("Row", "Score", "Hardware", "Hours", "Command", "Not verified here")
IMAGENET = 1_281_167
CITYSCAPES = 2_975

every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def header_of(path: Path) -> str:
    """The comment at the top, without its signs."""
    lines = path.read_text().splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[:end])


def command_of(path: Path) -> list[str]:
    command = re.search(r"^Command:\n((?: .*\\\n)* .*)", header_of(path), flags=re.MULTILINE)
    assert command is not None
    return command[1].replace("\\\n", " ").split()


def parsed(name: str) -> Settings:
    return parse(["--config", str(ROOT / "recipes" / f"{name}.yaml")])


def test_the_recipes_that_the_documents_name_are_there() -> None:
    assert {path.stem for path in RECIPES} >= {
        "fan_base_hybrid_tap_adl",
        "rvt_base_tap_adl",
        "deit_small_tap_adl",
        "swin_tiny_tap_adl",
        "finetune_timm",
        "fashion_mnist_tiny",
        "fan_base_hybrid_segmentation_cityscapes",
        "scenes_tiny_segmentation",
    }


@every_recipe
def test_a_recipe_is_read_and_its_resolved_form_says_the_same(path: Path, tmp_path: Path) -> None:
    settings = parse(["--config", str(path)])
    (tmp_path / "resolved.yaml").write_text(dump(settings))
    assert parse(["--config", str(tmp_path / "resolved.yaml")]) == settings


@every_recipe
def test_a_recipe_has_known_keys_alone_in_the_order_of_the_sections(path: Path) -> None:
    content = read_file(path)
    top = {"task"} & content.keys()
    keys = top | {f"{section}.{name}" for section in content.keys() - top for name in content[section]}
    assert keys <= set(known_keys())
    assert {"tap.enabled", "adl.enabled", "optimizer.lr", "training.batch_size", "training.epochs"} <= keys


@every_recipe
def test_the_header_says_what_is_reproduced_with_what_and_how(path: Path) -> None:
    header = header_of(path)
    places = [header.find(f"\n{label}: ") + 1 or header.find(f"\n{label}:\n") + 1 for label in LABELS]
    assert all(places), dict(zip(LABELS, places, strict=True))
    assert places == sorted(places)
    for label in LABELS:
        said = header.partition(f"\n{label}:")[2].partition("\n")[0] or command_of(path)
        assert said, f"{label} says nothing"
    assert all(len(line) <= 110 for line in path.read_text().splitlines())


@every_recipe
def test_the_command_in_the_header_is_the_one_of_this_recipe(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = command_of(path)
    start = words.index("train") + 1
    assert words[start - 2] == "tapadl"
    given = words[start:]
    out = given.index("--out")
    assert given[out + 1].startswith("runs/")
    assert given[given.index("--config") + 1] == f"recipes/{path.name}"
    assert parse(given[:out] + given[out + 2 :]) == parse(["--config", str(path)])


@every_recipe
def test_the_variants_that_the_header_offers_can_be_parsed(path: Path) -> None:
    variants = re.findall(r"^(?:Without|RVT-B itself)[^:]*: add (--.+)$", header_of(path), flags=re.MULTILINE)
    assert variants
    for variant in variants:
        assert not parse(["--config", str(path), *variant.split()]).adl.enabled


@every_recipe
def test_timm_knows_the_model_the_optimizer_and_the_augmentation(path: Path) -> None:
    settings = parse(["--config", str(path)])
    if ":" not in settings.model.name:
        assert timm.is_model(settings.model.name.partition(".")[0])
        assert timm.get_pretrained_cfg(settings.model.name, allow_unregistered=False) is not None
    assert settings.optimizer.name in list_optimizers()
    create_transform(
        224, is_training=True, auto_augment=settings.augmentation.auto_augment, re_mode="pixel", re_prob=0.1
    )


@pytest.mark.parametrize(
    ("name", "gpus", "images_a_gpu", "epochs"),
    [("fan_base_hybrid_tap_adl", 64, 64, 350), ("rvt_base_tap_adl", 32, 64, 300)],
)
def test_the_recipes_of_the_paper_cut_the_batch_as_the_release_does(
    name: str, gpus: int, images_a_gpu: int, epochs: int
) -> None:
    settings = parsed(name)
    assert settings.training.batch_size == gpus * images_a_gpu
    plan = StepPlan.of(settings, IMAGENET, world_size=gpus // settings.training.accumulation)
    assert plan.micro_batch_size == images_a_gpu
    assert plan.total_steps == epochs * (IMAGENET // (gpus * images_a_gpu))


def test_the_fan_recipe_has_the_values_of_the_release() -> None:
    settings = parsed("fan_base_hybrid_tap_adl")
    assert (settings.optimizer.name, settings.optimizer.lr) == ("adamw", 4e-3)
    assert settings.optimizer.weight_decay == 0.05
    assert settings.model.drop_path == 0.35
    schedule = settings.schedule
    assert (schedule.name, schedule.warmup_epochs) == ("cosine", 10)
    assert (schedule.warmup_lr, schedule.min_lr) == (1e-6, 1e-6)
    augmentation = settings.augmentation
    assert augmentation.auto_augment == "rand-m9-mstd0.5-inc1"
    assert (augmentation.reprob, augmentation.remode) == (0.3, "pixel")
    assert (augmentation.mixup, augmentation.cutmix, augmentation.label_smoothing) == (0.8, 1.0, 0.1)
    assert (augmentation.crop_pct, augmentation.interpolation) == (1.0, "bicubic")
    assert settings.training.ema_decay is not None


def test_the_recipe_of_the_papers_segmenter_has_the_values_of_the_release() -> None:
    settings = parsed("fan_base_hybrid_segmentation_cityscapes")
    assert (settings.task, settings.segmentation.dataset) == ("segmentation", "cityscapes")
    assert settings.model.name == "tap_fan_base_16_p4_hybrid"
    optimizer = settings.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.head_lr) == ("adamw", 6e-5, 10)
    assert (optimizer.betas, optimizer.weight_decay) == ((0.9, 0.999), 0.01)
    assert (settings.schedule.name, settings.schedule.min_lr) == ("poly", 0)
    assert settings.schedule.warmup_lr == pytest.approx(1e-6 * 6e-5)
    plan = StepPlan.of(settings, CITYSCAPES, world_size=8)
    assert (plan.total_steps, plan.warmup_steps, plan.micro_batch_size) == (160_000, 1500, 1)
    segmentation = settings.segmentation
    assert (segmentation.crop_size, segmentation.window) == ((1024, 1024), (1024, 1024))
    assert (segmentation.stride, segmentation.scale) == ((768, 768), (0.5, 2.0))
    assert (segmentation.head_dim, segmentation.count_ignored) == (768, True)
    assert (settings.adl.enabled, settings.adl.weight, settings.adl.tau) == (True, 1, 2)


def test_only_rvt_has_the_patch_augmentation() -> None:
    assert [path.stem for path in RECIPES if parsed(path.stem).augmentation.patch_augmentation] == [
        "rvt_base_tap_adl"
    ]


def test_the_tiny_recipe_is_400_steps_on_the_embedded_images() -> None:
    settings = parsed("fashion_mnist_tiny")
    assert (settings.data.train, settings.data.val) == ("embedded", "embedded")
    assert StepPlan.of(settings, num_samples=20_000).total_steps == 400


def test_the_model_names_of_the_paper_are_built_by_this_package() -> None:
    assert parsed("rvt_base_tap_adl").model.name in tapadl.models.registry.default_cfgs
    assert parsed("fan_base_hybrid_tap_adl").model.name in tapadl.models.registry.default_cfgs
