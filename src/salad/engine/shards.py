"""Shards on disk: cut, whole or absent, and what one attempt at a shard does; every engine shares this."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salad.engine.machine import flushed
from salad.files import read_jsonl, write_jsonl, write_text

KEPT = ".kept-"


@dataclass(frozen=True)
class Shard:
    """What one call of the function works on: `items` in order, and the index that seeds its randomness."""

    index: int
    items: tuple[Any, ...]

    @property
    def name(self) -> str:
        return shard_name(self.index)


class Made(Sequence[Any]):
    """Items made out of `sources` when they are asked for, the same each time, so that a job does not hold them all."""

    def __init__(self, make: Callable[[Any], Any], sources: Sequence[Any]) -> None:
        self._make, self._sources = make, sources

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, number: Any) -> Any:
        return self._make(self._sources[number])

    def __iter__(self) -> Iterator[Any]:
        return map(self._make, self._sources)


@dataclass(frozen=True)
class Attempt:
    """One call of the function in one worker.

    numbers: places of the shard's items in it; a trial reads one of them and keeps nothing: it only tells whether the
    worker lives. rows are added to the shard's quarantine.jsonl.
    """

    function: Callable[[Shard, Path], None]
    shard: Shard
    out_dir: Path
    numbers: tuple[int, ...]
    trial: bool = False
    rows: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: well, with the function's own error, or (`died`) with the end of its worker."""

    attempt: Attempt
    error: BaseException | None = None
    died: bool = False


def shard_name(index: int) -> str:
    return f"shard-{index:05d}"


def cut(items: Sequence[Any], shard_items: int, index: int) -> Shard:
    """Shard number `index` of a job."""
    numbers = range(len(items))[index * shard_items : (index + 1) * shard_items]
    return Shard(index, tuple(items[number] for number in numbers))


def keep_only(out_dir: Path, items: Sequence[Any], shard_items: int) -> None:
    """Shards made from other items, or cut otherwise, are not these shards: they go; so do halves of shards."""
    out_dir.mkdir(parents=True, exist_ok=True)
    plan = _plan(items, shard_items)
    note = out_dir / "plan.txt"
    if not (note.exists() and note.read_text() == plan):
        for folder in (*out_dir.glob("shard-*"), *out_dir.glob(f"{KEPT}*")):
            shutil.rmtree(folder)
        write_text(note, plan)
    remove_halves(out_dir)


def _plan(items: Sequence[Any], shard_items: int) -> str:
    """sha256 of `f"{shard_items} {list(items)!r}"`, which is never one string: it would be as long as the corpus."""
    digest = hashlib.sha256(f"{shard_items} [".encode())
    for number, item in enumerate(items):
        digest.update(f"{', ' if number else ''}{item!r}".encode())
    digest.update(b"]")
    return digest.hexdigest()


def remove_halves(out_dir: Path) -> None:
    """What attempts left that did not end."""
    for aside in out_dir.glob(".shard-*"):
        shutil.rmtree(aside, ignore_errors=True)  # a worker of a killed run may still be dying in it


def perform(attempt: Attempt) -> None:
    """Run the function in a folder of this attempt's own, which becomes the shard's folder once it is whole.

    Subnormal numbers count as zero there, in whatever process and engine it runs.
    No two attempts share a folder, so a worker that outlives a killed driver cannot mix its files into the next run's.
    """
    shard, final = attempt.shard, attempt.out_dir / attempt.shard.name
    aside = attempt.out_dir / f".{shard.name}-{secrets.token_hex(4)}"
    aside.mkdir(parents=True)
    try:
        with flushed():
            attempt.function(Shard(shard.index, tuple(shard.items[n] for n in attempt.numbers)), aside)
        if attempt.rows:
            kept = aside / "quarantine.jsonl"
            write_jsonl(kept, [*(read_jsonl(kept) if kept.exists() else []), *attempt.rows])
        if not attempt.trial:
            aside.rename(final)
            shutil.rmtree(kept_folder(aside, shard), ignore_errors=True)
    except OSError:
        if not final.exists():  # else another attempt was first: the same items, the same files
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def kept_folder(folder: Path, shard: Shard) -> Path:
    """Where a function that works in `folder` may keep what outlives a killed attempt, for the next attempt to find.

    It goes once the shard is whole. Two attempts may write there at once: write atomically, the same for the same item.
    """
    return folder.parent / f"{KEPT}{shard.name}"


def item_name(item: Any, number: int) -> str:
    """The id of an item where it or a part of it has one, else its place in the job."""
    return _id_in(item) or f"item {number}"


def _id_in(item: Any) -> str:
    if isinstance(item, dict):
        return str(item["id"]) if "id" in item else next(filter(None, map(_id_in, item.values())), "")
    if isinstance(item, (tuple, list)):
        return next(filter(None, map(_id_in, item)), "")
    return str(getattr(item, "id", ""))
