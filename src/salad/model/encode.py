"""Encode pieces of recordings with the frozen encoder, shard by shard."""

from __future__ import annotations

import functools
from collections import defaultdict
from pathlib import Path

from salad.audio import read_audio
from salad.engine import Shard
from salad.model.encoder import Encoder, load_encoder
from salad.sequence.frames import Piece, write_frames

__all__ = ["encode_pieces"]

_encoder = functools.cache(load_encoder)


def encode_pieces(shard: Shard, folder: Path, *, encoder: str) -> None:
    """For `run_shards`: items are (path of the audio, its pieces); writes frames.safetensors and frames.jsonl.

    Pieces are cut out of the recording before they are encoded, so that no frame has heard a word after its span.
    """
    loaded: Encoder = _encoder(encoder)
    pieces: list[Piece] = []
    frames = []
    for path, own in shard.items:
        samples, _ = read_audio(path, loaded.sample_rate_hz)
        by_range: dict[tuple[int, int], list[Piece]] = defaultdict(list)
        for piece in own:
            by_range[piece.start_sample, piece.end_sample].append(piece)
        encoded = loaded.encode([samples[a:b] for a, b in by_range])
        for same, array in zip(by_range.values(), encoded, strict=True):
            pieces += same
            frames += [array] * len(same)
    write_frames(folder, pieces, frames)
