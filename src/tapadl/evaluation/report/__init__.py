"""Pages of numbers: what all of them share, and the one that an evaluation writes."""

from tapadl.evaluation.report.page import render_page, write_report
from tapadl.evaluation.report.text import render_text

__all__ = ["render_page", "render_text", "write_report"]
