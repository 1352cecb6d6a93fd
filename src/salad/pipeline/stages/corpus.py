"""corpus: D_web, D_speech and what is held out: your data, a prepared corpus, or what the teacher writes; spoken."""

from __future__ import annotations

import functools
from itertools import chain

from salad import assets
from salad.config import Recipe
from salad.data.card import write_card
from salad.data.generate_text import generate_corpus
from salad.data.plan_stamps import stamp_recordings
from salad.data.prepared import chosen_documents, read_prepared
from salad.data.quarantine import gather_quarantine
from salad.data.user_data import TEXTS, local_documents, own_plain_text, user_recordings, user_text
from salad.files import read_json, read_jsonl, write_text
from salad.pipeline.corpus_needs import heldout_speech, ingest_limits, spoken_rows, text_rows, write_documents
from salad.pipeline.fingerprints import fingerprint, of_content, of_user_data
from salad.pipeline.leakage import measured_on, reason_of, screen_of, without_leaks
from salad.pipeline.run import Run, Summary, kept_precision
from salad.pipeline.speech_jobs import speak, without_times
from salad.pipeline.up_to_date import MEASURED, RECORDINGS
from salad.synthesize.speak import assign_voices
from salad.types import Document, SaladError

SECTIONS = ("corpus",)
SPENT = (TEXTS,)  # web.jsonl has what was kept of them
# `inputs` knows their manifests alone
FOUND = {RECORDINGS: ("plan.sqlite", stamp_recordings, functools.partial(stamp_recordings, planned=True))}
REUSES = True  # shards of the last result


def inputs(recipe: Recipe) -> dict[str, str]:
    """The precision that the teacher writes in, where it was measured, the user's files, and what no text may hold."""
    parts, settings = {"what is measured on": measured_on(recipe)}, recipe.corpus
    if recipe.precision == "auto" and (kept := kept_precision(recipe.run_dir)).exists():
        parts[MEASURED] = fingerprint({use: timing["bf16"] for use, timing in read_json(kept)["uses"].items()})
    if settings.prepared:
        parts["prepared corpus"] = assets.fingerprint(settings.prepared)[:16]
    if settings.local_text:
        parts["your files"] = of_content(path for path in settings.local_text if path.is_file())
    return parts | of_user_data(recipe)


def run(run: Run) -> Summary:
    recipe, folder = run.recipe, run.folder("corpus")
    settings, how = recipe.corpus, {"workers": recipe.engine.workers, "seed": recipe.seed}
    limits = ingest_limits(recipe) if settings.user_data or settings.local_text else None
    own_speech, own_heldout, speech_rows = user_recordings(settings, limits, folder, **how)  # its mistakes show at once
    own_documents, to_speak, rows, quarantined = user_text(settings, limits, folder, recipe.seed)
    prepared = read_prepared(settings.prepared) if settings.prepared else None
    if prepared:
        documents = chosen_documents(prepared, settings, recipe.seed)
    else:
        documents = generate_corpus(settings, recipe.assets.llm, folder / "text", bf16=run.uses_bf16("write"), **how)
    withheld = prepared.withheld if prepared else ()
    write_text(folder / "withheld.txt", "".join(f"{word}\n" for word in withheld))
    to_speak = documents["heldout"] + to_speak
    heldout = to_speak + [Document(u.document_id, u.text, u.source, u.domain) for u in own_heldout]
    screen = screen_of(recipe, heldout)
    few = documents["web"] + local_documents(settings, limits, quarantined)
    parts = [without_leaks(screen, texts, "D_web") for texts in (few, own_documents)]
    leaks = [row for _, rows in parts for row in rows]
    narrow, more = without_leaks(screen, documents["speech"], "D_speech")
    web = write_documents(folder / "web.jsonl", chain.from_iterable(kept for kept, _ in parts))
    write_documents(folder / "speech.jsonl", narrow)
    write_documents(folder / "heldout.jsonl", heldout)
    plain_rows, unused = own_plain_text(settings, limits, folder / "plain.jsonl", lambda t: reason_of(screen, t))
    voices = assign_voices(narrow, settings.voices.shares, recipe.seed)
    spoken = without_times(speak(run, folder / "speech", voices, "speak D_speech (simulated)", variation=settings))
    measured, ready = heldout_speech(run, folder, prepared, to_speak)
    if not (spoken or own_speech):
        raise SaladError(f"corpus: no recording can be used; {folder / 'quarantine.jsonl'} says why of each")
    set_aside = gather_quarantine(folder, quarantined + leaks + more + unused)
    speech_rows += spoken_rows(spoken, measured)
    rows += plain_rows + text_rows(settings, recipe.assets.llm, documents["web"] if prepared else (), web)
    told = [(r.name, r.note) for r in speech_rows] + [(r.name, r.note) for r in rows]
    notes = [f"{name}: {note}" for name, note in told if note]
    leaked = len(leaks) + len(more) + sum(row.leaked or 0 for row in plain_rows)
    notes += [f"{leaked} texts share words with what is measured on, and are set aside"] * (leaked > 0)
    card = write_card(folder, speech_rows, rows, notes)
    return {
        "web_documents": len(web),
        "speech_documents": len(spoken) + len(own_speech),
        "heldout_documents": len(heldout),
        "speech_hours": sum(u.duration_s for u in chain(spoken, own_speech)) / 3600,
        "heldout_hours": sum(u.duration_s for u in chain(measured, own_heldout)) / 3600,
        "heldout_recordings_ready": ready,
        "withheld_words": len(prepared.withheld) if prepared else 0,
        "leaked": leaked,
        "quarantined": len(set_aside),
        "simulated": bool(spoken or measured),
        "non_commercial": list(card.non_commercial),
    }


def load_documents(run: Run, name: str) -> list[Document]:
    """Documents of `web`, `plain`, `speech` or `heldout`."""
    return [Document(**row) for row in read_jsonl(run.folder("corpus") / f"{name}.jsonl")]
