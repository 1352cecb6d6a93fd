"""Results and their files: a frozen dataclass as JSON, and JSON as a dataclass, every field checked at the door."""

from __future__ import annotations

import functools
from dataclasses import field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from salad.files import read_json, read_jsonl
from salad.types import SaladError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def null() -> Any:
    """Default of a dataclass' field: None, which its file tells as null. Any other field that is None by default is
    left out of the file where it is None."""
    return field(default=None, metadata={"null": True})


def to_json(value: Any) -> Any:
    """A value in JSON's own types: dataclasses as objects by their fields' names, NumPy's numbers as numbers, paths as
    text. NaN and infinity stay."""
    if is_dataclass(value) and not isinstance(value, type):
        told = [(one.name, getattr(value, one.name), one.default is None and not one.metadata) for one in fields(value)]
        return {name: to_json(item) for name, item, silent in told if not (silent and item is None)}
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def from_json(kind: type[T], value: object, where: str | Path) -> T:
    """`value` as a dataclass, or as a list or mapping of them; keys that it does not know are left out.

    Raises SaladError that names `where` and the first field that is missing or of another type.
    """
    from pydantic import ValidationError

    try:
        found: T = _reader(cast(Any, kind)).validate_python(value)
        return found
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or getattr(kind, "__name__", str(kind))
        what = first["msg"][:1].lower() + first["msg"][1:]
        raise SaladError(f"{where}: {name}: {what}, got {first['input']!r:.60}; correct it, or make it again") from None


def read_record(kind: type[T], path: str | Path) -> T:
    """A JSON file as a dataclass; see `from_json`."""
    return from_json(kind, read_json(path), path)


def read_records(kind: type[T], path: str | Path) -> list[T]:
    """Every line of a file of JSON lines as a dataclass; see `from_json`."""
    return [from_json(kind, row, f"{path} object {number}") for number, row in enumerate(read_jsonl(path), 1)]


@functools.cache
def _reader(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
