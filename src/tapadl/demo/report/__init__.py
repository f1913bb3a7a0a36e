"""The page that a demo writes."""

from tapadl.demo.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]
