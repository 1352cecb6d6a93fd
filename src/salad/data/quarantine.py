"""The quarantine of a stage: one list of what could not be used, and why."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from salad.files import Rows, json_objects, write_jsonl


@dataclass(frozen=True)
class Quarantined:
    """A line of quarantine.jsonl: what a stage set aside, and why; source, voice, cer: where the stage tells them."""

    stage: str
    id: str
    reason: str
    source: str | None = None
    voice: str | None = None
    cer: float | None = None


def gather_quarantine(folder: Path, more: Iterable[Mapping[str, str | float]] = ()) -> Rows:
    """One quarantine.jsonl for a stage, out of its shards' and `more`; returns its rows, which stay on disk."""
    paths = sorted(folder.rglob("shard-*/quarantine.jsonl"))
    rows = itertools.chain((row for path in paths for _, row in json_objects(path)), more)
    write_jsonl(folder / "quarantine.jsonl", ({"stage": folder.name, **row} for row in rows))
    return Rows([folder / "quarantine.jsonl"])
