"""What an ASR hears in synthetic speech against what was said: garbled speech is set aside, with its CER."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from salad.align.transcribe import cer
from salad.text.speakable import speakable
from salad.types import Utterance

__all__ = ["part_by_cer", "spoken_cer"]


def spoken_cer(heard: str, text: str) -> float:
    """Character error rate of both spoken forms: "1848" is heard right as "1848" and as "eighteen forty-eight"."""
    return cer(" ".join(speakable(heard.split())), " ".join(speakable(text.split())))


def part_by_cer(
    utterances: Sequence[Utterance], heard: Mapping[str, str], max_cer: float
) -> tuple[list[Utterance], list[dict[str, Any]]]:
    """Utterances at or under `max_cer`, and rows {id, reason, cer} for the others. heard: transcript by id.

    An utterance without a transcript could not be read; it is in the quarantine already.
    """
    kept, rows = [], []
    for utterance in utterances:
        if utterance.id not in heard:
            continue
        error = spoken_cer(heard[utterance.id], utterance.text)
        if error <= max_cer:
            kept.append(utterance)
        else:
            rows.append({"id": utterance.id, "reason": f"CER {error:.3f}, at most {max_cer} is kept", "cer": error})
    return kept, rows
