"""What a folder of speech consists of (a run, shards, or what `prepare` reads), and what was set aside there."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from salad.config import Speech
from salad.data.inspect.result import SetAside
from salad.data.readers.detect import find_files, walk
from salad.data.readers.registry import READERS
from salad.data.readers.rows import Row
from salad.engine import shards_in
from salad.files import json_lines
from salad.types import SaladError

MANIFESTS = ("utterances", "lhotse", "nemo")  # each a part of its own
OF_STAGE = {"align": ("speech", "heldout"), "synthesize": ("bought",)}  # what a run's stage writes once it is whole
SUFFIX = re.compile(r"(\.cuts)?\.(jsonl|json|jsonl\.\w+)$")
MAX_REASONS, MAX_IDS = 200, 5


@dataclass(frozen=True)
class DataPart:
    """A named share of the data. kind: of READERS."""

    name: str
    kind: str
    files: tuple[Path, ...]
    lost: tuple[Path, ...] = ()  # shards beside them that have no utterances


def find_parts(place: Path) -> list[DataPart]:
    """The parts of a run directory, a stage's folder, a folder of shards or recordings, or one manifest.

    Nothing is counted twice: of a run, aligned utterances stand for those they were aligned from. Raises SaladError
    where there is nothing to look at.
    """
    if not place.exists():
        raise SaladError(f"{place} does not exist; give a run directory, a folder of shards or audio, or a manifest")
    shards = functools.partial(_shards, [path for path in walk(place) if path.name == "utterances.jsonl"], place)
    if (place / "recipe.json").exists():
        parts = _listed(place, "align") or shards("align") or shards("corpus")
        parts += _listed(place, "synthesize") or shards("synthesize")  # the probe's speech is not trained on
    else:
        parts = shards("") if place.is_dir() else []
    if parts:
        return parts
    try:
        kind, files = find_files(place, split=Speech(path=place).split)
    except SaladError as error:
        raise SaladError(
            f"{place}: holds no utterances.jsonl, no manifest and no audio that can be read; give the folder or the "
            f"manifest that does ({str(error).removeprefix('corpus: ')})"
        ) from None
    if kind in MANIFESTS:
        return [DataPart(_name(file, place), kind, (file,)) for file in files]
    return [DataPart(_name(place, place), kind, tuple(files))]


def _listed(run: Path, stage: str) -> list[DataPart]:
    """The manifests of a stage that came to its end."""
    files = [run / stage / f"{name}.jsonl" for name in OF_STAGE[stage]]
    return [DataPart(_name(file, run), "utterances", (file,)) for file in files if file.is_file()]


def read_parts(parts: Iterable[DataPart], place: Path, trusted: bool = False) -> Iterator[tuple[str, Row]]:
    """(name of its part, row) of everything that the readers give for `prepare`, too."""
    for part in parts:
        for shard in part.lost:
            yield part.name, Row(str(shard), problem="a shard without utterances.jsonl; run its stage again")
        for row in READERS[part.kind](list(part.files), Speech(path=place, trusted=trusted)):
            yield part.name, row


def _shards(files: list[Path], place: Path, below: str) -> list[DataPart]:
    """Folders that hold utterances.jsonl, grouped by the folder above the shards."""
    groups: dict[Path, list[Path]] = {}
    for file in files:
        if file.is_relative_to(place / below):
            folder = file.parent
            groups.setdefault(folder.parent if folder.name.startswith("shard-") else folder, []).append(file)
    for group in list(groups):
        if group.name == "aligned":  # the same recordings with their word times
            groups.pop(group.parent / "speech", None)
    lost = {group: [p for p in shards_in(group) if p.is_dir() and p / "utterances.jsonl" not in found]
            for group, found in groups.items()}  # fmt: skip
    return [
        DataPart(_name(group, place), "utterances", tuple(found), tuple(lost[group])) for group, found in groups.items()
    ]


def _name(path: Path, place: Path) -> str:
    if place.is_file():
        return SUFFIX.sub("", place.name)
    name = SUFFIX.sub("", path.relative_to(place).as_posix())
    return place.resolve().name or "audio" if name in ("", ".") else name


def count_quarantine(place: Path) -> list[SetAside]:
    """Rows of every quarantine.jsonl under `place`, grouped; most frequent first.

    A stage's file stands for its shards'. Reasons that differ in numbers, names or paths alone are one.
    """
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], tuple[str, list[str]]] = {}
    files = [path for path in walk(place if place.is_dir() else place.parent) if path.name == "quarantine.jsonl"]
    folders = {path.parent for path in files}
    for path in (path for path in files if folders.isdisjoint(path.parent.parents)):
        for where, row in json_lines(path):
            if isinstance(row, dict):
                stage, reason, name = str(row.get("stage", "")), str(row.get("reason", "")), str(row.get("id", ""))
            else:
                stage, reason, name = path.parent.name, "a line of quarantine.jsonl that is not a JSON object", where
            key = (stage, _plain_reason(reason))
            if key not in counts and len(counts) >= MAX_REASONS:
                key = (stage, "other reasons")
            counts[key] += 1
            _, ids = examples.setdefault(key, (reason, []))
            if len(ids) < MAX_IDS:
                ids.append(name)
    return [
        SetAside(stage, reason, count, examples[stage, reason][0], tuple(examples[stage, reason][1]))
        for (stage, reason), count in counts.most_common()
    ]


def _plain_reason(reason: str) -> str:
    reason = re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S+", "…", reason)
    return re.sub(r"\d+(?:\.\d+)?", "#", reason)
