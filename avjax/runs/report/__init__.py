"""A run's report: one self-contained HTML page, and its figures as files on request."""

from avjax.runs.report.write import render, write_report

__all__ = ["render", "write_report"]
