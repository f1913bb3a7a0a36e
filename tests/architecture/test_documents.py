"""What README and docs show must run, and the numbers they state must stand in a committed result."""

import importlib.util
import json
import re
import shlex
import statistics
from pathlib import Path

import pytest
import torch

from tapadl.cli import build_parser
from tapadl.demo.result import DemoResult
from tapadl.training.arguments import known_keys, parse

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "theory").glob("*.md")),
]


def python_blocks(document: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", document.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if python_blocks(d)], ids=lambda d: d.name)
def test_python_blocks_run_in_order(document):
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for block in python_blocks(document):
        exec(compile(block, f"{document.name}", "exec"), names)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_relative_links_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_no_path_of_a_machine_is_committed():
    pattern = re.compile(r"(?<![\w.])/(?:home|root|Users)/\w")
    suffixes = {".py", ".md", ".toml", ".yml", ".yaml", ".json", ".cff", ".html", ".jinja"}
    for folder in ("src", "docs", "benchmarks", "results", "tests", "scripts", "studies", "examples"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in suffixes and path != Path(__file__) and "__pycache__" not in path.parts:
                assert not pattern.search(path.read_text()), f"{path} names a folder of one machine"


def study(name: str):
    """A module of a study, from its file."""
    path = (ROOT / "studies" / name).with_suffix(".py")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_tables_of_the_demo_are_those_of_its_committed_results():
    summary = study("demo_summary")
    result = DemoResult.load(summary.RESULTS)
    for path in summary.DOCUMENTS:
        text = path.read_text()
        assert summary.table(result) in text
        assert summary.with_table(text, result) == text
        assert result.command in text


def test_numbers_of_cost_in_the_readme_stand_in_the_benchmarks():
    readme = (ROOT / "README.md").read_text()
    for name in ("pooling", "diversification"):
        rows = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())["rows"]
        for row in rows:
            low, high = row["speedup_quartiles"]
            digits = 1 if name == "pooling" else 2
            shown = f"{row['speedup']:.{digits}f} x ({low:.{digits}f} - {high:.{digits}f})"
            assert shown in readme, f"README does not show {shown}"
    for row in json.loads((ROOT / "benchmarks" / "results" / "attach.json").read_text())["rows"]:
        if row["variant"] in ("TAP", "ADL", "TAP + ADL"):
            low, high = row["cost_quartiles"]
            shown = f"{row['cost']:.2f} ({low:.2f} - {high:.2f})"
            assert shown in readme, f"README does not show {shown}"


def test_table_of_the_embedded_benchmark_is_that_of_its_committed_results():
    summary = study("embedded_summary")
    metrics = summary.load()
    assert [len(by_seed) for by_seed in metrics.values()] == [3, 3, 3]
    assert summary.table(metrics) in summary.DOCUMENT.read_text()


def test_table_of_segmentation_is_that_of_its_committed_results():
    summary = study("segmentation_scenes")
    metrics, text = summary.load(), summary.DOCUMENT.read_text()
    assert {variant: len(by_seed) for variant, by_seed in metrics.items()} == {"plain": 3, "TAP + ADL": 3}
    assert summary.with_table(text, metrics) == text
    results = json.loads(summary.RESULTS.read_text())
    assert results["command"] in text
    speeds = [
        statistics.fmean(
            row["trained_images_per_second"] for row in results["rows"] if row["variant"] == variant
        )
        for variant in ("plain", "TAP + ADL")
    ]
    assert f"a step takes\n{speeds[0] / speeds[1]:.1f} times as long" in text


def test_numbers_of_the_models_benchmark_are_those_of_its_committed_results():
    text = (ROOT / "docs" / "models.md").read_text()
    results = json.loads((ROOT / "benchmarks" / "results" / "models.json").read_text())
    for row in results["rows"]:
        low, high = row["speedup_quartiles"]
        seconds = " | ".join(f"{row[form] / 1000:.2f} s" for form in ("baseline_ms", "candidate_ms"))
        what = row["what"].replace("_", " ")
        shown = f"| `{row['model']}` | {what} | {seconds} | {row['speedup']:.2f} x ({low:.2f} - {high:.2f}) |"
        assert shown in text, f"models.md does not show {shown}"
    memory = results["memory"]
    whole = memory["bytes"]["tapadl_16_blocks"]
    two = [memory["bytes"][f"{form}_2_blocks"] for form in ("tapadl", "official")]
    block = [memory["bytes_per_block"][form] for form in ("tapadl", "official")]
    for count in (whole, *two, *block):
        assert f"{count / 2**30:.2f}" in text.partition("1024 x 1024 (4,096 tokens)")[2]
    assert results["command"] in text
    assert (results["rows"][0]["batch"], results["rows"][0]["pairs"]) == (16, 11)


def test_ratios_of_the_corruptions_are_those_of_their_committed_results():
    text = (ROOT / "docs" / "corruptions.md").read_text().partition("| package, 224 |")[2]
    results = json.loads((ROOT / "benchmarks" / "results" / "corruptions.json").read_text())
    for name in {row["corruption"] for row in results["rows"]}:
        (line,) = re.findall(rf"^\| {name} \|.*$", text, flags=re.MULTILINE)
        for side, ratio in zip((224, 32), line.strip("| ").split(" | ")[3::3], strict=True):
            own = [row for row in results["rows"] if (row["side"], row["corruption"]) == (side, name)]
            slow, fast = (sum(row[form] for row in own) for form in ("baseline_ms", "candidate_ms"))
            assert float(ratio) == round(slow / fast, 2)
    for summary in results["summary"]:
        assert f"**{summary['speedup_of_the_sum']:.2f}**" in text
        assert f"{summary['speedup_of_the_sum_without_frost']:.2f}" in text


def test_memory_of_the_diagnostics_is_that_of_its_committed_results():
    text = (ROOT / "docs" / "measure.md").read_text()
    for row in json.loads((ROOT / "benchmarks" / "results" / "diagnostics.json").read_text())["rows"]:
        assert f"{row['peak_bytes'] / 2**20:.0f} MiB" in text
        assert f"{row['maps_bytes'] / 2**30:.1f} GiB" in text


def test_memory_of_segmentation_is_that_of_its_committed_results():
    text = (ROOT / "docs" / "segmentation.md").read_text()
    results = json.loads((ROOT / "benchmarks" / "results" / "segmentation.json").read_text())
    memory, (row,) = results["memory"], results["rows"]
    for form in ("tapadl_16_blocks", "checkpointed_16_blocks"):
        assert memory["bytes"][form] < 16 * 2**30
    for count in (*memory["bytes"].values(), memory["stored_at_full_depth_by_arithmetic"]):
        assert f"{count / 2**30:.1f}" in text
    low, high = row["speedup_quartiles"]
    assert f"{row['speedup']:.2f} x ({low:.2f} - {high:.2f})" in text


def test_numbers_of_the_evaluation_benchmark_stand_in_its_results():
    text = (ROOT / "docs" / "evaluate.md").read_text()
    for row in json.loads((ROOT / "benchmarks" / "results" / "evaluation.json").read_text())["rows"]:
        low, high = row["speedup_quartiles"]
        assert f"{row['model_share']:.0%}" in text
        assert f"{row['speedup']:.2f} x ({low:.2f} - {high:.2f})" in text


def test_numbers_of_the_training_benchmark_stand_in_its_results():
    text = (ROOT / "docs" / "train.md").read_text()
    for row in json.loads((ROOT / "benchmarks" / "results" / "training.json").read_text())["rows"]:
        if "variant" in row:
            low, high = row["cost_quartiles"]
            assert f"{row['cost']:.2f} ({low:.2f} - {high:.2f})" in text
            continue
        low, high = row["speedup_quartiles"]
        shown = f"{row['images_per_second']:,.1f} | {row['speedup']:.2f} x ({low:.2f} - {high:.2f})"
        assert shown in text, f"train.md does not show {shown}"
        if row["loader_share"] is not None:
            assert f"{row['loader_share']['ours']:.1%}" in text


def training_commands(document: Path) -> list[list[str]]:
    """The words behind each `tapadl train` in a block of code, in backticks, or in the head of a recipe."""
    text = re.sub(r"^# ?", "", document.read_text(), flags=re.MULTILINE)
    code = text if document.suffix == ".yaml" else "\n".join(re.findall(r"(?s)```\w+\n(.*?)```", text))
    lines = code.replace("\\\n", " ").splitlines() + re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    found = [shlex.split(line.partition("tapadl train ")[2], comments=True) for line in lines]
    return [words for words in found if words]


@pytest.mark.parametrize(
    "document",
    [path for path in (*DOCUMENTS, *sorted((ROOT / "recipes").glob("*.yaml"))) if training_commands(path)],
    ids=lambda path: path.name,
)
def test_commands_that_train_can_be_parsed(document, tmp_path, monkeypatch):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for name, recipe in re.findall(r"(?s)```yaml\n# (\S+)\n(.*?)```", document.read_text()):
        (tmp_path / name).write_text(recipe)
    monkeypatch.chdir(tmp_path)
    for words in training_commands(document):
        if words == ["--help"]:
            continue
        if "--out" in words:
            out = words.index("--out")
            del words[out : out + 2]
        assert parse(words).data.train


def test_commands_that_train_are_found():
    counts = {path.name: len(training_commands(path)) for path in DOCUMENTS}
    assert min(counts[name] for name in ("README.md", "train.md", "reproduce.md", "many-machines.md")) > 1


def test_settings_that_the_documents_name_are_there():
    assert "optimizer.lr" in known_keys()
    for path in (*DOCUMENTS, *(ROOT / "recipes").glob("*.yaml")):
        for key in re.findall(r"--([a-z]\w*\.[a-z]\w+)", path.read_text()):
            named = key if not key.startswith("model.options") else "model.options"
            assert named in known_keys(), f"{path.name} names --{key}"


OTHER_COMMANDS = ("evaluate", "compare", "corrupt", "explore", "segment", "convert", "demo", "models")


def other_commands(document: Path) -> list[list[str]]:
    """The words of each line of code that begins with one of the other commands."""
    code = "\n".join(re.findall(r"(?s)```\w+\n(.*?)```", document.read_text())).replace("\\\n", " ")
    lines = [line.strip() for line in code.splitlines()]
    found = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("tapadl ")]
    return [words for words in found if words and words[0] in OTHER_COMMANDS and "..." not in words]


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if other_commands(path)], ids=lambda path: path.name
)
def test_other_commands_can_be_parsed(document):
    for words in other_commands(document):
        _, unknown = build_parser().parse_known_args(words)
        assert not unknown, words


def test_other_commands_are_found():
    found = {words[0] for path in DOCUMENTS for words in other_commands(path)}
    assert {"evaluate", "compare", "corrupt", "explore", "segment", "convert"} <= found
