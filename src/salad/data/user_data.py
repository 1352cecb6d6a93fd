"""Your own recordings and your own text: read, held out in part, and told of in the data card."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from salad.config import Corpus
from salad.data.card import SpeechSource, TextSource, speech_source, text_source
from salad.data.deduplicate import quarantine_duplicates
from salad.data.ingest import ingest_documents
from salad.data.ingest_plan import CHARS_PER_S, IngestLimits, choose_heldout, make_plan, read_plan
from salad.data.manifest import load_spoken
from salad.data.quarantine import gather_quarantine
from salad.data.readers.text import read_text, stream_text
from salad.data.sources import open_source
from salad.files import JsonObject, read_jsonl, write_jsonl
from salad.progress import console
from salad.types import Document, SaladError, Utterance


def user_recordings(
    settings: Corpus, limits: IngestLimits | None, folder: Path, *, workers: int, seed: int
) -> tuple[list[Utterance], list[Utterance], list[SpeechSource]]:
    """Your recordings: to train on, to measure on, and their rows of the data card.

    limits: what may come in; None only where there is nothing to read.
    They are written to `folder`, shard by shard (own/, own-heldout/). Raises SaladError where none is left to train or
    to measure on, and nothing else is asked for.
    """
    if not settings.own_speech:
        return [], [], []
    assert limits is not None, "there is something to read"
    plan = folder / "plan.sqlite"
    if not plan.exists():  # a resumed stage goes on with its own
        make_plan(plan, ((entry, *open_source(entry)) for entry in settings.own_speech), limits)
    documents, sources = read_plan(plan)
    chosen, kept_by = set[int](), dict[str, str]()
    if settings.heldout_share:
        chosen, kept_by = choose_heldout(documents, settings.heldout_share, settings.heldout_documents, seed)
    names = {one.source: (one.licence, one.language) for one in sources}
    shards = []
    for name, wanted, title in (("own", False, "read recordings"), ("own-heldout", True, "read held-out recordings")):
        own = [d for d in documents if (d.number in chosen) == wanted]
        folders = ingest_documents(own, plan, names, limits, folder / name, workers=workers, title=title)
        shards.append(folders)
    quarantine_duplicates([*shards[1], *shards[0]])  # what is measured on stays
    groups = [[u for u, _ in load_spoken(folders)] for folders in shards]
    speech, heldout = groups
    elsewhere = settings.heldout_per_domain or settings.heldout_text
    if not (speech or settings.speech_documents) or not (heldout or elsewhere):
        gather_quarantine(folder)
        what = "to train on" if not speech else "to measure on (corpus.heldout_share)"
        raise SaladError(f"corpus: no recording is left {what}; {folder / 'quarantine.jsonl'} says why of each")
    quarantined = [row for path in folder.glob("own*/shard-*/quarantine.jsonl") for row in read_jsonl(path)]
    rows = []
    for one in sources:
        of = [[u for u in group if u.source == one.source] for group in groups]
        rows.append(
            speech_source(
                one.source,
                "recorded",
                one.licence,
                *of,
                format=one.format,
                rows=one.rows,
                quarantined=sum(row.get("source") == one.source for row in quarantined),
                heldout_by=kept_by.get(one.source, ""),
                language=one.language,
                note=one.note,
            )
        )
    return speech, heldout, rows


def user_text(
    settings: Corpus, limits: IngestLimits | None, folder: Path, seed: int
) -> tuple[list[Document], list[Document], list[TextSource], list[dict[str, str]]]:
    """Your broad text: to learn from, and `heldout_text` documents to measure on; its rows of the data card; what
    cannot be used.

    Raises SaladError where nothing can be used; quarantine.jsonl in `folder` then says why of each.
    """
    if not settings.text:
        return [], [], [], []
    read = [(entry, *read_text(entry, _fits(limits))) for entry in settings.text]
    everyone, quarantined = [d for _, own, _ in read for d in own], [row for *_, left_out in read for row in left_out]
    if not everyone:
        write_jsonl(folder / "quarantine.jsonl", quarantined)
        raise SaladError("corpus.text: no text can be used; corpus/quarantine.jsonl says why of each")
    heldout, spare = hold_out(everyone, settings.heldout_text, seed)
    reason = "text: the rest of a document that is measured on"
    quarantined += [{"stage": "corpus", "id": document.id, "reason": reason} for document in spare]
    gone, rows = {document.id for document in (*heldout, *spare)}, []
    for entry, own, left_out in read:
        notes = [f"stopped after max_documents: {entry.max_documents}"] * (len(own) == entry.max_documents)
        kept = [document for document in own if document.id not in gone]
        measured = sum(document.source == entry.title for document in heldout)
        notes += [f"{measured} documents are held out, and spoken"] * (measured > 0)
        rows.append(text_source(entry.title, entry.licence, kept, note="; ".join(notes), quarantined=len(left_out)))
    return [document for document in everyone if document.id not in gone], heldout, rows, quarantined


def hold_out(documents: Sequence[Document], number: int, seed: int) -> tuple[list[Document], list[Document]]:
    """`number` documents to measure on, and the further parts of those that were cut; by `seed` and names alone.

    Of a text that was cut the first part is measured on, and none of it trained on. Raises SaladError for too many.
    """
    if not number:
        return [], []
    parts: dict[str, list[Document]] = {}
    for document in documents:
        parts.setdefault(re.sub(r"#\d+$", "", document.id), []).append(document)
    if number >= len(parts):
        raise SaladError(f"corpus.heldout_text: got {number}, but there are {len(parts)} texts; keep fewer of them")
    order = sorted(parts, key=lambda name: hashlib.sha256(f"{seed}/heldout_text/{name}".encode()).digest())
    chosen = [parts[name] for name in order[:number]]
    return [own[0] for own in chosen], [document for own in chosen for document in own[1:]]


def own_plain_text(
    settings: Corpus, limits: IngestLimits | None, path: Path, refuses: Callable[[str], str]
) -> tuple[list[TextSource], list[dict[str, str]]]:
    """Write `plain_text` to `path`, one document in memory at a time; its rows of the data card, and what is left out.

    refuses: why a text may not be trained on, "" where it may.
    """
    rows, quarantined = list[TextSource](), list[dict[str, str]]()

    def passed() -> Iterator[JsonObject]:
        for entry in settings.plain_text:
            before, leaked, num, words = len(quarantined), 0, 0, 0
            for document in stream_text(entry, _fits(limits), quarantined):
                if why := refuses(document.text):
                    quarantined.append({"stage": "corpus", "id": document.id, "reason": why})
                    leaked += 1
                    continue
                num, words = num + 1, words + len(document.words)
                yield asdict(document)
            row = text_source(entry.title, entry.licence, (), quarantined=len(quarantined) - before)
            rows.append(replace(row, documents=num, words=words, leaked=leaked, note="against forgetting"))

    if settings.plain_text:
        console.print("corpus: reads all of plain_text once, to stream it from disk", highlight=False)
        write_jsonl(path, passed())
        if not any(row.documents for row in rows):
            raise SaladError("corpus.plain_text: no text can be used; check its path and text_field")
    return rows, quarantined


def _fits(limits: IngestLimits | None) -> Callable[[str], bool]:
    assert limits is not None, "there is something to read"
    return lambda text: limits.fits(len(text) / CHARS_PER_S, text)
