"""A part of a run that one process holds at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from salad.progress import console


@contextlib.contextmanager
def alone(run_dir: Path, name: str, wait: bool = True) -> Iterator[bool]:
    """Hold a part of the run against other processes; False where another one has it and we do not wait."""
    (run_dir / "locks").mkdir(parents=True, exist_ok=True)
    lock = FileLock(run_dir / "locks" / f"{name}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not wait:
            yield False
            return
        console.print(f"{name}: another process has it; waiting", highlight=False)
        lock.acquire()
    try:
        yield True
    finally:
        lock.release()
