"""stage1: distillation on narrow-domain speech, with plain text against forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from salad.pipeline import Run
from salad.stages.align import load_aligned, load_frames
from salad.stages.corpus import load_documents
from salad.stages.speechlm import speech_source, text_source
from salad.stages.training import train_stage
from salad.train.checkpoint import latest_checkpoint
from salad.train.tasks import Source
from salad.train.world import World

__all__ = ["run"]


def run(run: Run, overfit: Path | None = None) -> dict[str, Any]:
    settings = run.recipe.stage1
    speech = load_aligned(run, "speech")
    frames = load_frames(run, "speech", speech, World.join())

    def sources(tokenizer: Any) -> Sequence[Source]:
        return [
            speech_source(
                run, tokenizer, "speech", 1 - settings.text_share, speech, frames, run.recipe.sequence.layouts
            ),
            text_source(run, tokenizer, settings.text_share, load_documents(run, "web")),
        ]

    weights = latest_checkpoint(run.folder("warm_start")) if run.recipe.warm_start.enabled else None
    return train_stage(run, "stage1", settings, sources, [(speech, frames)], weights=weights, overfit=overfit)
