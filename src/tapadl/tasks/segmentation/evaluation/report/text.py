"""The report of segmenters as Markdown."""

from collections.abc import Sequence

from tapadl.evaluation.report.conditions import model_facts
from tapadl.evaluation.report.text import escaped, markdown_table
from tapadl.tasks.segmentation.evaluation.compare import Comparison
from tapadl.tasks.segmentation.evaluation.report.conditions import (
    COMPARED,
    INTERVALS,
    benchmark_facts,
    notices,
)
from tapadl.tasks.segmentation.evaluation.report.findings import (
    BenchmarkFindings,
    benchmark_title,
    findings_of,
)
from tapadl.tasks.segmentation.evaluation.report.tables import (
    class_table,
    comparison_table,
    corruption_table,
    metric_table,
    models_table,
)
from tapadl.tasks.segmentation.evaluation.result import SegmentationResult


def render_text(results: Sequence[SegmentationResult], comparison: Comparison | None = None) -> str:
    """The report as Markdown; see `write_report`."""
    models, all_findings = findings_of(results, comparison)
    blocks = [f"# {' against '.join(escaped(model.label) for model in models)}"]
    blocks.append(f"mIoU in percent: higher is better. {INTERVALS}")
    if comparison is not None and comparison.left_out:
        blocks.append(f"Left out, as not all results have them: {', '.join(comparison.left_out)}.")
    for findings in all_findings:
        blocks += _benchmark(findings)
    blocks.append("## How it was done")
    for model in models:
        facts = [f"{name}: `{text}`" if text else name for name, text in model_facts(model.result)]
        blocks += [f"### {escaped(model.label)}", f"```\n{model.result.command}\n```", _list(facts)]
    return "\n\n".join(blocks) + "\n"


def _benchmark(findings: BenchmarkFindings) -> list[str]:
    title = benchmark_title(findings.name)
    blocks = [f"## {escaped(findings.name)}", *([f"{escaped(title)}."] if title else [])]
    blocks.append(_list([f"{name}: {escaped(text)}" for name, text in benchmark_facts(findings)]))
    blocks += [f"**Note.** {escaped(notice)}" for notice in notices(findings)]
    if not findings.labelled:
        return blocks
    places = range(len(findings.models))
    for comparison in findings.comparisons:
        table = comparison_table(findings, comparison)
        blocks += [f"### {escaped(table.caption)}", markdown_table(table), COMPARED]
    tables = [metric_table(findings)]
    if findings.groups:
        tables += [models_table(findings)] if len(places) > 1 else []
        tables += [corruption_table(findings, place) for place in places]
    tables += [class_table(findings, place) for place in places]
    for table in tables:
        blocks += [f"### {escaped(table.caption)}", markdown_table(table)]
    return blocks


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
