"""Shards on disk: cut, whole or absent, and what one attempt at a shard does; every engine shares this."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from salad.engine.machine import flushed
from salad.files import AtHand, number64, read_jsonl, write_jsonl, write_lines

KEPT = ".kept-"
MARK = "remove-when-done"  # a file in a last result that is kept only until the new one took its shards


@dataclass(frozen=True)
class Shard:
    """What one call of the function works on: `items` in order, and the index that seeds its randomness.

    start: place of the first item among those of the job.
    """

    index: int
    items: tuple[Any, ...]
    start: int = 0

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
        found = self._sources[number]
        return [self._make(one) for one in found] if isinstance(number, slice) else self._make(found)

    def __iter__(self) -> Iterator[Any]:
        return map(self._make, self._sources)


class Joined(AtHand):
    """Several sequences as one, whose items are asked for as they are needed."""

    def __init__(self, parts: Sequence[Sequence[Any]]) -> None:
        self._parts, self._starts = parts, array("q")

    def _until(self) -> array[int]:
        if not self._starts:  # a length may cost a pass over a part
            self._starts = array("q", itertools.accumulate(map(len, self._parts), initial=0))
        return self._starts

    def __len__(self) -> int:
        return self._until()[-1]

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain(*self._parts)

    def _at(self, number: int) -> Any:
        at = bisect_right(self._until(), number) - 1
        return self._parts[at][number - self._starts[at]]


def pick(items: Sequence[Any], numbers: Sequence[int]) -> Sequence[Any]:
    """Some of the items, by number: a list out of a list, else made when they are asked for."""
    return [items[number] for number in numbers] if isinstance(items, list) else Made(items.__getitem__, numbers)


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


def shards_in(folder: Path) -> list[Path]:
    """The shards that lie in `folder`, in the order of their numbers: that of names is another from shard 100000 on."""
    return sorted(folder.glob("shard-*"), key=lambda path: (len(path.name), path.name))


def cut(items: Sequence[Any], bounds: Bounds, number: int) -> Shard:
    """Shard number `number` of a job."""
    first, start, end = bounds.numbers[number], bounds.starts[number], bounds.starts[number + 1]
    return Shard(first, tuple(items[at] for at in range(start, end)), start)


@dataclass(frozen=True)
class Bounds:
    """Which items make which shard: numbers [S] of the shards, and starts [S + 1] among the items."""

    numbers: Sequence[int]
    starts: Sequence[int]

    @staticmethod
    def even(num: int, shard_items: int) -> Bounds:
        """Shards of `shard_items`, but for the last."""
        starts = [*range(0, num, shard_items), num] if num else [0]
        return Bounds(range(len(starts) - 1), starts)

    @staticmethod
    def near(keys: np.ndarray, plan: ShardPlan, shard_items: int) -> Bounds:
        """Cut the items as an earlier plan did: an item that is new joins the shard of the one before it, so that one
        shard is another and not all. New items behind the last shard fill it and begin further ones. Where that would
        make a shard of twice `shard_items`, all are cut anew.
        """
        owner = np.repeat(np.arange(len(plan.numbers)), np.diff(plan.starts))
        order = np.argsort(plan.keys, kind="stable")
        if not len(keys) or not len(order):
            return Bounds.even(len(keys), shard_items)
        at = np.minimum(np.searchsorted(plan.keys, keys, sorter=order), len(order) - 1)
        known = np.where(plan.keys[order[at]] == keys, owner[order[at]], -1)
        shard = np.maximum.accumulate(known)
        if shard[-1] < 0:
            return Bounds.even(len(keys), shard_items)
        shard[shard < 0] = shard[shard >= 0][0]
        own, starts = np.unique(shard, return_index=True)
        numbers = [plan.numbers[one] for one in own.tolist()]
        more = range(int(starts[-1]) + shard_items, len(keys), shard_items)
        ends = [*starts.tolist(), *more, len(keys)]
        if max(np.diff(ends)) >= 2 * shard_items:
            return Bounds.even(len(keys), shard_items)
        return Bounds([*numbers, *range(numbers[-1] + 1, numbers[-1] + 1 + len(more))], ends)


@dataclass(frozen=True)
class ShardPlan:
    """Of what the shards of a folder were made: bounds as of `Bounds`, and uint64 [items] `keys`, a hash of each."""

    numbers: Sequence[int]
    starts: Sequence[int]
    keys: np.ndarray

    @staticmethod
    def read(folder: Path) -> ShardPlan | None:
        """The plan in plan.txt: a line a shard, its number and the hashes of its items. None where there is none."""
        numbers, starts, keys = array("q"), array("q", [0]), array("Q")
        try:
            with open(folder / "plan.txt", encoding="ascii") as file:
                for line in file:
                    number, *own = line.split()
                    numbers.append(int(number))
                    keys.extend(int(key, 16) for key in own)
                    starts.append(len(keys))
        except (OSError, ValueError, OverflowError):  # none, or of an older version
            return None
        return ShardPlan(numbers, starts, np.frombuffer(keys, np.uint64) if keys else np.empty(0, np.uint64))

    def write(self, folder: Path) -> None:
        lines = (" ".join([str(n), *map("{:016x}".format, self.keys[own])]) for n, own in self._shards())
        write_lines(folder / "plan.txt", lines)

    def same(self, other: ShardPlan) -> set[int]:
        """Numbers of the shards that are made of the same items in both."""
        theirs = dict(other._shards())
        return {n for n, own in self._shards() if n in theirs and np.array_equal(self.keys[own], other.keys[theirs[n]])}

    def _shards(self) -> Iterator[tuple[int, slice]]:
        return zip(self.numbers, itertools.starmap(slice, itertools.pairwise(self.starts)), strict=True)


def keep_only(
    out_dir: Path,
    items: Sequence[Any],
    shard_items: int,
    key: Callable[[Any], str] | None = None,
    spare: Path | None = None,
) -> Bounds:
    """How the items are cut. Shards made from other items, or cut otherwise, are not these shards: they go; so do
    halves of shards.

    key: names all that a shard is made from beside the code, the contents of files too, item by item (default: its
    repr, which may be the same for other contents). With it items are cut near to how they were before, and shards
    that fit are taken (as hard links) from `spare`, where the last result of this folder lies.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    keys = _keys(items, shard_items, key or repr)
    kept, older = ShardPlan.read(out_dir), ShardPlan.read(spare) if key and spare else None
    before = kept or older
    bounds = Bounds.near(keys, before, shard_items) if key and before else Bounds.even(len(keys), shard_items)
    plan = ShardPlan(bounds.numbers, bounds.starts, keys)
    same = plan.same(kept) if kept else set[int]()
    if kept is None or len(same) < max(len(plan.numbers), len(kept.numbers)):
        names = {shard_name(number) for number in same}
        for folder in (*out_dir.glob("shard-*"), *out_dir.glob(f"{KEPT}*")):
            if folder.name.removeprefix(KEPT) not in names:
                shutil.rmtree(folder)
        plan.write(out_dir)
    remove_halves(out_dir)
    if older and spare:
        for number in plan.same(older):
            _adopt(spare / shard_name(number), out_dir / shard_name(number))
    return bounds


def _keys(items: Sequence[Any], shard_items: int, key: Callable[[Any], str]) -> np.ndarray:
    """uint64 [items]: 64 bits of a hash of each. `shard_items` is in it: whoever changes it wants another cut."""
    hashes = array("Q")
    for item in items:
        hashes.append(number64(f"{shard_items} {key(item)}"))
    return np.frombuffer(hashes, np.uint64) if hashes else np.empty(0, np.uint64)


def _adopt(source: Path, target: Path) -> None:
    """A shard of an earlier result, whole or absent, as hard links (copies where the disk cannot link)."""
    if target.exists() or not source.is_dir():
        return
    aside = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    shutil.copytree(source, aside, copy_function=_link)
    aside.rename(target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


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
