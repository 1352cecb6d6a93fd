"""Recordings in: short files of many rates and formats to checked mono FLAC at 16 kHz, against a loop without checks.

`--files 10000` for the full size; the peak memory is taken in fresh processes over a tenth of the files and over all.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr
from bench import in_turn, line, set_threads

from salad.config import Speech
from salad.data.ingest import ingest_documents
from salad.data.ingest_plan import IngestLimits, make_plan, read_plan
from salad.data.manifest import load_spoken
from salad.data.readers.registry import open_source
from salad.engine import shards_in

RATE_HZ, SHARD = 16_000, 64
DOOR = IngestLimits(min_s=0.1, max_s=1200.0, context=2048, rate_hz=12.5, speech_share=0.6)
KINDS = [(rate, form, channels) for rate, form in
         ((8_000, "WAV"), (16_000, "FLAC"), (22_050, "WAV"), (24_000, "MP3"), (44_100, "FLAC"), (48_000, "OGG"))
         for channels in (1, 2)]  # fmt: skip
MAX_GROWTH_MB = 30  # from a tenth of the files to all of them


def make_files(folder: Path, num: int, seed: int = 0) -> float:
    """`num` recordings of about 3 s (noise and a tone) with texts; returns their hours. Sounds repeat after 120."""
    rng = np.random.default_rng(seed)
    made: list[Path] = []
    lengths_s: list[float] = []
    for i in range(num):
        rate, form, channels = KINDS[i % len(KINDS)]
        path = folder / f"speaker-{i % 7}" / f"clip-{i:06d}.{form.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i < 10 * len(KINDS):
            t = np.arange(int(rate * rng.uniform(2, 4))) / rate
            tone = 0.2 * np.sin(2 * np.pi * rng.uniform(80, 400) * t) * np.sin(2 * np.pi * 3 * t) ** 2
            samples = tone[:, None] + rng.normal(0, 0.02, (len(t), channels))
            soundfile.write(path, samples, rate, format=form)
            made.append(path)
            lengths_s.append(len(t) / rate)
        else:
            shutil.copyfile(made[i % len(made)], path)
        path.with_suffix(".txt").write_text("nine words of text stand beside each of them\n")
    return sum(lengths_s[i % len(lengths_s)] for i in range(num)) / 3600


def ours(source: Path, out: Path, workers: int = 1) -> list[Path]:
    """What the corpus stage does with a folder of recordings."""
    shutil.rmtree(out, ignore_errors=True)
    entry, plan = Speech(path=source, format="folder"), out / "plan.sqlite"
    make_plan(plan, [(entry, *open_source(entry))], DOOR)
    documents, sources = read_plan(plan)
    names = {row["source"]: ("", "") for row in sources}
    return ingest_documents(documents, plan, names, DOOR, out, workers=workers, title="ingest")


def plain_loop(source: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for i, path in enumerate(sorted(p for p in source.rglob("*") if p.suffix != ".txt" and p.is_file())):
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        mono = soxr.resample(samples.mean(axis=1), rate, RATE_HZ)
        soundfile.write(out / f"{i:06d}.flac", mono, RATE_HZ, subtype="PCM_16")


def agree(folders: list[Path], out: Path) -> bool:
    """Whether every recording is there, in both, with the same samples to one step of 16 bits."""
    utterances = [utterance for utterance, _ in load_spoken(folders)]
    peers = sorted(out.glob("*.flac"))
    if len(utterances) != len(peers):
        return False
    for utterance, peer in list(zip(utterances, peers, strict=True))[:: max(1, len(peers) // 50)]:
        a, b = (soundfile.read(path, dtype="int16")[0].astype(int) for path in (utterance.audio, peer))
        if a.shape != b.shape or np.abs(a - b).max() > 1:
            return False
    return True


def peak_mb(source: Path, out: Path) -> float:
    """Peak resident memory of a fresh process that ingests `source`, with one worker (in that process)."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", str(source), str(out)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--measure", nargs=2, metavar=("SOURCE", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        ours(Path(arguments.measure[0]), Path(arguments.measure[1]))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    set_threads()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few = max(SHARD // 2, arguments.files // 10)
        hours = make_files(folder / "all", arguments.files)
        make_files(folder / "few", few)
        times = in_turn(
            {
                "ours": lambda: ours(folder / "all", folder / "ours", arguments.workers),
                "peer": lambda: plain_loop(folder / "all", folder / "peer"),
            },
            rounds=arguments.rounds,
        )
        same = agree(shards_in(folder / "ours"), folder / "peer")
        small_mb, large_mb = (peak_mb(folder / source, folder / "measured") for source in ("few", "all"))
    line(
        "ingest",
        times["ours"],
        "soundfile + soxr loop",
        times["peer"],
        None,
        same and large_mb - small_mb < MAX_GROWTH_MB,
        files=arguments.files,
        workers=arguments.workers,
        audio_hours=round(hours, 4),
        ours_hours_per_s=round(hours / times["ours"], 4),
        peer_hours_per_s=round(hours / times["peer"], 4),
        peak_mb={few: round(small_mb), arguments.files: round(large_mb)},
    )


if __name__ == "__main__":
    main()
