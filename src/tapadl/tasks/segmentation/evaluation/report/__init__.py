"""The page and the text that an evaluation of segmenters writes."""

from tapadl.tasks.segmentation.evaluation.report.page import render_page, write_report
from tapadl.tasks.segmentation.evaluation.report.text import render_text

__all__ = ["render_page", "render_text", "write_report"]
