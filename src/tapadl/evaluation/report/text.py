"""The report as Markdown."""

from collections.abc import Sequence

from tapadl.evaluation.benchmark_result import EvaluationResult
from tapadl.evaluation.compare import Comparison
from tapadl.evaluation.report.conditions import (
    COMPARED,
    baseline_note,
    benchmark_facts,
    benchmark_title,
    model_facts,
    notices,
)
from tapadl.evaluation.report.findings import BenchmarkFindings, Headline, Model, findings_of
from tapadl.evaluation.report.tables import (
    ReportTable,
    comparison_table,
    corruption_table,
    metric_table,
    models_table,
    overview_table,
)


def render_text(results: Sequence[EvaluationResult], comparison: Comparison | None) -> str:
    """The report as Markdown; see `write_report`."""
    models, all_findings = findings_of(results, comparison)
    blocks = [f"# {' against '.join(escaped(model.label) for model in models)}"]
    blocks.append("Errors: lower is better. ± is one standard error over images.")
    if comparison is not None and comparison.left_out:
        blocks.append(f"Left out, as not all results have them: {', '.join(comparison.left_out)}.")
    if len(all_findings) > 1:
        blocks += ["## All benchmarks", markdown_table(overview_table(all_findings))]
    for findings in all_findings:
        blocks += _benchmark(findings)
    blocks += ["## How it was done", baseline_note(all_findings)]
    for model in models:
        blocks += _model(model)
    return "\n\n".join(blocks) + "\n"


def _benchmark(findings: BenchmarkFindings) -> list[str]:
    title = benchmark_title(findings.name)
    blocks = [f"## {escaped(findings.name)}", *([f"{escaped(title)}."] if title else [])]
    blocks.append(_list([f"{name}: {escaped(text)}" for name, text in benchmark_facts(findings)]))
    blocks += [f"**Note.** {escaped(notice)}" for notice in notices(findings)]
    blocks.append(_list([_headline(headline) for headline in findings.headlines()]))
    for comparison in findings.comparisons:
        table = comparison_table(findings, comparison)
        blocks += [f"### {escaped(table.caption)}", markdown_table(table), COMPARED]
    blocks += ["### All metrics", markdown_table(metric_table(findings))]
    tables = [models_table(findings)] if len(findings.models) > 1 and findings.corruptions else []
    if findings.corruptions:
        tables += [corruption_table(findings, place) for place in range(len(findings.models))]
    for table in tables:
        blocks += [f"### {escaped(table.caption)}", markdown_table(table)]
    return blocks


def _headline(headline: Headline) -> str:
    words = headline.measure
    values = []
    for entry in headline.entries:
        if entry.value is None:
            continue
        error = "" if entry.standard_error is None else f" ± {words.number(entry.standard_error)}"
        accuracy = f" (accuracy {words.text(1 - entry.value)})" if headline.with_accuracy else ""
        values.append(f"{escaped(entry.model.label)} {words.text(entry.value)}{error}{accuracy}")
    return f"**{words.label}** {'; '.join(values) or headline.missing}  \n  {words.meaning}"


def _model(model: Model) -> list[str]:
    facts = [f"{name}: `{text}`" if text else name for name, text in model_facts(model.result)]
    command = f"```\n{model.result.command}\n```"
    return [f"### {escaped(model.label)}", command, _list(facts)]


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def markdown_table(table: ReportTable) -> str:
    """A table of Markdown; headings inside become rows with a bold name."""
    lines = [
        "| " + " | ".join(map(escaped, table.columns)) + " |",
        "|---|" + "---:|" * (len(table.columns) - 1),
    ]
    for name, cells in table.rows:
        texts = [f"{cell.text} {cell.small}".strip() for cell in cells]
        texts += [""] * (len(table.columns) - 1 - len(texts))
        title = escaped(name) if cells else f"**{escaped(name)}**"
        lines.append(f"| {title} | " + " | ".join(map(escaped, texts)) + " |")
    return "\n".join(lines)


def escaped(text: str) -> str:
    r"""A text that Markdown leaves as it is.

    Example:
        >>> escaped("vit_tiny|<b>")
        'vit\\_tiny\\|&lt;b&gt;'
    """
    for sign in ("\\", "|", "_", "*", "`", "[", "]"):
        text = text.replace(sign, f"\\{sign}")
    return text.replace("<", "&lt;").replace(">", "&gt;")
