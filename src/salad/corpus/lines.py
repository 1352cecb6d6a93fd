"""Lines of a manifest, plain or gzipped, with what is broken named and the rest still read."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from salad.corpus.rows import Row
from salad.types import SaladError

__all__ = ["broken_file", "read_json_rows", "read_lines"]


def read_lines(path: Path) -> Iterator[str]:
    """Lines without their ends; bytes that are not UTF-8 become lone surrogates (see `check_text`).

    Raises SaladError where a gzip file is cut in the middle, after the lines that are whole.
    """
    try:
        with open(path, "rb") as raw:
            file = gzip.open(raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw
            for line in file:
                yield line.decode("utf-8", "surrogateescape").rstrip("\r\n")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SaladError(f"{path}: is cut off or damaged in the middle ({error}); copy it again") from None
    except OSError as error:
        raise SaladError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None


def read_json_rows(path: Path, make: Callable[[dict[str, Any], str], Iterator[Row]]) -> Iterator[Row]:
    """The rows that `make(object, name of the line)` gives for every line of JSON; a broken line has a problem."""
    number = 0
    try:
        for number, line in enumerate(read_lines(path), 1):
            name = f"{path.name}:{number}"
            if not line.strip():
                continue
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


def broken_file(path: Path, reason: str) -> Row:
    """A row that stands for what a broken manifest or archive no longer gives."""
    return Row(id=f"{path.name} (the file)", audio=str(path), problem=reason)
