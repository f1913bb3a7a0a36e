import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapadl.corruptions import CORRUPTIONS
from tapadl.training.arguments import dump, help_text, known_keys, parse
from tapadl.training.settings import (
    AdlSettings,
    AugmentationSettings,
    CheckpointSettings,
    DataSettings,
    EvaluationSettings,
    LoggingSettings,
    ModelSettings,
    OptimizerSettings,
    ScheduleSettings,
    Settings,
    TapSettings,
    TrainingSettings,
)

LEAST = ["--model.name", "vit_tiny_patch16_224", "--data.train", "embedded"]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {name: vit_tiny_patch16_224}\ndata: {train: embedded}\noptimizer: {lr: 1e-3}\n")
    return path


def test_what_is_not_given_has_its_default() -> None:
    assert parse(LEAST) == Settings(ModelSettings("vit_tiny_patch16_224"), DataSettings("embedded"))


def test_words_win_over_files_and_later_ones_over_earlier_ones_wherever_they_stand(
    recipe: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("optimizer: {lr: 2e-3, eps: 1e-6}")
    both = parse(["--config", str(recipe), f"--config={other}"])
    assert (both.optimizer.lr, both.optimizer.eps) == (2e-3, 1e-6)
    assert parse(["--config", str(other), "--config", str(recipe)]).optimizer.lr == 1e-3
    assert parse(["--optimizer.lr", "3e-3", "--config", str(recipe)]).optimizer.lr == 3e-3
    assert parse([*LEAST, "--optimizer.lr=4", "--optimizer.lr=5"]).optimizer.lr == 5


@pytest.mark.parametrize(
    ("key", "word", "expected"),
    [
        ("optimizer.lr", "1e-3", 0.001),
        ("optimizer.lr", "1", 1.0),
        ("optimizer.betas", "[0.9, 1e-1]", (0.9, 0.1)),
        ("tap.enabled", "false", False),
        ("tap.blocks", "[0, 3]", (0, 3)),
        ("tap.blocks", "null", None),
        ("model.checkpoint", "null", None),
        ("model.checkpoint", "a/b.pth", Path("a/b.pth")),
        ("model.name", "null", "null"),
        ("model.name", "1e-3", "1e-3"),
        ("data.val", "null", None),
        ("data.val", "[1]", "[1]"),
        ("data.extra_train", "[a, 'b c']", ("a", "b c")),
        ("augmentation.color_jitter", "null", None),
        ("training.max_steps", "500", 500),
        ("training.precision", "bfloat16", "bfloat16"),
        ("evaluation.severities", "[1, 5]", (1, 5)),
    ],
)
def test_a_word_becomes_a_value_of_the_type_of_its_setting(key: str, word: str, expected: Any) -> None:
    section, name = key.split(".")
    for words in ([f"--{key}", word], [f"--{key}={word}"]):
        value = getattr(getattr(parse([*LEAST, *words]), section), name)
        assert value == expected
        assert type(value) is type(expected) or isinstance(value, Path)


def test_the_task_stands_in_no_section(recipe: Path) -> None:
    assert parse(LEAST).task == "classification"
    for words in (
        ["--task", "segmentation"],
        ["--task=segmentation", "--segmentation.crop_size", "[64, 96]"],
    ):
        assert parse([*LEAST, *words]).task == "segmentation"
    recipe.write_text("task: segmentation\nsegmentation: {window: [8, 16]}\n")
    found = parse([*LEAST, "--config", str(recipe)])
    assert (found.task, found.segmentation.window) == ("segmentation", (8, 16))
    with pytest.raises(ValueError, match=r"expected --task to be one of classification, segmentation, got"):
        parse([*LEAST, "--task", "detection"])
    recipe.write_text("task: {name: segmentation}\n")
    with pytest.raises(ValueError, match=r"expected task in .* to be one of classification, segmentation"):
        parse([*LEAST, "--config", str(recipe)])


def test_options_of_the_model_are_added_one_by_one(recipe: Path) -> None:
    recipe.write_text("model: {name: a, options: {depth: 6, mlp_ratio: 2e0}}\ndata: {train: b}")
    options = parse(["--config", str(recipe), "--model.options.depth", "3"]).model.options
    assert options == {"depth": 3, "mlp_ratio": 2.0}
    replaced = parse(["--config", str(recipe), "--model.options", "{class_token: false}"]).model.options
    assert replaced == {"class_token": False}


def test_the_short_name_of_parallel_is_known() -> None:
    assert parse([*LEAST, "--parallel", "fsdp"]).training.parallel == "fsdp"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr", "1"], "expected a known setting, got --lr; did you mean --optimizer.lr?"),
        (["--optimizer.lrr=1"], "got --optimizer.lrr; did you mean --optimizer.lr?"),
        (["--training.lr", "1"], "got --training.lr; did you mean --optimizer.lr?"),
        (["--optimzer.name", "x"], "got --optimzer.name; did you mean --optimizer.name?"),
        (["--optimizer.weight-decay=0"], "did you mean --optimizer.weight_decay?"),
        (["--optim", "1"], "expected a known setting, got --optim"),
        (["--conf", "a.yaml"], "expected a known setting, got --conf"),
        (["--qqq", "1"], "got --qqq; tapadl train --help lists them all"),
        (["--optimizer.lr", "abc"], 'expected --optimizer.lr to be a number, got "abc"'),
        (["--optimizer.lr", "true"], "expected --optimizer.lr to be a number, got true"),
        (["--optimizer.lr", "null"], "expected --optimizer.lr to be a number, got null"),
        (["--optimizer.lr", "-1"], "expected optimizer.lr to be above 0, got -1"),
        (["--optimizer.lr"], "expected a value after --optimizer.lr, got none"),
        (["--optimizer.lr", "--tap.enabled=true"], "expected a value after --optimizer.lr, got none"),
        (["--training.epochs", "2.5"], "expected --training.epochs to be a whole number, got 2.5"),
        (["--tap.enabled", "3"], "expected --tap.enabled to be true or false, got 3"),
        (["--tap.blocks", "[1, x]"], 'to be a list of whole numbers or null, got [1, "x"]'),
        (["--tap.blocks", "[1,"], 'to be a list of whole numbers or null, got "[1,"'),
        (["--augmentation.scale", "[1]"], "to be a list of 2 numbers, got [1]"),
        (["--augmentation.remode", "x"], 'to be one of const, rand, pixel, got "x"'),
        (["--evaluation.corruptions", "fog"], 'to be a list of texts, got "fog"'),
        (["--model.options", "3"], "expected --model.options to be names with values, got 3"),
        (["--model.options.", "3"], "expected model.options to have names of arguments as keys"),
        (["stray"], "expected --KEY VALUE, got 'stray'; a value with spaces needs quotes"),
        (["--config", "none.yaml"], "expected a file of settings at none.yaml, found none"),
        (["--config"], "expected a value after --config, got none"),
    ],
)
def test_a_wrong_word_is_told_in_one_sentence(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=r"^expected ") as refused:
        parse([*LEAST, *words])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected sections with keys in {path}, got null"),
        ("- 1", "expected sections with keys in {path}, got [1]"),
        ("optimizer: 3", "expected keys with values under optimizer in {path}, got 3"),
        ("optimzer: {lr: 1}", "got optimzer in {path}; did you mean optimizer?"),
        ("optimizer: {lrr: 1}", "got optimizer.lrr in {path}; did you mean optimizer.lr?"),
        ("3: {lr: 1}", "got 3 in {path}; tapadl train --help lists them all"),
        ("optimizer: {lr: [1]}", "expected optimizer.lr in {path} to be a number, got [1]"),
        ("optimizer: {lr: null}", "expected optimizer.lr in {path} to be a number, got null"),
        ("optimizer: {lr: 2026-01-01}", 'in {path} to be a number, got "2026-01-01"'),
        ("optimizer.lr: 1\noptimizer: {lr: 2}", "expected optimizer.lr once in {path}, got it twice"),
        ("model: {name: 3}", "expected model.name in {path} to be a text, got 3"),
        ("model: {checkpoint: 3}", "expected model.checkpoint in {path} to be a path or null, got 3"),
        ("data: {extra_train: [null]}", "to be a list of texts, got [null]"),
        ("evaluation: {corruptions: null}", "to be a list of texts, got null"),
        ("a: [", "expected YAML in {path}, but it is broken"),
    ],
)
def test_a_wrong_file_is_told_in_one_sentence_that_names_it(recipe: Path, text: str, message: str) -> None:
    recipe.write_text(text)
    with pytest.raises(ValueError, match=r"^expected ") as refused:
        parse([*LEAST, "--config", str(recipe)])
    assert message.format(path=recipe) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(ValueError, match=r"to be a number, got \"x{59}\.\.\.$"):
        parse([*LEAST, "--optimizer.lr", "x" * 500])


