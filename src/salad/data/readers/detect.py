"""What kind of data lies at a path: told from what the files hold, not from how they are called."""

from __future__ import annotations

import glob
import gzip
import json
import os
import re
import zlib
from pathlib import Path
from typing import Any

from salad.config import Corpus
from salad.data.readers.rows import AUDIO_FIELDS, AUDIO_SUFFIXES, decode_text
from salad.data.readers.table import names_audio
from salad.files import read_json
from salad.types import SaladError

__all__ = ["FORMATS", "check_places", "find_files", "kind_of", "walk"]

FORMATS = ("shar", "lhotse", "webdataset", "parquet", "arrow", "nemo", "table", "folder")  # first match wins
SIDECARS = {".txt", ".lab"}
TAR_MARK = slice(257, 262)  # where POSIX tars say "ustar"
HEAD_BYTES = 1 << 16
NOT_DATA = {"__MACOSX", "@eaDir"}  # what a Mac's zip or a disk station puts beside
MAX_LISTS = 2  # texts in a folder that belong to no recording and may be a table of them


def check_places(settings: Corpus) -> None:
    """Raises SaladError where a path of `corpus` names nothing: before anything large is fetched, or read."""
    places = [("speech", path) for entry in settings.speech for path in (entry.path, entry.audio_root)]
    places += [("speech_folders", path) for path in settings.speech_folders]
    places += [("text", entry.path) for entry in settings.text]
    places += [("local_text", path) for path in settings.local_text]
    for kind, path in places:
        if path and not path.exists() and next(glob.iglob(str(path), recursive=True), None) is None:
            raise SaladError(f"corpus.{kind}: {path} does not exist; check the path, or put the data there")


def find_files(
    path: Path, wanted: str = "auto", split: str = "", fields: tuple[str, str] = ("", "")
) -> tuple[str, list[Path]]:
    """The format (one of FORMATS) and its files, in a fixed order. `wanted` other than auto forces the format.

    path: a file, a folder, or a pattern such as data/*.tar. In a folder of parquet, or that `datasets` saved, `split`
    picks the part; `fields` are the columns of audio and text that the user named. Raises
    SaladError where there is nothing, or nothing that is known.
    """
    if path.is_dir() and (saved := _saved_dataset(path, split)):
        return "arrow", saved
    files = walk(path)
    if not files:
        what = "holds no file" if path.exists() or glob.has_magic(str(path)) else "does not exist"
        raise SaladError(f"corpus: {path} {what}; check the path")
    by_format = _by_format(files, None if wanted == "table" else fields)
    if wanted != "auto":
        found = by_format.get(wanted) or [f for f in files if f.suffix.lower() not in AUDIO_SUFFIXES]
        if not found:
            raise SaladError(f"corpus: {path} holds no file of format {wanted}; found {_summary(by_format)}")
        return wanted, _split(found, split) if wanted == "parquet" else found
    for name in FORMATS:
        found = by_format.get(name, [])
        if name == "nemo" and len(found) > 1 and path.is_dir():
            raise SaladError(
                f"corpus: {path} holds several manifests ({_names(found)}); give the path of one, or a pattern"
            )
        if found:
            return name, _split(found, split) if name == "parquet" else found
    raise SaladError(
        f"corpus: {path} is of no known format (found {_summary(by_format)}); expected one of {', '.join(FORMATS)}, "
        "or say which with `format:`"
    )


def _by_format(files: list[Path], fields: tuple[str, str] | None) -> dict[str, list[Path]]:
    """Files by format. Of files with the same ending only the first that is not empty is opened.

    With `fields`, a table beside recordings counts only where it names recordings.
    """
    kinds: dict[str, str] = {}
    found: dict[str, list[Path]] = {}
    for path in files:
        ending = "".join(path.suffixes[-2:]).lower() if path.suffix == ".gz" else path.suffix.lower()
        if ending in AUDIO_SUFFIXES:
            kind = "folder"
        elif ending in SIDECARS and len(files) > 1 and not path.name.startswith("metadata"):
            kind = "text"
        else:
            if kinds.get(ending, "empty") == "empty":
                kinds[ending] = kind_of(path)
            kind = kinds[ending]
        found.setdefault(kind, []).append(path)
    if found.get("lhotse") and found.get("webdataset"):
        cuts = [p for p in found["lhotse"] if p.name.startswith("cuts.")]
        if cuts and any(p.name.startswith("recording.") for p in found["webdataset"]):
            found["shar"] = cuts
    if found.get("folder") and fields is not None:  # a page or a list that lies beside recordings does not hide them
        pages = found.pop("table", [])
        for path in pages or _lists(found["folder"], found.get("text", [])):
            if names_audio(path, *fields):
                found.setdefault("table", []).append(path)
            elif pages:
                found.setdefault("text", []).append(path)
    tables = found.get("table", [])
    if len(tables) > 1:  # an audiofolder may hold metadata.csv in every folder; other tables beside it are not its own
        found["table"] = [p for p in tables if p.stem == "metadata"] or tables
    return found


