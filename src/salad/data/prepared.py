"""A corpus that was written before: documents, withheld words and held-out recordings, in one folder.

A folder holds web.jsonl.gz, speech.jsonl.gz and heldout.jsonl.gz (rows {id, text, source, domain}); where there are
any, withheld.txt (one word a line) and heldout.recordings.jsonl (rows {id, document_id, voice, audio, num_samples,
sample_rate_hz, sentences, words, score, licence}, audio relative to the folder).
"""

from __future__ import annotations

import os
import random
import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from salad.assets import ASSETS, get
from salad.config import Corpus
from salad.data.manifest import Sentence, write_utterances
from salad.data.readers.rows import BAD_ROW, locate
from salad.files import JsonObject, file_name, json_objects, read_jsonl, write_jsonl
from salad.types import Document, SaladError, Utterance, Word

GROUPS = ("web", "speech", "heldout")
WITHHELD, RECORDINGS = "withheld.txt", "heldout.recordings.jsonl"


@dataclass(frozen=True)
class PreparedRecording:
    """A held-out document as one voice said it, and when: by sentence and by word."""

    utterance: Utterance
    sentences: tuple[Sentence, ...]

    @property
    def reading(self) -> tuple[str, str]:
        """(document id, voice)"""
        return self.utterance.document_id, self.utterance.speaker


@dataclass(frozen=True)
class PreparedCorpus:
    documents: dict[str, list[Document]]  # of each of GROUPS
    withheld: tuple[str, ...]
    recordings: tuple[PreparedRecording, ...]


def read_prepared(name: str | Path) -> PreparedCorpus:
    """A corpus by its name in `salad assets list`, or by the path of a folder in the same layout.

    Raises SaladError that names the known ones, or the file and line that cannot be read.
    """
    folder = _folder(name)
    documents = {group: _documents(folder / f"{group}.jsonl.gz") for group in GROUPS}
    withheld = folder / WITHHELD
    words = unicodedata.normalize("NFC", withheld.read_text(encoding="utf-8-sig")).split() if withheld.is_file() else []
    by_id = {document.id: document for document in documents["heldout"]}
    return PreparedCorpus(documents, tuple(words), tuple(_recordings(folder, by_id)))


def recorded(name: str | Path) -> set[tuple[str, str]]:
    """(document id, voice) of every held-out recording."""
    path = _folder(name) / RECORDINGS
    return {(row["document_id"], row["voice"]) for row in read_jsonl(path)} if path.is_file() else set()


def shuffled(documents: Sequence[Document], number: int, seed: int, what: str) -> list[Document]:
    """The first `number` documents in an order of `seed`'s own; more than there are is refused."""
    if number > len(documents):
        raise SaladError(f"{what}: got {number}, but the prepared corpus holds {len(documents)}; ask for fewer")
    order = list(documents)
    random.Random(f"{seed}/{what}").shuffle(order)
    return order[:number]


def first_of_each_domain(documents: Iterable[Document], number: int) -> list[Document]:
    """The first `number` documents of each domain, in their order; fewer than that in a domain is refused."""
    taken: dict[str, int] = {}
    chosen = []
    for document in documents:
        taken[document.domain] = taken.get(document.domain, 0) + 1
        if taken[document.domain] <= number:
            chosen.append(document)
    least = min(taken, key=lambda domain: taken[domain], default=None)
    if number and (least is None or taken[least] < number):
        held = f"{taken[least]} of {least}" if least is not None else "none"
        raise SaladError(f"corpus.heldout_per_domain: got {number}, the prepared corpus holds {held}; ask for fewer")
    return chosen


def chosen_documents(prepared: PreparedCorpus, settings: Corpus, seed: int) -> dict[str, list[Document]]:
    """As many of its documents as the recipe asks for, drawn by `seed`: {web, speech, heldout}."""
    own = prepared.documents
    web = own["web"]
    if settings.web_documents is not None and settings.web_documents < len(web):
        web = shuffled(web, settings.web_documents, seed, "corpus.web_documents")
    speech = shuffled(own["speech"], settings.speech_documents, seed, "corpus.speech_documents")
    return {"web": web, "speech": speech, "heldout": first_of_each_domain(own["heldout"], settings.heldout_per_domain)}


def copy_recordings(recordings: Sequence[PreparedRecording], folder: Path) -> list[Utterance]:
    """The recordings as a shard of spoken documents: audio/, utterances.jsonl and sentences.jsonl in `folder`."""
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    utterances = []
    for recording in recordings:
        path = folder / "audio" / file_name(recording.utterance.id, Path(recording.utterance.audio).suffix)
        shutil.copyfile(recording.utterance.audio, path)
        utterances.append(replace(recording.utterance, audio=str(path)))
    write_utterances(folder / "utterances.jsonl", utterances)
    rows = [{"id": r.utterance.id, "simulated": True, "sentences": [list(s) for s in r.sentences]} for r in recordings]
    write_jsonl(folder / "sentences.jsonl", rows)
    return utterances


def _folder(name: str | Path) -> Path:
    folder = Path(name).expanduser()
    if str(name) in ASSETS:
        return get(str(name), kind="corpus")
    if not folder.is_dir():
        known = ", ".join(sorted(asset.name for asset in ASSETS.values() if asset.kind == "corpus"))
        raise SaladError(
            f"corpus.prepared: got {str(name)!r}, expected one of {known}, or the path of a folder that holds "
            f"{', '.join(f'{group}.jsonl.gz' for group in GROUPS)}; correct the name or the path"
        )
    return folder


def _documents(path: Path) -> list[Document]:
    fields, documents = ("id", "text", "source", "domain"), []
    try:
        for where, row in json_objects(path):
            if any(not isinstance(row.get(field), str) for field in fields):
                raise SaladError(f"{path} {where}: got {row!r:.100}")
            text = unicodedata.normalize("NFC", row["text"])
            documents.append(Document(**{field: row[field] for field in fields} | {"text": text}))
    except SaladError as error:
        raise SaladError(f"corpus.prepared: {error}; expected JSON lines of {', '.join(fields)}") from None
    return documents


def _recordings(folder: Path, documents: dict[str, Document]) -> Iterator[PreparedRecording]:
    path = folder / RECORDINGS
    for where, row in json_objects(path) if path.is_file() else ():
        try:
            recording = _recording(folder, row, documents)
        except (SaladError, *BAD_ROW) as error:
            why = str(error) if isinstance(error, SaladError) else f"a field is not as expected ({error!r:.100})"
            raise SaladError(f"corpus.prepared: {path} {where}: {why}; remove the row, or write it again") from None
        yield recording


def _recording(folder: Path, row: JsonObject, documents: dict[str, Document]) -> PreparedRecording:
    document = documents.get(row["document_id"])
    audio = locate(row["audio"], folder, trusted=False)
    if document is None or not os.path.isfile(audio):
        why = f"of {row['document_id']}, which is not held out" if document is None else "without its audio"
        raise SaladError(f"{row['id']} is {why}")
    utterance = Utterance(
        id=row["id"],
        text=document.text,
        audio=audio,
        sample_rate_hz=row["sample_rate_hz"],
        num_samples=row["num_samples"],
        words=tuple(Word(*word) for word in row.get("words", ())),
        speaker=row["voice"],
        source=document.source,
        licence=row.get("licence", ""),
        document_id=document.id,
        domain=document.domain,
        score=row.get("score", float("nan")),
    )
    return PreparedRecording(utterance, tuple((a, b, start, end) for a, b, start, end in row["sentences"]))
