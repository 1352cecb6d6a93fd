"""Small data sets, each in exactly the layout of a corpus that people have; `sound` is what was said in each row."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from salad.config import Speech
from salad.data.manifest import to_utterance
from salad.data.readers.registry import open_source
from salad.files import JsonObject
from salad.types import Utterance, Word

RATE_HZ = 16_000
TEXTS = (
    "The fairies lived under the sea, in a palace of coral.",
    "Nobody had seen them, except one old sailor who told no lies.",
    "He said: \u201cThey sing.\u201d",
    "And then he went away, and the harbour was quiet again.",
    "In the morning the boats came back with nothing in their nets.",
    "The children asked about it, but he only looked at the water.",
)


def sound(seconds: float, seed: int = 0, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Noise with a voice's slow ups and downs: float32 [seconds * rate_hz], every seed another one."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(seed).normal(0, 0.05, len(t))
    return (noise * (1.2 + np.sin(2 * np.pi * 3 * t))).astype(np.float32)


def encoded(samples: np.ndarray, rate_hz: int = RATE_HZ, kind: str = "FLAC", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=kind, subtype=subtype)
    return file.getvalue()


def write_jsonl(path: Path, rows: Sequence[JsonObject]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def libriheavy(folder: Path, books: int = 3, cuts: int = 4) -> Path:
    """libriheavy_cuts_small.jsonl.gz as its authors ship it: cuts of LibriLight's files, the text in custom.texts."""
    rows = []
    for book in range(books):
        recording = f"small/{100 + book}/sea_fairies_0812_librivox_64kb_mp3/0{book + 1}_baum_sea_fairies_64kb"
        path = folder / "download" / "librilight" / f"{recording}.flac"
        path.parent.mkdir(parents=True)
        soundfile.write(path, sound(2.5 * cuts, book), RATE_HZ)
        for n in range(cuts):
            text = TEXTS[(book + n) % len(TEXTS)]
            supervision = {
                "id": f"{recording}_{n}",
                "recording_id": recording,
                "start": 0.0,
                "duration": 2.0,
                "channel": 0,
                "language": "English",
                "speaker": str(100 + book),
                "custom": {
                    "texts": [text, text.upper().strip(".")],
                    "begin_byte": 10 * n,
                    "end_byte": 10 * n + len(text),
                },
            }
            rows.append(
                {
                    "id": f"{recording}_{n}",
                    "start": 2.5 * n,
                    "duration": 2.0,
                    "channel": 0,
                    "supervisions": [supervision],
                    "recording": {
                        "id": recording,
                        "sources": [
                            {"type": "file", "channels": [0], "source": f"download/librilight/{recording}.flac"}
                        ],
                        "sampling_rate": RATE_HZ,
                        "num_samples": round(2.5 * cuts * RATE_HZ),
                        "duration": 2.5 * cuts,
                        "channel_ids": [0],
                    },
                    "custom": {"text_path": "download/librilight_text/output_text_small_cleaned/Sea Fairies/text.txt"},
                    "type": "MonoCut",
                }
            )
    return write_jsonl(folder / "libriheavy_cuts_small.jsonl.gz", rows)


def emilia(folder: Path, speakers: int = 3, utterances: int = 3) -> Path:
    """Emilia/EN/EN-B000000.tar: an .mp3 and a .json for each utterance, 24 kHz."""
    members = []
    for speaker in range(speakers):
        for n in range(utterances):
            name = f"EN_B00000_S0000{speaker}_W00000{n}"
            about = {
                "id": name,
                "wav": f"EN_B00000/EN_B00000_S0000{speaker}/mp3/{name}.mp3",
                "text": f" {TEXTS[(speaker + n) % len(TEXTS)]}",
                "duration": 2.0,
                "speaker": f"EN_B00000_S0000{speaker}",
                "language": "en",
                "dnsmos": 3.3709,
                "phone_count": 41,
            }
            members.append((f"{name}.mp3", encoded(sound(2.0, 10 * speaker + n, 24_000), 24_000, "MP3")))
            members.append((f"{name}.json", json.dumps(about).encode()))
    write_tar(folder / "Emilia" / "EN" / "EN-B000000.tar", members)
    return folder


