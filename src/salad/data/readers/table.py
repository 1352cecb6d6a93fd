"""How a table of recordings is laid out: delimiter and columns, told from its first lines and the files they name."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salad.data.readers.rows import AUDIO_FIELDS, AUDIO_SUFFIXES, TEXT_FIELDS, locate, spelled
from salad.files import read_lines
from salad.types import SaladError

AUDIO_FOLDERS = ("", "wavs", "clips", "audio", "data")  # LJSpeech, Common Voice, ...
DELIMITERS = "\t|;,"  # in text the last is the likeliest
SAMPLE_LINES = 8
LONGEST_NAME = 200
LONGEST_CELL = 50  # lines of a quoted text
SEPARATOR = re.compile(r"sep=.\s*", re.IGNORECASE)
NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Table:
    """columns: names in order, in lower case save those that the user gave; `header`: the first line holds them.

    quoted: a cell in quotes is always read without them; else (tabs, bars) only one that needs them, as it holds a
    delimiter or doubled quotes.
    """

    delimiter: str
    columns: tuple[str, ...] = ("audio", "text")
    header: bool = False
    names_audio: bool = False  # whether a column is known, by its name or its cells, to name recordings
    width: int = 0  # cells in a row, 0: nobody knows
    quoted: bool = True


def read_head(path: Path, root: Path, audio_field: str = "", text_field: str = "") -> Table:
    """The layout of a table whose recordings lie under `root`. Raises SaladError where the file cannot be read.

    A header of unknown names is told from the lines below it: they name files, and it does not.
    """
    begin = [line for _, line in itertools.islice(_numbered(path), SAMPLE_LINES + LONGEST_CELL)]
    lines = begin[:SAMPLE_LINES]
    for delimiter in DELIMITERS:
        quoted = delimiter in ",;" or all(re.fullmatch('".*"', cell) for cell in "".join(lines[:1]).split(delimiter))
        parted = [_cells(line, delimiter, quoted) for line in lines]
        rows = [cells for cells, _ in parted]
        if not rows or len(rows[0]) < 2:
            continue
        own = {audio_field, text_field} - {""}
        head = [name.strip() if name.strip() in own else name.strip().lower() for name in rows[0]]
        if any(name in head for name in (audio_field, audio_field.lower(), *AUDIO_FIELDS) if name):
            return Table(delimiter, tuple(head), True, True, len(head), quoted)
        if (found := _audio_column(rows, root) or _audio_column(_records(begin, delimiter, quoted), root)) is not None:
            column, header = found
            names = head if header else ["" for _ in head]
            if not header and column == 0:
                names[1] = "text"
            numbers = header and all(NUMBER.fullmatch(row[1 - column].strip()) for row in rows[1:] if len(row) == 2)
            if len(names) == 2 and not numbers and not any(name in names for name in (*own, *TEXT_FIELDS)):
                names[1 - column] = "text"
            names[column] = "audio"
            known = names if header else names[: max(2, column + 1)]
            width = len(head) if header else _width(begin, delimiter, quoted, column, root)
            return Table(delimiter, tuple(known), header, True, width, quoted)
    first = lines[0] if lines else ""
    return Table(next((d for d in "\t|," if d in first), ";" if ";" in first else ","))


def _records(lines: list[str], delimiter: str, quoted: bool) -> list[list[str]]:
    """Cells of rows whose texts may go on over the lines below."""
    records, at = list[list[str]](), 0
    while at < min(len(lines), SAMPLE_LINES):
        cells, opened = _cells(lines[at], delimiter, quoted)
        longer = (
            (end, row)
            for end in range(at + 2, len(lines) + 1)
            for row, still_opened in [_cells("\n".join(lines[at:end]), delimiter, quoted)]
            if not still_opened
        )
        at, cells = next(longer, (at + 1, cells)) if opened else (at + 1, cells)
        records.append(cells)
    return records


def _width(lines: list[str], delimiter: str, quoted: bool, column: int, root: Path) -> int:
    """Cells in a row of a table without a header, by those on one line, else by those that go on below it.

    As in most rows; with commas or semicolons, which a text holds too, only where what stands behind the text in more
    than half of the rows are single words; else as in the shortest.
    """
    parted = [_cells(line, delimiter, quoted) for line in lines[:SAMPLE_LINES]]
    whole, joined = list[int](), list[int]()
    for n, (cells, opened) in enumerate(parted):
        if len(cells) <= column or not _is_audio(cells[column], root):
            continue  # a part of a text
        if not opened and len(cells) > 1:
            whole.append(len(cells))
        if opened:
            joined.append(len(_records(lines[n:], delimiter, quoted)[0]))
    counts = whole or joined or [max(2, len(parted[0][0]))]
    most, times = Counter(counts).most_common(1)[0]
    rest = [cell for cells, _ in parted if len(cells) == most for cell in cells[max(2, column + 1) :]]
    words = 2 * times > len(counts) and not any(" " in cell for cell in rest)
    return most if delimiter not in ",;" or words else min(counts)


def table_rows(path: Path, table: Table, root: Path) -> Iterator[tuple[int, list[str] | str]]:
    """(number of the line it begins on, its cells, or what is wrong with it) of every row below the header.

    A quote encloses a cell only where a second one ends it: a text that begins with a quotation is read as it stands,
    and the rows below it are rows. A cell over many lines ends before a line that is a row of its own.
    """
    lines = _numbered(path)
    if table.header:
        next(lines, None)
    ahead: deque[tuple[int, str]] = deque()
    while ahead or (ahead := deque(itertools.islice(lines, 1))):
        number, line = ahead.popleft()
        cells, opened = _cells(line, table.delimiter, table.quoted, table.width)
        if not table.quoted and len(cells) < table.width == line.count(table.delimiter) + 1:
            cells = line.split(table.delimiter)  # quotes in two cells that are none of each other
        joined = line
        for more in itertools.count(1) if opened else ():
            if len(ahead) < more:
                ahead.extend(itertools.islice(lines, 1))
            if len(ahead) < more or more > LONGEST_CELL or _begins_row(ahead[more - 1][1], cells, table, root):
                break
            joined += "\n" + ahead[more - 1][1]
            whole, still_opened = _cells(joined, table.delimiter, table.quoted)
            if not still_opened and len(whole) == (table.width or len(table.columns)):
                cells, opened = whole, False
                for _ in range(more):
                    ahead.popleft()
                break
        if opened and joined != line:
            yield number, f"a quote begins a cell of this line and does not end in the {joined.count(chr(10))} below it"
        elif len(cells) < len(table.columns):
            yield number, f"{len(cells)} columns, expected {len(table.columns)}"
        elif expected := _too_many(cells, table):
            advice = f"put a text that holds {table.delimiter!r} in quotes, and double the quotes in it"
            advice += "" if table.header else "; or name the columns in the first line (audio, text)"
            yield number, f"{len(cells)} columns, expected {expected}; {advice}"
        else:
            yield number, cells


def _too_many(cells: list[str], table: Table) -> int:
    """How many columns are expected where a row has more that are not empty; else 0.

    Without a header, a further cell that begins with a space is taken for the rest of a text, unless the cells before
    it begin with one too.
    """
    if table.width and any(cells[table.width :]):
        return table.width
    known = len(table.columns)
    spaced = any(cell.startswith(" ") for cell in cells[1:known])
    rest = cells[known:] if table.delimiter in ",;" and not table.header and not spaced else []
    return known if any(cell.startswith(" ") and cell.strip() for cell in rest) else 0


def _numbered(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) of every line that is not empty, but for the "sep=;" that Excel takes at the top."""
    lines = ((number, line) for number, line in enumerate(read_lines(path), 1) if line.strip())
    return (own for own in lines if own[0] > 1 or not SEPARATOR.fullmatch(own[1]))


