"""Your own recordings and your own text: read, held out in part, and told of in the data card."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from salad.config import Corpus, Text
from salad.data.card import SpeechSource, TextSource, speech_source, text_source
from salad.data.deduplicate import quarantine_duplicates
from salad.data.ingest import ingest_documents
from salad.data.ingest_plan import CHARS_PER_S, IngestLimits, choose_heldout, make_plan, read_plan
from salad.data.manifest import utterances_in
from salad.data.plan_stamps import stamp_again
from salad.data.quarantine import gather_quarantine
from salad.data.readers.registry import open_source
from salad.data.readers.text import read_local_text, stream_text, unique_text
from salad.engine import pick
from salad.files import JsonObject, Rows, draw64, json_objects, read_jsonl, write_jsonl
from salad.progress import console
from salad.records import read_records
from salad.types import Document, SaladError, Utterance

TEXTS = "own_text-*.jsonl"


def user_recordings(
    settings: Corpus, limits: IngestLimits | None, folder: Path, *, workers: int, seed: int
) -> tuple[Sequence[Utterance], Sequence[Utterance], list[SpeechSource]]:
    """Your recordings: to train on, to measure on (read when they are asked for), and their rows of the data card.

    limits: what may come in; None only where there is nothing to read.
    They are written to `folder`, shard by shard (own/, own-heldout/). Raises SaladError where none is left to train or
    to measure on, and nothing else is asked for.
    """
    if not settings.own_speech:
        return [], [], []
    assert limits is not None, "there is something to read"
    plan = folder / "plan.sqlite"
    if plan.exists():  # a resumed stage goes on with its own
        stamp_again(plan)
    else:
        make_plan(plan, ((entry, *open_source(entry)) for entry in settings.own_speech), limits)
    documents, sources = read_plan(plan)
    chosen, kept_by = set[int](), dict[str, str]()
    if settings.heldout_share:
        chosen, kept_by = choose_heldout(documents, settings.heldout_share, settings.heldout_documents, seed)
    names = {one.source: (one.licence, one.language) for one in sources}
    shards = []
    for name, wanted, title in (("own", False, "read recordings"), ("own-heldout", True, "read held-out recordings")):
        numbers = array("q", (d.number for d in documents if (d.number in chosen) == wanted))
        own = pick(documents, numbers)
        folders = ingest_documents(own, plan, names, limits, folder / name, workers=workers, title=title)
        shards.append(folders)
    quarantine_duplicates([*shards[1], *shards[0]])  # what is measured on stays
    groups = [utterances_in(path / "utterances.jsonl" for path in folders) for folders in shards]
    speech, heldout = groups
    elsewhere = settings.heldout_per_domain or settings.heldout_text
    if not (speech or settings.speech_documents) or not (heldout or elsewhere):
        gather_quarantine(folder)
        what = "to train on" if not speech else "to measure on (corpus.heldout_share)"
        raise SaladError(f"corpus: no recording is left {what}; {folder / 'quarantine.jsonl'} says why of each")
    refused = Counter(
        row.get("source") for path in folder.glob("own*/shard-*/quarantine.jsonl") for _, row in json_objects(path)
    )
    rows = []
    for one in sources:
        of = [(u for u in group if u.source == one.source) for group in groups]
        rows.append(
            speech_source(
                one.source,
                "recorded",
                one.licence,
                *of,
                format=one.format,
                rows=one.rows,
                quarantined=refused[one.source],
                heldout_by=kept_by.get(one.source, ""),
                language=one.language,
                note=one.note,
            )
        )
    return speech, heldout, rows


def user_text(
    settings: Corpus, limits: IngestLimits | None, folder: Path, seed: int
) -> tuple[Sequence[Document], list[Document], list[TextSource], list[dict[str, str]]]:
    """Your broad text: to learn from, and `heldout_text` documents to measure on; its rows of the data card; what
    cannot be used. It is read into TEXTS, a file an entry in `folder`, and from there when it is asked for.

    Raises SaladError where nothing can be used; quarantine.jsonl in `folder` then says why of each.
    """
    if not settings.text:
        return [], [], [], []
    quarantined, read = list[dict[str, str]](), list[tuple[Text, Rows, int]]()
    for number, entry in enumerate(settings.text):
        path, before = folder / TEXTS.replace("*", str(number)), len(quarantined)
        write_jsonl(path, map(asdict, unique_text(entry, _fits(limits), quarantined)))
        read.append((entry, Rows([path], lambda row, _: Document(**row)), len(quarantined) - before))
    paths = [folder / TEXTS.replace("*", str(number)) for number in range(len(read))]
    everyone = Rows(paths, lambda row, _: Document(**row))
    if not everyone:
        write_jsonl(folder / "quarantine.jsonl", quarantined)
        raise SaladError("corpus.text: no text can be used; corpus/quarantine.jsonl says why of each")
    heldout, spare = hold_out(everyone, settings.heldout_text, seed)
    reason = "text: the rest of a document that is measured on"
    quarantined += [{"stage": "corpus", "id": document.id, "reason": reason} for document in spare]
    gone, rows = {document.id for document in (*heldout, *spare)}, []
    for entry, own, num_left_out in read:
        notes = [f"stopped after max_documents: {entry.max_documents}"] * (len(own) == entry.max_documents)
        kept = (document for document in own if document.id not in gone)
        measured = sum(document.source == entry.title for document in heldout)
        notes += [f"{measured} documents are held out, and spoken"] * (measured > 0)
        rows.append(text_source(entry.title, entry.licence, kept, note="; ".join(notes), quarantined=num_left_out))
    numbers = array("q", (number for number, document in enumerate(everyone) if document.id not in gone))
    return pick(everyone, numbers), heldout, rows, quarantined


def hold_out(documents: Sequence[Document], number: int, seed: int) -> tuple[list[Document], list[Document]]:
    """`number` documents to measure on, and the further parts of those that were cut; by `seed` and names alone.

    Of a text that was cut the first part is measured on, and none of it trained on. Raises SaladError for too many.
    """
    if not number:
        return [], []
    ranks = array("Q", (_rank(document, seed) for document in documents))  # not names: they take ten times as much
    order = np.unique(np.frombuffer(ranks, np.uint64))
    if number >= len(order):
        raise SaladError(f"corpus.heldout_text: got {number}, but there are {len(order)} texts; keep fewer of them")
    parts: dict[int, list[Document]] = {rank: [] for rank in order[:number].tolist()}
    for rank, document in zip(ranks, documents, strict=True):
        if rank in parts:
            parts[rank].append(document)
    chosen = list(parts.values())
    return [own[0] for own in chosen], [document for own in chosen for document in own[1:]]


def _rank(document: Document, seed: int) -> int:
    """A random number that the parts of a text share; behind a part's number stands its place, where it came twice."""
    name = re.sub(r"#\d+(~\d+)?$", "", document.id)
    return draw64(f"{seed}/heldout_text/{name}")


