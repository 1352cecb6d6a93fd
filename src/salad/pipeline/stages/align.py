"""align: word times for all speech, and the encoder's frames of the spans that training will hear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from salad import assets
from salad.config import Recipe
from salad.data.manifest import read_utterances, spoken_in, summed, utterances_in, write_utterances
from salad.data.quarantine import gather_quarantine
from salad.engine import shards_in
from salad.files import Rows
from salad.pipeline.corpus_needs import PREPARED_HELDOUT
from salad.pipeline.fingerprints import of_folder
from salad.pipeline.leakage import screen_of, without_leaks
from salad.pipeline.run import Run, Summary
from salad.pipeline.speech_jobs import EncodeArguments, align, encode, keep_sizes, open_frames, training_pieces
from salad.pipeline.stages.corpus import load_documents
from salad.pipeline.streaming import speech_shards
from salad.sequence import Frames
from salad.sequence.stream import ShardSource
from salad.training.distributed import ProcessGroup
from salad.types import SaladError, Utterance

SECTIONS = ("align", "sequence")
SPENT = ("speech/shard-*/utterances.jsonl", "heldout/shard-*/utterances.jsonl")  # all are in the manifests
REUSES = True  # shards of the last result


def inputs(recipe: Recipe) -> dict[str, str]:
    """The aligner's own model, and word times that the user gives."""
    parts, settings = {}, recipe.align
    if settings.model is not None:
        parts["asset align.model"] = assets.fingerprint(settings.model)[:16]
    if settings.times is not None:
        parts["your word times"] = of_folder(settings.times)
    if recipe.sequence.encode == "recordings":
        parts["whole recordings"] = "encoded"
    return parts


def run(run: Run) -> Summary:
    folder, corpus = run.folder("align"), run.folder("corpus")
    every = spoken_in(shards_in(corpus / "speech") + shards_in(corpus / "own"))
    screen = screen_of(run.recipe, load_documents(run, "heldout"))
    spoken, leaks = without_leaks(screen, every, "D_speech", lambda pair: pair[0])
    speech = align(run, folder / "speech", spoken, "align D_speech")
    places = ("heldout", "own-heldout", PREPARED_HELDOUT)
    kept = spoken_in([shard for place in places for shard in shards_in(corpus / place)])
    heldout = align(run, folder / "heldout", kept, "align held-out")
    quarantined = gather_quarantine(folder, leaks)
    if not speech:
        raise SaladError(
            f"align: no utterance can be used; {folder / 'quarantine.jsonl'} says why of each. If their scores are "
            "too low, check that each text belongs to its audio, or lower align.min_score"
        )
    if not heldout:
        raise SaladError(
            f"align: no held-out utterance is left to measure on; {folder / 'quarantine.jsonl'} says why of each. "
            "Raise corpus.heldout_share, or lower align.min_score"
        )
    for name, group in (("heldout", heldout), ("speech", speech)):
        found = dict[str, Any]()
        write_utterances(folder / f"{name}.jsonl", summed(group, found))
        keep_sizes(folder / name, group)
    store = encode(run, folder / "frames-speech", speech, "encode D_speech", **pieces_of(run, "speech"))
    encode(run, folder / "frames-heldout", heldout, "encode held-out", **pieces_of(run, "heldout"))
    counts = {"pieces": len(store), "leaked": len(leaks), "quarantined": len(quarantined)}
    return {"utterances": len(speech), **found, **counts}


def load_aligned(run: Run, name: str) -> list[Utterance]:
    """Aligned utterances of `speech` or `heldout`."""
    return read_utterances(run.folder("align") / f"{name}.jsonl")


def stream_aligned(run: Run, name: str) -> Rows:
    """The aligned utterances, read when they are asked for."""
    return utterances_in([run.folder("align") / f"{name}.jsonl"])


def load_frames(run: Run, name: str, utterances: Sequence[Utterance], world: ProcessGroup | None = None) -> Frames:
    """Frames of the aligned utterances of `speech` or `heldout`."""
    return open_frames(run, run.folder("align") / f"frames-{name}", utterances, world=world, **pieces_of(run, name))


def speech_stream(run: Run, tokenizer: Any, share: float, world: ProcessGroup) -> ShardSource:
    """D_speech as a source of a stream."""
    folder, whole = run.folder("align"), run.recipe.warm_start.enabled
    return speech_shards(
        run, tokenizer, "speech", share, folder / "speech.jsonl", folder / "frames-speech", world, whole
    )


def pieces_of(run: Run, name: str) -> EncodeArguments:
    """Which pieces of `speech` or `heldout` training and measuring hear."""
    return {"layouts": 1} if name == "heldout" else training_pieces(run)
