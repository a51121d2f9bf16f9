"""The HTML report of a run: one file, no script, nothing fetched."""

from genopact_server.report.report import write_report

__all__ = ["write_report"]
