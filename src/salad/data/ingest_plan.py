"""The plan of an ingest: every row of every source, which of them make one document, and which documents are held out.

It lies in a SQLite file, so that millions of rows need no memory, and rows that a manifest scatters come back in order.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from salad.config import Speech
from salad.data.plan_stamps import open_plan, stamp_of
from salad.data.readers.detect import find_files, saved_dataset, unread_files, walk
from salad.data.readers.rows import AUDIO_SUFFIXES, Row, check_text, times_fault, to_row, utf8
from salad.data.readers.splits import outside_split, splits_of
from salad.engine import pick
from salad.files import written_aside
from salad.types import SaladError

CHARS_PER_S = 15.0  # of reading aloud, where a manifest does not say how long a row lasts
BYTES_PER_TOKEN = 3.0  # fewer than any tokenizer here needs for English, so that the bound holds
MAX_ROWS = 512  # in one document, whatever their length
MAX_NAMED = 3  # files that are not read, in a note
BLOCK = 1024  # documents that are read at once
BLOCK_ROWS = 128  # documents whose rows are read at once
TIMED = re.compile(r"\d\d:\d\d[.,]\d{3} --> |^(?:\d+ \d+ \S+ ){2}|^0 \d{4,} (?=\D)")  # subtitles (SRT, VTT), HTK, TIMIT

DEFAULTS = {one.name: one.default for one in fields(Row)}

SCHEMA = """
CREATE TABLE rows (n INTEGER PRIMARY KEY, source TEXT, id TEXT, recording TEXT, speaker TEXT, start_s REAL,
    seconds REAL, characters INTEGER, problem INTEGER, document INTEGER, row TEXT, UNIQUE (source, id));
