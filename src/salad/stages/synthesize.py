"""synthesize: buy the selected speech; artefacts (by ASR) are dropped and counted."""

from __future__ import annotations

from typing import Any

from salad.align.transcribe import cer
from salad.corpus.manifest import read_utterances, write_lhotse, write_utterances
from salad.files import read_jsonl, write_jsonl
from salad.pipeline import Run
from salad.stages.speech import align, assign_voices, encode, gather_quarantine, speak, transcribe
from salad.types import Document, SaladError, Utterance

__all__ = ["load_bought", "run"]


def run(run: Run) -> dict[str, Any]:
    folder = run.folder("synthesize")
    rows = read_jsonl(run.folder("select") / "documents.jsonl")
    documents = [Document(**{k: v for k, v in row.items() if k != "cluster"}) for row in rows]
    voices = assign_voices(documents, run.recipe.synthesize.voices.shares, run.recipe.seed)
    spoken = speak(run, folder / "speech", voices, "speak D_active")
    utterances = align(run, folder / "aligned", spoken, "align D_active")
    heard = transcribe(run, folder / "transcripts", utterances, "check D_active by ASR")
    errors = {u.id: cer(heard.get(u.id, ""), u.text) for u in utterances}
    kept = [u for u in utterances if errors[u.id] <= run.recipe.select.max_cer]
    artefacts = [
        {
            "stage": "synthesize",
            "id": u.id,
            "reason": f"CER {errors[u.id]:.2f} over select.max_cer {run.recipe.select.max_cer}",
        }
        for u in utterances
        if errors[u.id] > run.recipe.select.max_cer
    ]
    if not kept:
        raise SaladError(
            "synthesize: no bought utterance passed alignment and the CER filter; see its quarantine.jsonl"
        )
    encode(run, folder / "frames", kept, "encode D_active", layouts=run.recipe.sequence.layouts)
    aside = gather_quarantine(folder) + artefacts
    write_jsonl(folder / "quarantine.jsonl", aside)
    write_utterances(folder / "bought.jsonl", kept)
    write_lhotse(kept, folder / "bought.cuts.jsonl.gz")
    return {
        "utterances": len(kept),
        "hours": sum(u.duration_s for u in kept) / 3600,
        "cer": sum(errors[u.id] for u in kept) / len(kept),
        "quarantined": len(aside),
    }


def load_bought(run: Run) -> list[Utterance]:
    return read_utterances(run.folder("synthesize") / "bought.jsonl")
