"""Hugging Face `datasets`: local parquet, what save_to_disk wrote, or a name on the hub. Audio stays undecoded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from salad.config import Speech
from salad.data.readers.columns import StreamEnd, is_bytes, is_text, need_pyarrow, open_arrow
from salad.data.readers.rows import (
    AUDIO_FIELDS,
    ENDS,
    LANGUAGE_FIELDS,
    LICENCE_FIELDS,
    SPEAKER_FIELDS,
    STARTS,
    TEXT_FIELDS,
    Row,
    broken_file,
    described,
    label,
    labels,
    lasting,
    part_of_file,
    with_path,
)
from salad.files import JsonObject
from salad.types import SaladError, first_line_of

BATCH_ROWS = 256
OTHER_FIELDS = (
    "id", "source", "duration", "audio_duration", "offset", *STARTS, *ENDS, *LICENCE_FIELDS, *LANGUAGE_FIELDS
)  # fmt: skip


def hub_files(name: str, subset: str, split: str) -> list[Path]:
    """Download a dataset of the hub (a name that the recipe gives, never on its own account); its Arrow files."""
    if "[" in split:
        raise SaladError(f"corpus: split {split!r}: slices are not read; give a whole split and max_hours")
    try:
        import datasets
    except ImportError:
        raise SaladError(f"corpus: hub: {name!r} needs `datasets`; pip install 'salad-speech[data]'") from None
    try:
        repo, _, revision = name.partition("@")
        pinned = {"revision": revision} if revision else {}
        loaded = datasets.load_dataset(repo, subset or None, split=split, **pinned)
    except Exception as error:  # its own errors are of many kinds: no network, no such name, gated, no such split
        raise SaladError(
            f"corpus: hub: {name!r} (split {split!r}) cannot be loaded ({error}); check the name, subset and split, "
            "the connection, and whether the dataset asks for a login"
        ) from error
    return [Path(row["filename"]) for row in loaded.cache_files]


def read_parquet(files: list[Path], entry: Speech) -> Iterator[Row]:
    """One row for each row; the audio's bytes are read when their turn comes."""
    pyarrow = need_pyarrow()
    for path, called in zip(files, labels(files), strict=True):
        try:
            file = pyarrow.parquet.ParquetFile(path)
            audio, others = _columns(file.schema_arrow, entry, path)
            silent = _without_text(file.schema_arrow.names, entry, path)
            names_files = is_text(file.schema_arrow.field(audio).type)
            inside = not (names_files or _only_paths(file, audio))
            leaves = others + ([] if inside else [audio if names_files else f"{audio}.path"])
        except (pyarrow.ArrowException, OSError) as error:
            yield broken_file(path, f"{path}: cannot be read: {first_line_of(error)}; is it cut off? Copy it again")
            continue
        count = 0
        for group in range(file.num_row_groups):  # a damaged one costs its own rows
            left = file.metadata.row_group(group).num_rows
            try:
                index = 0
                for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=leaves):
                    for value in table_rows(batch):
                        name = f"{called}-{count + index:06d}"
                        part = ("parquet", group, index, audio) if inside else ()
                        yield _row(value, name, path, entry, audio, part, silent)
                        index, left = index + 1, left - 1
            except (pyarrow.ArrowException, OSError) as error:
                why = f"{left} rows of row group {group} cannot be read: {first_line_of(error)}; copy it again"
                yield Row(id=f"{path.name} (row group {group})", audio=str(path), problem=f"{path}: {why}")
            count += file.metadata.row_group(group).num_rows


def read_arrow(files: list[Path], entry: Speech) -> Iterator[Row]:
    """The same for the Arrow stream files of `datasets` and Arrow files, mapped into memory."""
    pyarrow = need_pyarrow()
    for path, called in zip(files, labels(files), strict=True):
        try:
            count = 0
            schema, batches = open_arrow(path)
            audio, others = _columns(schema, entry, path)
            silent = _without_text(schema.names, entry, path)
            for batch in batches:
                own = batch.column(audio)
                struct, names_files = pyarrow.types.is_struct(own.type), is_text(own.type)
                empty = own.field("bytes").is_null() if struct else own.is_null()
                for index, value in enumerate(table_rows(batch.select(others))):
                    part: tuple[Any, ...] = ("arrow", count, audio)
                    if names_files or (struct and empty[index].as_py()):
                        value, part = {**value, audio: own[index].as_py()}, ()
                    yield _row(value, f"{called}-{count:06d}", path, entry, audio, part, silent)
                    count += 1
        except StreamEnd as error:
            yield broken_file(path, str(error))
        except (pyarrow.ArrowException, OSError) as error:
            yield broken_file(path, f"{path}: cannot be read: {first_line_of(error)}; is it cut off? Copy it again")


