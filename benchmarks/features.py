"""An epoch of frozen-encoder frames: from the cache, v decoding FLAC alone, v encoding on the fly; and a stream's cost.

    python benchmarks/features.py [--utterances 100] [--encoder log-mel]

The frames are those of the speech spans of one interleaving, in random order, copied into memory. `peer` is decoding
the FLAC files (soundfile), which any loader without a cache must do; `fly_s` decodes and encodes. `stream_share` is the
stream's time for a batch (read, lay out, copy frames) over that of a step that trains `--positions-per-s`: 2,000 is
what a small model takes on few cores. Warm files.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy as np
from bench import in_turn, line, set_threads

from salad.audio import read_audio, to_samples, write_flac
from salad.config import Sequence
from salad.data.manifest import utterance_from_dict, write_utterances
from salad.engine import run_shards
from salad.files import read_jsonl
from salad.model.encoders.job import FlyFrames, encode_pieces
from salad.model.encoders.load import load_encoder
from salad.sequence import FrameShard, FrameStore
from salad.sequence.examples import build_example, draw_layout, num_positions, pieces_of
from salad.sequence.stream import ShardSource, Stream
from salad.sequence.tokens import TokenisedDocument
from salad.types import Utterance, Word

RATE, SETTINGS = 16_000, Sequence()


def make_utterances(folder: Path, num: int) -> list[Utterance]:
    """Noise shaped as speech is (loud and quiet by turns), 6-14 s, 2.6 words a second."""
    rng = np.random.default_rng(0)
    out = []
    for i in range(num):
        seconds = float(rng.uniform(6, 14))
        loud = np.repeat(rng.uniform(0, 0.2, int(seconds * 5) + 1), RATE // 5)[: to_samples(seconds, RATE)]
        samples = np.cumsum(rng.normal(size=len(loud))) * loud * 0.02
        path = folder / f"{i}.flac"
        write_flac(path, np.clip(samples, -1, 1).astype(np.float32), RATE)
        step = 1 / 2.6
        words = tuple(Word("word", j * step, (j + 1) * step) for j in range(int(seconds / step)))
        out.append(Utterance(f"u{i}", " ".join("word" for _ in words), str(path), RATE, len(loud), words, score=1.0))
    return out


def pieces(utterance: Utterance) -> list:
    return pieces_of(utterance, draw_layout(utterance, 0, SETTINGS, 0), SETTINGS, seed=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--utterances", type=int, default=100)
    parser.add_argument("--encoder", default="log-mel")
    parser.add_argument("--positions-per-s", type=float, default=2000.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    set_threads()
    encoder = load_encoder(options.encoder)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        utterances = make_utterances(folder, options.utterances)
        items = [(u.audio, pieces(u)) for u in utterances]
        shards = run_shards(
            _Encode(options.encoder), items, folder / "frames", shard_items=64, workers=1, title="encode"
        )
        for number, path in enumerate(shards):
            write_utterances(path / "utterances.jsonl", utterances[64 * number : 64 * (number + 1)])
        keys = [piece.key for _, own in items for piece in own]
        random.Random(0).shuffle(keys)
        store = FrameStore(shards, encoder.fingerprint())

        def cached() -> float:
            return sum(float(np.array(store.get(key))[-1, 0]) for key in keys)

        def decoded() -> float:
            return sum(float(read_audio(utterance.audio)[0][-1]) for utterance in utterances)

        times = in_turn({"ours": cached, "peer": decoded}, rounds=options.rounds)
        few = utterances[: max(1, len(utterances) // 10)]
        fly = FlyFrames(encoder, pieces, few, keep=1)
        began = time.perf_counter()
        equal = all(np.array_equal(fly.get(p.key), store.get(p.key)) for u in few for p in pieces(u))
        fly_s = (time.perf_counter() - began) * len(utterances) / len(few)
        began = time.perf_counter()
        for shard in shards:
            FrameShard(shard, encoder.fingerprint())
        open_s = (time.perf_counter() - began) / len(shards)
        batch_s, batch_positions = stream_cost(shards)
    line(
        "features",
        times["ours"],
        "decoding the FLAC files",
        times["peer"],
        None,
        equal and times["peer"] >= 50 * times["ours"],
        speedup_of_decoding=round(times["peer"] / times["ours"], 1),
        fly_s=round(fly_s, 3),
        speedup_of_the_fly=round(fly_s / times["ours"], 1),
        pieces=len(keys),
        hours=round(sum(u.duration_s for u in utterances) / 3600, 3),
        us_per_piece=round(1e6 * times["ours"] / len(keys), 1),
        ms_to_open_a_shard=round(1e3 * open_s, 3),
        stream_ms_per_batch=round(1e3 * batch_s, 2),
        stream_share=round(batch_s / (batch_positions / options.positions_per_s), 4),
        encoder=options.encoder,
    )


class _Encode:
    """`encode_pieces` with its encoder's name."""

    def __init__(self, encoder: str) -> None:
        self.encoder = encoder

    def __call__(self, shard, folder: Path) -> None:  # type: ignore[no-untyped-def]
        encode_pieces(shard, folder, encoder=self.encoder)


def stream_cost(shards: list[Path]) -> tuple[float, int]:
    """Seconds and student positions of a batch of a stream over these shards (tokens are numbered words)."""

    def read(number: int) -> list[tuple[FrameShard, dict]]:
        shard = FrameShard(shards[number])
        return [(shard, row) for row in read_jsonl(shards[number] / "utterances.jsonl")]

    def build(document: tuple[FrameShard, dict], epoch: int):  # type: ignore[no-untyped-def]
        shard, row = document
        utterance = utterance_from_dict(row, shard.folder)
        count = len(utterance.words)
        tokens = TokenisedDocument(np.arange(count), np.arange(count + 1))
        spans = draw_layout(utterance, 0, SETTINGS, 0)
        example = build_example(utterance, tokens, spans, _Copied(shard), 0)
        return example, num_positions(example, 8, "fixed")

    sizes = [FrameShard(path).num_utterances for path in shards]
    stream = Stream([ShardSource("s", 1.0, sizes, read, build)], positions=2000, seed=0, buffer=2)
    stream.draw()
    before, began, num = _given(stream), time.perf_counter(), 20
    for _ in range(num):
        stream.draw()
    return (time.perf_counter() - began) / num, (_given(stream) - before) // num


def _given(stream: Stream) -> int:
    return sum(s["given"] for lane in stream.state_dict()["lanes"].values() for s in lane.values())


class _Copied:
    def __init__(self, shard: FrameShard) -> None:
        self.shard = shard

    def get(self, key: tuple[str, int, int]) -> np.ndarray:
        return np.array(self.shard.get(key))


if __name__ == "__main__":
    main()
