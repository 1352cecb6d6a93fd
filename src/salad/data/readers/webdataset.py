"""WebDataset tars: audio with a .json or .txt of the same key, as Emilia ships them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from salad.config import Speech
from salad.data.readers.lines import broken_file
from salad.data.readers.rows import AUDIO_SUFFIXES, SPEAKER_FIELDS, TEXT_FIELDS, Row, label, labels, pick
from salad.types import SaladError

__all__ = ["read_webdataset", "tar_members"]

MAX_JSON_BYTES = 1 << 20


def tar_members(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, where its bytes begin, how many) of every file in an uncompressed tar.

    Raises SaladError where the tar is missing, compressed, or cut in the middle, after the members that are whole.
    """
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile():
                    if member.offset_data + member.size > size:
                        raise SaladError(f"{path}: is cut off in the middle of {member.name}; copy it again")
                    yield member.name, member.offset_data, member.size
                tar.members = []  # else every member ever read is kept
        if not _ends_well(path, size):
            raise SaladError(f"{path}: has no end mark, so it is cut off; copy it again")
    except tarfile.TarError as error:
        raise SaladError(f"{path}: is not a whole, uncompressed tar ({error}); unpack or copy it again") from None
    except OSError as error:
        raise SaladError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None


def _ends_well(path: Path, size: int) -> bool:
    """A whole tar ends with blocks of zeros."""
    with open(path, "rb") as file:
        file.seek(max(0, size - 512))
        return file.read(512).strip(b"\0") == b""


def read_webdataset(files: list[Path], entry: Speech) -> Iterator[Row]:
    """One row for each key. Emilia's keys <recording>_W<number> tell which rows follow each other in one recording."""
    for path, called in zip(files, labels(files), strict=True):
        key, group = "", {}
        try:
            for name, offset, size in tar_members(path):
                stem = _key(name)
                if group and stem != key:
                    yield _row(path, called, key, group, entry)
                    group = {}
                key = stem
                group[name[len(stem) :].lower()] = (offset, size)
        except SaladError as error:
            if group:
                yield _row(path, called, key, group, entry)
            yield broken_file(path, str(error))
            continue
        if group:
            yield _row(path, called, key, group, entry)


def _key(name: str) -> str:
    """Everything before the first dot of the file's name (WebDataset's rule)."""
    folder, _, last = name.rpartition("/")
    stem = last.split(".", 1)[0]
    return f"{folder}/{stem}" if folder else stem


def _row(path: Path, called: str, key: str, group: dict[str, tuple[int, int]], entry: Speech) -> Row:
    audio = next(
        (where for ending, where in group.items() if PurePosixPath(f"x{ending}").suffix in AUDIO_SUFFIXES), None
    )
    base = Row(id=f"{called}/{key}", audio=str(path))
    try:
        value = _described(path, group)
    except SaladError as error:
        return base.broken(f"{path}: {key}: {error}")
    if audio is None:
        return base.broken(f"{path}: {key} has no audio beside {', '.join(group)}; expected <key>.mp3 or the like")
    name = label(pick(value, "", ("id", "_id"))) or base.id
    recording, separator, number = name.rpartition("_W")
    follows = separator and number.isdecimal()
    return Row(
        id=name,
        audio=str(path),
        part=("bytes", *audio),
        text=pick(value, entry.text_field, TEXT_FIELDS),
        duration_s=float(value["duration"]) if isinstance(value.get("duration"), (int, float)) else None,
        speaker=label(pick(value, entry.speaker_field, SPEAKER_FIELDS)),
        recording=str(pick(value, entry.recording_field, ()) or (recording if follows else "")),
        licence=str(value.get("license") or ""),
        language=str(value.get("language") or ""),
    )


def _described(path: Path, group: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """The fields of a key: its .json, or {"text": its .txt or .lab}."""
    for ending in (".json", ".txt", ".lab"):
        if ending not in group:
            continue
        offset, size = group[ending]
        if size > MAX_JSON_BYTES:
            raise SaladError(f"its {ending} holds {size} bytes, expected a description of one recording")
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(size).decode("utf-8", "surrogateescape")
        if ending != ".json":
            return {"text": data}
        try:
            value = json.loads(data)
        except ValueError as error:
            raise SaladError(f"its .json is not JSON ({error})") from None
        if not isinstance(value, dict):
            raise SaladError("its .json is not an object")
        return value
    raise SaladError(f"has no .json or .txt beside {', '.join(group)}")
