"""The same sound under two names: one is kept, so that no recording is both trained on and measured on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from salad.data.manifest import read_utterances, write_utterances
from salad.files import read_jsonl, write_jsonl

MD5 = slice(26, 42)  # of the decoded samples, in a FLAC's STREAMINFO (RFC 9639, section 8.2)


def quarantine_duplicates(folders: Iterable[Path]) -> None:
    """Of utterances in these shards that hold equal samples, only the first stays; the others go to quarantine.jsonl.

    May be run again: the quarantine is written first, and no row twice.
    """
    first: dict[bytes, str] = {}
    for folder in folders:
        kept, quarantined = [], []
        for utterance in read_utterances(folder / "utterances.jsonl"):
            with open(utterance.audio, "rb") as file:
                sound = file.read(MD5.stop)[MD5]
            if any(sound) and sound in first:
                reason = f"audio: the same sound as {first[sound]}, which is kept; remove one of the two"
                quarantined.append(
                    {"stage": "corpus", "id": utterance.id, "reason": reason, "source": utterance.source}
                )
                continue
            first[sound] = utterance.id
            kept.append(utterance)
        if quarantined:
            before = read_jsonl(folder / "quarantine.jsonl")
            write_jsonl(folder / "quarantine.jsonl", before + [row for row in quarantined if row not in before])
            write_utterances(folder / "utterances.jsonl", kept)
