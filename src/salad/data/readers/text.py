"""Broad text that is there already (D_web): JSON lines, plain text, parquet as FineWeb-Edu and SmolLM-corpus are."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from salad.config import Text
from salad.data.readers.arrow import hub_files, table_rows
from salad.data.readers.columns import need_pyarrow, open_arrow
from salad.data.readers.detect import (
    holds_json,
    kind_of,
    refuse_table,
    saved_dataset,
    walk,
)
from salad.data.readers.rows import check_text, label, pick, utf8
from salad.data.readers.splits import of_split, outside_split
from salad.files import JsonObject, first_bytes, hash64, json_lines, read_lines
from salad.text.sentences import ENDS
from salad.types import Document, SaladError, first_line_of

FIELDS = ("text", "content", "raw_content", "document")
BATCH_ROWS = 512
ABOUT = re.compile(r"(?:readme|licen[cs]e|notice|changelog|citation|md5sums?|sha256sums?|checksums?)(?:\W|$)", re.I)
PAGE = re.compile(rb"\s*(?:%PDF|<!doctype html|<html|<\?xml)", re.I)  # no prose, though it decodes as text


def read_text(entry: Text, fits: Callable[[str], bool]) -> tuple[list[Document], list[dict[str, str]]]:
    """The first `max_documents` documents of an entry, and what had to be left out as {stage, id, reason}.

    A text that does not pass `fits` becomes several documents, cut between sentences: none of it is lost.
    """
    quarantined: list[dict[str, str]] = []
    return list(unique_text(entry, fits, quarantined)), quarantined


def unique_text(entry: Text, fits: Callable[[str], bool], quarantined: list[dict[str, str]]) -> Iterator[Document]:
    """Yields the documents one by one, none of them held. What is left out is added to `quarantined`."""
    return _unique(stream_text(entry, fits, quarantined))


def stream_text(entry: Text, fits: Callable[[str], bool], quarantined: list[dict[str, str]]) -> Iterator[Document]:
    """The same one by one: an id may come twice. What is left out is added to `quarantined`."""
    return itertools.islice(_documents(entry, fits, quarantined), entry.max_documents)


def _documents(entry: Text, fits: Callable[[str], bool], quarantined: list[dict[str, str]]) -> Iterator[Document]:
    for file in outside_split(walk(entry.path), entry.path, entry.split) if entry.path else ():
        why = f"{file}: is outside the split {entry.split!r} by its name, and not read; set split, or rename it"
        quarantined.append(_left_out(file.name, why))
    files = _files(entry)
    about = [file for file in files if ABOUT.match(file.name)] if len(files) > 1 and entry.format == "auto" else []
    for file in about:
        why = f"{file}: tells about the data, and is not read; rename it if it is text"
        quarantined.append(_left_out(file.name, why))
    for file in files:
        if file not in about:
            yield from _of_file(file, entry, fits, quarantined)


def _of_file(
    file: Path, entry: Text, fits: Callable[[str], bool], quarantined: list[dict[str, str]], *, local: bool = False
) -> Iterator[Document]:
    """The documents of one file. local: it is its own source, whose name stands before no id."""
    before, digits, source = ("", 6, utf8(str(file))) if local else (f"{entry.title}-", 7, entry.title)
    try:
        for number, value in itertools.islice(_values(file, entry), 0, None, entry.every):
            row = _fields(value)
            name = before + (label(row.get("id")) or f"{file.stem}-{number:0{digits}d}")
            try:
                text = _text(value, pick(row, entry.text_field, FIELDS), file)
            except SaladError as error:
                quarantined.append(_left_out(name, str(error)))
                continue
            domain = label(pick(row, entry.domain_field, ("domain",))) or ("" if local else entry.title)
            parts = cut_text(text, fits)
            for n, part in enumerate(parts):
                yield Document(utf8(name + (f"#{n}" if len(parts) > 1 else "")), part, source, utf8(domain))
    except SaladError as error:
        quarantined.append(_left_out(file.name, str(error)))


def read_local_text(
    paths: Iterable[Path],
    quarantined: list[dict[str, str]],
    field: str = "corpus.local_text",
    *,
    fits: Callable[[str], bool] = lambda _: True,
) -> list[Document]:
    """Documents of single files, read as those of `read_text` are: JSON ({text, id?, domain?}), text or parquet.

    What has to be left out is added to `quarantined`, as {stage, id, reason}. field: what names the paths, for the
    SaladError where one of them is no file, or a table. fits: as in `read_text`; by default no text is cut.
    """
    documents: list[Document] = []
    for path in paths:
        if not path.exists() or path.is_dir():
            raise SaladError(f"{field}: {path} is no file; check the path")
        _file_kind(path)  # a table
        documents += _of_file(path, Text(path=path), fits, quarantined, local=True)
    return list(_unique(documents))


def _text(value: Any, found: Any, path: Path) -> str:
    """The text `found` in a line or item. Raises SaladError that names the file where there is none, or no JSON."""
    if isinstance(value, SaladError):
        raise value
    try:
        return check_text(found)
    except SaladError as error:
        raise SaladError(f"{path}: {error}") from None


def _left_out(name: str, reason: str) -> dict[str, str]:
    return {"stage": "corpus", "id": utf8(name), "reason": utf8(reason)}


def _fields(value: Any) -> JsonObject:
    """The fields of what JSON holds; what has none is counted by its missing text."""
    return value if isinstance(value, dict) else {"text": value} if isinstance(value, str) else {}


def cut_text(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Parts that fit, cut after sentences where there are any, which together hold every word once."""
    if fits(text):
        return [text]
    words, parts, start = text.split(), [], 0
    while start < len(words):
        low, high = start + 1, len(words)  # the longest run of words that fits, by halving
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(" ".join(words[start:middle])) else (low, middle - 1)
        end = low
        if end < len(words):
            ends = (k for k in range(end, start + (end - start) // 2, -1) if ENDS.search(words[k - 1]))
            end = next(ends, end)
        parts.append(" ".join(words[start:end]))
        start = end
    return parts


def _unique(documents: Iterable[Document]) -> Iterator[Document]:
    """A repeated id gets its place in the list behind it: the same text twice is for the clustering to see."""
    seen = set[bytes]()  # hashes: an id is longer
    for n, d in enumerate(documents):
        name = d.id if hash64(d.id) not in seen else f"{d.id}~{n}"
        seen.add(hash64(name))
        yield Document(name, d.text, d.source, d.domain)


def _files(entry: Text) -> list[Path]:
    if entry.path is None:
        return hub_files(entry.hub, entry.subset, entry.split)
    files = walk(entry.path)
    if not files:
        what = "holds no file" if entry.path.exists() else "does not exist"
        raise SaladError(f"corpus.text: {entry.path} {what}; check the path")
    if not entry.path.is_dir():
        return files
    if saved := saved_dataset(entry.path, entry.split):
        return saved
    parquet = [file for file in files if file.suffix.lower() == ".parquet"]
    other = set(parquet) - set(of_split(entry.path, parquet, entry.split) if parquet else ())
    return [file for file in files if file not in other]


def _values(path: Path, entry: Text) -> Iterator[tuple[int, Any]]:
    """(number, value) of every text in a file: its fields, or the SaladError of a line that is no JSON."""
    kind = {"jsonl": "json", "auto": ""}.get(entry.format, entry.format) or _file_kind(path)
    if kind in ("parquet", "arrow"):
        yield from enumerate(_cells(path, entry, kind))
    elif kind in ("json", "nemo", "lhotse", "utterances"):
        for where, value in json_lines(path):
            yield int(where.rpartition(" ")[2]), value
    elif kind == "text":
        if PAGE.match(head := first_bytes(path, 1 << 10)):
            raise SaladError(f"{path}: begins with {head[:9].strip()!r}, which is no plain text; convert it")
        for n, text in enumerate(_paragraphs(path, "surrogateescape")):
            yield n, {"text": text}
    elif kind != "empty":
        raise SaladError(f"{path}: holds {kind}, expected JSON lines, parquet or plain text; convert or remove it")


def _file_kind(path: Path) -> str:
    """What a file holds, as `kind_of` tells it. Raises SaladError where it is a table, which is no prose."""
    kind = kind_of(path)
    if kind in ("text", "table", "json"):  # prose may begin with a bracket, too
        if holds_json(path):
            return "json"
        refuse_table(path)
        return "text"
    return kind


def _paragraphs(path: Path, errors: str) -> Iterator[str]:
    """Texts that empty lines part, each on one line."""
    block: list[str] = []
    for line in itertools.chain(read_lines(path, errors=errors), [""]):
        if line.strip():
            block += line.split()
        elif block:
            yield " ".join(block)
            block = []


def _cells(path: Path, entry: Text, kind: str) -> Iterator[JsonObject]:
    pyarrow = need_pyarrow()
    try:
        if kind == "parquet":
            file = pyarrow.parquet.ParquetFile(path)
            columns = _columns(file.schema_arrow.names, entry, path)
            batches = file.iter_batches(BATCH_ROWS, columns=columns)
        else:
            schema, stream = open_arrow(path)
            columns = _columns(schema.names, entry, path)
            batches = (batch.select(columns) for batch in stream)
        for batch in batches:
            yield from table_rows(batch)
    except (pyarrow.ArrowException, OSError) as error:
        raise SaladError(f"{path}: cannot be read ({first_line_of(error)}); is it cut off? Copy it again") from None


def _columns(names: list[str], entry: Text, path: Path) -> list[str]:
    fields = [column for field in (entry.text_field, entry.domain_field) for column in (field, field.split(".")[0])]
    own = fields[:2] if entry.text_field else [name for name in FIELDS if name in names][:1]
    if not set(own) & set(names):
        raise SaladError(f"{path}: has the columns {', '.join(names)}, none of which is the text; set text_field")
    return [name for name in dict.fromkeys((*own, "id", *fields[2:], "domain")) if name in names]