def _begins_row(line: str, before: list[str], table: Table, root: Path) -> bool:
    """Whether a line is a row of its own: it names a recording, or what is no file but looks like the row before's."""
    cells = _cells(line, table.delimiter, table.quoted)[0]
    known = [n for n, name in enumerate(table.columns) if name in ("audio", *AUDIO_FIELDS)]
    if len(cells) < len(table.columns):
        return False
    if any(_has_ending(before[n]) and not _has_ending(cells[n]) for n in known if n < len(before)):
        return False
    alike = any(NUMBER.sub("#", cells[n]) == NUMBER.sub("#", before[n]) != before[n] for n in known if n < len(before))
    return alike or not known or any(_is_audio(cells[n], root) for n in known)


def _cells(line: str, delimiter: str, quoted: bool, width: int = 0) -> tuple[list[str], bool]:
    """The cells of a row, and whether one begins with a quote that nothing in it ends; such a quote is text.

    In the last of `width` cells, a text that begins with a quotation may hold delimiters.
    """
    enclosed = re.compile(rf' *"([^"]*(?:""[^"]*)*)" *(?={re.escape(delimiter)}|\Z)')
    escaped = re.compile(rf' *"((?:[^"\\]|\\.)*)" *(?={re.escape(delimiter)}|\Z)')  # as databases write quotes
    cells, at, opened = [], 0, False
    while True:
        found = enclosed.match(line, at)
        if found and (quoted or delimiter in found[1] or '""' in found[1] or "\n" in found[1]):
            cells.append(found[1].replace('""', '"'))
            at = found.end()
        elif found is None and quoted and '\\"' in line and (found := escaped.match(line, at)):
            cells.append(found[1].replace('\\"', '"'))
            at = found.end()
        else:
            begins = found is None and line.startswith('"', at)
            end = -1 if begins and len(cells) == width - 1 else line.find(delimiter, at)
            cells.append(line[at:] if end < 0 else line[at:end])
            opened = opened or (begins and cells[-1].count('"') % 2 == 1)
            at += len(cells[-1])
        if at >= len(line):
            return cells, opened
        at += 1


