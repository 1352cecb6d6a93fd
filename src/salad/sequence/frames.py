"""Frozen-encoder frames of pieces of recordings, on disk as safetensors beside a JSON-lines index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from salad.files import read_jsonl, write_jsonl
from salad.types import SaladError

__all__ = ["FrameStore", "Piece", "write_frames"]


@dataclass(frozen=True)
class Piece:
    """Words `start_word` to `end_word` of an utterance, and the samples that hold them."""

    utterance_id: str
    start_word: int
    end_word: int
    start_sample: int
    end_sample: int

    @property
    def key(self) -> tuple[str, int, int]:
        return (self.utterance_id, self.start_word, self.end_word)


def write_frames(folder: Path, pieces: Sequence[Piece], frames: Sequence[np.ndarray]) -> None:
    """Write frames (float [num_frames, frame_dim] for each piece) as float16 in one tensor, with their index."""
    rows, at = [], 0
    for piece, array in zip(pieces, frames, strict=True):
        rows.append({**asdict(piece), "offset": at, "num_frames": len(array)})
        at += len(array)
    stacked = np.concatenate([array.astype(np.float16) for array in frames]) if frames else np.zeros((0, 1), np.float16)
    save_file({"frames": stacked}, folder / "frames.safetensors")
    write_jsonl(folder / "frames.jsonl", rows)


class FrameStore:
    """Reads frames by (utterance id, first word, last word + 1) from any number of shard folders."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._at: dict[tuple[str, int, int], tuple[int, int, int]] = {}
        self._frames: list[np.ndarray] = []
        for folder in folders:
            with safe_open(folder / "frames.safetensors", framework="np") as file:
                self._frames.append(file.get_tensor("frames"))
            for row in read_jsonl(folder / "frames.jsonl"):
                key = (row["utterance_id"], row["start_word"], row["end_word"])
                self._at[key] = (len(self._frames) - 1, row["offset"], row["num_frames"])

    def __len__(self) -> int:
        return len(self._at)

    def get(self, key: tuple[str, int, int]) -> np.ndarray:
        """float16 [num_frames, frame_dim]."""
        try:
            shard, offset, num = self._at[key]
        except KeyError:
            raise SaladError(f"frames: no piece {key}; run the align stage again") from None
        return self._frames[shard][offset : offset + num]
