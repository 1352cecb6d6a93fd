"""What kind of data lies at a path: told from what the files hold, not from how they are called."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

from salad.config import Corpus
from salad.data.readers.rows import AUDIO_FIELDS, AUDIO_SUFFIXES, BAD_ROW, TEXT_FIELDS, decode_text
from salad.data.readers.splits import of_split
from salad.data.readers.table import names_audio
from salad.files import JsonObject, first_bytes, json_lines, read_json
from salad.types import SaladError

# The first that is there wins.
FORMATS = ("shar", "lhotse", "utterances", "webdataset", "parquet", "arrow", "nemo", "table", "folder")
SIDECARS = {".txt", ".lab"}
PACKED = {".gz", ".xz", ".bz2"}
PACKS = {b"\x28\xb5\x2f\xfd": "zstd", b"PK\3\4": "zip", b"7z\xbc\xaf": "7z", b"Rar!": "rar"}
NULS = 100  # one byte in so many may be 0 in a text
TAR_MARK = slice(257, 262)  # where POSIX tars say "ustar"
HEAD_BYTES = 1 << 16
NOT_DATA = {"__MACOSX", "@eaDir"}  # what a Mac's zip or a disk station puts beside
MAX_LISTS = 2  # texts in a folder that belong to no recording and may be a table of them
MAX_OPENED = 200  # files of one ending that may each be of another kind: manifests beside settings and results
AUDIO_MARK = re.compile(  # with what stands behind the letters, as prose may begin with FORM, RIFF or ID3, too
    rb"RIFF.{4}WAVE|FORM.{4}AIF[FC]|fLaC[\0\x80]|OggS\0|\.snd\0|ID3[\2-\4]|#!AMR[-_.\w]*\n|\x1aE\xdf\xa3|0&\xb2u"
    rb"|.{4}ftyp|\xff[\xe0-\xfd\xff]",  # the last is an MPEG frame; FF FE begins UTF-16
    re.DOTALL,
)
SAMPLE_LINES = 5  # of a manifest, of which the first may be damaged
NAMED = re.compile(rf'"({"|".join(AUDIO_FIELDS)})"\s*:\s*"([^"]*)"')
KEYS = ("supervisions", "num_samples", "sample_rate_hz", "audio_filepath", "file_name")  # that give a kind away


def check_places(settings: Corpus) -> None:
    """Raises SaladError where a path of `corpus` names nothing: before anything large is fetched, or read."""
    places = [("speech", path) for entry in settings.speech for path in (entry.path, entry.audio_root)]
    places += [("speech_folders", path) for path in settings.speech_folders]
    places += [(kind, entry.path) for kind in ("text", "plain_text") for entry in getattr(settings, kind)]
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
    if path.is_dir() and (saved := saved_dataset(path, split)):
        return "arrow", saved
    files = walk(path)
    if not files:
        what = "holds no file" if path.exists() or glob.has_magic(str(path)) else "does not exist"
        raise SaladError(f"corpus: {path} {what}; check the path")
    by_format = _by_format(files, None if wanted == "table" else fields)
    found = by_format.get(wanted, [])
    if wanted == "auto":
        wanted = next((name for name in FORMATS if name in by_format), "")
        if not wanted:
            if halves := by_format.get("recordings"):
                raise SaladError(
                    f"corpus: {halves[0]} is a Lhotse manifest of recordings or supervisions alone; make cuts of both "
                    "(`lhotse cut simple`), and give those"
                )
            if packed := next((own[0] for kind, own in by_format.items() if kind in PACKS.values()), None):
                raise SaladError(
                    f"corpus: {packed} is a packed file, which is not read; unpack it first (unzip, unzstd)"
                )
            raise SaladError(
                f"corpus: {path} is of no known format (found {_summary(by_format)}); expected one of "
                f"{', '.join(FORMATS)}, or say which with `format:`"
            )
        found = by_format[wanted]
    elif not found:
        found = [f for f in files if f.suffix.lower() not in AUDIO_SUFFIXES]
        if wanted == "shar":  # without a tar that can be read
            found = [f for f in found if f.name.startswith("cuts.")]
        if not found:
            raise SaladError(
                f"corpus: {path} holds no file of format {wanted} (found {_summary(by_format)}); correct `format:`, "
                "or leave it out"
            )
    if wanted == "arrow":  # what `datasets` keeps of a map or a filter lies beside what it was made of
        found = [file for file in found if not file.name.startswith("cache-")] or found
    return wanted, of_split(path, found, split) if wanted in ("parquet", "arrow") and path.is_dir() else found


def unread_files(path: Path, found: str, fields: tuple[str, str] = ("", "")) -> list[Path]:
    """Data of other formats that lie beside what `find_files` gave for "auto", single recordings left out."""
    if path.is_dir() and any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
        return []  # what `datasets` saved
    own = {"lhotse", "webdataset", "shar"} if found == "shar" else {found}
    others = [
        (kind, files) for kind, files in _by_format(walk(path), fields).items() if kind in (*FORMATS, *PACKS.values())
    ]
    return [
        file
        for kind, files in others
        for file in files
        if kind not in own | {"folder"} and (kind != "table" or names_audio(file, *fields))
    ]


def _by_format(files: list[Path], fields: tuple[str, str] | None) -> dict[str, list[Path]]:
    """Files by format. Of files with the same ending only the first that is not empty is opened, of text the first few.

    With `fields`, a table beside recordings counts only where it names recordings.
    """
    kinds: dict[str, str] = {}
    data: dict[str, str] = {}  # the first kind of an ending that can be read
    opened: Counter[str] = Counter()
    empty: list[tuple[Path, str]] = []
    found: dict[str, list[Path]] = {}
    for path in files:
        packed = path.suffix.lower() in PACKED
        ending = "".join(path.suffixes[-2:]).lower() if packed else path.suffix.lower()
        if ending in AUDIO_SUFFIXES:
            kind = "folder"
        elif ending in SIDECARS and len(files) > 1 and not path.name.startswith("metadata"):
            kind = "text"
        else:
            each = ending.startswith((".json", ".jsonl")) and opened[ending] < MAX_OPENED
            if each or kinds.get(ending, "empty") == "empty":
                kinds[ending] = kind_of(path)
                opened[ending] += 1
            kind = kinds[ending]
            if kind in FORMATS:
                data.setdefault(ending, kind)
            elif kind == "empty":
                empty.append((path, ending))
                continue
        found.setdefault(kind, []).append(path)
    for path, ending in empty:  # beside others of its kind it is one of them, and its reader says what is wrong
        found.setdefault(data.get(ending, "empty"), []).append(path)
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
    """One of FORMATS but shar; or recordings (of Lhotse, without cuts), json, text, a kind of PACKS, binary, or empty
    (nothing can be read)."""
    try:
        head = first_bytes(path, HEAD_BYTES)
    except OSError:  # a link to nothing, no right to read
        return "empty"
    if head[TAR_MARK] == b"ustar" and not _is_plain(path, head):
        raise SaladError(
            f"corpus: {path} is a compressed tar, in which nothing is found quickly; gunzip it first (unxz, bunzip2)"
        )
    if not head.strip():
        return "empty"
    if head[:4] == b"PAR1":
        return "parquet"
    if head[:4] == b"\xff\xff\xff\xff" or head[:6] == b"ARROW1":
        return "arrow"
    if head[TAR_MARK] == b"ustar":
        return "webdataset"
    if AUDIO_MARK.match(head):
        return "folder"
    if head[:4] in PACKS:
        return PACKS[head[:4]]
    if head[:2] not in (b"\xff\xfe", b"\xfe\xff") and NULS * head.count(b"\0") > len(head):
        return "binary"
    text = decode_text(head).lstrip()
    if not text:  # a byte order mark, or white space of other alphabets
        return "empty"
    told = _keys_in(text)
    if re.match(r"\[\s*\{", text) or (told and text.startswith("[")):  # a JSON array; its first item may be damaged
        return _kind_of_object(told)
    lines = [line for line in text.split("\n", SAMPLE_LINES)[:SAMPLE_LINES] if line.strip()]
    if not (lines[0].startswith("{") or lines[0].strip() == "null"):
        return "table" if any(delimiter in lines[0] for delimiter in "\t|,;") else "text"
    kinds = [_kind_of_object(_object(line)) for line in lines if line.startswith("{")]
    return next((kind for kind in kinds if kind != "json"), "json")


def holds_json(path: Path) -> bool:
    """Whether a file of text is JSON by its name, or because it parses: lines of objects, or an array of objects or
    texts. Prose may begin with a bracket, too."""
    if {".json", ".jsonl", ".ndjson"} & {suffix.lower() for suffix in path.suffixes}:
        return True
    try:
        head = decode_text(first_bytes(path, HEAD_BYTES)).lstrip()
    except OSError:
        return False  # its reader says why
    lines = head.startswith("{")
    if not lines and not re.match(r'\[\s*["{]', head):
        return False
    found = list[bool]()
    try:
        for _, value in itertools.islice(json_lines(path), SAMPLE_LINES if lines else None):
            found.append(isinstance(value, dict | str))
    except SaladError:
        return lines and any(found)
    return any(found)


def refuse_table(path: Path) -> None:
    """Raises SaladError where a file that would be read as prose is a table by its name."""
    ending = path.with_suffix("").suffix if path.suffix.lower() in PACKED else path.suffix
    if ending.lower() in (".csv", ".tsv"):
        raise SaladError(
            f"{path}: is a table, whose rows would be read as prose; convert it to JSON lines, {{text, id?, domain?}} "
            "each, or to parquet"
        )


def _is_plain(path: Path, head: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(head)) == head


def _object(line: str) -> JsonObject:
    try:
        found: JsonObject = json.loads(line)
        return found
    except (ValueError, RecursionError):  # damaged, longer than the head, or one object over many lines
        return _keys_in(line)


def _keys_in(text: str) -> JsonObject:
    """What gives a kind away in JSON that does not parse as a line."""
    named: JsonObject = {key: value for key, value in NAMED.findall(text) if _is_recording(value)}
    return named | {key: None for key in (*KEYS, *TEXT_FIELDS) if f'"{key}"' in text}


def _is_recording(value: Any) -> bool:
    name = value.get("path") if isinstance(value, dict) else value
    return isinstance(name, str) and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES


def _kind_of_object(value: JsonObject) -> str:
    if "supervisions" in value or str(value.get("type", "")).endswith("Cut"):
        return "lhotse"
    if {"num_samples", "sample_rate_hz"} <= value.keys():
        return "utterances"
    if "audio_filepath" in value:
        return "nemo"
    if "file_name" in value:
        return "table"
    if any(_is_recording(value.get(name)) for name in AUDIO_FIELDS) and any(name in value for name in TEXT_FIELDS):
        return "nemo"  # under other names
    if ("sources" in value and "sampling_rate" in value) or {"recording_id", "channel"} <= value.keys():
        return "recordings"
    return "json"


def saved_dataset(path: Path, split: str) -> list[Path]:
    """The files of what `datasets` wrote by save_to_disk; [] where `path` is not that."""
    named = path / "dataset_dict.json"
    try:
        if named.exists():
            splits = read_json(named)["splits"]
            if split not in splits:
                raise SaladError(
                    f"corpus: {path} has the splits {splits}, but split is {split!r}; set `split:` to one of them"
                )
            path = path / split
        named = path / "state.json"
        return [path / Path(row["filename"]).name for row in read_json(named)["_data_files"]] if named.exists() else []
    except (OSError, *BAD_ROW) as error:
        if isinstance(error, SaladError):
            raise
        raise SaladError(f"corpus: {named} is not as `datasets` writes it ({error!r:.100}); save it again") from None


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


def _summary(by_format: dict[str, list[Path]]) -> str:
    return ", ".join(f"{len(files)} {kind}" for kind, files in by_format.items())
