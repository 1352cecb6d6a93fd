"""corpus: D_web, D_speech and what is held out: your data, a prepared corpus, or what the teacher writes; spoken."""

from __future__ import annotations

import functools
from dataclasses import asdict
from pathlib import Path
from typing import Any

from salad import assets
from salad.assets import ASSETS
from salad.config import Recipe
from salad.data.card import speech_source, text_source, write_card
from salad.data.deduplicate import set_twins_aside
from salad.data.generate_text import prompts, write_documents
from salad.data.ingest import ingest_documents
from salad.data.ingest_plan import CHARS_PER_S, Door, choose_heldout, make_plan, read_plan
from salad.data.manifest import load_spoken, write_lhotse
from salad.data.prepared import (
    Prepared,
    copy_recordings,
    first_of_each_domain,
    read_prepared,
    recorded,
    shuffled,
)
from salad.data.read import read_local_text
from salad.data.readers.detect import walk
from salad.data.readers.text import read_text
from salad.data.sources import open_source
from salad.data.topics import broad_topics, narrow_topics
from salad.engine import run_shards
from salad.files import read_json, read_jsonl, write_jsonl, write_text
from salad.model import load_encoder
from salad.pipeline.fingerprints import fingerprint, of_content, of_stamps, section
from salad.pipeline.run import MEASURED, Run, kept_precision
from salad.pipeline.speech_jobs import assign_voices, gather_quarantine, speak
from salad.synthesize import assets_of_voice
from salad.types import Document, SaladError, Utterance

__all__ = ["PREPARED_HELDOUT", "assets_needed", "load_documents", "run"]

SECTIONS = ("corpus",)
HELDOUT_TOPICS = 2  # topics of each domain that nothing is trained on
PREPARED_HELDOUT = "prepared-heldout"  # the folder of held-out recordings that came with a prepared corpus


def inputs(recipe: Recipe) -> dict[str, str]:
    """The precision that the teacher writes in, where it was measured, and every file that the user gives."""
    parts, settings = {}, recipe.corpus
    if recipe.precision == "auto" and (kept := kept_precision(recipe.run_dir)).exists():
        parts[MEASURED] = fingerprint({use: timing["bf16"] for use, timing in read_json(kept)["uses"].items()})
    if settings.prepared:
        parts["prepared corpus"] = assets.fingerprint(settings.prepared)[:16]
    if files := [Path(path) for path in section(recipe, "corpus")["local_text"]]:
        parts["your files"] = of_content(path for path in files if path.is_file())
    places = [data.path for data in (*settings.own_speech, *settings.text) if data.path is not None]
    if places:  # how long a document is
        length = {"stride": recipe.model.stride, "encoder": recipe.assets.encoder}
        parts["length of documents"] = fingerprint({**section(recipe, "sequence"), **length})
        parts["your data"] = of_stamps(path for place in places for path in walk(place))
    return parts


def run(run: Run) -> dict[str, Any]:
    recipe, folder = run.recipe, run.folder("corpus")
    settings = recipe.corpus
    own_speech, own_heldout, speech_rows = _ingest(run)  # first: what is wrong with your data shows at once
    own_text, text_rows, aside = _text(run)
    prepared = read_prepared(settings.prepared) if settings.prepared else None
    documents = _of_prepared(run, prepared) if prepared else _write(run)
    withheld = prepared.withheld if prepared else ()
    write_text(folder / "withheld.txt", "".join(f"{word}\n" for word in withheld))
    web = documents["web"] + read_local_text(settings.local_text) + own_text
    heldout_documents = documents["heldout"] + [
        Document(u.document_id, u.text, u.source, u.domain) for u in own_heldout
    ]
    for name, group in (("web", web), ("speech", documents["speech"]), ("heldout", heldout_documents)):
        if len({d.id for d in group}) != len(group):
            raise SaladError(f"corpus: two documents of {name} share an id; give every document its own")
        write_jsonl(folder / f"{name}.jsonl", [asdict(d) for d in group])
    voices = assign_voices(documents["speech"], settings.voices.shares, recipe.seed)
    own_voices = speak(run, folder / "speech", voices, "speak D_speech (simulated)", variation=settings)
    spoken = [u for u, _ in own_voices]
    wanted = _heldout_voices(recipe, documents["heldout"])
    ready = [r for r in prepared.recordings if r.said in {(d.id, voice) for d, voice in wanted}] if prepared else []
    measured = copy_recordings(ready, folder / PREPARED_HELDOUT / "shard-00000") if ready else []
    said = {recording.said for recording in ready}
    heldout = speak(
        run, folder / "heldout", [(d, voice) for d, voice in wanted if (d.id, voice) not in said], "speak held-out"
    )
    measured += [u for u, _ in heldout]
    if not (spoken or own_speech):
        raise SaladError(f"corpus: no recording can be used; {folder / 'quarantine.jsonl'} says why of each")
    write_lhotse(spoken + own_speech, folder / "speech.cuts.jsonl.gz")
    write_lhotse(measured + own_heldout, folder / "heldout.cuts.jsonl.gz")
    aside = gather_quarantine(folder, aside)
    by_voice = {u.speaker: 0 for u in spoken + measured}
    for voice in by_voice:
        groups = ([u for u in group if u.speaker == voice] for group in (spoken, measured))
        speech_rows.append(speech_source(f"spoken by {voice}", "synthetic", _licence_of_voice(voice), *groups))
    written = [d for d in web if d.source.startswith("written by ")]
    if prepared and documents["web"]:
        licence = _licences([settings.prepared])
        text_rows.append(text_source(f"prepared: {settings.prepared}", licence, documents["web"]))
    elif written:
        text_rows.append(text_source(f"written by {recipe.assets.llm}", _licences([recipe.assets.llm]), written))
    if settings.local_text:
        local = [d for d in web if d.source in {str(path) for path in settings.local_text}]
        text_rows.append(text_source("local_text", "", local))
    notes = [f"{row['name']}: {row['note']}" for row in speech_rows + text_rows if row.get("note")]
    card = write_card(folder, speech_rows, text_rows, notes)
    return {
        "web_documents": len(web),
        "speech_documents": len(spoken) + len(own_speech),
        "heldout_documents": len(heldout_documents),
        "speech_hours": sum(u.duration_s for u in spoken + own_speech) / 3600,
        "heldout_hours": sum(u.duration_s for u in measured + own_heldout) / 3600,
        "heldout_recordings_ready": len(ready),
        "withheld_words": len(withheld),
        "quarantined": len(aside),
        "simulated": bool(by_voice),
        "non_commercial": card["non_commercial"],
    }


