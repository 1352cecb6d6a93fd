"""Frozen-encoder features of pieces of recordings, in shards of safetensors that are mapped and never loaded.

A shard is a folder with
    frames.safetensors        `frames` float16 [num_frames, frame_dim], or `codes` uint16 [num_frames, num_codebooks]
    frames.index.safetensors  where each piece lies, the encoder's fingerprint, and the sha256 of the other file
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from salad.files import number64, sha256_file
from salad.types import SaladError

DATA, INDEX = "frames.safetensors", "frames.index.safetensors"
MEND = "remove the folder and run again: its pieces are encoded anew"

Key = tuple[str, int, int]  # utterance id, first word, last word + 1
Decode = Callable[[np.ndarray], np.ndarray]  # codes [T, num_codebooks] -> frames [T, frame_dim]


@dataclass(frozen=True)
class Piece:
    """Words `start_word` to `end_word` of an utterance, and the samples that hold them."""

    utterance_id: str
    start_word: int
    end_word: int
    start_sample: int
    end_sample: int

    @property
    def key(self) -> Key:
        return (self.utterance_id, self.start_word, self.end_word)


def id_hash(utterance_id: str) -> int:
    """64 bits of blake2b of an id: what indices are sorted by. The id itself is compared after it."""
    return number64(utterance_id)


def write_frames(
    folder: Path,
    pieces: Sequence[Piece],
    features: Sequence[np.ndarray],
    *,
    encoder: str = "",
    utterance_ids: Sequence[str] = (),
    word_frames: Sequence[np.ndarray] = (),
) -> None:
    """Write features (for each piece float [T, frame_dim], or uint16 codes [T, num_codebooks]) and their index.

    encoder: the fingerprint of what made them; a reader that expects another refuses the shard. utterance_ids: all
    recordings of the shard in order, those without a piece too. An array given for several pieces is kept once.
    word_frames: for each of `utterance_ids` int32 [words, 2]; its one piece is then the whole recording, and any run of
    its words a slice: see `slice_of`.
    Index, for U utterances and P pieces: hashes uint64 [U], ids uint8 (UTF-8, joined), id_starts int64 [U + 1],
    piece_starts int64 [U + 1], words int32 [P, 2], offsets int64 [P], lengths int32 [P];
    with word_frames also bounds int32 [W, 2] and bound_starts int64 [U + 1].
    """
    ids = list(dict.fromkeys([*utterance_ids, *(piece.utterance_id for piece in pieces)]))
    place = {utterance_id: i for i, utterance_id in enumerate(ids)}
    order = sorted(range(len(pieces)), key=lambda i: place[pieces[i].utterance_id])
    rows: list[np.ndarray] = []
    at, seen = 0, dict[int, int]()
    offsets = []
    for i in order:
        array = features[i]
        if id(array) not in seen:
            seen[id(array)] = at
            rows.append(array)
            at += len(array)
        offsets.append(seen[id(array)])
    stacked = _stacked(rows, at)
    save_file({_kind(stacked): stacked}, folder / DATA, {"encoder": encoder})
    raw = [utterance_id.encode() for utterance_id in ids]
    counts = np.bincount([place[pieces[i].utterance_id] for i in order], minlength=len(ids))
    index: dict[str, np.ndarray] = {
        "hashes": np.array([id_hash(utterance_id) for utterance_id in ids], np.uint64),
        "ids": np.frombuffer(b"".join(raw), np.uint8),
        "id_starts": _starts([len(one) for one in raw]),
        "piece_starts": _starts(counts),
        "words": np.array([(pieces[i].start_word, pieces[i].end_word) for i in order], np.int32).reshape(-1, 2),
        "offsets": np.array(offsets, np.int64),
        "lengths": np.array([len(features[i]) for i in order], np.int32),
    }
    if word_frames:
        index["bounds"] = np.concatenate(word_frames).astype(np.int32).reshape(-1, 2)
        index["bound_starts"] = _starts([len(one) for one in word_frames])
    note = {"encoder": encoder, "num_frames": at, "sha256": sha256_file(folder / DATA)}
    save_file(index, folder / INDEX, {"salad": json.dumps(note)})  # one key: safetensors keeps no order of several


def _stacked(arrays: Sequence[np.ndarray], num: int) -> np.ndarray:
    """[num, width]: all rows in the one array that is written, of uint16 codes or float16; laid out row by row."""
    first = arrays[0] if arrays else np.zeros((0, 1))
    out = np.empty((num, first.shape[1]), np.uint16 if first.dtype == np.uint16 else np.float16)
    at = 0
    for array in arrays:
        out[at : at + len(array)] = array
        at += len(array)
    return out


def _kind(array: np.ndarray) -> str:
    return "codes" if array.dtype == np.uint16 else "frames"


def _starts(counts: Iterable[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.asarray(list(counts), np.int64))]).astype(np.int64)


class FrameShard:
    """One shard, opened: its headers are read, its tensors are mapped when first asked for, and never loaded.

    encoder: refuse a shard that another one made. kind: `frames` or `codes`, refuse the other. decode: turns codes
    into frames on reading. Raises SaladError that names the file where it is cut off, damaged or stale.
    """

    def __init__(
        self, folder: Path, encoder: str | None = None, kind: str | None = None, decode: Decode | None = None
    ) -> None:
        self.folder, self._decode = folder, decode
        self._data, self._index = _Tensors(folder / DATA), _Tensors(folder / INDEX)
        try:
            note = json.loads(self._index.metadata["salad"])
            self.encoder, self.sha256 = str(note["encoder"]), str(note["sha256"])
            (self.kind,) = self._data.shapes
            self.num_frames = int(self._data.shapes[self.kind][0])
            self.num_utterances, self.num_pieces = (self._index.shapes[name][0] for name in ("hashes", "offsets"))
            whole = note["num_frames"] == self.num_frames and self._data.metadata.get("encoder", "") == self.encoder
        except (KeyError, TypeError, ValueError):
            whole = False
        if not whole or self.kind not in ("frames", "codes"):
            raise SaladError(f"frames: {folder / INDEX} does not belong to {DATA} beside it; {MEND}")
        if encoder is not None and self.encoder != encoder:
            raise SaladError(
                f"frames: {folder / DATA} was made by another encoder ({self.encoder[:12] or 'unknown'}, "
                f"expected {encoder[:12]}); {MEND}"
            )
        if kind is not None and self.num_pieces and self.kind != kind:
            raise SaladError(f"frames: {folder / DATA} holds {self.kind}, expected {kind} (sequence.stored); {MEND}")

    def hashes(self) -> np.ndarray:
        """uint64 [num_utterances], `id_hash` of each; read, not mapped."""
        return self._index.read("hashes")

    def utterance_id(self, row: int) -> str:
        start, end = self._index.map("id_starts")[row : row + 2]
        return self._index.map("ids")[start:end].tobytes().decode()

    def get(self, key: Key) -> np.ndarray:
        """float16 [num_frames, frame_dim] of a piece. Raises SaladError where the shard does not hold it."""
        found = np.flatnonzero(self._index.map("hashes") == np.uint64(id_hash(key[0])))
        for row in found:
            if self.utterance_id(int(row)) == key[0]:
                return self.at(int(row), key)
        raise missing(key)

    def at(self, row: int, key: Key) -> np.ndarray:
        """Frames of an utterance whose row is known. Raises SaladError where the index is damaged, too."""
        start, end = self._index.map("piece_starts")[row : row + 2]
        if "bounds" in self._index.shapes and end > start:
            own = slice(*self._index.map("bound_starts")[row : row + 2])
            first, last = slice_of(self._index.map("bounds")[own], key)
            offset, num = int(self._index.map("offsets")[start]) + first, last - first
        else:
            words = self._index.map("words")[start:end]
            found = np.flatnonzero((words[:, 0] == key[1]) & (words[:, 1] == key[2]))
            if not len(found):
                raise missing(key)
            piece = int(start) + int(found[0])
            offset, num = int(self._index.map("offsets")[piece]), int(self._index.map("lengths")[piece])
        if not 0 <= offset <= offset + num <= self.num_frames:
            raise SaladError(f"frames: {self.folder / INDEX} points beyond {DATA}; {MEND}")
        part = self._data.map(self.kind)[offset : offset + num]
        if self.kind == "frames":
            return part
        if self._decode is None:
            raise SaladError(f"frames: {self.folder / DATA} holds codes; give the encoder's frames_of_codes to read it")
        return self._decode(part).astype(np.float16)

    def close(self) -> None:
        """Let go of the maps; what was read stays valid, and the next read maps again."""
        self._data.close()
        self._index.close()


def slice_of(word_frames: np.ndarray, key: Key) -> tuple[int, int]:
    """First and last + 1 frame of a run of words in a whole recording: at least one, and none that has heard what
    follows them, but for a recording's very first. word_frames: int32 [words, 2], `frames_heard` of each word.
    Raises SaladError for words that the recording does not have.
    """
    if not 0 <= key[1] < key[2] <= len(word_frames):
        raise missing(key)
    last = int(word_frames[key[2] - 1, 1])
    return min(int(word_frames[key[1], 0]), last - 1), last


def missing(key: Key) -> SaladError:
    """What to raise where a piece was not encoded."""
    name, first, last = key
    return SaladError(
        f"frames: there is no piece of words {first} to {last - 1} of {name!r}; run the align stage again"
    )


def check_shard(folder: Path, encoder: str | None = None, kind: str | None = None, *, deep: bool = False) -> str:
    """Why a shard must not be read, or "". deep: also read all of it and compare its sha256."""
    try:
        shard = FrameShard(folder, encoder, kind)
    except SaladError as error:
        return str(error)
    if deep and sha256_file(folder / DATA) != shard.sha256:
        return f"frames: {folder / DATA} does not have the hash it was written with; {MEND}"
    return ""


class _Tensors:
    """A safetensors file. Its header is checked against its size; tensors are mapped copy-on-write or read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._views: dict[str, np.ndarray] = {}
        try:
            with safe_open(path, "numpy") as file:
                self.metadata: dict[str, str] = file.metadata() or {}
                self.shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        except (OSError, SafetensorError) as error:
            what = "is missing" if isinstance(error, FileNotFoundError) else f"is cut off or damaged ({error})"
            raise SaladError(f"frames: {path} {what}; {MEND}") from None

    def map(self, name: str) -> np.ndarray:
        """The tensor as a view of the file. Writable as torch wants it, but the file never changes."""
        if name not in self._views:
            with safe_open(self.path, "pt") as file:  # torch's tensors are views of a private map, numpy's are copies
                self._views |= {own: file.get_tensor(own).numpy() for own in self.shapes}
        return self._views[name]

    def read(self, name: str) -> np.ndarray:
        """The tensor in memory."""
        with safe_open(self.path, "numpy") as file:
            return np.asarray(file.get_tensor(name))

    def close(self) -> None:
        self._views.clear()
