"""What a run found, for people to read. Reads result files and dictionaries only."""

from __future__ import annotations

from salad.report.summary import print_report, write_report

__all__ = ["print_report", "write_report"]
