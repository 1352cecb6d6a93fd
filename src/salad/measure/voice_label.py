"""The label of a voice in figures: its name, and whether it was never trained on."""

from __future__ import annotations

UNSEEN = " (unseen)"


def voice_label(voice: str, *, unseen: bool) -> str:
    """The name of a voice as rows and pages carry it, marked where it was never trained on.

    Files on disk hold it: `speaker` in divergence.jsonl and in a grid's cells, the keys of `by_voice` in figures.json.
    So the mark is part of their format.
    """
    return f"{voice}{UNSEEN}" if unseen else voice


def is_seen(label: str) -> bool:
    """Whether a label that `voice_label` made is of a voice that was trained on."""
    return not label.endswith(UNSEEN)
