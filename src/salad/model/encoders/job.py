"""Encode pieces of recordings with the frozen encoder: shard by shard onto disk, or when they are asked for."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from salad import config
from salad.audio import read_audio, resample
from salad.engine import Made, Shard, run_shards, shards_in
from salad.engine.devices import worker_device
from salad.model.encoders.base import Encoder
from salad.model.encoders.load import load_encoder
from salad.progress import console
from salad.sequence import FrameStore, check_shard
from salad.sequence.examples import all_pieces, recording_piece, word_frames
from salad.sequence.frames import Decode, Key, Piece, missing, slice_of, write_frames
from salad.types import SaladError, Utterance

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
    """Features of all pieces of some recordings, whose waveforms the encoder is given together."""
    waves = [wave for own, _ in cut for wave in own]
    arrays = encoder.encode_codes(waves) if kind == "codes" else encoder.encode(waves)
    kept = iter(arrays if kind == "codes" else [array.astype(np.float16, copy=False) for array in arrays])
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


def items_of(
    encoder: Encoder,
    utterances: Sequence[Utterance],
    settings: config.Sequence,
    *,
    seed: int,
    layouts: int,
    whole: bool = False,
) -> Made:
    """Items for `encode_pieces`: what is heard of each utterance in its first `layouts` interleavings (see
    `all_pieces`), or where `settings.encode` is "recordings" all of it."""
    pieces = pieces_for(encoder, settings, seed=seed, layouts=layouts, whole=whole)
    if settings.encode == "spans":
        return Made(lambda u: (u.audio, pieces(u), {"id": u.id}), utterances)
    rate = encoder.frame_rate_hz
    return Made(lambda u: (u.audio, pieces(u), {"id": u.id, "frames": word_frames(u, rate).tolist()}), utterances)


def pieces_for(encoder: Encoder, settings: config.Sequence, **how: Any) -> Callable[[Utterance], Sequence[Piece]]:
    """The pieces that an utterance is encoded in; how: of `all_pieces`. Raises SaladError where the encoder would hear
    what follows a span."""
    if settings.encode == "spans":
        return functools.partial(all_pieces, settings=settings, **how)
    if not encoder.causal:
        raise SaladError(
            f"sequence.encode: recordings needs a causal encoder, such as kyutai/mimi; {encoder.name} hears the words "
            "behind a span: leave it at spans"
        )
    return lambda utterance: [recording_piece(utterance)]


def encode_pieces(shard: Shard, folder: Path, *, encoder: str, stored: str = "auto") -> None:
    """For `run_shards`: items are (audio's path, its pieces) or (audio's path, its pieces, {id} of its utterance); with
    "frames" (see `word_frames`) beside the id, the one piece is the whole recording.

    Writes a shard of frames, keyed by the encoder's fingerprint; named utterances are in it without pieces, too.
    """
    device = worker_device()  # the CPU's encoder is one with that of the process, asked for by name alone
    loaded: Encoder = shared_encoder(encoder) if device == "cpu" else shared_encoder(encoder, device=device)
    kind, pieces = kind_of(loaded, stored), list[Piece]()
    features: list[np.ndarray] = []
    named = [row for _, _, *rows in shard.items for row in rows]
    bounds = [np.array(row["frames"], np.int32).reshape(-1, 2) for row in named if "frames" in row]
    for path, own, *_ in shard.items:
        pieces += own
        if device == "cpu":
            features += features_of(loaded, path, own, kind)
    if device != "cpu":
        features += _fed(loaded, shard.items, kind)
    ids = [row["id"] for row in named]
    write_frames(folder, pieces, features, encoder=loaded.fingerprint(), utterance_ids=ids, word_frames=bounds)


def encode_all(
    encoder: str,
    items: Sequence[Any],
    folder: Path,
    *,
    stored: str,
    shard_items: int,
    workers: int,
    title: str,
    key: Callable[[Any], str] | None = None,
) -> FrameStore:
    """Frames of `items` (see `items_of`) in shards of `folder`; those that another encoder made, or that are cut off or
    damaged, are encoded again. key: names what an item is made from, so that shards with the same are kept."""
    loaded = shared_encoder(encoder)
    fits = loaded.fingerprint(), kind_of(loaded, stored)
    for shard in shards_in(folder):
        if why := check_shard(shard, *fits):
            console.print(f"encoded again: {why}", highlight=False)
            shutil.rmtree(shard)
    folders = run_shards(
        functools.partial(encode_pieces, encoder=encoder, stored=stored),
        items,
        folder,
        shard_items=shard_items,
        workers=workers,
        title=title,
        unit="utterances",
        library=loaded.library,
        key=key,
    )
    return FrameStore(folders, *fits, loaded.frames_of_codes)


class FlyFrames:
    """Frames made when they are asked for; the same numbers as from the cache, which encodes the same pieces together.

    settings, how: of `items_of`. The last `keep` utterances asked for are remembered. utterances: those that `get`
    knows by their id; `of` takes any.
    """

    def __init__(
        self,
        encoder: Encoder,
        settings: config.Sequence,
        utterances: Sequence[Utterance] = (),
        *,
        keep: int = 32,
        **how: Any,
    ) -> None:
        self.encoder, self._pieces = encoder, pieces_for(encoder, settings, **how)
        self._settings, self._kind = settings, kind_of(encoder, settings.stored)
        self._utterances = utterances
        self.of = functools.lru_cache(keep)(self._encoded)  # all pieces of one utterance

    def __len__(self) -> int:
        return sum(len(self._pieces(utterance)) for utterance in self._utterances)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {utterance.id: number for number, utterance in enumerate(self._utterances)}

    def get(self, key: Key) -> np.ndarray:
        """float16 [num_frames, frame_dim]."""
        if key[0] not in self._numbers:
            raise missing(key)
        return self.of(self._utterances[self._numbers[key[0]]]).get(key)

    def _encoded(self, utterance: Utterance) -> _Encoded:
        pieces = self._pieces(utterance)
        arrays = features_of(self.encoder, utterance.audio, pieces, self._kind)
        bounds = word_frames(utterance, self.encoder.frame_rate_hz) if self._settings.encode == "recordings" else None
        decode = self.encoder.frames_of_codes if self._kind == "codes" else None
        return _Encoded({p.key: array for p, array in zip(pieces, arrays, strict=True)}, bounds, decode)


class _Encoded:
    """What was encoded of one utterance: its pieces, or with `bounds` (of its words) all of it in one."""

    def __init__(self, kept: dict[Key, np.ndarray], bounds: np.ndarray | None, decode: Decode | None) -> None:
        self._kept, self._bounds, self._decode = kept, bounds, decode

    def get(self, key: Key) -> np.ndarray:
        if self._bounds is not None:
            (recording,) = self._kept.values()
            found = recording[slice(*slice_of(self._bounds, key))]
        elif key in self._kept:
            found = self._kept[key]
        else:
            raise missing(key)
        return found if self._decode is None else self._decode(found).astype(np.float16)
