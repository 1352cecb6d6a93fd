"""Your own recordings and your own text: read, held out in part, and told of in the data card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from salad.config import Corpus
from salad.data.card import speech_source, text_source
from salad.data.deduplicate import set_twins_aside
from salad.data.ingest import ingest_documents
from salad.data.ingest_plan import CHARS_PER_S, Door, choose_heldout, make_plan, read_plan
from salad.data.manifest import load_spoken
from salad.data.quarantine import gather_quarantine
from salad.data.readers.text import read_text
from salad.data.sources import open_source
from salad.files import read_jsonl, write_jsonl
from salad.types import Document, SaladError, Utterance

__all__ = ["own_recordings", "own_text"]


def own_recordings(
    settings: Corpus, door: Door | None, folder: Path, *, workers: int, seed: int
) -> tuple[list[Utterance], list[Utterance], list[dict[str, Any]]]:
    """Your recordings: to train on, to measure on, and their rows of the data card.

    door: what may come in; None only where there is nothing to read.
    They are written to `folder`, shard by shard (own/, own-heldout/). Raises SaladError where none is left to train or
    to measure on, and nothing else is asked for.
    """
    if not settings.own_speech:
        return [], [], []
    plan = folder / "plan.sqlite"
    if not plan.exists():  # a resumed stage goes on with its own
        sources = ((entry, *open_source(entry)) for entry in settings.own_speech)
        make_plan(plan, sources, door)
    documents, sources = read_plan(plan)
    chosen, kept_by = set(), {}
    if settings.heldout_share:
        chosen, kept_by = choose_heldout(documents, settings.heldout_share, settings.heldout_documents, seed)
    names = {row["source"]: (row["entry"]["licence"], row["entry"]["language"]) for row in sources}
    shards = []
    for name, wanted, title in (("own", False, "read recordings"), ("own-heldout", True, "read held-out recordings")):
        own = [d for d in documents if (d.number in chosen) == wanted]
        folders = ingest_documents(own, plan, names, door, folder / name, workers=workers, title=title)
        shards.append(folders)
    set_twins_aside([*shards[1], *shards[0]])  # what is measured on stays
    groups = [[u for u, _ in load_spoken(folders)] for folders in shards]
    speech, heldout = groups
    if not (speech or settings.speech_documents) or not (heldout or settings.heldout_per_domain):
        gather_quarantine(folder)
        what = "to train on" if not speech else "to measure on (corpus.heldout_share)"
        raise SaladError(f"corpus: no recording is left {what}; {folder / 'quarantine.jsonl'} says why of each")
    aside = [row for path in folder.glob("own*/shard-*/quarantine.jsonl") for row in read_jsonl(path)]
    rows = []
    for source in sources:
        entry, name = source["entry"], source["source"]
        of = [[u for u in group if u.source == name] for group in groups]
        rows.append(
            speech_source(
                name,
                "recorded",
                entry["licence"],
                *of,
                format=source["format"],
                rows=source["rows"],
                quarantined=sum(row.get("source") == name for row in aside),
                heldout_by=kept_by.get(name, ""),
                language=entry["language"],
                note=source["note"],
            )
        )
    return speech, heldout, rows


def own_text(
    settings: Corpus, door: Door | None, folder: Path
) -> tuple[list[Document], list[dict[str, Any]], list[dict[str, str]]]:
    """Your broad text, its rows of the data card, and what of it could not be used.

    Raises SaladError where nothing can be used; quarantine.jsonl in `folder` then says why of each.
    """
    if not settings.text:
        return [], [], []
    documents, rows, aside = [], [], []
    for entry in settings.text:
        own, left_out = read_text(entry, lambda text: door.fits(len(text) / CHARS_PER_S, text))
        note = f"stopped after max_documents: {entry.max_documents}" if len(own) == entry.max_documents else ""
        rows.append(text_source(entry.title, entry.licence, own, note=note, quarantined=len(left_out)))
        documents += own
        aside += left_out
    if not documents:
        write_jsonl(folder / "quarantine.jsonl", aside)
        raise SaladError("corpus.text: no text can be used; corpus/quarantine.jsonl says why of each")
    return documents, rows, aside
