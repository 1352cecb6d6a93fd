"""Small files of text that the user brings (corpus.local_text)."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from salad.types import Document, SaladError

__all__ = ["read_local_text"]


def read_local_text(paths: Iterable[Path]) -> list[Document]:
    """Documents from .jsonl files ({text, id?, domain?} a line) or plain text (paragraphs parted by empty lines)."""
    documents = []
    for path in paths:
        try:
            raw = unicodedata.normalize("NFC", path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SaladError(f"corpus.local_text: {path} does not exist") from None
        except UnicodeDecodeError as error:
            raise SaladError(f"corpus.local_text: {path} is not UTF-8 ({error}); convert it") from None
        if path.suffix == ".jsonl":
            documents += [_row(path, n, line) for n, line in enumerate(raw.split("\n"), 1) if line.strip()]
        else:
            blocks = [" ".join(block.split()) for block in raw.split("\n\n") if block.strip()]
            documents += [Document(f"{path.stem}-{n:06d}", text, str(path)) for n, text in enumerate(blocks)]
    return documents


def _row(path: Path, number: int, line: str) -> Document:
    try:
        row = json.loads(line)
        text = " ".join(row["text"].split())
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise SaladError(
            f'corpus.local_text: {path} line {number}: expected {{"text": ...}}, got {line[:60]!r}'
        ) from error
    return Document(str(row.get("id", f"{path.stem}-{number:06d}")), text, str(path), str(row.get("domain", "")))
