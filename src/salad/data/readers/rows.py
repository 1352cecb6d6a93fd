"""What every reader gives: plain rows that say where the audio lies, never the audio itself."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from salad.audio import read_audio, to_samples
from salad.config import Speech
from salad.data.readers.columns import read_cell
from salad.files import JsonObject, json_lines, lies_in
from salad.types import SaladError

# The first is taken where a name without its ending could be of several.
AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".webm", ".aiff", ".aif", ".au",
    ".aac", ".aifc", ".amr", ".caf", ".m4b", ".mka", ".mov", ".mp2", ".rf64", ".sph", ".w64", ".wma", ".3gp",
    ".ac3", ".ape", ".dsf", ".ra", ".spx", ".tta", ".wv",  # not decoded here: named, row by row, and not passed over
)  # fmt: skip
TEXT_FIELDS = ("text", "sentence", "transcription", "transcript", "normalized_text", "raw_text", "raw_transcription")
AUDIO_FIELDS = ("audio_filepath", "audio", "file_name", "path", "file", "wav", "audio_path", "filename")
SPEAKER_FIELDS = ("speaker", "speaker_id", "client_id", "spk")
STARTS, ENDS = ("start", "start_time", "begin_time"), ("end", "end_time")  # of a row in its recording, in seconds
LICENCE_FIELDS = ("license", "licence")
LANGUAGE_FIELDS = ("lang", "language", "locale")
ROUNDED_S = 1.0  # so much longer than a row tells may its file be, whose seconds somebody rounded
WHOLE_S = 0.01  # a row that ends so close to its file's end is all of it
CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # no text: espeak takes what stands behind some for orders
LONGEST_S = 1e9  # no recording lasts thirty years
# What a value of a wrong kind may raise in a reader, or in Lhotse: it costs its row, not the manifest.
BAD_ROW = (ValueError, KeyError, IndexError, TypeError, AttributeError, ArithmeticError, AssertionError, RecursionError)


@dataclass(frozen=True)
class Row:
    """One stretch of recorded speech with its text, as a manifest names it.

    audio: the file that holds it ("": a text without a recording). part: () for the file itself; ("bytes", offset,
    size) for a member of a tar; ("parquet", row_group, row, column) or ("arrow", row, column) for a cell. offset_s and
    duration_s (None: to the end) are within that audio, which lasts file_s at sample_rate_hz (None: nobody says).
    recording: the book or long recording it is a part of ("": it stands alone), in which it starts at start_s (None:
    unknown, the order of the manifest counts). words: (text, start_s, end_s[, score]) from the row's start.
    problem: why the row cannot be used ("": it can, as far as the manifest tells).
    """

    id: str
    audio: str = ""
    text: str = ""
    part: tuple[Any, ...] = ()
    offset_s: float = 0.0
    duration_s: float | None = None
    file_s: float | None = None
    sample_rate_hz: int | None = None
    channel: int | None = None
    speaker: str = ""
    recording: str = ""
    start_s: float | None = None
    licence: str = ""
    language: str = ""
    source: str = ""
    document_id: str = ""
    domain: str = ""
    words: tuple[tuple[Any, ...], ...] = ()
    score: float | None = None
    problem: str = ""

    def broken(self, problem: str) -> Row:
        return replace(self, problem=problem)

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its audio, as far as the manifest tells."""
        ends = self.duration_s is None or (self.file_s is not None and self.duration_s >= self.file_s - WHOLE_S)
        return ends and not self.offset_s


def to_row(values: JsonObject) -> Row:
    """The row of its fields, after JSON made lists of tuples; those that are left out are as they are by default."""
    part, words = tuple(values.get("part", ())), tuple(map(tuple, values.get("words", ())))
    return Row(**{**values, "part": part, "words": words})


def number(value: Any) -> float | None:
    """A manifest's number (infinity where it is too large for a float); None where it is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def times_fault(row: Row) -> str:
    """What is wrong with a row's times, "" where nothing is."""
    for name, value in (("offset", row.offset_s), ("duration", row.duration_s), ("start", row.start_s),
                        ("length", row.file_s), ("score", row.score)):  # fmt: skip
        if value is not None and not _is_time(value):
            return f"{name}: {value!s:.40}, expected a finite number below {LONGEST_S:g}"
    if row.duration_s is not None and not row.duration_s > 0:
        return f"duration: {row.duration_s} s, expected more than 0"
    if row.offset_s < 0:
        return f"offset: {row.offset_s} s, expected 0 or more"
    if not all(_is_time(time) for word in row.words for time in word[1:3]):
        return "words: a time that is not finite; align again"
    return ""


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < LONGEST_S


