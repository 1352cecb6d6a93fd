"""The quarantine of a stage: one list of what could not be used, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from salad.files import read_jsonl, write_jsonl


def gather_quarantine(folder: Path, more: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """One quarantine.jsonl for a stage, out of its shards' and `more`; returns its rows."""
    rows = [row for path in sorted(folder.rglob("shard-*/quarantine.jsonl")) for row in read_jsonl(path)]
    rows = [{"stage": folder.name, **row} for row in (*rows, *more)]
    write_jsonl(folder / "quarantine.jsonl", rows)
    return rows
