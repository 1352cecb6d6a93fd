"""Fingerprints of what a stage is made from: sections of the recipe, and files."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from salad.config import Recipe
from salad.data.readers.detect import walk
from salad.files import sha256_file, sha256_json

# They change no file of align, nor any frame; but `encode` (see stages/align.py), which older recipes do not have.
LOADING = {"sequence": ("features", "stream", "lanes", "buffer_shards", "encode")}
LIBRARIES = ("torch", "transformers", "lhotse", "ctranslate2", "onnxruntime", "piper-tts", "sentence-transformers")
READING = ("lhotse",)  # what it reads is looked at by itself: no word time that was found depends on it


def fingerprint(value: Any) -> str:
    """16 hex digits that follow from a value that JSON can hold."""
    return sha256_json(value)[:16]


def section(recipe: Recipe, name: str) -> Any:
    """A section of the recipe, or a setting at its top, as JSON; without what only says how training loads its data."""
    value = recipe.model_dump(mode="json", include={name})[name]
    without = LOADING.get(name, ())
    return {key: own for key, own in value.items() if key not in without} if without else value


def of_section(recipe: Recipe, name: str) -> str:
    return fingerprint(section(recipe, name))


def of_content(files: Iterable[Path]) -> str:
    """The fingerprint of files by their bytes, in the order given."""
    return fingerprint([[str(path), sha256_file(path)] for path in files])


def of_folder(folder: Path | None) -> str:
    """The fingerprint of all files in a folder by their bytes; "" for none."""
    return of_content(sorted(p for p in folder.rglob("*") if p.is_file())) if folder is not None else ""


def of_stamps(files: Iterable[Path]) -> str:
    """The fingerprint of files by their sizes and times: corpora are too large to read for it."""
    return fingerprint([_stamp(path) for path in files])


def of_user_data(recipe: Recipe) -> dict[str, str]:
    """Fingerprints of the user's files, and of how long a document of them may be; {} where there are none."""
    places = [data.path for data in recipe.corpus.user_data if data.path is not None]
    if not places:
        return {}
    length = {"stride": recipe.model.stride, "encoder": recipe.assets.encoder, "layouts": 2}  # of any number: one
    return {
        "length of documents": fingerprint({**section(recipe, "sequence"), **length}),
        "your data": of_stamps(path for place in places for path in walk(place)),
    }


def versions() -> dict[str, str]:
    """Of this package, Python and the libraries that decide results; what is not installed is left out."""
    versions = {"salad-speech": importlib.import_module("salad").__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _stamp(path: Path) -> list[Any]:
    state = path.stat() if path.exists() else path.lstat()  # a broken link is named by its reader
    return [str(path).encode("utf-8", "backslashreplace").decode(), state.st_size, state.st_mtime_ns]
