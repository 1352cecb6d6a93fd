"""Examples from shards without holding the corpus: shuffled, mixed by weight, split into lanes, resumable anywhere.

Every epoch of a source is one order of its documents: its shards shuffled, and then the documents of `buffer` shards
shuffled together. Lane l of L takes the places l, l + L, l + 2 L, ... of that order, so that the lanes of an epoch read
every document exactly once. A place is found from the seed and the epoch alone: a lane's whole state is two numbers
for each source, and the positions that each has given. Processes share lanes, so batches do not depend on their number.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from salad.files import sha256_json
from salad.types import SaladError

State = dict[str, Any]  # where a stream stands, as a checkpoint keeps it in JSON


class LeftOut(Exception):
    """A document that cannot be trained on: `ShardSource.build` raises it, and the stream goes on."""

    def __init__(self, id: str, reason: str) -> None:
        super().__init__(f"{id}: {reason}")
        self.id, self.reason = id, reason


@dataclass(frozen=True, eq=False)
class ShardSource:
    """Documents of one kind in shards, and their share of each batch's positions.

    sizes: documents in each shard. read: a shard's documents, as they lie on disk. build: a document in the layout of
    an epoch, and the student positions that it takes.
    """

    name: str
    share: float
    sizes: Sequence[int]
    read: Callable[[int], Sequence[Any]]
    build: Callable[[Any, int], tuple[Any, int]]


class _Order:
    """Which document stands at a place of an epoch; remembers one window of shards."""

    def __init__(self, sizes: Sequence[int], buffer: int, seed: str) -> None:
        self.sizes, self.buffer, self.seed = sizes, buffer, seed
        self._epoch, self._window = -1, -1

    def at(self, epoch: int, place: int) -> tuple[int, int]:
        """(shard, row)."""
        if epoch != self._epoch:
            number = len(self.sizes)
            self._shards = random.Random(f"{self.seed}/{epoch}").sample(range(number), number)
            ends = np.cumsum([self.sizes[shard] for shard in self._shards])
            self._starts = [0, *ends[self.buffer - 1 :: self.buffer].tolist()]
            self._epoch, self._window = epoch, -1
        window = bisect.bisect_right(self._starts, place) - 1
        if window != self._window:
            own = self._shards[window * self.buffer : (window + 1) * self.buffer]
            self._own, self._bounds = own, np.cumsum([0, *(self.sizes[shard] for shard in own)]).tolist()
            number = self._bounds[-1]
            self._rows = random.Random(f"{self.seed}/{epoch}/{window}").sample(range(number), number)
            self._window = window
        row = self._rows[place - self._starts[window]]
        shard = bisect.bisect_right(self._bounds, row) - 1
        return self._own[shard], row - self._bounds[shard]


Opened = Callable[[ShardSource, int], Sequence[Any]]


class _LaneReader:
    """One lane of one source."""

    def __init__(self, source: ShardSource, lane: int, lanes: int, buffer: int, seed: int, opened: Opened) -> None:
        self.source, self.lane, self.lanes, self._opened = source, lane, lanes, opened
        self.total = sum(source.sizes)
        self._order = _Order(source.sizes, buffer, f"{seed}/{source.name}")
        self.epoch, self.at, self.given = 0, 0, 0

    @property
    def num_own(self) -> int:
        """Documents of an epoch that fall to this lane."""
        return -(-(self.total - self.lane) // self.lanes)

    def next(self, left_out: Callable[[LeftOut], None]) -> tuple[Any, int]:
        for _ in range(2 * self.num_own):
            if self.at == self.num_own:
                self.epoch, self.at = self.epoch + 1, 0
            shard, row = self._order.at(self.epoch, self.lane + self.at * self.lanes)
            self.at += 1
            try:
                example, positions = self.source.build(self._opened(self.source, shard)[row], self.epoch)
            except LeftOut as one:
                left_out(one)
                continue
            self.given += positions
            return example, positions
        raise SaladError(f"stream: every document of {self.source.name!r} was left out; see quarantine.jsonl for why")


class Stream:
    """Batches of a fixed number of student positions from the lanes of this process, without end.

    positions: of a whole batch over all lanes; each lane fills its part, always from the source that is furthest behind
    its share. lanes: a multiple of `size`, the number of processes, of which this one is `rank`. buffer: shards whose
    documents are shuffled together (and kept open). left_out: is told what is not trained on.
    """

    def __init__(
        self,
        sources: Sequence[ShardSource],
        *,
        positions: int,
        seed: int,
        lanes: int = 1,
        buffer: int = 16,
        rank: int = 0,
        size: int = 1,
        left_out: Callable[[LeftOut], None] = lambda one: None,
    ) -> None:
        sources = [source for source in sources if source.share > 0 and any(source.sizes)]
        if not sources:
            raise SaladError("training: no examples left to train on; see quarantine.jsonl for what was set aside")
        check_lanes(lanes, size)
        few = min(sources, key=lambda source: sum(source.sizes))
        if sum(few.sizes) < lanes:
            raise SaladError(f"sequence.lanes: {lanes}, but {few.name!r} has only {sum(few.sizes)} documents; lower it")
        self._positions, self._left_out = math.ceil(positions / lanes), left_out
        opened = lru_cache(2 * buffer * len(sources))(lambda source, shard: source.read(shard))  # whatever lane asks
        self._lanes = {
            lane: [_LaneReader(source, lane, lanes, buffer, seed, opened) for source in sources]
            for lane in range(rank, lanes, size)
        }
        sizes = [[source.name, source.share, list(source.sizes)] for source in sources]
        self._plan = sha256_json([sizes, seed, lanes, buffer])[:16]

    def draw(self) -> list[Any]:
        """This process's part of the next batch."""
        batch = []
        for readers in self._lanes.values():
            filled = 0
            while filled < self._positions:
                behind = min(readers, key=lambda reader: reader.given / reader.source.share)
                example, positions = behind.next(self._left_out)
                batch.append(example)
                filled += positions
        return batch

    def state_dict(self) -> State:
        """Where the lanes of this process stand; states of all processes are joined by `join`."""
        return {
            "plan": self._plan,
            "lanes": {
                str(lane): {
                    reader.source.name: {
                        "epoch": reader.epoch,
                        "at": reader.at,
                        "given": reader.given,
                        "documents": reader.epoch * reader.num_own + reader.at,
                    }
                    for reader in readers
                }
                for lane, readers in self._lanes.items()
            },
        }

    def load_state_dict(self, state: State) -> None:
        """Go on where the state of any number of processes stood. Raises SaladError where it is of another stream."""
        if state.get("plan") != self._plan or not {str(lane) for lane in self._lanes} <= set(state.get("lanes", {})):
            raise SaladError(
                "stream: the checkpoint was written while other shards, shares, lanes or another seed were read "
                f"(it has --set sequence.lanes={len(state.get('lanes', {}))}); restore them, or "
                "remove the stage's checkpoints to begin again"
            )
        for lane, readers in self._lanes.items():
            for reader in readers:
                saved = state["lanes"][str(lane)][reader.source.name]
                reader.epoch, reader.at, reader.given = saved["epoch"], saved["at"], saved["given"]

    @staticmethod
    def join(states: Sequence[State]) -> State:
        """One state out of those of all processes."""
        lanes = {lane: value for state in states for lane, value in state["lanes"].items()}
        return {**states[0], "lanes": dict(sorted(lanes.items(), key=lambda item: int(item[0])))}


