"""One progress bar for the whole house: rate and time left, quiet where nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(stderr=True)
LOG_EVERY_S = 20.0


class Bar:
    """`advance(n, note)` moves the bar; on a terminal it is drawn, elsewhere a line is printed now and then."""

    def __init__(self, title: str, total: int, unit: str, quiet: bool = False) -> None:
        self.title, self.total, self.unit, self.quiet = title, total, unit, quiet
        self.done, self.start_s = 0, time.monotonic()
        self.resumed = 0
        self._last_line_s = self.start_s
        self._drawn: Progress | None = None
        if console.is_terminal and not quiet:
            self._drawn = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._task = self._drawn.add_task(title, total=total, note="")
            self._drawn.start()

    def advance(self, n: int = 1, note: str = "") -> None:
        now_s = time.monotonic()
        if self.done == 0 and now_s - self.start_s < 0.05:
            self.resumed += n  # work found finished, not done now: keep it out of the rate
        self.done += n
        if self._drawn is not None:
            self._drawn.update(self._task, advance=n, note=f"{self.rate:.1f} {self.unit}/s {note}")
        elif not self.quiet and now_s - self._last_line_s > LOG_EVERY_S:
            self._last_line_s = now_s
            left_s = (self.total - self.done) / max(self.rate, 1e-9)
            print(
                f"{self.title}: {self.done}/{self.total} {self.unit}, {self.rate:.1f}/s, {left_s:.0f} s left {note}",
                file=sys.stderr,
                flush=True,
            )

    @property
    def rate(self) -> float:
        return (self.done - self.resumed) / max(time.monotonic() - self.start_s, 1e-6)

    def close(self) -> None:
        if self._drawn is not None:
            self._drawn.stop()


@contextmanager
def progress(title: str, total: int, unit: str = "items", quiet: bool = False) -> Iterator[Bar]:
    """A bar over `total` units of work; closed even when the work fails. quiet: for all processes but the first."""
    bar = Bar(title, total, unit, quiet)
    try:
        yield bar
    finally:
        bar.close()