CREATE TABLE files (source TEXT, audio TEXT, size INTEGER, time INTEGER, PRIMARY KEY (source, audio)) WITHOUT ROWID;
CREATE TABLE sources (source TEXT PRIMARY KEY, entry TEXT, format TEXT, rows INTEGER, note TEXT);
"""


@dataclass(frozen=True)
class Planned:
    """One document of the plan: rows that follow each other in one recording."""

    number: int
    source: str
    recording: str
    speaker: str
    usable: bool = True  # as far as the manifest tells
    name: str = ""  # the id of a row of it: unlike the number the same whatever else is there


@dataclass(frozen=True)
class PlannedSource:
    """One entry of `corpus.speech` as it was found; rows: how many it has; note: what a reader should know of it."""

    source: str
    licence: str
    language: str
    format: str
    rows: int
    note: str


@dataclass(frozen=True)
class IngestLimits:
    """What may pass: seconds of one row, and positions of one document (see `num_positions`)."""

    min_s: float
    max_s: float
    context: int
    rate_hz: float
    speech_share: float

    def fits(self, seconds: float, text: str | int) -> bool:
        return num_positions(seconds, text, self.rate_hz, self.speech_share) <= self.context


def num_positions(seconds: float, text: str | int, rate_hz: float, speech_share: float) -> int:
    """Positions of the student's sequence that a document may take, at most.

    rate_hz: positions in a second of speech (the encoder's frame rate / stride). speech_share: the largest share of
    words that an interleaving can speak. text: the text, or its length in bytes.
    """
    tokens = (text if isinstance(text, int) else len(text.encode())) / BYTES_PER_TOKEN
    return 2 + int(max(speech_share * seconds * rate_hz + (1 - speech_share) * tokens, tokens))


def make_plan(path: Path, sources: Iterable[tuple[Speech, str, Iterator[Row]]], limits: IngestLimits) -> None:
    """Write the plan of `sources` (entry, format, rows) to `path`, whole or not at all.

    A row without usable text, or whose id was there before, stays in the plan with its problem, so that it is counted.
    """
    try:
        with written_aside(path) as aside, closing(sqlite3.connect(aside)) as plan:
            plan.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + SCHEMA)
            number = itertools.count()
            for entry, found, rows in sources:
                _store(plan, entry, found, rows, number)
            _group(plan, limits)
            plan.commit()
    except sqlite3.OperationalError as error:
        raise SaladError(
            f"disk: {path} cannot be written ({error}); free some space, then give the same command again"
        ) from (error)


def _store(plan: sqlite3.Connection, entry: Speech, found: str, rows: Iterator[Row], number: Iterator[int]) -> None:
    left_s = float("inf") if entry.max_hours is None else entry.max_hours * 3600
    kept, note, before = 0, "", ""
    for row in rows:
        row = _checked(row, entry)
        seconds = row.duration_s if row.duration_s is not None else len(str(row.text)) / CHARS_PER_S
        if not row.problem:
            if left_s <= 0:
                note = f"stopped after max_hours: {entry.max_hours:g}"
                break
            left_s -= seconds
        if row.audio not in ("", before):
            before = row.audio
            file = (entry.title, json.dumps(before), *stamp_of(before))
            plan.execute("INSERT OR IGNORE INTO files VALUES (?, ?, ?, ?)", file)
        n, kept = next(number), kept + 1
        values = (
            n, entry.title, row.id, row.recording, row.speaker, row.start_s, seconds, len(row.text.encode()),
            bool(row.problem), n, _to_json(row),
        )  # fmt: skip
        insert = "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # its document: as long as it will be
        try:
            plan.execute(insert, values)
        except sqlite3.IntegrityError:
            if row.part and found in ("parquet", "arrow", "hub"):  # an id of the sentence; the cell is another
                row = replace(row, id="-".join(map(str, (f"{row.id}~{Path(row.audio).stem}", *row.part[1:-1]))))
                plan.execute(insert, (n, entry.title, row.id, *values[3:10], _to_json(row)))
                continue
            twin = row.broken(f"id: {row.id!r} is there before; give every row its own")
            copy = f"{row.id} (again, {n})"
            plan.execute(insert, (n, entry.title, copy, *values[3:8], True, n, _to_json(twin)))
    note = "; ".join(filter(None, (note, *_unread(plan, entry, found, whole=not note))))
    settings = json.dumps(entry.model_dump(mode="json"))
    plan.execute("INSERT INTO sources VALUES (?, ?, ?, ?, ?)", (entry.title, settings, found, kept, note))


def _unread(plan: sqlite3.Connection, entry: Speech, found: str, whole: bool) -> Iterator[str]:
    """What lies in an entry's folder and is not read, counted. whole: every row was seen, so that it is known."""
    if entry.path is None:
        return
    if entry.format == "auto":
        others = unread_files(entry.path, found, (entry.audio_field, entry.text_field))
        yield _named(others, "data of another format (give it an entry of its own)")
    if found == "parquet":
        others = outside_split(walk(entry.path), entry.path, entry.split)
        yield _named(others, f"parquet outside the split {entry.split!r} (set split, or give it an entry of its own)")
    elif entry.path.is_dir() and any(walk(entry.path)) and not saved_dataset(entry.path, entry.split):
        _, files = find_files(entry.path, entry.format, entry.split, (entry.audio_field, entry.text_field))
        if len(told := splits_of(entry.path, files)) > 1:
            yield f"splits read together: {', '.join(told)} (give the path of one to read it alone)"
    if whole and found != "folder":
        seen = "SELECT 1 FROM files WHERE source = ? AND audio = ?"
        left = (
            file
            for file in walk(entry.path)
            if file.suffix.lower() in AUDIO_SUFFIXES
            and not plan.execute(seen, (entry.title, json.dumps(os.path.abspath(file)))).fetchone()
        )
        yield _named(left, "recordings that no row names")


def _named(files: Iterable[Path], what: str) -> str:
    num, first = 0, list[str]()
    for num, file in enumerate(files, 1):
        if num <= MAX_NAMED:
            first.append(utf8(file.name))
    return f"{what}, not read: {num} ({', '.join(first)}{', ...' if num > MAX_NAMED else ''})" if num else ""


def _checked(row: Row, entry: Speech) -> Row:
    """The row with clean text; or with its problem, and then with no text that could not be written as UTF-8."""
    problem, text = row.problem, ""
    if fault := times_fault(row):  # numbers that are none would spoil the sums of the rows around it
        problem = problem or fault
        row = replace(row, offset_s=0.0, duration_s=None, file_s=None, start_s=None, words=(), score=None)
    if not problem:
        try:
            text = check_text(row.text)
        except SaladError as error:
            problem = str(error)
    if not problem and (timed := TIMED.search(text)):
        problem = f"text: holds times ({timed.group()!r}) of subtitles or labels; leave the words alone in it"
    if not problem and row.language and entry.language and row.language.lower() != entry.language.lower():
        problem = f"language: {row.language!r}, and the recipe asks for {entry.language!r}"
    clean: dict[str, Any] = {k: utf8(value) if isinstance(value, str) else value for k, value in vars(row).items()}
    # a file is opened by its own name, whether that is UTF-8 or not
    return Row(**{**clean, "audio": row.audio, "text": text, "problem": utf8(problem)})


def _to_json(row: Row) -> str:
    """What of a row is not as it would be without a word."""
    told = {name: value for name, value in vars(row).items() if value != DEFAULTS.get(name)}
    return json.dumps(told, separators=(",", ":"))


def _group(plan: sqlite3.Connection, limits: IngestLimits) -> None:
    """Give every row the number of its document: rows of one recording, in order, as many as fit the context."""
    plan.execute("CREATE INDEX by_recording ON rows (source, recording)")
    ordered = plan.execute(
        "SELECT n, source, recording, seconds, characters FROM (SELECT *, CASE recording WHEN '' THEN n ELSE "
        "MIN(n) OVER (PARTITION BY source, recording) END AS first FROM rows) ORDER BY first, start_s, n"
    )
    document, key, seconds, characters, size = -1, None, 0.0, 0, 0
    changes = []
    for n, source, recording, row_s, row_characters in ordered:
        fits = limits.fits(seconds + row_s, characters + row_characters)
        if not (recording and key == (source, recording) and fits and size < MAX_ROWS):
            document, seconds, characters, size = document + 1, 0.0, 0, 0
        key, seconds, characters, size = (source, recording), seconds + row_s, characters + row_characters, size + 1
        changes.append((document, n))
        if len(changes) == 10_000:
            plan.execute("CREATE TEMP TABLE IF NOT EXISTS numbers (document INTEGER, n INTEGER PRIMARY KEY)")
            plan.executemany("INSERT INTO numbers VALUES (?, ?)", changes)
            changes = []
    plan.execute("CREATE TEMP TABLE IF NOT EXISTS numbers (document INTEGER, n INTEGER PRIMARY KEY)")
    plan.executemany("INSERT INTO numbers VALUES (?, ?)", changes)
    plan.execute("UPDATE rows SET document = (SELECT document FROM numbers WHERE numbers.n = rows.n)")
    plan.execute("DROP INDEX by_recording")  # the next one takes its place in the file
    plan.execute("CREATE INDEX by_document ON rows (document)")


class Documents(Sequence[Planned]):
    """The documents of a plan, in order; read a block at a time when they are asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with open_plan(path) as plan:
            self._num: int = plan.execute("SELECT COUNT(DISTINCT document) FROM rows").fetchone()[0]
        self._block = lru_cache(maxsize=1)(self._read)

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, number: Any) -> Any:
        number = range(self._num)[number]
        return self._block(number // BLOCK)[number % BLOCK]

    def _read(self, block: int) -> list[Planned]:
        with open_plan(self._path) as plan:
            rows = plan.execute(
                "SELECT document, source, MAX(recording), MAX(speaker), NOT MIN(problem), MIN(id) FROM rows "
                "WHERE document BETWEEN ? AND ? GROUP BY document ORDER BY document",
                (block * BLOCK, (block + 1) * BLOCK - 1),
            )
            return [
                Planned(number, source, recording, speaker, bool(usable), name)
                for number, source, recording, speaker, usable, name in rows
            ]


def read_plan(path: Path) -> tuple[Documents, list[PlannedSource]]:
    """The documents in order, and the sources."""
    with open_plan(path) as plan:
        rows = plan.execute("SELECT source, entry, format, rows, note FROM sources").fetchall()
    entries = [(source, json.loads(entry), *told) for source, entry, *told in rows]
    return Documents(path), [PlannedSource(s, e["licence"], e["language"], *told) for s, e, *told in entries]


class PlannedRows:
    """The rows of documents of a plan, which is open; read a block of documents at a time, so ask in their order."""

    def __init__(self, plan: sqlite3.Connection) -> None:
        self._plan = plan
        self._block = lru_cache(maxsize=1)(self._read)

    def texts(self, document: int) -> list[str]:
        """The rows of one document, in order, as JSON."""
        return self._block(document // BLOCK_ROWS).get(document, [])

    def rows(self, document: int) -> list[Row]:
        """The same as rows."""
        return [to_row(json.loads(row)) for row in self.texts(document)]

    def _read(self, block: int) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        bounds = (block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS - 1)
        query = "SELECT document, row FROM rows WHERE document BETWEEN ? AND ? ORDER BY document, start_s, n"
        for document, row in self._plan.execute(query, bounds):
            found.setdefault(document, []).append(row)
        return found


def rows_of(path: Path, document: int) -> list[Row]:
    """The rows of one document, in order."""
    with open_plan(path) as plan:
        return PlannedRows(plan).rows(document)


def choose_heldout(
    documents: Sequence[Planned], share: float, at_most: int, seed: int
) -> tuple[set[int], dict[str, str]]:
    """Numbers of the documents kept for measuring, and what each source was parted by: speaker, recording or document.

    Whole speakers (with all their recordings) where that gives about the share; else whole recordings; else documents.
    The choice depends on names and seed alone.
    """
    sources: dict[str, array[int]] = {}
    for place, planned in enumerate(documents):
        if planned.usable:
            sources.setdefault(planned.source, array("q")).append(place)
    chosen: set[int] = set()
    kept_by: dict[str, str] = {}
    for source, places in sources.items():
        own = pick(documents, places)
        target = max(1, min(round(share * len(own)), at_most // len(sources)))
        for level, grouped in (("speaker", _by_speaker), ("recording", _by_recording), ("document", _by_document)):
            taken = _drawn(grouped(own), target, f"{seed}/{source}")  # one kind at a time: names of a whole corpus
            if taken and len(taken) >= target / 2 and len(taken) < len(own):
                chosen |= set(taken)
                kept_by[source] = level
                break
    return chosen, kept_by


def _drawn(groups: Mapping[str, Sequence[int]], target: int, seed: str) -> list[int]:
    """Numbers of whole groups, drawn by their names, that come near to the target."""
    taken: list[int] = []
    for key in sorted(groups, key=lambda k: hashlib.sha256(f"{seed}/{k}".encode()).digest()):
        if len(taken) + len(groups[key]) <= max(target, round(1.25 * target)):
            taken += groups[key]
        if len(taken) >= target:
            break
    return taken


def _by_document(documents: Iterable[Planned]) -> dict[str, list[int]]:
    return {p.name or str(p.number): [p.number] for p in documents}


def _by_recording(documents: Iterable[Planned]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for p in documents:
        groups.setdefault(p.recording or f"document {p.name or p.number}", []).append(p.number)
    return groups


def _by_speaker(documents: Sequence[Planned]) -> dict[str, list[int]]:
    """Documents that share a speaker or a recording, directly or through others, are in one group."""
    above: dict[str, str] = {}

    def root(name: str) -> str:
        while above.setdefault(name, name) != name:
            above[name] = above[above[name]]
            name = above[name]
        return name

    def keys(p: Planned) -> list[str]:
        named = [f"speaker {p.speaker}"] * bool(p.speaker) + [f"recording {p.recording}"] * bool(p.recording)
        return named or [f"document {p.name or p.number}"]

    for p in documents:
        first, *rest = keys(p)
        for other in rest:
            a, b = sorted((root(first), root(other)))
            above[b] = a
    groups: dict[str, list[int]] = {}
    for p in documents:
        groups.setdefault(root(keys(p)[0]), []).append(p.number)
    return groups