def load_documents(run: Run, name: str) -> list[Document]:
    """Documents of `web`, `speech` or `heldout`."""
    return [Document(**row) for row in read_jsonl(run.folder("corpus") / f"{name}.jsonl")]


def assets_needed(recipe: Recipe) -> set[str]:
    """What this stage reads of `salad assets list`: less than a whole run."""
    settings, names = recipe.corpus, set()
    if settings.prepared in ASSETS:
        names.add(settings.prepared)
    writes = not settings.prepared
    if writes and (settings.web_documents_per_topic or settings.speech_documents or settings.heldout_per_domain):
        names.add(recipe.assets.llm)
    if settings.own_speech or settings.text:
        names.add(recipe.assets.encoder)
    for voice in voices_needed(recipe):
        names |= set(assets_of_voice(voice))
    return names - {"log-mel"}


def voices_needed(recipe: Recipe) -> set[str]:
    """The voices that this stage lets speak: those whose recordings the prepared corpus holds need not."""
    settings = recipe.corpus
    voices = set(settings.voices.shares) if settings.speech_documents else set()
    if not settings.heldout_per_domain:
        return voices
    if not settings.prepared:
        return voices | {settings.heldout_voice, *settings.unseen_voices}
    said, heldout = recorded(settings.prepared), _kept_out(recipe, read_prepared(settings.prepared))
    return voices | {voice for document, voice in _heldout_voices(recipe, heldout) if (document.id, voice) not in said}


def _door(run: Run) -> Door:
    """The context counts sound at the encoder's own rate, and no layout speaks a larger share than this."""
    recipe = run.recipe
    frame_rate_hz = load_encoder(recipe.assets.encoder, recipe.threads).frame_rate_hz
    most, least = recipe.sequence.speech_words[1], recipe.sequence.text_words[0]
    return Door(
        min_s=recipe.corpus.min_utterance_s,
        max_s=recipe.corpus.max_utterance_s,
        context=recipe.sequence.context,
        rate_hz=frame_rate_hz / recipe.model.stride,
        speech_share=most / (most + least),
    )


def _ingest(run: Run) -> tuple[list[Utterance], list[Utterance], list[dict[str, Any]]]:
    """Your recordings: to train on, to measure on, and their rows of the data card."""
    settings, folder = run.recipe.corpus, run.folder("corpus")
    if not settings.own_speech:
        return [], [], []
    door, plan = _door(run), folder / "plan.sqlite"
    if not plan.exists():  # a resumed stage goes on with its own
        sources = ((entry, *open_source(entry)) for entry in settings.own_speech)
        make_plan(plan, sources, door)
    documents, sources = read_plan(plan)
    chosen, kept_by = set(), {}
    if settings.heldout_share:
        chosen, kept_by = choose_heldout(documents, settings.heldout_share, settings.heldout_documents, run.recipe.seed)
    names = {row["source"]: (row["entry"]["licence"], row["entry"]["language"]) for row in sources}
    shards = []
    for name, wanted, title in (("own", False, "read recordings"), ("own-heldout", True, "read held-out recordings")):
        own = [d for d in documents if (d.number in chosen) == wanted]
        folders = ingest_documents(
            own, plan, names, door, folder / name, workers=run.recipe.engine.workers, title=title
        )
        shards.append(folders)
    set_twins_aside([*shards[1], *shards[0]])  # what is measured on stays
    groups = [[u for u, _ in load_spoken(folders)] for folders in shards]
    speech, heldout = groups
    if not (speech or run.recipe.corpus.speech_documents) or not (heldout or run.recipe.corpus.heldout_per_domain):
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