def table_rows(batch: Any) -> Iterator[JsonObject]:
    """The rows of an Arrow batch; text that is not UTF-8 comes with lone surrogates (see `check_text`)."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        import pyarrow

        raw = {pyarrow.string(): pyarrow.binary(), pyarrow.large_string(): pyarrow.large_binary()}
        text = {field.name for field in batch.schema if field.type in raw}
        columns = [column.view(raw[column.type]) if column.type in raw else column for column in batch.columns]
        for row in pyarrow.RecordBatch.from_arrays(columns, names=batch.schema.names).to_pylist():
            yield {
                k: v.decode("utf-8", "surrogateescape") if k in text and v is not None else v for k, v in row.items()
            }


def _columns(schema: Any, entry: Speech, path: Path) -> tuple[str, list[str]]:
    """The column with the audio, and the others that a row is made of."""
    pyarrow = need_pyarrow()
    told: JsonObject = {}
    with suppress(ValueError, TypeError, KeyError):  # a note of `datasets`, which need not be whole
        told = dict(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"])
    audio = [name for name, feature in told.items() if isinstance(feature, dict) and feature.get("_type") == "Audio"]
    audio = [name for name in audio if name in schema.names]  # a column may have been renamed below the note
    audio += [f.name for f in schema if pyarrow.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    audio = sorted(dict.fromkeys(audio), key=lambda name: name not in AUDIO_FIELDS)
    if len(audio) > 1 and audio[0] not in AUDIO_FIELDS and not entry.audio_field:
        raise SaladError(f"corpus: {path} has the recordings {', '.join(audio)} in each row; set audio_field to one")
    for holds in (is_bytes, is_text):  # recordings, or their paths
        audio += [n for n in AUDIO_FIELDS if n in schema.names and holds(schema.field(n).type)]
    if entry.audio_field:
        audio = [entry.audio_field] if entry.audio_field in schema.names else []
    if not audio:
        raise SaladError(
            f"corpus: {path} has the columns {', '.join(schema.names)}, none of which holds audio; set audio_field"
        )
    named = (entry.text_field, entry.speaker_field, entry.recording_field)
    wanted = {*TEXT_FIELDS, *SPEAKER_FIELDS, *OTHER_FIELDS, *named, *(field.split(".")[0] for field in named)}
    return audio[0], [name for name in schema.names if name != audio[0] and name in wanted]


def _without_text(names: list[str], entry: Speech, path: Path) -> str:
    """What is wrong with every row where no column is the text; "" where one is."""
    wanted = (entry.text_field, entry.text_field.split(".")[0]) if entry.text_field else TEXT_FIELDS
    if set(wanted) & set(names):
        return ""
    return f"text: none of the columns {', '.join(names)} of {path} is known as the text; set text_field"


def _only_paths(file: Any, audio: str) -> bool:
    """Whether the audio column holds paths alone, its bytes being null in every row (by the file's statistics)."""
    names = [file.schema.column(i).path for i in range(len(file.schema))]
    if f"{audio}.bytes" not in names or f"{audio}.path" not in names:
        return False
    column = names.index(f"{audio}.bytes")
    for group in range(file.num_row_groups):
        statistics = file.metadata.row_group(group).column(column).statistics
        if statistics is None or not statistics.has_null_count or statistics.num_values > 0:
            return False
    return bool(file.num_row_groups > 0)


def _row(
    value: JsonObject, name: str, path: Path, entry: Speech, audio: str, part: tuple[Any, ...], problem: str
) -> Row:
    row = replace(lasting(described(value, entry, name), value), audio=str(path), part=part, problem=problem)
    if part or problem:
        return row
    cell = value.get(audio)
    given = cell.get("path") if isinstance(cell, dict) else cell
    try:
        if any(label(value.get(field)) for field in ("offset", *ENDS)):
            row = part_of_file(row, value, str(given), f"{path.stem}/")
    except SaladError as error:
        return row.broken(str(error))
    return with_path(row, given, path.parent, entry)
