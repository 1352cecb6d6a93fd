"""Frames of pieces by key, over any number of shards."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from salad.engine import Made
from salad.sequence.frames import Decode, FrameShard, Key, id_hash, missing


class Frames(Protocol):
    """Where examples get their frames from: a cache on disk, one of its shards, or an encoder at work."""

    def get(self, key: Key) -> np.ndarray:
        """float16 [num_frames, frame_dim]. Raises SaladError where the piece is not known."""


class FrameStore:
    """Reads frames by (utterance id, first word, last word + 1) from any number of shard folders.

    In memory: 16 bytes for each utterance. At most `open_shards` shards are open at a time. encoder, kind, decode:
    see FrameShard; a shard that is stale, cut off or damaged is refused with a SaladError that names it.
    """

    def __init__(
        self,
        folders: Iterable[Path],
        encoder: str | None = None,
        kind: str | None = None,
        decode: Decode | None = None,
        open_shards: int = 256,
    ) -> None:
        self.shards = Made(lambda folder: FrameShard(folder, encoder, kind, decode), list(folders))  # opened when asked
        hashes, self._num_pieces = list[np.ndarray](), 0
        for shard in self.shards:
            hashes.append(shard.hashes())
            self._num_pieces += shard.num_pieces
        joined = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
        order = np.argsort(joined, kind="stable")
        self._hashes = joined[order]
        sizes = [len(one) for one in hashes]
        self._shard = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[order]
        self._row = np.concatenate([np.arange(n, dtype=np.int32) for n in sizes] or [np.empty(0, np.int32)])[order]
        self._open: OrderedDict[int, FrameShard] = OrderedDict()
        self._open_shards = open_shards

    def __len__(self) -> int:
        """Pieces in all shards."""
        return self._num_pieces

    def get(self, key: Key) -> np.ndarray:
        """float16 [num_frames, frame_dim]: a view of the shard's file, or frames made from its codes.

        Raises SaladError where no shard holds the piece.
        """
        wanted = np.uint64(id_hash(key[0]))
        place = int(np.searchsorted(self._hashes, wanted))
        while place < len(self._hashes) and self._hashes[place] == wanted:
            shard, row = self._opened(int(self._shard[place])), int(self._row[place])
            if shard.utterance_id(row) == key[0]:
                return shard.at(row, key)
            place += 1
        raise missing(key)

    def _opened(self, number: int) -> FrameShard:
        if number not in self._open:
            self._open[number] = self.shards[number]
            if len(self._open) > self._open_shards:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(number)
        return self._open[number]
