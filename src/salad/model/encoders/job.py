"""Encode pieces of recordings with the frozen encoder: shard by shard onto disk, or when they are asked for."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from salad.audio import read_audio, resample
from salad.engine import Shard
from salad.engine.devices import worker_device
from salad.model.encoders.base import Encoder
from salad.model.encoders.load import load_encoder
from salad.sequence import Piece, write_frames
from salad.sequence.frames import Key, missing
from salad.types import Utterance

FED, FEEDERS = 32, 4  # recordings that a GPU is given together, and threads that read and cut them

shared_encoder = functools.cache(load_encoder)  # loaded once in a process


def kind_of(encoder: Encoder, stored: str) -> str:
    """What is kept of an encoder: "codes" where it has them, unless `stored` (see the recipe) is "frames"."""
    return "codes" if encoder.num_codebooks and stored == "auto" else "frames"


def features_of(encoder: Encoder, audio: str | Path, pieces: Sequence[Piece], kind: str) -> list[np.ndarray]:
    """For each piece its float16 frames, or its uint16 codes where `kind` is "codes".

    Pieces are cut out of the recording, whose samples they count, before they are resampled and encoded: no frame has
    heard a word after its span. Those that share their samples share one array.
    """
    return _features(encoder, [_waves(encoder, audio, pieces)], kind)


def _waves(encoder: Encoder, audio: str | Path, pieces: Sequence[Piece]) -> tuple[list[np.ndarray], list[int]]:
    """The different waveforms of the pieces, and which of them each piece is."""
    samples, rate_hz = read_audio(audio)
    numbers: dict[tuple[int, int], int] = {}
    places = [numbers.setdefault((piece.start_sample, piece.end_sample), len(numbers)) for piece in pieces]
    return [resample(samples[a:b], rate_hz, encoder.sample_rate_hz) for a, b in numbers], places


def _features(encoder: Encoder, cut: Sequence[tuple[list[np.ndarray], list[int]]], kind: str) -> list[np.ndarray]:
    """Of all pieces of some recordings, whose waveforms the encoder is given together."""
    waves = [wave for own, _ in cut for wave in own]
    arrays = encoder.encode_codes(waves) if kind == "codes" else encoder.encode(waves)
    kept = iter(arrays if kind == "codes" else [array.astype(np.float16) for array in arrays])
    out: list[np.ndarray] = []
    for own, places in cut:
        mine = [next(kept) for _ in own]
        out += [mine[place] for place in places]
    return out


def _fed(encoder: Encoder, items: Sequence[tuple[Any, ...]], kind: str) -> Iterator[np.ndarray]:
    """`features_of` of all items for a GPU: FED recordings together, so that its batches are full, while threads read
    and cut the next ones.
    """
    groups = [items[start : start + FED] for start in range(0, len(items), FED)]
    with ThreadPoolExecutor(FEEDERS) as threads:

        def read(group: Sequence[tuple[Any, ...]]) -> list[Future[tuple[list[np.ndarray], list[int]]]]:
            return [threads.submit(_waves, encoder, path, own) for path, own, *_ in group]

        coming = read(groups[0]) if groups else []
        for following in [*groups[1:], ()]:
            cut, coming = [future.result() for future in coming], read(following)
            yield from _features(encoder, cut, kind)


def encode_pieces(shard: Shard, folder: Path, *, encoder: str, stored: str = "auto") -> None:
    """For `run_shards`: items are (audio's path, its pieces) or (audio's path, its pieces, {id} of its utterance).

    Writes a shard of frames, keyed by the encoder's fingerprint; named utterances are in it without pieces, too.
    """
    device = worker_device()  # the CPU's encoder is one with that of the process, asked for by name alone
    loaded: Encoder = shared_encoder(encoder) if device == "cpu" else shared_encoder(encoder, device=device)
    kind, pieces = kind_of(loaded, stored), list[Piece]()
    features: list[np.ndarray] = []
    ids = [row["id"] for _, _, *rows in shard.items for row in rows]
    for path, own, *_ in shard.items:
        pieces += own
        if device == "cpu":
            features += features_of(loaded, path, own, kind)
    if device != "cpu":
        features += _fed(loaded, shard.items, kind)
    write_frames(folder, pieces, features, encoder=loaded.fingerprint(), utterance_ids=ids)


class FlyFrames:
    """Frames made when they are asked for; the same numbers as from the cache, which encodes the same pieces together.

    pieces: all pieces of an utterance, as the cache would keep them. The last `keep` utterances asked for are
    remembered. utterances: those that `get` knows by their id; `of` takes any.
    """

    def __init__(
        self,
        encoder: Encoder,
        pieces: Callable[[Utterance], Sequence[Piece]],
        utterances: Iterable[Utterance] = (),
        *,
        stored: str = "auto",
        keep: int = 32,
    ) -> None:
        self.encoder, self._pieces, self._kind, self._keep = encoder, pieces, kind_of(encoder, stored), keep
        self._known = {utterance.id: utterance for utterance in utterances}
        self._last: OrderedDict[str, _Encoded] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(self._pieces(utterance)) for utterance in self._known.values())

    def get(self, key: Key) -> np.ndarray:
        """float16 [num_frames, frame_dim]."""
        if key[0] not in self._known:
            raise missing(key)
        return self.of(self._known[key[0]]).get(key)

    def of(self, utterance: Utterance) -> _Encoded:
        """All pieces of one utterance, encoded unless they were among the last."""
        if utterance.id not in self._last:
            pieces = self._pieces(utterance)
            arrays = features_of(self.encoder, utterance.audio, pieces, self._kind)
            if self._kind == "codes":
                arrays = [self.encoder.frames_of_codes(array).astype(np.float16) for array in arrays]
            self._last[utterance.id] = _Encoded({p.key: array for p, array in zip(pieces, arrays, strict=True)})
            if len(self._last) > self._keep:
                self._last.popitem(last=False)
        self._last.move_to_end(utterance.id)
        return self._last[utterance.id]


class _Encoded:
    def __init__(self, frames: dict[Key, np.ndarray]) -> None:
        self._frames = frames

    def get(self, key: Key) -> np.ndarray:
        if key not in self._frames:
            raise missing(key)
        return self._frames[key]
