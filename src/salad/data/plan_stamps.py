"""Sizes and times of the recordings that an ingest's plan names: a finished result knows by them that one changed."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


@contextmanager
def open_plan(path: Path) -> Iterator[sqlite3.Connection]:
    """The plan, to be read."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as plan:
        yield plan


def stamp_of(path: str) -> tuple[int, int]:
    """Size and time of a file; zeros where there is none, nor can be by that name."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return 0, 0
    return state.st_size, state.st_mtime_ns


def stamp_recordings(path: Path, *, planned: bool = False) -> str:
    """16 hex digits of the sizes and times of the files that the rows of a plan name; none of them is read.

    planned: as the plan has them, and not as they are now. A file that is gone counts as it was: what was made of it
    stays. "" for a plan of old, which does not tell.
    """
    digest = hashlib.sha256()
    with open_plan(path) as plan:
        if not _has_files(plan):
            return ""
        for audio, *then in plan.execute("SELECT audio, size, time FROM files ORDER BY source, audio"):
            now = (0, 0) if planned else stamp_of(json.loads(audio))
            digest.update(f"{audio} {list(now) if any(now) else then}\n".encode())
    return digest.hexdigest()[:16]


def stamp_again(path: Path) -> None:
    """Note the sizes and times of a plan's files as they are now, where they are read only now."""
    with closing(sqlite3.connect(path)) as plan:
        if not _has_files(plan):
            return
        changed = list[tuple[int, int, str, str]]()
        for source, audio, *then in plan.execute("SELECT source, audio, size, time FROM files"):
            now = stamp_of(json.loads(audio))
            if any(now) and list(now) != then:
                changed.append((*now, source, audio))
        plan.executemany("UPDATE files SET size = ?, time = ? WHERE source = ? AND audio = ?", changed)
        plan.commit()


def _has_files(plan: sqlite3.Connection) -> bool:
    return plan.execute("SELECT 1 FROM sqlite_master WHERE name = 'files'").fetchone() is not None