def first_line(path: Path) -> str:
    """The first line that is not empty, "" where there is none."""
    return next((line for line in read_lines(path) if line.strip()), "")


def names_audio(path: Path, audio_field: str = "", text_field: str = "") -> bool:
    """Whether a file with columns is a table of recordings, and not a page or a list of other things."""
    try:
        if first_line(path).lstrip().startswith(("{", "[")):
            return True  # JSON: told from its keys before
        return read_head(path, path.parent, audio_field, text_field).names_audio
    except SaladError:
        return True  # damaged: its reader says how


def _audio_column(rows: list[list[str]], root: Path) -> tuple[int, bool] | None:
    """The column whose cells name recordings in most lines, and whether the first line is a header instead."""
    for column in range(len(rows[0])):
        named = [_is_audio(row[column], root) for row in rows if len(row) > max(1, column)]  # no lines of a long text
        if named[0] and 2 * sum(named) > len(named):
            return column, False
        if len(named) > 1 and not named[0] and 2 * sum(named) > len(named) - 1:
            return column, True
    return None


def _is_audio(cell: str, root: Path) -> bool:
    if not cell.strip() or len(cell) > LONGEST_NAME:
        return False
    if _has_ending(cell):
        return True
    try:
        return " " not in cell and os.path.isfile(find_audio(cell, root, trusted=False))
    except SaladError:
        return False


def _has_ending(cell: str) -> bool:
    return os.path.splitext(cell.strip())[1].lower() in AUDIO_SUFFIXES


def find_audio(given: Any, root: Path, trusted: bool) -> str:
    """The file that a table names, with or without its ending, beside the table or where such sets keep it."""
    path, base = locate(given, root, trusted), os.path.abspath(root)
    if os.path.isabs(str(given)):
        return path
    for folder in AUDIO_FOLDERS:
        there = locate(os.path.join(folder, given), root, trusted)
        if os.path.isfile(there):
            return there
        for suffix in AUDIO_SUFFIXES:
            whole = there + suffix if there.isascii() else spelled(there + suffix, base)
            if os.path.isfile(whole):
                return whole
    return path