def check_lanes(lanes: int, size: int) -> None:
    """Raise SaladError where lanes cannot be dealt to `size` processes."""
    if lanes % size:
        raise SaladError(
            f"sequence.lanes: {lanes}, but {size} processes train; set it to a multiple of {size}, "
            "or, where a checkpoint was begun with that many, train with a number of processes that divides it"
        )


class StreamBatches:
    """A stage's batches in turn, each drawn in a thread while the step before it computes.

    `batches[step]` must be asked for in order (the last one as often as wanted); `state_dict` tells the state after it.
    """

    def __init__(self, stream: Stream, steps: int) -> None:
        self._stream, self._steps, self._step = stream, steps, 0
        self._pool = ThreadPoolExecutor(1, "stream")
        self._ahead: Future[tuple[list[Any], State]] | None = None
        self._batch: list[Any] = []
        self._state = stream.state_dict()

    def __getitem__(self, step: int) -> list[Any]:
        if step == self._step - 1:
            return self._batch
        assert step == self._step, f"step {step} of a stream that stands at {self._step}"
        ahead = self._ahead or self._pool.submit(self._draw)
        self._ahead = None
        self._batch, self._state = ahead.result()
        self._step += 1
        if self._step < self._steps:
            self._ahead = self._pool.submit(self._draw)
        return self._batch

    def _draw(self) -> tuple[list[Any], State]:
        return self._stream.draw(), self._stream.state_dict()

    @property
    def documents(self) -> int:
        """Drawn by this process up to the batch that was given last."""
        return sum(source["documents"] for lane in self._state["lanes"].values() for source in lane.values())

    def state_dict(self) -> State:
        """JSON; after the batch that was given last, whatever has been drawn ahead of it."""
        return {"step": self._step, **self._state}

    def load_state_dict(self, state: State) -> None:
        """Go on behind the batch at which `state_dict` gave `state`. Raises SaladError for one of another stream."""
        if self._ahead is not None:
            self._ahead.result()
            self._ahead = None
        self._stream.load_state_dict(state)
        self._step, self._batch, self._state = state["step"], [], self._stream.state_dict()


class Lines:
    """A JSON-lines file as shards: only where each begins is kept in memory.

    per_shard: lines of every shard but the last, or of each in turn (together all lines of the file).
    """

    def __init__(self, path: Path, per_shard: int | Sequence[int]) -> None:
        self.path = path
        self.sizes: list[int] = []
        self._starts: list[int] = []
        wanted = itertools.repeat(per_shard) if isinstance(per_shard, int) else iter(per_shard)
        left = 0
        with open(path, "rb") as file:
            while line := file.readline():
                if not line.strip():
                    continue
                if not left:
                    self._starts.append(file.tell() - len(line))
                    self.sizes.append(0)
                    left = next(wanted)
                self.sizes[-1] += 1
                left -= 1
            self._starts.append(file.tell())

    def read(self, shard: int) -> list[bytes]:
        """The lines of a shard as they lie on disk, without empty ones."""
        with open(self.path, "rb") as file:
            file.seek(self._starts[shard])
            raw = file.read(self._starts[shard + 1] - self._starts[shard])
        return [line for line in raw.split(b"\n") if line.strip()]
