"""Folders of audio: with a text for each file (beside it, or as LibriSpeech and VCTK keep it), or with a table."""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from salad.config import Speech
from salad.data.readers.rows import (
    AUDIO_FIELDS,
    ENDS,
    TEXT_FIELDS,
    Row,
    broken_file,
    decode_text,
    described,
    label,
    labels,
    part_of_file,
    pick,
    read_json_rows,
    spelled,
)
from salad.data.readers.table import Table, find_audio, first_line, read_head, table_rows
from salad.files import JsonObject, read_lines
from salad.types import SaladError

TEXT_ENDINGS = (".txt", ".lab", ".TXT", ".LAB", ".Txt", ".Lab", ".normalized.txt", ".original.txt")  # LibriTTS
TEXT_FOLDERS = ("txt", "text", "texts", "transcripts", "transcriptions", "labels")  # beside wav48 in VCTK
LOSSLESS = (".wav", ".flac", ".aiff", ".aif", ".WAV", ".FLAC")


def read_folder(files: list[Path], entry: Speech) -> Iterator[Row]:
    """Audio files with a text of the same name beside each, in a folder of texts, or in LibriSpeech's *.trans.txt.

    The folder that a file lies in is its speaker (LibriSpeech: the first part of its name). A text belongs to one
    recording: a.mp3 beside a.wav, and a second microphone, are set aside.
    """
    root = Path(entry.path or "")
    own, taken = set(files), dict[Path, Path]()
    for path in files:
        given = os.path.relpath(path, root) if root.is_dir() else path.name
        speaker = path.parent.name if root.is_dir() and path.parent != root else ""
        row = Row(id=Path(given).as_posix(), audio=os.path.abspath(path), speaker=speaker)
        where, text = _own_text(path), ""
        try:
            if where is not None:
                text = decode_text(where.read_bytes())
            elif (name := unicodedata.normalize("NFC", path.stem)) in (lines := _transcripts(path.parent)):
                where, text = path.with_name(path.stem), lines[name]
                row = Row(row.id, row.audio, speaker=path.stem.split("-")[0] if path.stem.count("-") == 2 else speaker)
            elif root.is_dir():
                where = _text_apart(path, root)
                text = decode_text(where.read_bytes()) if where is not None else ""
        except SaladError as error:
            yield row.broken(f"text: {error}")
            continue
        except OSError as error:
            yield row.broken(f"text: {where or path.parent} cannot be read ({error.strerror}); check its rights")
            continue
        if where is None:
            yield row.broken(
                f"text: no {path.stem}.txt or .lab beside {path}, nor a folder of texts (txt/) or a .trans.txt that "
                "has one; write what is said in the recording"
            )
            continue
        better = _better(path, own)
        first = taken.setdefault(where, better or path)
        if first != path:
            yield row.broken(f"text: {where.name} is of {first.name} already; remove one of the two")
            continue
        yield Row(row.id, row.audio, text, speaker=row.speaker)


def _own_text(path: Path) -> Path | None:
    return next((beside for ending in TEXT_ENDINGS if (beside := _spelled(path.with_suffix(ending))).exists()), None)


def _spelled(path: Path) -> Path:
    return path if path.name.isascii() else Path(spelled(str(path), str(path.parent)))


def _better(path: Path, own: set[Path]) -> Path | None:
    """A lossless copy of a recording, if it is another."""
    if path.suffix in LOSSLESS:
        return None
    return next((copy for ending in LOSSLESS if (copy := path.with_suffix(ending)) in own), None)


@functools.lru_cache(maxsize=4)  # files come folder by folder
def _transcripts(folder: Path) -> dict[str, str]:
    """Name -> text, of the lines "name text" in a folder's *.trans.txt."""
    lines = (line for file in sorted(folder.glob("*.trans.txt")) for line in read_lines(file))
    return {unicodedata.normalize("NFC", name): text for name, _, text in (line.partition(" ") for line in lines)}


def _text_apart(path: Path, root: Path) -> Path | None:
    """txt/p225/p225_001.txt of wav48/p225/p225_001.wav; VCTK's two microphones (_mic1, _mic2) share a text."""
    names = dict.fromkeys((path.stem, re.sub(r"_mic\d$", "", path.stem)))
    there = (_spelled(folder / f"{name}.txt") for folder in _text_folders(path.parent, root) for name in names)
    return next((text for text in there if text.exists()), None)


@functools.lru_cache(maxsize=4)
def _text_folders(folder: Path, root: Path) -> tuple[Path, ...]:
    """What lies at the same place in a folder of texts, for a folder of recordings."""
    parts = folder.relative_to(root).parts if folder.is_relative_to(root) else ()
    there = (root.joinpath(*parts[:n], name, *parts[n + 1 :]) for n in range(len(parts)) for name in TEXT_FOLDERS)
    return tuple(path for path in there if path.is_dir())


def read_tables(files: list[Path], entry: Speech) -> Iterator[Row]:
    """One row for each line of a table (tab, |, ; or comma between columns) or of metadata.jsonl.

    Where it has `offset` and `duration`, they are read as those of NeMo's lines.
    """
    for path, called in zip(files, labels(files), strict=True):
        before = f"{called}/" if len(files) > 1 else ""
        make = functools.partial(_row, path=path, entry=entry, before=before)
        try:
            first = first_line(path).lstrip()
            table = read_head(path, entry.audio_root or path.parent, entry.audio_field, entry.text_field)
        except SaladError as error:
            yield broken_file(path, str(error))
            continue
        if first.startswith(("{", "[")) or first.strip() == "null":
            yield from read_json_rows(path, make)
        else:
            yield from _delimited(path, table, entry, make)


def _delimited(path: Path, table: Table, entry: Speech, make: Any) -> Iterator[Row]:
    columns = table.columns
    own = entry.text_field
    has_text = any(name in columns for name in ((own, own.split(".")[0]) if own else TEXT_FIELDS))
    try:
        for number, cells in table_rows(path, table, entry.audio_root or path.parent):
            name = f"{path.name}:{number}"
            if isinstance(cells, str):
                yield Row(id=name, audio=str(path), problem=f"{path} line {number}: {cells}")
                continue
            for row in make(dict(zip(columns, map(str.strip, cells), strict=False)), name):
                if has_text or row.problem:
                    yield row
                else:
                    yield row.broken(
                        f"text: none of the columns {', '.join(columns)} of {path} is known as the text; "
                        "set text_field, or name the columns in the first line (audio, text)"
                    )
    except SaladError as error:
        yield broken_file(path, str(error))


def _row(value: JsonObject, name: str, *, path: Path, entry: Speech, before: str) -> Iterator[Row]:
    given = pick(value, entry.audio_field, AUDIO_FIELDS)
    row = described(value, entry, before + str(given or name))
    try:
        if any(label(value.get(name)) for name in ("offset", *ENDS)):  # else the recording tells how long it is
            row = part_of_file(row, value, str(given), before)
        yield replace(row, audio=find_audio(given, entry.audio_root or path.parent, entry.trusted))
    except SaladError as error:
        yield row.broken(str(error))
