"""WebDataset tars: audio with a .json or .txt of the same key, as Emilia ships them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from salad.config import Speech
from salad.data.readers.rows import (
    AUDIO_SUFFIXES,
    TEXT_FIELDS,
    Row,
    broken_file,
    decode_text,
    described,
    label,
    labels,
    lasting,
    pick,
)
from salad.files import JsonObject
from salad.types import SaladError

MAX_JSON_BYTES = 1 << 20
SCANNED = 1 << 20  # bytes at once, behind an end mark
DESCRIPTIONS = (".json", ".txt", ".lab")  # the text is of the first that holds one

Members = dict[str, tuple[int, int]]  # ending -> where its bytes begin, how many


def tar_members(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, where its bytes begin, how many) of every file in an uncompressed tar.

    Raises SaladError where the tar is missing, compressed, or cut in the middle, after the members that are whole.
    """
    try:
        size = path.stat().st_size
        start: int | None = 0
        with open(path, "rb") as file:
            while start is not None:  # tars may have been joined one behind the other
                file.seek(start)
                tar = tarfile.open(fileobj=file, mode="r:")
                for member in tar:
                    if member.isfile():
                        if member.offset_data + member.size > size:
                            raise SaladError(f"{path}: is cut off in the middle of {member.name}; copy it again")
                        yield member.name, member.offset_data, member.size
                    cast(Any, tar).members = []  # else every member ever read is kept
                begun, start = start, _next_archive(file, tar.offset)
                if start == begun:
                    raise tarfile.ReadError(f"what stands behind its end mark, at byte {start}, is none")
        if not _ends_well(path, size):
            raise SaladError(f"{path}: has no end mark, so it is cut off; copy it again")
    except tarfile.TarError as error:
        raise SaladError(f"{path}: is not a whole, uncompressed tar ({error}); unpack or copy it again") from None
    except OSError as error:
        raise SaladError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None


def _next_archive(file: BinaryIO, start: int) -> int | None:
    """Where the next block that is not empty begins; None where there is none."""
    file.seek(start)
    while block := file.read(SCANNED):
        if rest := block.lstrip(b"\0"):
            return start + (len(block) - len(rest)) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        start += len(block)
    return None


def _ends_well(path: Path, size: int) -> bool:
    """A whole tar ends with blocks of zeros."""
    with open(path, "rb") as file:
        file.seek(max(0, size - 512))
        return file.read(512).strip(b"\0") == b""


def read_webdataset(files: list[Path], entry: Speech) -> Iterator[Row]:
    """One row for each key: a member's name up to the first dot, wherever in the tar its other members lie.

    Where several recordings would share a key, the names have dots of their own, and a key goes up to the last dot.
    k.audio.flac and k.transcript.txt, the only ones of their kinds, are one.
    Emilia's keys <recording>_W<number> tell which rows follow each other in one recording.
    """
    for path, called in zip(files, labels(files), strict=True):
        groups: dict[str, Members] = {}
        problems: list[Row] = []
        try:
            for name, offset, size in tar_members(path):
                key, ending = _parted(name)
                if key.rpartition("/")[2] == "" or ending in groups.setdefault(key, {}):
                    if not PurePosixPath(name).name.startswith("."):  # what a Mac puts beside
                        row = Row(id=f"{called}/{name} (again)", audio=str(path))
                        problems.append(row.broken(f"{path}: holds {name} twice; the first is read"))
                    continue
                groups[key][ending] = (offset, size)
        except SaladError as error:
            problems.append(broken_file(path, str(error)))
        for key, group in groups.items():
            for own, members in _samples(key, group):
                yield _row(path, called, own, members, entry)
        yield from problems


def _parted(name: str) -> tuple[str, str]:
    """A member's key, and its ending in small letters with the dot: parted at the first dot of the file's name."""
    folder, slash, last = name.rpartition("/")
    stem, dot, ending = last.partition(".")
    return folder + slash + stem, (dot + ending).lower()


def _samples(key: str, group: Members) -> Iterator[tuple[str, Members]]:
    """(key, members) of each sample of a group: one, unless there are recordings with dots in their names."""
    by_middle: dict[str, Members] = {}
    for ending, where in group.items():
        middle, dot, suffix = ending.rpartition(".")
        by_middle.setdefault(middle, {})[dot + suffix] = where
    recorded = [own for own in by_middle.values() if _audio(own)]
    shared = by_middle.get("", {})
    texts = [own for own in by_middle.values() if set(own) & set(DESCRIPTIONS)]
    if len(recorded) == 1 and len(texts) > 1 and not set(shared) & set(DESCRIPTIONS):
        yield key, group  # no text is its own more than another
        return
    if shared and len(recorded) < 2:
        merged = {ending: where for own in by_middle.values() for ending, where in own.items()}
        yield key, merged | shared | (recorded[0] if recorded else {})
        return
    common = {ending: where for ending, where in shared.items() if ending in DESCRIPTIONS}
    described = [own for own in by_middle.values() if set(own) & set(DESCRIPTIONS)]
    numbered = any(map(str.isdigit, "".join(by_middle)))  # u.1.flac and u.2.txt are two
    if len(recorded) == len(described) == 1 and recorded != described and not numbered:
        yield key, described[0] | recorded[0]  # k.audio.flac with k.transcript.txt
        return
    for middle, own in by_middle.items():
        if own is shared and not _audio(own):
            continue  # what describes the recordings, or lies beside them
        yield key + middle, own if own in described else common | own


def _audio(members: Members) -> tuple[int, int] | None:
    return next((where for ending, where in members.items() if ending in AUDIO_SUFFIXES), None)


def _row(path: Path, called: str, key: str, group: Members, entry: Speech) -> Row:
    audio = _audio(group)
    base = Row(id=f"{called}/{key}", audio=str(path))
    try:
        value, text = _described(path, group, entry.text_field)
    except SaladError as error:
        return base.broken(f"{path}: {key}: {error}")
    if audio is None:
        return base.broken(f"{path}: {key} has no audio beside {', '.join(group)}; expected <key>.mp3 or the like")
    name = label(pick(value, "", ("id", "_id"))) or base.id
    recording, separator, tail = name.rpartition("_W")
    follows = separator and tail.isdecimal()
    row = lasting(described(value, entry, base.id), value)
    recording = row.recording or (recording if follows else "")
    return replace(row, id=name, audio=str(path), part=("bytes", *audio), text=text, recording=recording)


def _described(path: Path, group: Members, text_field: str) -> tuple[JsonObject, Any]:
    """The fields of a key's .json, and its text: from there, or else its .txt or .lab."""
    found = [ending for ending in DESCRIPTIONS if ending in group]
    if not found:
        several = "; keep one text, by its name alone" if len(group) > 2 else ""
        raise SaladError(f"has no .json or .txt beside {', '.join(group)}{several}")
    value = _fields(_member(path, group, found.pop(0))) if found[0] == ".json" else {}
    text = pick(value, text_field, TEXT_FIELDS)
    if found and not str(text or "").strip():
        text = _member(path, group, found[0])
    return value, text


def _member(path: Path, group: Members, ending: str) -> str:
    offset, size = group[ending]
    if size > MAX_JSON_BYTES:
        raise SaladError(f"its {ending} holds {size} bytes, expected a description of one recording")
    with open(path, "rb") as file:
        file.seek(offset)
        return decode_text(file.read(size))


def _fields(data: str) -> JsonObject:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SaladError(f"its .json is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise SaladError("its .json is not an object")
    return value
