"""What lies in a folder of speech (a run, a stage, shards, manifests, plain audio), in parts; their rows, streamed."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salad.data.manifest import utterance_from_dict
from salad.types import SaladError, Word

__all__ = ["Item", "Part", "count_quarantine", "find_parts", "read_rows", "to_item"]

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".mp3", ".opus", ".aiff", ".aif", ".w64", ".m4a", ".aac", ".wma"}
MANIFESTS = (".jsonl", ".json", ".jsonl.gz")
KINDS = {"audio_filepath": "nemo", "num_samples": "utterance", "supervisions": "cut"}  # a key that gives a format away
SUFFIX = re.compile(r"(\.cuts)?\.(jsonl|json|jsonl\.gz)$")
MAX_REASONS, MAX_IDS = 200, 5


@dataclass(frozen=True)
class Part:
    """A named share of the data. kind: utterance, cut, nemo (manifests in `files`) or audio (`files` are folders)."""

    name: str
    kind: str
    files: tuple[Path, ...]
    lost: tuple[Path, ...] = ()  # shards beside them that have no utterances


@dataclass(frozen=True)
class Item:
    """One utterance to look at, as its manifest (or the file beside it) tells; None where it does not."""

    id: str
    audio: str
    text: str | None = None
    text_error: str = ""
    start_s: float = 0.0
    duration_s: float | None = None  # to hear of a longer file; None: all of it
    told_s: float | None = None  # what the manifest says the file lasts
    sample_rate_hz: int | None = None
    words: tuple[Word, ...] = ()
    score: float | None = None
    speaker: str = ""
    source: str = ""
    licence: str = ""


def find_parts(place: Path) -> list[Part]:
    """The parts of a run directory, a stage's folder, a folder of shards or audio, or one manifest.

    Nothing is counted twice: of a run, aligned utterances stand for those they were aligned from. Raises SaladError
    where there is nothing to look at.
    """
    if place.is_file():
        kind = _kind(place)
        if kind is None:
            raise SaladError(
                f"{place}: expected a manifest with audio (utterances.jsonl, Lhotse cuts, NeMo lines) or a folder"
            )
        return [Part(SUFFIX.sub("", place.name), kind, (place,))]
    if not place.is_dir():
        raise SaladError(f"{place} does not exist; give a run directory, a folder of shards or audio, or a manifest")
    if (place / "recipe.json").exists():
        chosen = _shards(place / "align", place) or _manifests(place / "align", place)
        chosen = chosen or _shards(place / "corpus", place)
        parts = chosen + _shards(place / "synthesize", place)  # the probe's speech is not trained on
    else:
        parts = _shards(place, place) or _manifests(place, place) or _audio(place)
    if not parts:
        raise SaladError(
            f"{place}: holds no utterances.jsonl, no cut or NeMo manifest and no audio "
            f"({', '.join(sorted(AUDIO_SUFFIXES))}); give the folder that does"
        )
    return parts


def read_rows(parts: Iterable[Part]) -> Iterator[dict[str, Any]]:
    """{part, kind, folder, raw} for each utterance, one at a time; {part, lost} for what cannot be read at all."""
    for part in parts:
        for shard in part.lost:
            yield {"part": part.name, "id": str(shard), "lost": "a shard without utterances.jsonl; run its stage again"}
        for file in part.files:
            if part.kind == "audio":
                for path in _walk_audio(file):
                    yield {"part": part.name, "kind": "audio", "folder": str(file), "raw": str(path)}
            else:
                yield from _lines(part, file)


def to_item(row: dict[str, Any]) -> Item:
    """Raises SaladError where the row is not what its kind promises."""
    folder, raw = row["folder"], row["raw"]
    if row["kind"] == "audio":
        return _beside(Path(raw), Path(folder))
    try:
        values = json.loads(raw)
        item = {"utterance": _from_ours, "cut": _from_cut, "nemo": _from_nemo}[row["kind"]](values, folder)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise SaladError(f"{error!r:.120} in {raw[:60]!r}") from error
    for name in ("id", "audio", "text", "speaker", "source", "licence"):
        if not isinstance(value := getattr(item, name), str):
            raise SaladError(f"{name}: expected a string, got {value!r:.40} in {raw[:60]!r}")
    times = [
        item.start_s,
        item.duration_s,
        item.told_s,
        item.score,
        *(t for w in item.words for t in (w.start_s, w.end_s)),
    ]
    if not all(time is None or (isinstance(time, (int, float)) and math.isfinite(time)) for time in times):
        raise SaladError(f"expected finite times and score in {raw[:60]!r}")
    return item


def count_quarantine(place: Path) -> list[dict[str, Any]]:
    """Rows of every quarantine.jsonl under `place`, grouped: {stage, reason, count, ids}; most frequent first.

    A stage's file stands for its shards'. Reasons that differ in numbers, names or paths alone are one.
    """
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], dict[str, Any]] = {}
    for path in _quarantines(place if place.is_dir() else place.parent):
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in filter(str.strip, file):
                try:
                    row = json.loads(line)
                    stage, reason, name = str(row.get("stage", "")), str(row.get("reason", "")), str(row.get("id", ""))
                except (ValueError, AttributeError):
                    stage, reason, name = path.parent.name, "a line of quarantine.jsonl that is not JSON", line[:60]
                key = (stage, _plain_reason(reason))
                if key not in counts and len(counts) >= MAX_REASONS:
                    key = (stage, "other reasons")
                counts[key] += 1
                example = examples.setdefault(key, {"example": reason, "ids": []})
                if len(example["ids"]) < MAX_IDS:
                    example["ids"].append(name)
    return [
        {"stage": stage, "reason": reason, "count": count, **examples[stage, reason]}
        for (stage, reason), count in counts.most_common()
    ]


def _plain_reason(reason: str) -> str:
    reason = re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S+", "…", reason)
    return re.sub(r"\d+(?:\.\d+)?", "#", reason)


def _quarantines(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if "quarantine.jsonl" in files:
            folders[:] = []
            yield Path(root) / "quarantine.jsonl"


def _shards(place: Path, root_of_names: Path) -> list[Part]:
    """Folders that hold utterances.jsonl, grouped by the folder above the shards."""
    groups: dict[Path, list[Path]] = {}
    for root, folders, files in os.walk(place):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "audio")
        if "utterances.jsonl" in files:
            path = Path(root)
            groups.setdefault(path.parent if path.name.startswith("shard-") else path, []).append(path)
    for group in list(groups):
        if group.name == "aligned":  # the same recordings with their word times
            groups.pop(group.parent / "speech", None)
    return [
        Part(
            _name(group, root_of_names),
            "utterance",
            tuple(folder / "utterances.jsonl" for folder in found),
            tuple(sorted(p for p in group.glob("shard-*") if p.is_dir() and p not in found)),
        )
        for group, found in groups.items()
    ]


def _manifests(place: Path, root_of_names: Path) -> list[Part]:
    found: dict[Path, tuple[str, Path]] = {}
    for path in sorted(p for p in place.rglob("*") if p.name.endswith(MANIFESTS) and p.is_file()):
        if path.name == "quarantine.jsonl" or (kind := _kind(path)) is None:
            continue
        stem = path.parent / SUFFIX.sub("", path.name)  # x.jsonl and x.cuts.jsonl.gz hold the same
        if stem not in found or kind == "utterance":
            found[stem] = (kind, path)
    return [Part(_name(stem, root_of_names), kind, (path,)) for stem, (kind, path) in found.items()]


def _audio(place: Path) -> list[Part]:
    return [Part(place.name or "audio", "audio", (place,))] if next(_walk_audio(place), None) else []


def _walk_audio(place: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(place):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES:
                yield Path(root) / name


def _name(path: Path, place: Path) -> str:
    name = SUFFIX.sub("", path.relative_to(place).as_posix())
    return place.resolve().name if name in ("", ".") else name


def _kind(path: Path) -> str | None:
    """The format of a manifest, by the keys of its first lines; None where it is something else."""
    try:
        with _open(path) as file:
            for _, line in zip(range(5), file, strict=False):
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict) and (kind := next((k for key, k in KINDS.items() if key in row), None)):
                    return kind
    except (OSError, EOFError):
        return None
    return None


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.name.endswith(".gz") else open(path, "rb")


def _lines(part: Part, path: Path) -> Iterator[dict[str, Any]]:
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    raw = line.decode("utf-8")
                except UnicodeDecodeError as error:
                    yield {"part": part.name, "id": f"{path.name} line {number}", "lost": f"not UTF-8 ({error})"}
                    continue
                yield {"part": part.name, "kind": part.kind, "folder": str(path.parent), "raw": raw.strip(),
                       "line": f"{path.name} line {number}"}  # fmt: skip
    except (OSError, EOFError) as error:
        yield {"part": part.name, "id": f"{path} after line {number}", "lost": f"the manifest ends early ({error})"}


def _from_ours(values: dict[str, Any], folder: str) -> Item:
    utterance = utterance_from_dict(values, folder)
    return Item(
        id=utterance.id, audio=utterance.audio, text=utterance.text, told_s=utterance.duration_s,
        sample_rate_hz=utterance.sample_rate_hz, words=utterance.words,
        score=None if math.isnan(utterance.score) else utterance.score,
        speaker=utterance.speaker, source=utterance.source, licence=utterance.licence,
    )  # fmt: skip


def _from_cut(values: dict[str, Any], folder: str) -> Item:
    """A Lhotse cut; one that is a part of a longer recording is heard from its own start."""
    recording, supervisions = values["recording"], values.get("supervisions") or [{}]
    whole = values["start"] == 0 and values["duration"] >= recording["duration"] - 0.01
    custom = {**(values.get("custom") or {}), **(supervisions[0].get("custom") or {})}
    words = (supervisions[0].get("alignment") or {}).get("word") or []
    score = custom.get("score")
    return Item(
        id=str(values["id"]),
        audio=os.path.join(folder, recording["sources"][0]["source"]),
        text=" ".join(supervision.get("text") or "" for supervision in supervisions).strip(),
        start_s=float(values["start"]),
        duration_s=None if whole else float(values["duration"]),
        told_s=float(values["duration"]) if whole else None,
        sample_rate_hz=int(recording["sampling_rate"]),
        words=tuple(Word(w[0], float(w[1]), float(w[1]) + float(w[2])) for w in map(_alignment, words)),
        score=None if score is None else float(score),
        speaker=str(supervisions[0].get("speaker") or ""),
        source=str(custom.get("source", "")),
        licence=str(custom.get("licence", "")),
    )


def _alignment(word: Any) -> tuple[str, float, float]:
    """(symbol, start, duration); Lhotse writes lists, and wrote dictionaries once."""
    return (word["symbol"], word["start"], word["duration"]) if isinstance(word, dict) else tuple(word[:3])


def _from_nemo(values: dict[str, Any], folder: str) -> Item:
    audio, duration, part = values["audio_filepath"], values.get("duration"), "offset" in values
    duration_s = None if duration is None else float(duration)
    offset_s = float(values.get("offset") or 0.0)
    return Item(
        id=str(values.get("id") or (f"{audio}@{offset_s:g}" if part else audio)),
        audio=os.path.join(folder, audio),
        text=str(values.get("text") or ""),
        start_s=offset_s,
        duration_s=duration_s if part else None,
        told_s=None if part else duration_s,
        speaker=str(values.get("speaker") or ""),
        source=str(values.get("source") or ""),
        licence=str(values.get("licence") or values.get("license") or ""),
    )


def _beside(path: Path, folder: Path) -> Item:
    """A recording with its text in a .txt or .lab file of the same name; the folder it lies in names the speaker."""
    text, error = None, f"no {path.stem}.txt or .lab beside it"
    for suffix in (".txt", ".lab"):
        beside = path.with_suffix(suffix)
        if beside.is_file():
            try:
                text, error = beside.read_text(encoding="utf-8-sig"), ""
            except UnicodeDecodeError as broken:
                error = f"{beside.name} is not UTF-8 ({broken})"
            except OSError as broken:
                error = f"{beside.name} cannot be read ({broken.strerror})"
            break
    return Item(
        id=path.relative_to(folder).as_posix(), audio=str(path), text=text, text_error=error, speaker=path.parent.name
    )
