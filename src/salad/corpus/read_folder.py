"""Folders of audio: with a .txt or .lab beside each file, or with a table (also Hugging Face's audiofolder)."""

from __future__ import annotations

import csv
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from salad.corpus.lines import broken_file, read_json_rows, read_lines
from salad.corpus.rows import (
    AUDIO_FIELDS,
    AUDIO_SUFFIXES,
    SPEAKER_FIELDS,
    TEXT_FIELDS,
    Row,
    label,
    labels,
    locate,
    pick,
)
from salad.recipe import Speech
from salad.types import SaladError

__all__ = ["read_folder", "read_tables"]

AUDIO_FOLDERS = ("", "wavs", "clips", "audio", "data")  # LJSpeech, Common Voice, ...


def read_folder(files: list[Path], entry: Speech) -> Iterator[Row]:
    """Audio files with a text of the same name beside each; the folder that a file lies in is its speaker."""
    root = Path(entry.path or "")
    for path in files:
        name = os.path.relpath(path, root) if root.is_dir() else path.name
        speaker = path.parent.name if root.is_dir() and path.parent != root else ""
        row = Row(id=Path(name).as_posix(), audio=os.path.abspath(path), speaker=speaker)
        beside = next((b for b in (path.with_suffix(".txt"), path.with_suffix(".lab")) if b.exists()), None)
        if beside is None:
            yield row.broken(f"text: no {path.stem}.txt or .lab beside {path}; write what is said in the recording")
            continue
        try:
            text = beside.read_bytes().decode("utf-8-sig", "surrogateescape")
        except OSError as error:
            yield row.broken(f"text: {beside} cannot be read ({error.strerror}); check its rights")
            continue
        yield Row(row.id, row.audio, text, speaker=speaker)


def read_tables(files: list[Path], entry: Speech) -> Iterator[Row]:
    """One row for each line of a table (tab, | or comma between columns) or of metadata.jsonl."""
    for path, called in zip(files, labels(files), strict=True):
        before = f"{called}/" if len(files) > 1 else ""
        make = functools.partial(_row, path=path, entry=entry, before=before)
        try:
            first = next(read_lines(path), "")
        except SaladError as error:
            yield broken_file(path, str(error))
            continue
        if first.lstrip("\ufeff").startswith("{"):
            yield from read_json_rows(path, make)
        else:
            yield from _delimited(path, first.lstrip("\ufeff"), entry, make)


def _delimited(path: Path, first: str, entry: Speech, make: Any) -> Iterator[Row]:
    delimiter = max("\t|,", key=lambda d: (first.count(d) > 0, "\t|,"[::-1].index(d)))
    head = [name.strip().lower() for name in first.split(delimiter)]
    named = any(name in head for name in (entry.audio_field.lower(), *AUDIO_FIELDS) if name)
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    try:
        lines = csv.reader((line + "\n" for line in read_lines(path)), delimiter=delimiter, quoting=quoting)
        columns = [name.strip().lstrip("\ufeff") for name in next(lines)] if named else ["audio", "text"]
        if named:
            columns = [name if name in (entry.audio_field, entry.text_field) else name.lower() for name in columns]
        for cells in lines:
            if not cells:
                continue
            name = f"{path.name}:{lines.line_num}"
            if len(cells) < len(columns):
                problem = f"{path} line {lines.line_num}: {len(cells)} columns, expected {len(columns)}"
                yield Row(id=name, audio=str(path), problem=problem)
                continue
            yield from make(dict(zip(columns, cells, strict=False)), name)
    except (SaladError, csv.Error) as error:
        yield broken_file(path, str(error))


def _row(value: dict[str, Any], name: str, *, path: Path, entry: Speech, before: str) -> Iterator[Row]:
    given = pick(value, entry.audio_field, AUDIO_FIELDS)
    row = Row(
        id=label(value.get("id")) or before + str(given or name),
        text=pick(value, entry.text_field, TEXT_FIELDS),
        speaker=label(pick(value, entry.speaker_field, SPEAKER_FIELDS)),
        recording=label(pick(value, entry.recording_field, ())),
        licence=str(value.get("license") or value.get("licence") or ""),
        language=str(value.get("language") or value.get("locale") or ""),
    )
    try:
        audio = _find(given, entry.audio_root or path.parent, entry.trusted)
    except SaladError as error:
        yield row.broken(str(error))
        return
    yield Row(
        row.id,
        audio,
        row.text,
        speaker=row.speaker,
        recording=row.recording,
        licence=row.licence,
        language=row.language,
    )


def _find(given: Any, root: Path, trusted: bool) -> str:
    """The file that a table names, with or without its ending, beside the table or where such sets keep it."""
    path = locate(given, root, trusted)
    if os.path.isabs(str(given)):
        return path
    for folder in AUDIO_FOLDERS:
        there = locate(os.path.join(folder, given), root, trusted)
        if os.path.isfile(there):
            return there
        for suffix in sorted(AUDIO_SUFFIXES):
            if os.path.isfile(there + suffix):
                return there + suffix
    return path
