"""The quarantine of a stage: one list of what could not be used, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from salad.files import JsonObject, read_jsonl, write_jsonl


@dataclass(frozen=True)
class Quarantined:
    """A line of quarantine.jsonl: what a stage set aside, and why; source, voice, cer: where the stage tells them."""

    stage: str
    id: str
    reason: str
    source: str | None = None
    voice: str | None = None
    cer: float | None = None


def gather_quarantine(folder: Path, more: Sequence[Mapping[str, str | float]] = ()) -> list[JsonObject]:
    """One quarantine.jsonl for a stage, out of its shards' and `more`; returns its rows."""
    rows = [row for path in sorted(folder.rglob("shard-*/quarantine.jsonl")) for row in read_jsonl(path)]
    rows = [{"stage": folder.name, **row} for row in (*rows, *more)]
    write_jsonl(folder / "quarantine.jsonl", rows)
    return rows