def check_text(value: Any) -> str:
    """The text with single spaces, in composed form (NFC). Raises SaladError where it is missing or not UTF-8.

    Readers decode with "surrogateescape": a byte that is not UTF-8 arrives as a lone surrogate and is found here.
    """
    if value is None or not isinstance(value, str):
        raise SaladError(f"text: expected a string, got {value!r:.60}; write what is said in the recording")
    if re.search("[\ud800-\udfff]", value):
        raise SaladError(f"text: is not UTF-8 ({value.encode('utf-8', 'backslashreplace')[:60]!r}); convert the file")
    text = unicodedata.normalize("NFC", " ".join(CONTROL.sub(" ", value).split()))
    if not text:
        raise SaladError("text: is missing or empty; write what is said in the recording")
    return text


def decode_text(data: bytes) -> str:
    """Text of a file: UTF-8, or UTF-16 where a byte order mark says so; what is neither, `check_text` finds."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "backslashreplace")
    return data.decode("utf-8-sig", "surrogateescape")


def utf8(value: str) -> str:
    """A string that can be written down; bytes of a name that are not UTF-8 are spelled out."""
    return value.encode("utf-8", "backslashreplace").decode()


def locate(name: Any, root: Path, trusted: bool, within: Path | None = None) -> str:
    r"""The path that a manifest names from `root`. Raises SaladError where it leads out of `within`, unless `trusted`.

    within: default, `root`. By name, not by following links: a link inside the folder was put there by its owner. A
    path as Windows writes it (clips\a.wav) is taken for one of folders, unless a file is called so.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise SaladError(f"audio: expected the path of a file, got {name!r:.60}")
    base, home = os.path.abspath(root), os.path.abspath(within or root)
    if os.sep == "/" and "\\" in name and not os.path.exists(os.path.join(base, name)):
        name = name.replace("\\", "/")
    path = os.path.normpath(os.path.join(base, name))
    if not trusted and not lies_in(path, home):
        raise SaladError(
            f"audio: {name!r} lies outside {home}; set audio_root to the folder that holds the audio, "
            "or trusted: true (--trusted) if you know who wrote the manifest"
        )
    return path if path.isascii() else spelled(path, base)


def spelled(path: str, base: str) -> str:
    """The path as the disk spells it: a Mac decomposes the letters of names (NFD), others compose them (NFC)."""
    if os.path.lexists(path) or not path.startswith(base + os.sep):
        return path
    found = base
    for part in path[len(base) + 1 :].split(os.sep):
        forms = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        there = (own for form in forms if os.path.lexists(own := os.path.join(found, form)))
        found = next(there, os.path.join(found, part))
    return found


def with_path(row: Row, given: Any, folder: Path, entry: Any, within: Path | None = None) -> Row:
    """The row with the path that its manifest in `folder` gives, or with what is wrong with that path."""
    try:
        root = entry.audio_root or folder
        return replace(row, audio=locate(given, root, entry.trusted, None if entry.audio_root else within))
    except SaladError as error:
        return row.broken(str(error))


def part_of_file(row: Row, value: JsonObject, called: str, before: str = "") -> Row:
    """The row with the `offset` and `duration` of NeMo, in seconds: with an offset it is a part of its file `called`.

    Without a duration, `end` less `start` is it (also end_time, start_time). Raises SaladError where one of them is no
    number.
    """
    offset_s, duration_s = _seconds(value, "offset"), _seconds(value, "duration")
    end = next((name for name in ENDS if label(value.get(name))), "")
    if duration_s is None and end:
        begins = (_seconds(value, name) for name in STARTS)
        offset_s = next((begin for begin in (offset_s, *begins) if begin is not None), 0.0)
        duration_s = (_seconds(value, end) or 0.0) - offset_s
    if offset_s is None:
        return replace(row, duration_s=duration_s, file_s=duration_s)
    return replace(
        row,
        id=label(value.get("id")) or f"{before}{called}@{offset_s:.3f}",
        offset_s=offset_s,
        duration_s=duration_s,
        recording=row.recording or before + called,
        start_s=offset_s,
    )


def _seconds(value: JsonObject, field: str) -> float | None:
    given = value.get(field)
    if given is None or given == "":
        return None
    try:
        return float(given)
    except (ValueError, TypeError, OverflowError):
        why = "expected seconds as a number; correct it, or leave the field out"
        raise SaladError(f"{field}: {given!r:.40}, {why}") from None


def read_json_rows(path: Path, make: Callable[[JsonObject, str], Iterator[Row]]) -> Iterator[Row]:
    """The rows that `make(object, name of the line)` gives for every line of JSON; a broken line has a problem."""
    try:
        for where, value in json_lines(path):
            name = f"{path.name}:{where.rpartition(' ')[2]}"
            try:
                if not isinstance(value, dict):
                    known = isinstance(value, SaladError)
                    raise value if known else SaladError(f"expected a JSON object, got {value!r:.60}")
                yield from make(value, name)
            except BAD_ROW as error:
                reason = str(error) if isinstance(error, SaladError) else f"a field is not as expected: {error!r:.120}"
                reason = reason if error is value else f"{path} {where}: {reason}"
                yield Row(id=name, audio=str(path), problem=reason)
    except SaladError as error:
        yield broken_file(path, str(error))


