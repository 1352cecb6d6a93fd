"""synthesize: buy the selected speech; what the aligner cannot find in the sound is set aside and counted."""

from __future__ import annotations

from typing import Any

from salad.corpus.manifest import read_utterances, write_lhotse, write_utterances
from salad.files import read_jsonl
from salad.pipeline import Run
from salad.stages.speech import align, assign_voices, encode, gather_quarantine, speak, transcribe
from salad.synthesize.heard import part_by_cer
from salad.types import Document, SaladError, Utterance

__all__ = ["load_bought", "run"]


def run(run: Run) -> dict[str, Any]:
    folder = run.folder("synthesize")
    rows = read_jsonl(run.folder("select") / "documents.jsonl")
    documents = [Document(**{k: v for k, v in row.items() if k != "cluster"}) for row in rows]
    voices = assign_voices(documents, run.recipe.synthesize.voices.shares, run.recipe.seed)
    settings = run.recipe.synthesize
    spoken = speak(
        run,
        folder / "speech",
        voices,
        "speak D_active",
        speed_jitter=settings.speed_jitter,
        audio=settings.audio,
    )
    kept = align(run, folder / "aligned", spoken, "align D_active")
    garbled: list[dict[str, Any]] = []
    if settings.max_cer is not None:
        heard = transcribe(run, folder / "transcripts", kept, "transcribe D_active")
        kept, garbled = part_by_cer(kept, heard, settings.max_cer)
    if not kept:
        gather_quarantine(folder, garbled)
        raise SaladError("synthesize: no bought utterance passed alignment and CER; see its quarantine.jsonl")
    warm = run.recipe.warm_start.enabled
    encode(run, folder / "frames", kept, "encode D_active", layouts=run.recipe.sequence.layouts, whole=warm)
    aside = gather_quarantine(folder, garbled)
    write_utterances(folder / "bought.jsonl", kept)
    write_lhotse(kept, folder / "bought.cuts.jsonl.gz")
    return {
        "utterances": len(kept),
        "hours": sum(u.duration_s for u in kept) / 3600,
        "mean_score": sum(u.score for u in kept) / len(kept),
        "quarantined": len(aside),
    }


def load_bought(run: Run) -> list[Utterance]:
    return read_utterances(run.folder("synthesize") / "bought.jsonl")
