"""The same sound under two names: one is kept, so that no recording is both trained on and measured on."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from salad.data.manifest import read_utterances, write_utterances
from salad.files import read_jsonl, sha256_file, write_jsonl
from salad.types import Utterance

ALL = "before_duplicates.jsonl"  # what a shard held before some of it was set aside
SAME = "audio: the same sound as "
MD5 = slice(26, 42)  # of the decoded samples, in a FLAC's STREAMINFO (RFC 9639, section 8.2)


def sound_key(path: str | Path) -> str:
    """What two files of equal sound share: the hash in a FLAC's header, else that of the file; "" where it is none."""
    try:
        with open(path, "rb") as file:
            head = file.read(MD5.stop)
    except OSError:
        return ""
    return head[MD5].hex() if head[:4] == b"fLaC" and any(head[MD5]) else sha256_file(path)


def quarantine_duplicates(folders: Iterable[Path]) -> None:
    """Of utterances in these shards that hold equal samples, only the first stays; the others go to quarantine.jsonl.

    May be run again, with other shards beside them too: what a shard held before is kept in ALL.
    """
    folders = list(folders)
    sounds = array("Q", (_sound_of(u) for folder in folders for u in _all_of(folder)))
    values, counts = np.unique(np.frombuffer(sounds or bytes(8), np.uint64), return_counts=True)
    again, first = set(values[counts > 1].tolist()) - {0}, dict[int, str]()
    for folder in folders if again else [folder for folder in folders if (folder / ALL).exists()]:
        kept, quarantined = [], []
        for utterance in _all_of(folder):
            sound = _sound_of(utterance)
            if sound in again and first.setdefault(sound, utterance.id) != utterance.id:
                reason = f"{SAME}{first[sound]}, which is kept; remove one of the two"
                quarantined.append(
                    {"stage": "corpus", "id": utterance.id, "reason": reason, "source": utterance.source}
                )
            else:
                kept.append(utterance)
        if quarantined or (folder / ALL).exists():
            if not (folder / ALL).exists():
                write_utterances(folder / ALL, _all_of(folder))
            refused = [r for r in read_jsonl(folder / "quarantine.jsonl") if not r["reason"].startswith(SAME)]
            write_jsonl(folder / "quarantine.jsonl", refused + quarantined)
            write_utterances(folder / "utterances.jsonl", kept)


def _all_of(folder: Path) -> list[Utterance]:
    whole = folder / ALL
    return read_utterances(whole if whole.exists() else folder / "utterances.jsonl")


def _sound_of(utterance: Utterance) -> int:
    """64 bits of the hash of its samples; 0 where its FLAC has none."""
    with open(utterance.audio, "rb") as file:
        return int.from_bytes(file.read(MD5.stop)[MD5][:8], "little")