def _text(run: Run) -> tuple[list[Document], list[dict[str, Any]], list[dict[str, str]]]:
    """Your broad text, its rows of the data card, and what of it could not be used."""
    if not run.recipe.corpus.text:
        return [], [], []
    door = _door(run)
    documents, rows, aside = [], [], []
    for entry in run.recipe.corpus.text:
        own, left_out = read_text(entry, lambda text: door.fits(len(text) / CHARS_PER_S, text))
        note = f"stopped after max_documents: {entry.max_documents}" if len(own) == entry.max_documents else ""
        rows.append(text_source(entry.title, entry.licence, own, note=note, quarantined=len(left_out)))
        documents += own
        aside += left_out
    if not documents:
        write_jsonl(run.folder("corpus") / "quarantine.jsonl", aside)
        raise SaladError("corpus.text: no text can be used; corpus/quarantine.jsonl says why of each")
    return documents, rows, aside


def _licences(names: list[str]) -> str:
    return ", ".join(sorted({ASSETS[name].licence for name in names if name in ASSETS}))


def _licence_of_voice(voice: str) -> str:
    return _licences(list(assets_of_voice(voice)))


def _heldout_voices(recipe: Recipe, heldout: list[Document]) -> list[tuple[Document, str]]:
    """Who says which held-out document; slow voices first, as their shards are the long ones."""
    settings = recipe.corpus
    few = _one_a_domain(heldout, settings.unseen_documents)
    unseen = [(document, voice) for voice in settings.unseen_voices for document in few]
    return unseen + [(document, settings.heldout_voice) for document in heldout]


def _kept_out(recipe: Recipe, prepared: Prepared) -> list[Document]:
    return first_of_each_domain(prepared.documents["heldout"], recipe.corpus.heldout_per_domain)


def _of_prepared(run: Run, prepared: Prepared) -> dict[str, list[Document]]:
    settings, seed, own = run.recipe.corpus, run.recipe.seed, prepared.documents
    web = own["web"]
    if settings.web_documents is not None and settings.web_documents < len(web):
        web = shuffled(web, settings.web_documents, seed, "corpus.web_documents")
    speech = shuffled(own["speech"], settings.speech_documents, seed, "corpus.speech_documents")
    return {"web": web, "speech": speech, "heldout": _kept_out(run.recipe, prepared)}


def _write(run: Run) -> dict[str, list[Document]]:
    settings, seed = run.recipe.corpus, run.recipe.seed
    broad, narrow = broad_topics(), narrow_topics()
    kept = {domain: topics[HELDOUT_TOPICS:] for domain, topics in {**narrow, **broad}.items()}
    heldout = {domain: topics[:HELDOUT_TOPICS] for domain, topics in {**narrow, **broad}.items()}
    num_narrow = sum(len(kept[domain]) for domain in narrow)
    rows = prompts({d: kept[d] for d in broad}, settings.web_documents_per_topic, "web", seed)
    rows += prompts({d: kept[d] for d in narrow}, -(-settings.speech_documents // num_narrow), "speech", seed)[
        : settings.speech_documents
    ]
    rows += prompts(heldout, -(-settings.heldout_per_domain // HELDOUT_TOPICS), "heldout", seed)
    function = functools.partial(
        write_documents,
        llm=run.recipe.assets.llm,
        max_new_tokens=settings.max_new_tokens,
        min_words=settings.min_words,
        temperature=settings.temperature,
        top_k=settings.top_k,
        seed=seed,
        bf16=run.uses_bf16("write"),
    )
    folders = run_shards(
        function, rows, run.folder("corpus") / "text", shard_items=settings.batch, workers=run.recipe.engine.workers,
        title="the teacher writes", unit="documents", set_aside=True,
    )  # fmt: skip
    source = {row["id"]: row["source"] for row in rows}
    documents: dict[str, list[Document]] = {"web": [], "speech": [], "heldout": []}
    for path in folders:
        for row in read_jsonl(path / "documents.jsonl"):
            documents[source[row["id"]]].append(Document(**row))
    return documents


def _one_a_domain(documents: list[Document], num: int) -> list[Document]:
    """`num` documents, spread over the domains."""
    turn: dict[str, int] = {}
    ranked = []
    for document in documents:
        turn[document.domain] = turn.get(document.domain, -1) + 1
        ranked.append((turn[document.domain], document.domain, document))
    return [document for _, _, document in sorted(ranked, key=lambda r: (r[0], r[1]))][:num]
