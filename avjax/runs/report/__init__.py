"""A run's report: one self-contained HTML page, and its figures as files on request."""

from avjax.runs.report.write import REPORT_FILE, render, write_report

__all__ = ["REPORT_FILE", "render", "write_report"]