def _lists(recordings: list[Path], texts: list[Path]) -> list[Path]:
    """Texts that may be a table of the recordings; none where a recording has a text of its own name."""
    stems = {path.with_suffix("") for path in recordings}
    by_folder: dict[Path, list[Path]] = {}
    for text in texts:
        if text.with_suffix("") in stems:
            return []
        by_folder.setdefault(text.parent, []).append(text)
    return [text for group in by_folder.values() if len(group) <= MAX_LISTS for text in group]


def kind_of(path: Path) -> str:
    """parquet, arrow, webdataset (a tar), folder (audio), lhotse, nemo, table, json, text or empty."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    if head[:2] == b"\x1f\x8b":
        try:
            with gzip.open(path) as file:
                head = file.read(HEAD_BYTES)
        except (EOFError, OSError, zlib.error):
            head = _readable_part(path)
        if head[TAR_MARK] == b"ustar":
            raise SaladError(
                f"corpus: {path} is a compressed tar, in which nothing can be found quickly; gunzip it first"
            )
    if not head.strip():
        return "empty"
    if head[:4] == b"PAR1":
        return "parquet"
    if head[:4] == b"\xff\xff\xff\xff" or head[:6] == b"ARROW1":
        return "arrow"
    if head[TAR_MARK] == b"ustar":
        return "webdataset"
    if (
        head[:4] in (b"RIFF", b"fLaC", b"OggS", b"FORM", b".snd", b"\x1aE\xdf\xa3")
        or head[:3] == b"ID3"
        or head[:5] == b"#!AMR"
        or head[:4] == b"\x30\x26\xb2\x75"
        or (head[4:8] == b"ftyp" or (head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[:2] != b"\xff\xfe"))
    ):
        return "folder"
    text = decode_text(head).lstrip()
    if re.match(r"\[\s*\{", text):  # a JSON array, on one line or many
        return _kind_of_object(path, {key: None for key in (*AUDIO_FIELDS, "supervisions") if f'"{key}"' in text})
    return _kind_of_line(path, text.split("\n", 1)[0])


def _kind_of_line(path: Path, line: str) -> str:
    if line.startswith("{"):
        try:
            value = json.loads(line)
        except ValueError:  # longer than the head, or one object over many lines
            value = {key: None for key in ("supervisions", "audio_filepath", "file_name") if f'"{key}"' in line}
        return _kind_of_object(path, value)
    for delimiter in ("\t", "|", ",", ";"):
        if len(line.split(delimiter)) > 1:
            return "table"
    return "text"


def _kind_of_object(path: Path, value: dict[str, Any]) -> str:
    if "supervisions" in value or str(value.get("type", "")).endswith("Cut"):
        return "lhotse"
    if "audio_filepath" in value:
        return "nemo"
    if "file_name" in value:
        return "table"
    if ("sources" in value and "sampling_rate" in value) or {"recording_id", "channel"} <= value.keys():
        raise SaladError(f"corpus: {path} is a Lhotse manifest of recordings or supervisions; make cuts of both first")
    return "json"


def _readable_part(path: Path) -> bytes:
    """What a damaged gzip file still gives."""
    unpack = zlib.decompressobj(31)
    try:
        return unpack.decompress(path.read_bytes()[:HEAD_BYTES], HEAD_BYTES)
    except zlib.error:
        return b""


def _saved_dataset(path: Path, split: str) -> list[Path]:
    """The files of what `datasets` wrote by save_to_disk; [] where `path` is not that."""
    if (path / "dataset_dict.json").exists():
        splits = read_json(path / "dataset_dict.json")["splits"]
        if split not in splits:
            raise SaladError(
                f"corpus: {path} has the splits {splits}, but split is {split!r}; set `split:` to one of them"
            )
        path = path / split
    state = path / "state.json"
    if not state.exists():
        return []
    return [path / Path(row["filename"]).name for row in read_json(state)["_data_files"]]


def walk(path: Path) -> list[Path]:
    """Files of a folder (hidden ones left out), of a pattern, or the file itself; [] where there is nothing.

    Links to folders are followed, each folder once.
    """
    if not path.exists() and glob.has_magic(str(path)):
        return [Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if os.path.isfile(p)]
    if not path.is_dir():
        return [path] if path.exists() else []
    found, seen = [], set()
    for root, folders, names in os.walk(path, followlinks=True):
        state = os.stat(root)
        if (state.st_dev, state.st_ino) in seen:
            folders[:] = []
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in NOT_DATA)
        found += [Path(root) / name for name in sorted(names) if not name.startswith(".")]
    return found


def _split(files: list[Path], split: str) -> list[Path]:
    """Files that name the split (train-00000-of-00002.parquet, train/...); all where none does."""
    return [f for f in files if split and (f.name.startswith(split) or f.parent.name == split)] or files


def _summary(by_format: dict[str, list[Path]]) -> str:
    return ", ".join(f"{len(files)} {kind}" for kind, files in by_format.items())


def _names(files: list[Path]) -> str:
    return ", ".join(f.name for f in files[:4]) + (" ..." if len(files) > 4 else "")
