"""Run a function over shards: what is finished is kept, a killed worker's shard is retried, a poison item is found."""

from __future__ import annotations

import errno
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from salad.engine.devices import Library, Setting, devices_line, environment, gpus_here, no_gpu, plan_workers
from salad.engine.local import LocalPool, single_threaded, torch_threads
from salad.engine.shards import (
    MARK,
    Attempt,
    Outcome,
    Shard,
    cut,
    item_name,
    keep_only,
    perform,
    remove_halves,
    shard_name,
)
from salad.files import num_bytes, size_of
from salad.progress import Bar, console, progress
from salad.types import SaladError

Kind = Literal["local", "ray"]
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class EngineOptions:
    kind: Kind = "local"
    tries: int = 3
    device: Setting = "auto"
    spare: tuple[Path, Path] | None = None


_DEFAULT = EngineOptions()
_settings: ContextVar[EngineOptions] = ContextVar("settings", default=_DEFAULT)


@contextmanager
def using(
    kind: Kind = "local", tries: int = 3, device: Setting = "auto", spare: tuple[Path, Path] | None = None
) -> Iterator[None]:
    """Which engine runs the shards inside the block, how many workers an item may kill, and what jobs that can use a
    GPU run on (the recipe's `engine`). Raises SaladError where that is `cuda` and this machine has none; of Ray's
    cluster it is known once it is asked.

    spare: a folder, and where its last result lies: shards of it that fit are taken (see `key` of `run_shards`).
    """
    if device == "cuda" and kind == "local" and not gpus_here("torch"):
        raise no_gpu("torch")
    token = _settings.set(EngineOptions(kind, tries, device, spare))
    try:
        yield
    finally:
        _settings.reset(token)


class Pool(Protocol):
    """Workers that each make one attempt at a time. An attempt that kills its worker harms no other."""

    devices: tuple[str | None, ...]  # the GPU of each, or None

    def free(self) -> int:
        """Workers with nothing to do."""
        ...

    def submit(self, attempt: Attempt) -> None: ...

    def wait(self) -> Outcome:
        """The next attempt to end."""
        ...


def run_shards(
    function: Callable[[Shard, Path], None],
    items: Sequence[Any],
    out_dir: Path,
    *,
    shard_items: int,
    workers: int,
    title: str,
    unit: str = "items",
    fresh: bool = False,
    quarantine: bool = False,
    library: Library | None = None,
    key: Callable[[Any], str] | None = None,
) -> list[Path]:
    """Call `function(shard, folder)` for every shard of `items`; return the shards' folders in order.

    The function writes files into `folder`, which is renamed to its final place once it returns, so a
    killed run loses at most the shards in flight. Shards depend on `items` and `shard_items` alone (with `key` also on
    how they were cut before): another number of workers, or another engine, gives the same files. `function` must be
    importable (a module's function or a `functools.partial` of one). With one local worker it runs here, unless `fresh`
    asks for a process of its own, whose arithmetic nothing that ran before can touch.

    A shard whose worker dies (SIGKILL, out of memory, a crash in a library) runs again. After `tries` deaths each item
    of it is tried alone. One that kills `tries` times again is named by SaladError, or with `quarantine` goes to the
    shard's quarantine.jsonl ({id, reason}), and the others are kept. The first error that the function raises stops the
    run once the shards in flight have ended; finished shards stay. A full disk is a SaladError. The engine and
    `tries` are those of the surrounding `using`.

    library: what the function computes with on `worker_device()`. Such a job has one worker a GPU where there are any
    and the surrounding `using` lets it, whatever `workers` says, and what it runs on is printed; others stay on the
    CPU. A worker with a GPU is never this process.

    key: names all that an item's part of a shard is made from. Then one item more makes one shard anew and not all, and
    shards of the folder's last result (`spare` of the surrounding `using`) that were made from the same are taken.
    """
    settings = _settings.get()
    kind, tries = settings.kind, settings.tries
    with _full_disk_told(out_dir):
        bounds = keep_only(out_dir, items, shard_items, key, _spare_of(out_dir))
        folders = [out_dir / shard_name(number) for number in bounds.numbers]
        left = [place for place, folder in enumerate(folders) if not folder.exists()]
        if not left:
            return folders
        shards = (cut(items, bounds, place) for place in left)  # one at a time: items may be made
        attempts = (Attempt(function, shard, out_dir, tuple(range(len(shard.items)))) for shard in shards)
        with progress(title, total=len(items), unit=unit) as bar:
            bar.advance(len(items) - sum(bounds.starts[place + 1] - bounds.starts[place] for place in left))
            local = kind == "local"
            gpus = gpus_here(library) if library and local and settings.device != "cpu" else ()
            devices = plan_workers(settings.device, library if local else None, workers, gpus)
            if local and devices == (None,) and not fresh:
                _tell(library, title, devices)
                with single_threaded(environment(None)), torch_threads(1):
                    for attempt in attempts:
                        perform(attempt)
                        bar.advance(len(attempt.shard.items))
                return folders
            try:
                with _pool(kind, devices[: len(left)], settings.device, library) as pool:
                    _tell(library, title, pool.devices)
                    _Drive(pool, bar, tries, quarantine).run(attempts)
            finally:
                remove_halves(out_dir)  # of workers that died
    return folders


