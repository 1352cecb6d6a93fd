"""Text and recordings that the user brings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from salad.audio import read_audio, write_flac
from salad.corpus.manifest import write_utterances
from salad.engine import Shard
from salad.files import write_jsonl
from salad.types import Document, SaladError, Utterance

__all__ = ["find_recordings", "import_recordings", "read_local_text"]

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".opus"}
SAMPLE_RATE_HZ = 16_000


def read_local_text(paths: Iterable[Path]) -> list[Document]:
    """Documents from .jsonl files ({text, id?, domain?} a line) or plain text (paragraphs parted by empty lines)."""
    documents = []
    for path in paths:
        try:
            raw = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise SaladError(f"corpus.local_text: {path} does not exist") from None
        except UnicodeDecodeError as error:
            raise SaladError(f"corpus.local_text: {path} is not UTF-8 ({error}); convert it") from None
        if path.suffix == ".jsonl":
            documents += [_row(path, n, line) for n, line in enumerate(raw.split("\n"), 1) if line.strip()]
        else:
            blocks = [" ".join(block.split()) for block in raw.split("\n\n") if block.strip()]
            documents += [Document(f"{path.stem}-{n:06d}", text, str(path)) for n, text in enumerate(blocks)]
    return documents


def _row(path: Path, number: int, line: str) -> Document:
    try:
        row = json.loads(line)
        text = " ".join(row["text"].split())
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise SaladError(
            f'corpus.local_text: {path} line {number}: expected {{"text": ...}}, got {line[:60]!r}'
        ) from error
    return Document(str(row.get("id", f"{path.stem}-{number:06d}")), text, str(path), str(row.get("domain", "")))


def find_recordings(folders: Iterable[Path]) -> list[Path]:
    """Audio files under the folders, in a fixed order."""
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise SaladError(
                f"corpus.speech_folders: {folder} is not a folder; give one that holds audio and .txt files"
            )
        found += sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
    return found


def import_recordings(shard: Shard, folder: Path) -> None:
    """For `run_shards`: items are (path, id); decodes, mixes to mono 16 kHz FLAC, and checks each once, at the door.

    Writes utterances.jsonl, sentences.jsonl and quarantine.jsonl: what cannot be used is named there with its reason.
    """
    kept, aside = [], []
    for path, name in shard.items:
        try:
            text = " ".join(_text_beside(Path(path)).split())
            samples, _ = read_audio(path, SAMPLE_RATE_HZ)
        except SaladError as error:
            aside.append({"stage": "corpus", "id": str(path), "reason": str(error)})
            continue
        out = folder / "audio" / f"{name}.flac"
        write_flac(out, samples, SAMPLE_RATE_HZ)
        utterance = Utterance(
            id=name, text=text, audio=str(out), sample_rate_hz=SAMPLE_RATE_HZ, num_samples=len(samples),
            speaker=Path(path).parent.name, source=str(path), document_id=name,
        )  # fmt: skip
        kept.append(utterance)
    write_utterances(folder / "utterances.jsonl", kept)
    write_jsonl(folder / "sentences.jsonl", [])
    write_jsonl(folder / "quarantine.jsonl", aside)


def _text_beside(path: Path) -> str:
    for suffix in (".txt", ".lab"):
        beside = path.with_suffix(suffix)
        if beside.exists():
            try:
                text = beside.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise SaladError(f"text: {beside} is not UTF-8 ({error}); convert it") from None
            if not text.split():
                raise SaladError(f"text: {beside} is empty; write what is said in the recording")
            return text
    raise SaladError(f"text: no {path.stem}.txt or .lab beside {path}; write what is said in the recording")