@pytest.mark.parametrize("key", ["model.name", "data.train"])
def test_what_has_no_default_must_be_given(key: str) -> None:
    others = [f"--{other}=x" for other in ("model.name", "data.train") if other != key]
    with pytest.raises(ValueError, match=f"expected {key}, got none; give --{key} VALUE, or a recipe"):
        parse(others)


def test_a_section_without_keys_is_one_with_defaults(recipe: Path) -> None:
    recipe.write_text("optimizer:\n  # lr: 1\n")
    assert parse([*LEAST, "--config", str(recipe)]) == parse(LEAST)


shares = st.floats(0.01, 0.99)
texts = st.text(min_size=1, max_size=12) | st.sampled_from(["null", "1e-3", "5", "true", "[a]", "a: b"])
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
names = st.text(string.ascii_letters, min_size=1, max_size=6)
blocks = st.none() | st.lists(st.integers(0, 20), min_size=1, max_size=3, unique=True).map(tuple)
any_settings = st.builds(
    Settings,
    model=st.builds(
        ModelSettings,
        name=texts,
        checkpoint=st.none() | texts.map(Path),
        img_size=st.none() | st.integers(1, 512),
        drop_path=st.none() | shares,
        options=st.dictionaries(names, plain, max_size=3),
    ),
    data=st.builds(
        DataSettings,
        train=texts,
        val=texts,
        workers=st.none() | st.integers(0, 64),
        on_error=st.sampled_from(["stop", "skip"]),
        extra_train=st.lists(texts, max_size=3, unique=True).map(tuple),
    ),
    tap=st.builds(TapSettings, temperature=st.floats(1e-8, 1e8), blocks=blocks),
    adl=st.builds(
        AdlSettings, enabled=st.booleans(), weight=st.floats(1e-320, 1e30), target_share=st.none() | shares
    ),
    augmentation=st.builds(
        AugmentationSettings,
        color_jitter=st.none() | shares,
        auto_augment=st.none() | texts,
        mean=st.just((0.5, 0.25)),
        std=st.tuples(shares, shares),
    ),
    optimizer=st.builds(
        OptimizerSettings,
        lr=st.floats(1e-5, 1e300),
        betas=st.none() | st.tuples(shares, shares),
        eps=st.none() | st.floats(1e-320, 1e-3),
    ),
    schedule=st.builds(ScheduleSettings, warmup_epochs=shares, min_lr=st.floats(0, 1e-6)),
    training=st.builds(
        TrainingSettings,
        max_steps=st.none() | st.integers(1),
        precision=st.sampled_from(["float32", "bfloat16", "float16"]),
        ema_decay=st.none() | shares,
        seed=st.integers(0, 2**32 - 1),
        device=st.none() | texts,
    ),
    checkpoint=st.builds(CheckpointSettings, every_epochs=st.none() | st.integers(1, 9)),
    evaluation=st.builds(
        EvaluationSettings,
        corruptions=st.lists(st.sampled_from(list(CORRUPTIONS)), unique=True, max_size=3).map(tuple),
    ),
    logging=st.builds(LoggingSettings, tensorboard=st.booleans(), wandb=st.none() | texts),
).filter(lambda made: not made.model.name.startswith("tap_"))