def _spare_of(out_dir: Path) -> Path | None:
    """Where the last result of this folder lies, if anywhere."""
    spare = _settings.get().spare
    if spare is None or not out_dir.is_relative_to(spare[0]):
        return None
    return spare[1] / out_dir.relative_to(spare[0])


@contextmanager
def _full_disk_told(out_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise SaladError(
            f"disk: no space left for {out_dir} ({error.strerror}); finished shards stay: free some space, then give "
            f"the same command again{_removable()}"
        ) from error


def _removable() -> str:
    """The sentence that says a last result, which waits to be removed, need not wait."""
    spare = _settings.get().spare
    if spare is None or not (spare[1] / MARK).exists():
        return ""
    size = size_of(num_bytes(spare[1]))
    return f"; {spare[1]} ({size}) is kept only so that shards are taken from it, and may be removed now"


def _pool(
    kind: Kind, devices: Sequence[str | None], setting: Setting, library: Library | None
) -> AbstractContextManager[Pool]:
    if kind == "local":
        return LocalPool(devices)
    from salad.engine.ray import RayPool

    return RayPool(len(devices), setting, library)


def _tell(library: Library | None, title: str, devices: Sequence[str | None]) -> None:
    if library:
        console.print(devices_line(title, devices), highlight=False)


class _Drive:
    """Keeps a pool's workers busy until every shard is whole."""

    def __init__(self, pool: Pool, bar: Bar, tries: int, quarantine: bool) -> None:
        self.pool, self.bar = pool, bar
        self.tries, self.quarantine = tries, quarantine
        self.waiting: deque[Attempt] = deque()
        self.deaths: Counter[tuple[int, tuple[int, ...], bool]] = Counter()
        self.trials: Counter[int] = Counter()  # items of a shard that are still to be tried alone
        self.poison: dict[int, list[int]] = {}  # of a shard whose items are tried: places of those that killed

    def run(self, attempts: Iterator[Attempt]) -> None:
        in_flight, error = 0, None
        while True:
            while error is None and self.pool.free() and (attempt := next(attempts, None) or self._again()):
                self.pool.submit(attempt)
                in_flight += 1
            if not in_flight:
                break
            outcome = self.pool.wait()
            in_flight -= 1
            try:
                self._ended(outcome)
            except Exception as first:  # the others in flight may finish: hours of work may be in them
                error = error or first
        if error is not None:
            raise error

    def _again(self) -> Attempt | None:
        return self.waiting.popleft() if self.waiting else None

    def _ended(self, outcome: Outcome) -> None:
        attempt = outcome.attempt
        if outcome.died:
            self._died(attempt)
        elif attempt.trial:
            self._tried(attempt)  # its own error is raised by the whole shard, later
        elif outcome.error is not None:
            raise outcome.error
        else:
            self.bar.advance(len(attempt.shard.items))

    def _died(self, attempt: Attempt) -> None:
        index, numbers = attempt.shard.index, attempt.numbers
        key = (index, numbers, attempt.trial)
        self.deaths[key] += 1
        if self.deaths[key] < self.tries:
            self.waiting.append(attempt)
        elif attempt.trial:
            self.poison[index] += numbers
            self._tried(attempt)
        elif index in self.poison:
            raise SaladError(
                f"engine: {attempt.shard.name} in {attempt.out_dir} killed its worker {self.deaths[key]} times, though "
                "none of its items does alone; is there too little memory? Try fewer engine.workers"
            )
        else:
            self.trials[index], self.poison[index] = len(numbers), []
            self.waiting.extend(replace(attempt, numbers=(n,), trial=True) for n in numbers)

    def _tried(self, attempt: Attempt) -> None:
        """One more item was tried alone. After the last one the whole shard runs again, without what killed."""
        shard = attempt.shard
        self.trials[shard.index] -= 1
        if self.trials[shard.index]:
            return
        poison = sorted(self.poison[shard.index])
        reason = f"killed its worker {self.tries} times"
        names = [item_name(shard.items[n], shard.start + n) for n in poison]
        if poison and not self.quarantine:
            raise SaladError(f"engine: {', '.join(names)} {reason}; remove it from the input and run again")
        numbers = tuple(n for n in range(len(shard.items)) if n not in poison)
        rows = tuple({"id": name, "reason": reason} for name in names)
        self.deaths[shard.index, numbers, False] = 0
        self.waiting.append(replace(attempt, numbers=numbers, trial=False, rows=rows))
