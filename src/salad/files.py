"""Files that are whole or absent: atomic writes, JSON lines, hashes."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = [
    "existing",
    "lies_in",
    "read_json",
    "read_jsonl",
    "sha256_file",
    "sha256_json",
    "write_json",
    "write_jsonl",
    "write_text",
]


def write_text(path: str | Path, text: str) -> None:
    """Write aside, flush to disk, rename: a reader sees the old file or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(aside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line.strip()]


def existing(path: str | Path) -> str | Path:
    """The path, or the same with its accents in Unicode's other form (NFC, NFD) where only that is there.

    Names of files made on a Mac may come in NFD, and what names them in NFC, or the reverse.
    """
    if os.path.lexists(path):
        return path
    at = ""
    for part in Path(path).parts:
        forms = (os.path.join(at, form) for form in (part, *(unicodedata.normalize(f, part) for f in ("NFC", "NFD"))))
        found = next((form for form in forms if os.path.lexists(form)), None)
        if found is None:
            return path
        at = found
    return type(path)(at)


def lies_in(path: str | Path, folder: str | Path) -> bool:
    """Whether a path stays inside a folder, by name; a link inside it was put there by its owner."""
    base = os.path.abspath(folder)
    return os.path.commonpath([base, os.path.abspath(path)]) == base


def sha256_file(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Fingerprint of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
