"""The quarantine of a stage: one list of what could not be used, and why."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from salad.files import Rows, json_objects, write_jsonl


def gather_quarantine(folder: Path, more: Iterable[dict[str, Any]] = ()) -> Rows:
    """One quarantine.jsonl for a stage, out of its shards' and `more`; returns its rows, which stay on disk."""
    paths = sorted(folder.rglob("shard-*/quarantine.jsonl"))
    rows = itertools.chain((row for path in paths for _, row in json_objects(path)), more)
    write_jsonl(folder / "quarantine.jsonl", ({"stage": folder.name, **row} for row in rows))
    return Rows([folder / "quarantine.jsonl"])