def broken_file(path: Path, reason: str) -> Row:
    """A row that stands for what a broken manifest or archive no longer gives."""
    return Row(id=f"{path.name} (the file)", audio=str(path), problem=reason)


def pick(row: JsonObject, wanted: str, known: tuple[str, ...]) -> Any:
    """The value of field `wanted` ("a.b", or else b in a), or of the first of `known` that is there; else None."""
    if wanted and wanted in row:
        return row[wanted]
    if wanted:
        value: Any = row
        for key in wanted.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value
    return next((row[name] for name in known if row.get(name) is not None), None)


def licence_of(row: JsonObject) -> str:
    """The licence that a row names, by any spelling; "" for none."""
    return _first_name(row, LICENCE_FIELDS)


def described(value: JsonObject, entry: Speech, name: str) -> Row:
    """What an object of any layout tells of its recording: all that does not depend on where the audio lies.

    name: its id where it tells none.
    """
    return Row(
        id=label(value.get("id")) or name,
        text=pick(value, entry.text_field, TEXT_FIELDS),
        speaker=label(pick(value, entry.speaker_field, SPEAKER_FIELDS)),
        recording=label(pick(value, entry.recording_field, ())),
        licence=licence_of(value),
        language=language_of(value),
        source=_first_name(value, ("source",)),
    )


def lasting(row: Row, value: JsonObject) -> Row:
    """The row with the length that is told of audio which is all its own; 0 or less is none: the audio tells it."""
    told_s = number(value.get("duration", value.get("audio_duration")))
    duration_s = told_s if told_s is None or told_s > 0 else None
    return replace(row, duration_s=duration_s, file_s=duration_s)


def language_of(row: JsonObject) -> str:
    """The language that a row names, by any spelling; "" for none, and for a number of a list that is not there."""
    return _first_name(row, LANGUAGE_FIELDS)


def _first_name(row: JsonObject, fields: tuple[str, ...]) -> str:
    return next((value for name in fields if isinstance(value := row.get(name), str) and value), "")


def label(value: Any) -> str:
    """A name or number as a string; "" for what is none, and for nan, which is what a table puts for no number."""
    return str(value) if isinstance(value, (str, int, float)) and value == value else ""


def labels(files: Sequence[Path]) -> list[str]:
    """A name for each file that no other has: the name without its ending, numbered where two are alike."""
    stems = [path.name.split(".", 1)[0] for path in files]
    times = Counter(stems)
    return [stem if times[stem] == 1 else f"{stem}-file{n}" for n, stem in enumerate(stems)]


def read_row(row: Row, sample_rate_hz: int, *, max_s: float, until_s: float | None = None) -> Any:
    """float32 [num_samples], mono, of the row's audio; `until_s` reads on to another end (seconds in the same audio).

    A row that is all of its audio is read to the end: the length that it tells may be rounded. A file that goes on for
    more than ROUNDED_S is cut where the row says, as NeMo does. Raises SaladError where it cannot be read, or lasts
    less than the manifest says.
    """
    source, name = source_of(row)
    wanted = row.duration_s if until_s is None else until_s - row.offset_s
    asked = wanted
    if wanted is not None and until_s is None and row.is_whole and wanted <= max_s:
        asked = (min(max_s, LONGEST_S) if row.part else wanted) + ROUNDED_S
        max_s = max_s if row.part else max_s + ROUNDED_S
    samples, _ = read_audio(
        source, sample_rate_hz, offset_s=row.offset_s, duration_s=asked, channel=row.channel, max_s=max_s, name=name
    )
    if asked != wanted and not row.part and len(samples) / sample_rate_hz > (wanted or 0.0) + ROUNDED_S - WHOLE_S:
        samples = samples[: to_samples(wanted or 0.0, sample_rate_hz)]
    if wanted is not None and wanted - len(samples) / sample_rate_hz > max(0.1, 0.02 * wanted):
        raise SaladError(
            f"audio: {name} lasts {len(samples) / sample_rate_hz:.2f} s from {row.offset_s:.2f} s on, but the manifest "
            f"says {wanted:.2f} s; is it cut off?"
        )
    return samples


def source_of(row: Row) -> tuple[str | bytes, str]:
    """Where the bytes of its audio are to be had: a path or the bytes themselves; and a name for messages."""
    if not row.part:
        return row.audio, row.audio
    kind, *where = row.part
    name = f"{row.audio} ({row.id})"
    if kind == "bytes":
        offset, size = where
        try:
            with open(row.audio, "rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise SaladError(f"audio: {row.audio} cannot be opened ({error.strerror}); check the path") from None
        if len(data) < size:
            raise SaladError(f"audio: {name} is cut off: {len(data)} of {size} bytes are there; copy the file again")
        return data, name
    return read_cell(row.audio, row.part, name), name
