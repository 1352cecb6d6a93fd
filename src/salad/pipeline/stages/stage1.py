"""stage1: distillation on narrow-domain speech, with plain text against forgetting."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from salad.config import Recipe
from salad.pipeline.corpus_needs import against_forgetting, stream_documents
from salad.pipeline.distillation import train_stage
from salad.pipeline.fingerprints import fingerprint
from salad.pipeline.run import Run, Summary
from salad.pipeline.speechlm import ears_checkpoint, speech_source, text_source
from salad.pipeline.stages.align import load_frames, speech_stream, stream_aligned
from salad.pipeline.streaming import lanes_of, text_shards
from salad.sequence import Frames
from salad.sequence.stream import ShardSource
from salad.training.distributed import ProcessGroup
from salad.training.tasks import Source
from salad.types import Utterance

SECTIONS = ("stage1",)
TOGETHER = True  # under torchrun all processes run it


def inputs(recipe: Recipe) -> dict[str, str]:
    """How a stream shuffles, where there is one: it orders the documents of both stages.

    What was begun goes on with its lanes, whatever the recipe says by then.
    """
    sequence = recipe.sequence
    lanes = lanes_of(recipe.run_dir / "stage1", sequence)
    return {"stream": fingerprint([lanes, sequence.buffer_shards])} if sequence.stream else {}


def run(run: Run, overfit: Path | None = None) -> Summary:
    settings, world = run.recipe.stage1, ProcessGroup.join()
    share, plain = 1 - settings.text_share, against_forgetting(run.recipe)

    @functools.cache
    def spans() -> Sequence[tuple[Sequence[Utterance], Frames]]:
        speech = stream_aligned(run, "speech")
        return [(speech, load_frames(run, "speech", speech, world))]

    def sources(tokenizer: Any) -> Sequence[Source] | Sequence[ShardSource]:
        if run.recipe.sequence.stream:
            text = text_shards(run, tokenizer, settings.text_share, run.folder("corpus") / f"{plain}.jsonl")
            return [speech_stream(run, tokenizer, share, world), text]
        ((speech, frames),) = spans()
        return [
            speech_source(run, tokenizer, "speech", share, speech, frames, run.recipe.sequence.layouts),
            text_source(run, tokenizer, settings.text_share, stream_documents(run, plain)),
        ]

    return train_stage(run, "stage1", settings, sources, spans, weights=ears_checkpoint(run), overfit=overfit)
