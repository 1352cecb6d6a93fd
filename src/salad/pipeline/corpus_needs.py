"""What a corpus needs beside its data: voices, weights to fetch, how long a document may be, licences."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from salad.assets import ASSETS, BUILT_IN
from salad.config import Corpus, Recipe
from salad.data.card import SpeechSource, TextSource, speech_source, text_source
from salad.data.ingest_plan import IngestLimits
from salad.data.prepared import PreparedCorpus, copy_recordings, first_of_each_domain, read_prepared, recorded
from salad.files import JsonObject, Rows, write_jsonl
from salad.model import load_encoder
from salad.pipeline.run import Run
from salad.pipeline.speech_jobs import speak, without_times
from salad.sequence.frames import id_hash
from salad.synthesize.voices import assets_of_voice
from salad.types import Document, SaladError, Utterance

PREPARED_HELDOUT = "prepared-heldout"  # the folder of held-out recordings that came with a prepared corpus


def stream_documents(run: Run, name: str) -> Rows:
    """Documents of `web`, `plain`, `speech` or `heldout` of the corpus, read when they are asked for."""
    return Rows([run.folder("corpus") / f"{name}.jsonl"], lambda row, _: Document(**row))


def write_documents(path: Path, documents: Iterable[Document]) -> Rows:
    """Write documents as JSON lines; what is read from there. Raises SaladError where two share an id."""
    hashes = array("Q")

    def rows() -> Iterator[JsonObject]:
        for document in documents:
            hashes.append(id_hash(document.id))
            yield asdict(document)

    write_jsonl(path, rows())
    if hashes and len(np.unique(np.frombuffer(hashes, np.uint64))) < len(hashes):
        raise SaladError(f"corpus: two documents of {path.stem} share an id; give every document its own")
    return Rows([path], lambda row, _: Document(**row))


def against_forgetting(recipe: Recipe) -> str:
    """Which documents of the corpus are the plain text of Stage I and II: "plain", or D_web's own ("web")."""
    return "plain" if recipe.corpus.plain_text else "web"


def assets_needed(recipe: Recipe) -> set[str]:
    """What the corpus stage reads of `salad assets list`: less than a whole run."""
    settings, names = recipe.corpus, set()
    if settings.prepared in ASSETS:
        names.add(settings.prepared)
    writes = not settings.prepared
    if writes and (settings.web_documents_per_topic or settings.speech_documents or settings.heldout_per_domain):
        names.add(recipe.assets.llm)
    if settings.user_data:
        names.add(recipe.assets.encoder)
    for voice in voices_needed(recipe):
        names |= set(assets_of_voice(voice))
    return names - set(BUILT_IN)


def voices_needed(recipe: Recipe) -> set[str]:
    """The voices that the corpus stage lets speak: those whose recordings the prepared corpus holds need not."""
    settings = recipe.corpus
    voices = set(settings.voices.shares) if settings.speech_documents else set()
    if not (settings.heldout_per_domain or settings.heldout_text):
        return voices
    if not settings.prepared or settings.heldout_text:
        return voices | {settings.heldout_voice, *settings.unseen_voices}
    documents = read_prepared(settings.prepared).documents["heldout"]
    said, heldout = recorded(settings.prepared), first_of_each_domain(documents, settings.heldout_per_domain)
    return voices | {voice for document, voice in heldout_voices(settings, heldout) if (document.id, voice) not in said}


def ingest_limits(recipe: Recipe) -> IngestLimits:
    """The context counts sound at the encoder's own rate, and no layout speaks a larger share than this."""
    frame_rate_hz = load_encoder(recipe.assets.encoder, recipe.threads).frame_rate_hz
    most, least = recipe.sequence.speech_words[1], recipe.sequence.text_words[0]
    return IngestLimits(
        min_s=recipe.corpus.min_utterance_s,
        max_s=recipe.corpus.max_utterance_s,
        context=recipe.sequence.context,
        rate_hz=frame_rate_hz / recipe.model.stride,
        speech_share=most / (most + least),
    )


def heldout_voices(settings: Corpus, heldout: list[Document]) -> list[tuple[Document, str]]:
    """Who says which held-out document; slow voices first, as their shards are the long ones."""
    few = _one_a_domain(heldout, settings.unseen_documents)
    unseen = [(document, voice) for voice in settings.unseen_voices for document in few]
    return unseen + [(document, settings.heldout_voice) for document in heldout]


def heldout_speech(
    run: Run, folder: Path, prepared: PreparedCorpus | None, heldout: list[Document]
) -> tuple[list[Utterance], int]:
    """Recordings of these documents in the held-out voices, and how many of them came with a prepared corpus."""
    wanted = heldout_voices(run.recipe.corpus, heldout)
    ready = [r for r in prepared.recordings if r.reading in {(d.id, voice) for d, voice in wanted}] if prepared else []
    measured = copy_recordings(ready, folder / PREPARED_HELDOUT / "shard-00000") if ready else []
    said = {recording.reading for recording in ready}
    missing = [(d, voice) for d, voice in wanted if (d.id, voice) not in said]
    return [*measured, *without_times(speak(run, folder / "heldout", missing, "speak held-out"))], len(ready)


def spoken_rows(spoken: Sequence[Utterance], measured: Sequence[Utterance]) -> list[SpeechSource]:
    """Rows of the data card for synthetic speech, one a voice: to train on and to measure on."""
    rows = []
    for voice in {u.speaker: 0 for u in itertools.chain(spoken, measured)}:
        groups = ((u for u in group if u.speaker == voice) for group in (spoken, measured))
        rows.append(speech_source(f"spoken by {voice}", "synthetic", _licences(assets_of_voice(voice)), *groups))
    return rows


def text_rows(settings: Corpus, llm: str, prepared: Sequence[Document], web: Iterable[Document]) -> list[TextSource]:
    """Rows of the data card for text that is not the user's own entries: of a prepared corpus, written, and local.

    prepared: what D_web took from a prepared corpus; web: all of D_web.
    """
    rows = []
    written = [d for d in web if d.source.startswith("written by ")]
    if prepared:
        rows.append(text_source(f"prepared: {settings.prepared}", _licences([settings.prepared]), prepared))
    elif written:
        rows.append(text_source(f"written by {llm}", _licences([llm]), written))
    if settings.local_text:
        local = [d for d in web if d.source in {str(path) for path in settings.local_text}]
        rows.append(text_source("local_text", "", local))
    return rows


def _licences(names: Sequence[str]) -> str:
    return ", ".join(sorted({ASSETS[name].licence for name in names if name in ASSETS}))


def _one_a_domain(documents: list[Document], num: int) -> list[Document]:
    """`num` documents, spread over the domains."""
    turn: dict[str, int] = {}
    ranked = []
    for document in documents:
        turn[document.domain] = turn.get(document.domain, -1) + 1
        ranked.append((turn[document.domain], document.domain, document))
    return [document for _, _, document in sorted(ranked, key=lambda r: (r[0], r[1]))][:num]
