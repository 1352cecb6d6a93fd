"""The data card: what a corpus holds, from where, under which licence; as JSON and as a page of Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salad import markdown
from salad.files import write_json, write_text
from salad.records import to_json
from salad.types import Document, Utterance


def is_non_commercial(licence: str) -> bool:
    """Whether a licence's name says that its use is not commercial, such as CC BY-NC-4.0."""
    return bool(re.search(r"(?i)(?:\b|[-_])nc(?:\b|[-_\d])|non-?\s?commercial|research only", licence))


@dataclass(frozen=True)
class SpeechSource:
    """Speech of one origin, "recorded" or "synthetic". rows: of its manifest; heldout_by: what it was parted by."""

    name: str
    kind: str
    licence: str
    utterances: int
    speakers: int
    hours: float
    heldout_utterances: int
    heldout_hours: float
    format: str | None = None
    rows: int | None = None
    quarantined: int | None = None
    heldout_by: str | None = None
    language: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class TextSource:
    """Text of one origin; leaked: documents that share words with what is measured on."""

    name: str
    kind: str
    licence: str
    documents: int
    words: int
    quarantined: int | None = None
    leaked: int | None = None
    note: str | None = None


@dataclass(frozen=True)
class DataCard:
    """data_card.json. non_commercial, licence_not_stated: names of the sources of which that is so."""

    speech: tuple[SpeechSource, ...]
    text: tuple[TextSource, ...]
    hours: float
    heldout_hours: float
    non_commercial: tuple[str, ...]
    licence_not_stated: tuple[str, ...]
    notes: tuple[str, ...]


def speech_source(
    name: str, kind: str, licence: str, train: Iterable[Utterance], heldout: Iterable[Utterance], **more: Any
) -> SpeechSource:
    """One row of the card; every utterance is read once. more: what else `SpeechSource` has."""
    licences, speakers, counts, seconds = set[str](), set[str](), [0, 0], [0.0, 0.0]
    for at, group in enumerate((train, heldout)):
        for utterance in group:
            licences.add(utterance.licence or licence or "not stated")
            speakers.add(utterance.speaker)
            counts[at] += 1
            seconds[at] += utterance.duration_s
    return SpeechSource(
        name=name,
        kind=kind,
        licence=", ".join(sorted(licences)) or licence or "not stated",
        utterances=counts[0],
        speakers=len(speakers - {""}),
        hours=seconds[0] / 3600,
        heldout_utterances=counts[1],
        heldout_hours=seconds[1] / 3600,
        **more,
    )


def text_source(name: str, licence: str, documents: Iterable[Document], **more: Any) -> TextSource:
    num, words = 0, 0
    for document in documents:
        num, words = num + 1, words + len(document.words)
    return TextSource(name, "text", licence or "not stated", num, words, **more)


def write_card(
    folder: Path, speech: Sequence[SpeechSource], text: Sequence[TextSource], notes: Sequence[str]
) -> DataCard:
    """Write data_card.json and data_card.md."""
    rows: list[SpeechSource | TextSource] = [*speech, *text]
    card = DataCard(
        speech=tuple(speech),
        text=tuple(text),
        hours=sum(row.hours for row in speech),
        heldout_hours=sum(row.heldout_hours for row in speech),
        non_commercial=tuple(row.name for row in rows if is_non_commercial(row.licence)),
        licence_not_stated=tuple(row.name for row in rows if "not stated" in row.licence),
        notes=tuple(notes),
    )
    write_json(folder / "data_card.json", to_json(card))
    write_text(folder / "data_card.md", "\n".join(["# Data card", "", *card_lines(card), ""]))
    return card


def card_lines(card: DataCard) -> list[str]:
    """The card as lines of Markdown, also for a model's card."""
    lines = []
    if card.non_commercial:
        lines += [
            f"**Not for commercial use**: {', '.join(card.non_commercial)} may not be used commercially, and "
            "so may not what was trained on it.",
            "",
        ]
    if card.licence_not_stated:
        names = ", ".join(card.licence_not_stated)
        lines += [f"No licence was stated for {names}: find it out before you publish (`licence:` in the recipe).", ""]
    if card.speech:
        header = ("speech", "kind", "licence", "hours", "utterances", "speakers", "held out", "set aside")
        lines += [*markdown.table(header, map(_speech_cells, card.speech)), ""]
    if card.text:
        texts = [(row.name, row.licence, row.documents, row.words) for row in card.text]
        lines += [*markdown.table(("text", "licence", "documents", "words"), texts), ""]
    return lines + [f"- {note}" for note in card.notes]


def _speech_cells(row: SpeechSource) -> tuple[object, ...]:
    kept = f"{row.heldout_hours:.2f} h, {row.heldout_utterances} utterances"
    return (
        row.name,
        row.kind,
        row.licence,
        f"{row.hours:.2f}",
        row.utterances,
        row.speakers,
        kept + (f", by {row.heldout_by}" if row.heldout_by else ""),
        f"{row.quarantined or 0} rows",
    )
