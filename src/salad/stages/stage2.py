"""stage2: more distillation from the checkpoint before Stage I's decay, on old speech, bought speech and text."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from salad.model import SaladProcessor
from salad.pipeline import Run
from salad.sequence import Frames
from salad.sequence.stream import ShardSource
from salad.stages.align import load_aligned, load_frames, speech_stream
from salad.stages.corpus import load_documents
from salad.stages.model_card import write_model_card
from salad.stages.speechlm import build_model, load_tokenizer, speech_source, text_source
from salad.stages.streams import text_shards
from salad.stages.synthesize import bought_stream, load_bought, load_bought_frames
from salad.stages.training import train_stage
from salad.train.checkpoint import latest_checkpoint
from salad.train.schedule import before_decay
from salad.train.tasks import Source
from salad.train.world import World
from salad.types import SaladError, Utterance

__all__ = ["run"]


def run(run: Run) -> dict[str, Any]:
    settings, first, world = run.recipe.stage2, run.recipe.stage1, World.join()
    step = before_decay(first.steps, first.decay_share)
    resume = run.folder("stage1") / f"checkpoint-{step:06d}"
    if not resume.exists():
        raise SaladError(f"stage2: {resume} (Stage I before its decay) is missing; run stage1 again")

    share = (1 - settings.text_share) / 2

    @functools.cache
    def spoken() -> Sequence[tuple[Sequence[Utterance], Frames]]:
        speech, bought = load_aligned(run, "speech"), load_bought(run)
        return [
            (speech, load_frames(run, "speech", speech, world)),
            (bought, load_bought_frames(run, bought, world)),
        ]

    def sources(tokenizer: Any) -> Sequence[Source] | Sequence[ShardSource]:
        if run.recipe.sequence.stream:
            return [
                speech_stream(run, tokenizer, share, world),
                bought_stream(run, tokenizer, share, world),
                text_shards(run, tokenizer, settings.text_share, run.folder("corpus") / "web.jsonl"),
            ]
        (speech, old), (bought, new) = spoken()
        layouts = run.recipe.sequence.layouts
        return [
            speech_source(run, tokenizer, "speech", share, speech, old, layouts),
            speech_source(run, tokenizer, "bought", share, bought, new, layouts),
            text_source(run, tokenizer, settings.text_share, load_documents(run, "web")),
        ]

    summary = train_stage(run, "stage2", settings, sources, spoken, resume=resume)
    if world.is_first:
        _save(run)
    return summary


def _save(run: Run) -> None:
    """The finished model and its processor, as `from_pretrained` reads them."""
    folder = run.folder("stage2") / "model"
    model = build_model(
        run, latest_checkpoint(run.folder("stage2")), lora=run.recipe.stage2.llm == "lora", averaged=True
    )
    model.save_pretrained(folder)
    config = model.config
    SaladProcessor(load_tokenizer(run), config.encoder, config.audio_token_id, config.start_token_id).save_pretrained(
        folder
    )
    write_model_card(run)
