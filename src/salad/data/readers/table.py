"""How a table of recordings is laid out: delimiter and columns, told from its first lines and the files they name."""

from __future__ import annotations

import csv
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salad.data.readers.lines import read_lines
from salad.data.readers.rows import AUDIO_FIELDS, AUDIO_SUFFIXES, TEXT_FIELDS, locate
from salad.types import SaladError

__all__ = ["Table", "find_audio", "names_audio", "read_head"]

AUDIO_FOLDERS = ("", "wavs", "clips", "audio", "data")  # LJSpeech, Common Voice, ...
DELIMITERS = "\t|;,"  # in text the last is the likeliest
SAMPLE_LINES = 8
LONGEST_NAME = 200


@dataclass(frozen=True)
class Table:
    """columns: names in order, in lower case save those that the user gave; `header`: the first line holds them."""

    delimiter: str
    columns: tuple[str, ...] = ("audio", "text")
    header: bool = False
    names_audio: bool = False  # whether a column is known, by its name or its cells, to name recordings

    @property
    def quoting(self) -> int:
        return csv.QUOTE_MINIMAL if self.delimiter in ",;" else csv.QUOTE_NONE


def read_head(path: Path, root: Path, audio_field: str = "", text_field: str = "") -> Table:
    """The layout of a table whose recordings lie under `root`. Raises SaladError where the file cannot be read.

    A header of unknown names is told from the lines below it: they name files, and it does not.
    """
    lines = list(itertools.islice((line for line in read_lines(path) if line.strip()), SAMPLE_LINES))
    for delimiter in DELIMITERS:
        try:
            rows = list(csv.reader(lines, delimiter=delimiter, quoting=Table(delimiter).quoting))
        except csv.Error:
            continue
        if not rows or len(rows[0]) < 2:
            continue
        own = {audio_field, text_field} - {""}
        head = [name.strip() if name.strip() in own else name.strip().lower() for name in rows[0]]
        if any(name in head for name in (audio_field, audio_field.lower(), *AUDIO_FIELDS) if name):
            return Table(delimiter, tuple(head), True, True)
        if (found := _audio_column(rows, root)) is not None:
            column, header = found
            names = head if header else ["" for _ in head]
            if not header and column == 0:
                names[1] = "text"
            if len(names) == 2 and not any(name in names for name in (*own, *TEXT_FIELDS)):
                names[1 - column] = "text"
            names[column] = "audio"
            return Table(delimiter, tuple(names) if header else tuple(names[: max(2, column + 1)]), header, True)
    first = lines[0] if lines else ""
    return Table(next((d for d in "\t|," if d in first), ";" if ";" in first else ","))


def names_audio(path: Path, audio_field: str = "", text_field: str = "") -> bool:
    """Whether a file with columns is a table of recordings, and not a page or a list of other things."""
    try:
        if next((line for line in read_lines(path) if line.strip()), "").lstrip().startswith(("{", "[")):
            return True  # JSON: told from its keys before
        return read_head(path, path.parent, audio_field, text_field).names_audio
    except SaladError:
        return True  # damaged: its reader says how


def _audio_column(rows: list[list[str]], root: Path) -> tuple[int, bool] | None:
    """The column whose cells name recordings in most lines, and whether the first line is a header instead."""
    for column in range(len(rows[0])):
        named = [_is_audio(row[column], root) for row in rows if len(row) > column]
        if named[0] and 2 * sum(named) > len(named):
            return column, False
        if len(named) > 1 and not named[0] and 2 * sum(named) > len(named) - 1:
            return column, True
    return None


def _is_audio(cell: str, root: Path) -> bool:
    if not cell.strip() or len(cell) > LONGEST_NAME:
        return False
    if os.path.splitext(cell)[1].lower() in AUDIO_SUFFIXES:
        return True
    try:
        return " " not in cell and os.path.isfile(find_audio(cell, root, trusted=False))
    except SaladError:
        return False


def find_audio(given: Any, root: Path, trusted: bool) -> str:
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
