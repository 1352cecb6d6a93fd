"""Which split a file is of: told by its name and folders, as `datasets` tells it."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from salad.types import SaladError

SPLITS = {  # as `datasets` knows them by the names of files and folders
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def of_split(place: Path, files: list[Path], split: str) -> list[Path]:
    """Files of a split, as `datasets` tells them: by a folder or a part of the name, such as train-00000-of-00002.

    A file that names none is of "train", and where no file names one, all are read for any split.
    """
    if split not in SPLITS:
        named = re.compile(rf"{re.escape(split)}(-\d+(-of-\d+)?)?")
        own = [f for f in files if split and (f.parent.name == split or named.fullmatch(f.stem))]
        if own or not (told := splits_of(place, files)):
            return own or files
        raise _no_split(place, told, split)
    by_split = _by_split(place, files)
    if by_split.keys() == {""}:
        return files
    if split == "train":
        told_so = {*by_split.get("train", ()), *by_split.get("", ())}
        by_split["train"] = [file for file in files if file in told_so]
    if not by_split.get(split):
        raise _no_split(place, splits_of(place, files), split)
    return by_split[split]


def splits_of(place: Path, files: list[Path]) -> list[str]:
    """The splits that names below `place` tell, in the order of `files`; [] where `place` is no folder."""
    return [name for name in _by_split(place, files) if name] if place.is_dir() else []


def _by_split(place: Path, files: list[Path]) -> dict[str, list[Path]]:
    by_split: dict[str, list[Path]] = {}
    for file in files:
        *folders, name = file.relative_to(place).parts
        known = [_split_in(part) for part in (*folders, name)]
        by_split.setdefault(next(filter(None, known), ""), []).append(file)
    return by_split


def _no_split(place: Path, told: list[str], split: str) -> SaladError:
    return SaladError(
        f"corpus: {place} has the splits {', '.join(told)}, but split is {split!r}; set `split:` to one of them"
    )


def outside_split(files: list[Path], place: Path, split: str) -> list[Path]:
    """Parquet of a folder's `files` that `split` passes over, though no name says plainly that it is of another one.

    train-00000-of-00002 and test/a do; test-drives may be a table of test drives.
    """
    own = [file for file in files if file.suffix.lower() == ".parquet"] if place.is_dir() else []
    read = set(of_split(place, own, split)) if own else set()
    return [file for file in own if file not in read and not _tells_split(place, file)]


def _tells_split(place: Path, file: Path) -> bool:
    *folders, _ = file.relative_to(place).parts
    part = next((part for part in (*folders, file.stem) if _split_in(part)), "")
    known = {"of", *itertools.chain(*SPLITS.values())}
    return bool(part) and all(word in known or not word.strip("abcdef") for word in _words(part))  # letters of a hash


def _split_in(name: str) -> str:
    """The split that a file's or folder's name tells of, between its beginning, end, digits and signs; "" for none."""
    words = _words(name)
    return next((split for split, known in SPLITS.items() if set(known) & set(words)), "")


def _words(name: str) -> list[str]:
    return re.split(r"[-._ 0-9]+", name)
