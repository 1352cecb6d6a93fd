"""A part of a run that one process holds at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from salad.locks import held
from salad.progress import console


@contextlib.contextmanager
def alone(run_dir: Path, name: str, wait: bool = True) -> Iterator[bool]:
    """Hold a part of the run against other processes; False where another one has it and we do not wait.

    On a disk that knows no locks, this says so and goes on.
    """
    (run_dir / "locks").mkdir(parents=True, exist_ok=True)
    path = run_dir / "locks" / f"{name}.lock"
    with held(path, wait=wait, waiting=lambda: f"{name}: another process has it; waiting") as got:
        if got == "no locks":
            what = f"{name}: the disk of {run_dir} has no locks; start no second process"
            console.print(f"[yellow]{what}[/]", highlight=False)
        yield got != "taken"