def nemo(folder: Path, lines: int = 6) -> Path:
    """train_manifest.json: one object a line, audio beside it."""
    rows = []
    for n in range(lines):
        path = folder / "wavs" / f"{n:03d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sound(2.0, n, 8_000), 8_000)
        rows.append({"audio_filepath": f"wavs/{n:03d}.wav", "duration": 2.0, "text": TEXTS[n % len(TEXTS)]})
    return write_jsonl(folder / "train_manifest.json", rows)


def audiofolder(folder: Path, files: int = 6, metadata: str = "csv") -> Path:
    """data/train/metadata.csv (or .jsonl) with file_name and transcription, audio beside it; stereo at 44.1 kHz."""
    train = folder / "data" / "train"
    train.mkdir(parents=True)
    rows = []
    for n in range(files):
        soundfile.write(train / f"{n:03d}.wav", np.stack([sound(2.0, n, 44_100)] * 2, axis=1), 44_100)
        rows.append({"file_name": f"{n:03d}.wav", "transcription": TEXTS[n % len(TEXTS)]})
    if metadata == "csv":
        lines = ["file_name,transcription", *(f'{r["file_name"]},"{r["transcription"]}"' for r in rows)]
        (train / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        write_jsonl(train / "metadata.jsonl", rows)
    return folder


def folder_with_texts(folder: Path, files: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(files):
        soundfile.write(folder / f"{n}.flac", sound(1.5, n), RATE_HZ)
        (folder / f"{n}{'.txt' if n % 2 else '.lab'}").write_text(TEXTS[n % len(TEXTS)], encoding="utf-8")
    return folder


def web_rows(number: int) -> list[JsonObject]:
    words = ("Light", "Water", "A market", "The law", "A cell", "Music", "Steel", "A river")
    return [
        {
            "text": " ".join(
                f"{words[(n + k) % len(words)]} is what sentence {k} of page {n} is about." for k in range(6)
            ),
            "id": f"<urn:uuid:{n:08d}>",
            "dump": "CC-MAIN-2024-10",
            "url": f"https://example.org/{n}",
            "file_path": "s3://commoncrawl/x.warc.gz",
            "language": "en",
            "language_score": 0.97,
            "token_count": 70,
            "score": 3.1,
            "int_score": 3,
        }
        for n in range(number)
    ]


def write_parquet(path: Path, rows: list[JsonObject]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=8)


def fineweb_edu(folder: Path, documents: int = 30) -> Path:
    """sample/10BT/000_00000.parquet with FineWeb-Edu's columns."""
    write_parquet(folder / "sample" / "10BT" / "000_00000.parquet", web_rows(documents))
    return folder


def smollm_corpus(folder: Path, documents: int = 30) -> Path:
    """cosmopedia-v2/train-00000-of-00002.parquet ...: prompt, text, token_length, audience, ...; no id."""
    rows = [
        {
            "prompt": f"Write about {n}.",
            "text": row["text"],
            "token_length": 70,
            "audience": "general",
            "format": "blogpost",
            "seed_data": "auto_math_text" if n % 2 else "khanacademy",
        }
        for n, row in enumerate(web_rows(documents))
    ]
    for part in range(2):
        write_parquet(folder / "cosmopedia-v2" / f"train-0000{part}-of-00002.parquet", rows[part::2])
    return folder


def read_lhotse(path: Path) -> list[Utterance]:
    """Utterances of a Lhotse manifest, as the measuring commands read them."""
    return [to_utterance(row) for row in open_source(Speech(path=path))[1]]


WORDS = "the water of the river runs to the sea and boats go with it".split()


def make_utterances(folder: Path, num: int = 20, rate: int = 16_000) -> list[Utterance]:
    rng = np.random.default_rng(0)
    out = []
    for i in range(num):
        words, samples = WORDS[: 8 + i % 6], rng.normal(0, 0.1, 6000 + 500 * i).astype(np.float32)
        path = folder / f"{i}.wav"
        soundfile.write(path, samples, rate)
        step = len(samples) / rate / len(words)
        times = tuple(Word(word, j * step, (j + 1) * step) for j, word in enumerate(words))
        out.append(Utterance(f"u{i}", " ".join(words), str(path), rate, len(samples), times, score=1.0))
    return out
