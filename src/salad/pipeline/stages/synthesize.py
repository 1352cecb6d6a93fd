"""synthesize: buy the selected speech, the probe's as it is; what cannot be aligned is set aside and counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from salad.data.manifest import utterances_in, write_utterances
from salad.data.quarantine import gather_quarantine
from salad.engine import Made
from salad.files import Rows, read_jsonl
from salad.pipeline.prober import kept_speech
from salad.pipeline.run import Run, Summary
from salad.pipeline.speech_jobs import align, encode, open_frames, speak, training_pieces, transcribe
from salad.pipeline.streaming import speech_shards
from salad.sequence import Frames
from salad.sequence.stream import ShardSource
from salad.synthesize.asr_filter import split_by_cer
from salad.synthesize.speak import assign_voices
from salad.training.distributed import ProcessGroup
from salad.types import Document, SaladError, Utterance

SECTIONS = ("synthesize",)
SPENT = ("speech/shard-*/utterances.jsonl", "aligned/shard-*/utterances.jsonl")  # bought.jsonl has what was kept
REUSES = True  # shards of the last result


def run(run: Run) -> Summary:
    folder = run.folder("synthesize")
    rows = read_jsonl(run.folder("select") / "documents.jsonl")
    probed = {u.document_id: u for u in kept_speech(run)}
    there = [probed[row["id"]] for row in rows if row["id"] in probed]
    rows = [row for row in rows if row["id"] not in probed]
    documents = [Document(**{k: v for k, v in row.items() if k != "cluster"}) for row in rows]
    voices = assign_voices(documents, run.recipe.synthesize.voices.shares, run.recipe.seed)
    settings = run.recipe.synthesize
    spoken = speak(run, folder / "speech", voices, "speak D_active", variation=settings, audio=settings.audio)
    aligned = align(run, folder / "aligned", spoken, "align D_active")
    numbers = range(-len(there), len(aligned))  # those below 0 are the probe's
    kept: Sequence[Utterance] = Made(lambda n: aligned[n] if n >= 0 else there[n], numbers)
    garbled: list[dict[str, str | float]] = []
    if settings.max_cer is not None:
        transcripts = transcribe(run, folder / "transcripts", kept, "transcribe D_active")
        kept, garbled = split_by_cer(kept, transcripts, settings.max_cer)
    if not kept:
        gather_quarantine(folder, garbled)
        raise SaladError(
            f"synthesize: nothing that was bought can be used; {folder / 'quarantine.jsonl'} says why of each. Lower "
            "align.min_score, raise synthesize.max_cer, or take another voice"
        )
    encode(run, folder / "frames", kept, "encode D_active", **training_pieces(run))
    quarantined = gather_quarantine(folder, garbled)
    write_utterances(folder / "bought.jsonl", kept)
    return {
        "utterances": len(kept),
        "hours": sum(u.duration_s for u in kept) / 3600,
        "mean_score": sum(u.score for u in kept) / len(kept),
        "quarantined": len(quarantined),
        **({"probed": len(there)} if there else {}),
    }


def load_bought(run: Run) -> Rows:
    """What was bought, read when it is asked for."""
    return utterances_in([run.folder("synthesize") / "bought.jsonl"])


def bought_seconds(run: Run) -> float:
    seconds: float = sum(u.duration_s for u in load_bought(run))
    return seconds


def load_bought_frames(run: Run, bought: Sequence[Utterance], world: ProcessGroup | None = None) -> Frames:
    return open_frames(run, run.folder("synthesize") / "frames", bought, world=world, **training_pieces(run))


def bought_stream(run: Run, tokenizer: Any, name: str, share: float, world: ProcessGroup) -> ShardSource:
    """D_active as a source of a stream."""
    folder, whole = run.folder("synthesize"), run.recipe.warm_start.enabled
    return speech_shards(run, tokenizer, name, share, folder / "bought.jsonl", folder / "frames", world, whole)