@settings(max_examples=100, deadline=None)
@given(made=any_settings)
def test_what_is_dumped_is_parsed_back(tmp_path_factory: pytest.TempPathFactory, made: Settings) -> None:
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(dump(made), encoding="utf-8")
    assert parse(["--config", str(path)]) == made


def test_a_dump_has_every_setting_and_words_can_override_it(recipe: Path) -> None:
    recipe.write_text(dump(parse(LEAST)))
    found = parse(["--config", str(recipe), "--tap.enabled=false"])
    assert not found.tap.enabled
    content = found.to_json()
    assert content.pop("task") == "classification"
    keys = {f"{section}.{name}" for section in content for name in content[section]}
    assert keys | {"task"} == set(known_keys())


def test_help_has_a_line_for_every_setting_with_its_default_and_fits_a_terminal() -> None:
    lines = help_text().splitlines()
    assert max(map(len, lines)) <= 80
    section = ""
    described: dict[str, str] = {}
    for line in lines:
        if not line.startswith(" "):
            section = line.partition(":")[0]
        elif len(line.split()) > 2:
            key = line.split()[0] if section == "in no section" else f"{section}.{line.split()[0]}"
            described[key] = line[21:]
    assert set(known_keys()) <= set(described)
    assert described["model.name"].startswith("required")
    assert described["optimizer.lr"].split()[0] == "0.001"
    assert described["optimizer.eps"].split()[0] == "null"
    assert described["evaluation.severities"].split()[0] == "[3]"
    assert all(len(described[key].split()) > 1 for key in known_keys())


def test_the_examples_of_the_help_can_be_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    examples = help_text().partition("examples:\n")[2].replace("\\\n", " ")
    commands = [line.split("tapadl train ")[1] for line in examples.splitlines() if "tapadl train " in line]
    assert len(commands) >= 4
    for command in commands:
        words = command.split()
        del words[words.index("--out") : words.index("--out") + 2]
        parse(words)


def test_help_needs_neither_jsonargparse_nor_timm() -> None:
    code = (
        "import sys; from tapadl.training.arguments import help_text; help_text(); "
        "assert not {'jsonargparse', 'timm.models'} & set(sys.modules), 'imported too much'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