def own_plain_text(
    settings: Corpus, limits: IngestLimits | None, path: Path, refuses: Callable[[str], str]
) -> tuple[list[TextSource], list[dict[str, str]]]:
    """Write `plain_text` to `path`, one document in memory at a time; its rows of the data card, and what is left out.

    refuses: why a text may not be trained on, "" where it may. What is whole, with both beside it, is not read again.
    """
    rows, quarantined = list[TextSource](), list[dict[str, str]]()
    told, left_out = path.with_suffix(".card.jsonl"), path.with_suffix(".quarantine.jsonl")
    if all(file.exists() for file in (path, left_out, told)):  # and gone with the stage's folder where settings change
        return read_records(TextSource, told), read_jsonl(left_out)

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
        write_jsonl(left_out, quarantined)
        write_jsonl(told, map(asdict, rows))
    return rows, quarantined


def local_documents(settings: Corpus, limits: IngestLimits | None, quarantined: list[dict[str, str]]) -> list[Document]:
    """Those of `local_text`. What is left out is added to `quarantined`."""
    return read_local_text(settings.local_text, quarantined, fits=_fits(limits)) if settings.local_text else []


def _fits(limits: IngestLimits | None) -> Callable[[str], bool]:
    assert limits is not None, "there is something to read"
    return lambda text: limits.fits(len(text) / CHARS_PER_S, text)
