"""Lines of a manifest, plain or gzipped, with what is broken named and the rest still read."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from salad.data.readers.rows import Row
from salad.types import SaladError

__all__ = ["broken_file", "read_json_rows", "read_lines"]


def read_lines(path: Path) -> Iterator[str]:
    """Lines without their ends; bytes that are not UTF-8 become lone surrogates (see `check_text`).

    A byte order mark is left out, and says where a file is UTF-16 (Excel's "Unicode text"). Raises SaladError where
    a gzip file is cut in the middle, after the lines that are whole.
    """
    try:
        with open(path, "rb") as raw:
            file = gzip.open(raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw
            for number, line in enumerate(_utf8_lines(file)):
                text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
                yield text if number else text.removeprefix("\ufeff")
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeError) as error:
        raise SaladError(f"{path}: is cut off or damaged in the middle ({error}); copy it again") from None
    except OSError as error:
        raise SaladError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None


def _utf8_lines(file: IO[bytes]) -> Iterator[bytes]:
    if file.peek(2)[:2] not in (b"\xff\xfe", b"\xfe\xff"):  # type: ignore[attr-defined]
        yield from file
        return
    for line in io.TextIOWrapper(file, "utf-16", newline="\n"):
        yield line.encode()


def read_json_rows(path: Path, make: Callable[[dict[str, Any], str], Iterator[Row]]) -> Iterator[Row]:
    """The rows that `make(object, name of the line)` gives for every line of JSON; a broken line has a problem.

    A file that is one JSON array is read whole, and its objects are the rows.
    """
    number = 0
    try:
        for number, line in enumerate(read_lines(path), 1):
            name = f"{path.name}:{number}"
            if not line.strip():
                continue
            if number == 1 and line.lstrip().startswith("["):
                yield from _array_rows(path, make)
                return
            try:
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise SaladError(f"expected a JSON object, got {line[:60]!r}")
                yield from make(value, name)
            except (SaladError, ValueError, KeyError, TypeError, AttributeError) as error:
                reason = str(error) if isinstance(error, SaladError) else f"expected one JSON object: {error!r}"
                yield Row(id=name, audio=str(path), problem=f"{path} line {number}: {reason}")
    except SaladError as error:
        yield broken_file(path, f"{error} (after {number} lines)")


def _array_rows(path: Path, make: Callable[[dict[str, Any], str], Iterator[Row]]) -> Iterator[Row]:
    try:
        values = json.loads("\n".join(read_lines(path)))
    except ValueError as error:
        raise SaladError(f"{path}: is not whole JSON ({error}); is it cut off? Copy it again") from None
    for number, value in enumerate(values, 1):
        try:
            if not isinstance(value, dict):
                raise SaladError(f"expected a JSON object, got {value!r:.60}")
            yield from make(value, f"{path.name}:{number}")
        except (SaladError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = str(error) if isinstance(error, SaladError) else f"expected a JSON object of a row: {error!r}"
            yield Row(id=f"{path.name}:{number}", audio=str(path), problem=f"{path} item {number}: {reason}")


def broken_file(path: Path, reason: str) -> Row:
    """A row that stands for what a broken manifest or archive no longer gives."""
    return Row(id=f"{path.name} (the file)", audio=str(path), problem=reason)
