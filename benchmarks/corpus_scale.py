"""What a corpus of N short documents takes: peak memory of every data stage at N and at a tenth of it, seconds of the
clock and of the processor, and disk.

Every stage runs in a process of its own on what the stage before left on disk, with --workers, through the functions
that the pipeline calls. Made up are the rows (no manifest is read), one recording that all share, word times, frames
(zeros, no encoder) and embeddings (hashes, no model). There is no synthesis, probe or training.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from bench import machine, set_threads

from salad.audio import write_flac
from salad.config import Sequence, Speech
from salad.data.ingest import ingest_documents
from salad.data.ingest_plan import IngestLimits, make_plan, read_plan
from salad.data.manifest import spoken_in, utterance_from_dict, utterances_in, write_utterances
from salad.data.readers.rows import Row
from salad.engine import Made, Shard, run_shards, shards_in
from salad.files import Rows, num_bytes
from salad.select.embed import join_embeddings, top_words
from salad.select.kmeans.balanced import balanced_kmeans
from salad.select.screen import near_duplicates, overlapping
from salad.sequence import FrameShard, FrameStore, tokenise
from salad.sequence.examples import all_pieces, build_example, draw_layout, num_positions
from salad.sequence.frames import write_frames
from salad.sequence.stream import Lines, ShardSource, Stream
from salad.synthesize.word_times import align_all
from salad.testing.tokenizers import make_tokenizer

RATE_HZ, WORD_S = 16_000, 0.2
FRAME_HZ, FRAME_DIM, EMBEDDING_DIM = 12.5, 16, 64
SHARD, POSITIONS = 64, 1_000_000
SOURCE = "made-up"
DOOR = IngestLimits(min_s=0.1, max_s=1200.0, context=2048, rate_hz=FRAME_HZ, speech_share=0.6)
words_each, workers = 20, 1  # as --words and --workers say
VOCABULARY = [a + b + c for a, b, c in itertools.product(("ba", "do", "fi", "ku", "le"), ("n", "r", "st"), "aeiou")]
SETTINGS = Sequence(text_words=(4, 8), speech_words=(4, 8))


def rows(audio: Path, num: int) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    for i in range(num):
        words = [VOCABULARY[n] for n in rng.integers(0, len(VOCABULARY), words_each)]
        times = tuple((word, n * WORD_S, (n + 1) * WORD_S) for n, word in enumerate(words))
        yield Row(f"{i:08d}", str(audio), " ".join(words), duration_s=words_each * WORD_S, words=times)


def plan(folder: Path, num: int) -> None:
    t = np.arange(int(words_each * WORD_S * RATE_HZ)) / RATE_HZ
    audio = folder / "tone.flac"
    write_flac(audio, (0.001 * np.sin(2 * np.pi * 200 * t)).astype(np.float32), RATE_HZ)
    entry = Speech(path=audio, format="folder")
    make_plan(folder / "plan.sqlite", [(entry, SOURCE, rows(audio, num))], DOOR)


def ingest(folder: Path, num: int) -> None:
    path = folder / "plan.sqlite"
    documents, sources = read_plan(path)
    names = {found.source: ("", "") for found in sources}
    assert len(documents) == num
    ingest_documents(documents, path, names, DOOR, folder / "ingest", workers=workers, title="ingest")


def align(folder: Path, num: int) -> None:
    spoken = spoken_in(shards_in(folder / "ingest"))
    how = {"asset": "none", "min_score": 0.0, "method": "given", "made_from": SOURCE}
    aligned = align_all(spoken, folder / "align", workers=workers, title="align", **how)
    assert len(aligned) == num, f"{num - len(aligned)} were refused; see align/*/quarantine.jsonl"
    write_utterances(folder / "aligned.jsonl", aligned)
    for shard in (folder / "align").glob("shard-*/utterances.jsonl"):
        shard.unlink()  # as a run does once the stage has ended: all are in the manifest (SPENT of stages/align.py)


def zeros(shard: Shard, folder: Path) -> None:
    pieces = [piece for _, own, _ in shard.items for piece in own]
    lengths = [max(1, int((p.end_sample - p.start_sample) / RATE_HZ * FRAME_HZ)) for p in pieces]
    frames = [np.zeros((length, FRAME_DIM), np.float16) for length in lengths]
    write_frames(folder, pieces, frames, encoder=SOURCE, utterance_ids=[row["id"] for _, _, row in shard.items])


def encode(folder: Path, num: int) -> None:
    pieces = functools.partial(all_pieces, settings=SETTINGS, seed=0, layouts=SETTINGS.layouts)
    items = Made(lambda u: (u.audio, pieces(u), {"id": u.id}), utterances_in([folder / "aligned.jsonl"]))
    folders = run_shards(zeros, items, folder / "frames", shard_items=SHARD, workers=workers, title="encode", key=repr)
    assert len(FrameStore(folders, SOURCE, "frames")) >= num


def hashes(shard: Shard, folder: Path) -> None:
    seeds = (int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") for text in shard.items)
    vectors = np.stack([np.random.default_rng(seed).normal(size=EMBEDDING_DIM) for seed in seeds])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(folder / "embeddings.npy", vectors.astype(np.float16))


def texts(folder: Path) -> Rows:
    return Rows([folder / "aligned.jsonl"], lambda row, _: row["text"])


def embed(folder: Path, num: int) -> None:
    parts = run_shards(hashes, texts(folder), folder / "embed", shard_items=4096, workers=workers, title="embed")
    assert len(join_embeddings(parts, folder / "embeddings.npy")) == num


def cluster(folder: Path, num: int) -> None:
    embeddings = np.load(folder / "embeddings.npy", mmap_mode="r")
    clusters = balanced_kmeans(embeddings, max(1, min(256, num // 20)), seed=0)
    top_words(texts(folder), clusters.labels)


def screen(folder: Path, num: int) -> None:
    own = texts(folder)
    evaluation = [row.text for row in itertools.islice(rows(folder / "tone.flac", num), num // 100)]
    assert sum(overlapping(own, evaluation)) >= len(evaluation)
    near_duplicates(own, 0.8)


def batch(folder: Path, num: int) -> None:
    tokenizer, manifest = make_tokenizer(), folder / "aligned.jsonl"
    folders = shards_in(folder / "frames")
    lines = Lines(manifest, SHARD)

    def read(shard: int) -> list[tuple[bytes, FrameShard]]:
        frames = FrameShard(folders[shard], SOURCE, "frames")
        return [(line, frames) for line in lines.read(shard)]

    def build(document: tuple[bytes, FrameShard], epoch: int):
        utterance = utterance_from_dict(json.loads(document[0]), folder)
        spans = draw_layout(utterance, epoch % SETTINGS.layouts, SETTINGS, 0)
        example = build_example(utterance, tokenise(tokenizer, utterance.text), spans, document[1], start_id=0)
        return example, num_positions(example, 1, "fixed")

    stream = Stream([ShardSource("speech", 1.0, lines.sizes, read, build)], positions=POSITIONS, seed=0)
    assert sum(num_positions(example, 1, "fixed") for example in stream.draw()) >= POSITIONS


STAGES = {function.__name__: function for function in (plan, ingest, align, encode, embed, cluster, screen, batch)}


def peak_mb() -> float:
    """Of this process since it began, or of a worker of it that took more."""
    with open("/proc/self/status", encoding="utf-8") as file:
        own = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def processor_s() -> float:
    """Seconds of all cores, of this process and of its workers that have ended; jobs beside hardly change them."""
    return sum(
        one.ru_utime + one.ru_stime for one in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def measure(num: int) -> tuple[dict[str, dict[str, float]], float]:
    """{stage: its peak_mb and seconds} of a corpus of `num` documents, and the MB that it leaves on disk."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        for stage in STAGES:
            command = [sys.executable, __file__, "--documents", str(num), "--stage", stage, "--folder", name]
            command += ["--words", str(words_each), "--workers", str(workers)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            found[stage] = json.loads(done.stdout.splitlines()[-1])
        return found, num_bytes(name) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--words", type=int, default=20, help="words of a document")
    parser.add_argument("--workers", type=int, default=1, help="processes of a job")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.documents < 1000 and not arguments.stage:
        parser.error(f"--documents: got {arguments.documents}, expected 1000 or more, for a tenth is measured too")
    set_threads()
    global words_each, workers
    words_each, workers = arguments.words, arguments.workers
    began = time.perf_counter()
    if arguments.stage:
        STAGES[arguments.stage](arguments.folder, arguments.documents)
        seconds = {"seconds": round(time.perf_counter() - began, 1), "processor_s": round(processor_s(), 1)}
        print(json.dumps({"peak_mb": round(peak_mb()), **seconds}))
        return
    few, _ = measure(arguments.documents // 10)
    began = time.perf_counter()
    many, disk_mb = measure(arguments.documents)
    peaks = [max(one["peak_mb"] for one in stages.values()) for stages in (many, few)]
    grown = max(one["peak_mb"] - few[stage]["peak_mb"] for stage, one in many.items())
    row = {
        "bench": "corpus_scale",
        "documents": arguments.documents,
        "words": words_each,
        "workers": workers,
        "peak_mb": peaks[0],
        "peak_mb_tenth": peaks[1],
        "ratio": round(peaks[0] / peaks[1], 2),
        "memory_bytes_a_document": round(grown * 2**20 / (arguments.documents - arguments.documents // 10)),
        "disk_bytes_a_document": round(disk_mb * 1e6 / arguments.documents),
        "seconds": round(seconds := time.perf_counter() - began, 1),
        "ms_a_document": round(1000 * seconds / arguments.documents, 2),
        "processor_ms_a_document": round(1000 * sum(s["processor_s"] for s in many.values()) / arguments.documents, 2),
        "disk_mb": round(disk_mb),
        "stages": {stage: {**one, "peak_mb_tenth": few[stage]["peak_mb"]} for stage, one in many.items()},
        "machine": machine(),
    }
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
