"""The local engine: a pool of single-thread processes; a finished shard is never run again.

Two processes with two OpenMP threads each on two cores run 10-50 times slower than with one, so
every worker holds itself to one thread.
"""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salad.files import write_text
from salad.progress import progress
from salad.types import SaladError

__all__ = ["Shard", "run_shards"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CT2_INTRA_THREADS")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Shard:
    """What one call of the function works on: `items` in order, and the index that seeds its randomness."""

    index: int
    items: tuple[Any, ...]


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
) -> list[Path]:
    """Call `function(shard, folder)` for every shard of `items`; return the shards' folders in order.

    The function writes files into `folder`, which is renamed to its final place once it returns, so a
    killed run loses at most the shards in flight. Shards depend on `items` and `shard_items` alone:
    another number of workers gives the same files. `function` must be importable (a module's function or
    a `functools.partial` of one). With one worker or one shard it runs here, unless `fresh` asks for a process
    of its own, whose arithmetic nothing that ran before can touch. The first error stops the run and is raised;
    finished shards stay. A full disk is a SaladError.
    """
    try:
        return _run_shards(function, items, out_dir, shard_items, workers, title, unit, fresh)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise SaladError(
            f"disk: no space left for {out_dir} ({error.strerror}); finished shards stay: free some space, then give "
            "the same command again"
        ) from error


def _run_shards(
    function: Callable[[Shard, Path], None],
    items: Sequence[Any],
    out_dir: Path,
    shard_items: int,
    workers: int,
    title: str,
    unit: str,
    fresh: bool,
) -> list[Path]:
    out_dir.mkdir(parents=True, exist_ok=True)
    _keep_only(out_dir, plan=hashlib.sha256(f"{shard_items} {list(items)!r}".encode()).hexdigest())
    shards = [
        Shard(index, tuple(items[start : start + shard_items]))
        for index, start in enumerate(range(0, len(items), shard_items))
    ]
    folders = [out_dir / f"shard-{shard.index:05d}" for shard in shards]
    left = [shard for shard, folder in zip(shards, folders, strict=True) if not folder.exists()]
    for aside in out_dir.glob(".shard-*"):
        shutil.rmtree(aside)
    if not left:
        return folders
    with progress(title, total=len(items), unit=unit) as bar, _single_threaded():
        bar.advance(len(items) - sum(len(shard.items) for shard in left))
        if not fresh and (workers == 1 or len(left) == 1):
            with _torch_threads(1):
                for shard in left:
                    bar.advance(_run_one(function, shard, out_dir))
            return folders
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            min(workers, len(left)), context, initializer=_start_worker, initargs=(os.getpid(),)
        ) as pool:
            pending = {pool.submit(_run_one, function, shard, out_dir) for shard in left}
            try:
                while pending:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for future in done:
                        bar.advance(future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return folders


def _keep_only(out_dir: Path, plan: str) -> None:
    """Shards made from other items, or cut otherwise, are not these shards: they go."""
    note = out_dir / "plan.txt"
    if note.exists() and note.read_text() == plan:
        return
    for folder in out_dir.glob("shard-*"):
        shutil.rmtree(folder)
    write_text(note, plan)


def _run_one(function: Callable[[Shard, Path], None], shard: Shard, out_dir: Path) -> int:
    aside = out_dir / f".shard-{shard.index:05d}"
    aside.mkdir(parents=True, exist_ok=True)
    function(shard, aside)
    aside.rename(out_dir / f"shard-{shard.index:05d}")
    return len(shard.items)


def _start_worker(parent: int) -> None:
    """One thread, and no life after the parent's: a killed run must not leave writers behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    _set_torch_threads(1)


def _set_torch_threads(n: int) -> int:
    """Set torch's threads and return what they were; torch is not imported where it is not installed."""
    try:
        import torch
    except ImportError:
        return n
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    return before


@contextmanager
def _torch_threads(n: int) -> Iterator[None]:
    before = _set_torch_threads(n)
    try:
        yield
    finally:
        _set_torch_threads(before)


class _single_threaded:
    """Children started inside inherit one thread per library; the parent's own variables come back after."""

    def __enter__(self) -> None:
        self.before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))

    def __exit__(self, *_: object) -> None:
        for name, value in self.before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
