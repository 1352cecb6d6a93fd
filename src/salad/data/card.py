"""The data card: what a corpus holds, from where, under which licence; as JSON and as a page of Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from salad.files import write_json, write_text
from salad.types import Document, Utterance


def is_non_commercial(licence: str) -> bool:
    """Whether a licence's name says that its use is not commercial, such as CC BY-NC-4.0."""
    return bool(re.search(r"(?i)(?:\b|[-_])nc(?:\b|[-_\d])|non-?\s?commercial|research only", licence))


def speech_source(
    name: str, kind: str, licence: str, train: Iterable[Utterance], heldout: Iterable[Utterance], **more: Any
) -> dict[str, Any]:
    """One row of the card; every utterance is read once. kind: "recorded" or "synthetic"."""
    licences, speakers, counts = set[str](), set[str](), [[0, 0.0], [0, 0.0]]
    for count, group in zip(counts, (train, heldout), strict=True):
        for utterance in group:
            licences.add(utterance.licence or licence or "not stated")
            speakers.add(utterance.speaker)
            count[0] += 1
            count[1] += utterance.duration_s
    (num, seconds), (num_heldout, heldout_s) = counts
    return {
        "name": name,
        "kind": kind,
        "licence": ", ".join(sorted(licences)) or licence or "not stated",
        "utterances": num,
        "speakers": len(speakers - {""}),
        "hours": seconds / 3600,
        "heldout_utterances": num_heldout,
        "heldout_hours": heldout_s / 3600,
        **more,
    }


def text_source(name: str, licence: str, documents: Iterable[Document], **more: Any) -> dict[str, Any]:
    num, words = 0, 0
    for document in documents:
        num, words = num + 1, words + len(document.words)
    row = {"name": name, "kind": "text", "licence": licence or "not stated", "documents": num, "words": words}
    return {**row, **more}


def write_card(
    folder: Path, speech: list[dict[str, Any]], text: list[dict[str, Any]], notes: list[str]
) -> dict[str, Any]:
    """data_card.json and data_card.md; returns what the first holds."""
    rows = [*speech, *text]
    card = {
        "speech": speech,
        "text": text,
        "hours": sum(row["hours"] for row in speech),
        "heldout_hours": sum(row["heldout_hours"] for row in speech),
        "non_commercial": [row["name"] for row in rows if is_non_commercial(row["licence"])],
        "licence_not_stated": [row["name"] for row in rows if "not stated" in row["licence"]],
        "notes": notes,
    }
    write_json(folder / "data_card.json", card)
    write_text(folder / "data_card.md", "\n".join(["# Data card", "", *card_lines(card), ""]))
    return card


def card_lines(card: dict[str, Any]) -> list[str]:
    """The card as lines of Markdown, also for a model's card."""
    lines = []
    if card["non_commercial"]:
        lines += [
            f"**Not for commercial use**: {', '.join(card['non_commercial'])} may not be used commercially, and "
            "so may not what was trained on it.",
            "",
        ]
    if card["licence_not_stated"]:
        names = ", ".join(card["licence_not_stated"])
        lines += [f"No licence was stated for {names}: find it out before you publish (`licence:` in the recipe).", ""]
    if card["speech"]:
        lines += [
            "| speech | kind | licence | hours | utterances | speakers | held out | set aside |",
            "|---" * 8 + "|",
        ]
        lines += [_speech_line(row) for row in card["speech"]]
        lines.append("")
    if card["text"]:
        lines += ["| text | licence | documents | words |", "|---" * 4 + "|"]
        for row in card["text"]:
            lines.append(f"| {_cell(row['name'])} | {_cell(row['licence'])} | {row['documents']} | {row['words']} |")
        lines.append("")
    return lines + [f"- {note}" for note in card["notes"]]


def _speech_line(row: dict[str, Any]) -> str:
    kept = f"{row['heldout_hours']:.2f} h, {row['heldout_utterances']} utterances"
    cells = (
        _cell(row["name"]),
        row["kind"],
        _cell(row["licence"]),
        f"{row['hours']:.2f}",
        row["utterances"],
        row["speakers"],
        kept + (f", by {row['heldout_by']}" if row.get("heldout_by") else ""),
        f"{row.get('quarantined', 0)} rows",
    )
    return f"| {' | '.join(map(str, cells))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
