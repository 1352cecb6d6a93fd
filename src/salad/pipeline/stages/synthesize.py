"""synthesize: buy the selected speech, the probe's as it is; what cannot be aligned is set aside and counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from salad.data.manifest import read_utterances, write_lhotse, write_utterances
from salad.files import read_jsonl
from salad.pipeline.prober import kept_speech
from salad.pipeline.run import Run
from salad.pipeline.speech_jobs import align, assign_voices, encode, gather_quarantine, open_frames, speak, transcribe
from salad.pipeline.streaming import speech_shards
from salad.sequence import Frames
from salad.sequence.stream import ShardSource
from salad.synthesize.asr_filter import part_by_cer
from salad.training.distributed import World
from salad.types import Document, SaladError, Utterance

__all__ = ["bought_stream", "load_bought", "load_bought_frames", "run"]

SECTIONS = ("synthesize",)


def run(run: Run) -> dict[str, Any]:
    folder = run.folder("synthesize")
    rows = read_jsonl(run.folder("select") / "documents.jsonl")
    probed = {u.document_id: u for u in kept_speech(run)}
    there = [probed[row["id"]] for row in rows if row["id"] in probed]
    rows = [row for row in rows if row["id"] not in probed]
    documents = [Document(**{k: v for k, v in row.items() if k != "cluster"}) for row in rows]
    voices = assign_voices(documents, run.recipe.synthesize.voices.shares, run.recipe.seed)
    settings = run.recipe.synthesize
    spoken = speak(
        run,
        folder / "speech",
        voices,
        "speak D_active",
        variation=settings,
        audio=settings.audio,
    )
    kept = [*there, *align(run, folder / "aligned", spoken, "align D_active")]
    garbled: list[dict[str, Any]] = []
    if settings.max_cer is not None:
        heard = transcribe(run, folder / "transcripts", kept, "transcribe D_active")
        kept, garbled = part_by_cer(kept, heard, settings.max_cer)
    if not kept:
        gather_quarantine(folder, garbled)
        raise SaladError("synthesize: no bought utterance passed alignment and CER; see its quarantine.jsonl")
    encode(run, folder / "frames", kept, "encode D_active", **_heard(run))
    aside = gather_quarantine(folder, garbled)
    write_utterances(folder / "bought.jsonl", kept)
    write_lhotse(kept, folder / "bought.cuts.jsonl.gz")
    return {
        "utterances": len(kept),
        "hours": sum(u.duration_s for u in kept) / 3600,
        "mean_score": sum(u.score for u in kept) / len(kept),
        "quarantined": len(aside),
        **({"probed": len(there)} if there else {}),
    }


def load_bought(run: Run) -> list[Utterance]:
    return read_utterances(run.folder("synthesize") / "bought.jsonl")


def load_bought_frames(run: Run, bought: Sequence[Utterance], world: World | None = None) -> Frames:
    return open_frames(run, run.folder("synthesize") / "frames", bought, world=world, **_heard(run))


def bought_stream(run: Run, tokenizer: Any, name: str, share: float, world: World) -> ShardSource:
    """D_active as a source of a stream."""
    folder = run.folder("synthesize")
    return speech_shards(
        run, tokenizer, name, share, folder / "bought.jsonl", folder / "frames", world, _heard(run)["whole"]
    )


def _heard(run: Run) -> dict[str, Any]:
    return {"layouts": run.recipe.sequence.layouts, "whole": run.recipe.warm_start.enabled}
