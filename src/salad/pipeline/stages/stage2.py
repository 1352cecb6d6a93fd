"""stage2: more distillation from the checkpoint before Stage I's decay, on old speech, bought speech and text."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from salad.model import SaladProcessor
from salad.pipeline.corpus_needs import against_forgetting, stream_documents
from salad.pipeline.distillation import train_stage
from salad.pipeline.ears_data import text_weights
from salad.pipeline.model_card import write_model_card
from salad.pipeline.run import Run, Summary
from salad.pipeline.speechlm import build_model, load_tokenizer, speech_source, text_source
from salad.pipeline.stages.align import load_frames, speech_stream, stream_aligned
from salad.pipeline.stages.synthesize import bought_seconds, bought_stream, load_bought, load_bought_frames
from salad.pipeline.streaming import text_shards
from salad.sequence import Frames
from salad.sequence.stream import ShardSource
from salad.training.checkpoint import last_checkpoint, latest_checkpoint
from salad.training.distributed import ProcessGroup
from salad.training.schedule import before_decay, of_round
from salad.training.tasks import Source
from salad.types import SaladError, Utterance

SECTIONS = ("stage2", "rounds")
TOGETHER = True  # under torchrun all processes run it


def run(run: Run) -> Summary:
    settings = of_round(run.recipe.stage2, run.round, run.recipe.rounds.number)
    world, resume = ProcessGroup.join(), _resume(run)
    share, plain = (1 - settings.text_share) / 2, against_forgetting(run.recipe)

    @functools.cache
    def spans() -> Sequence[tuple[Sequence[Utterance], Frames]]:
        speech = stream_aligned(run, "speech")
        bought = [(one, load_bought(one)) for one in run.rounds]
        return [
            (speech, load_frames(run, "speech", speech, world)),
            *((own, load_bought_frames(one, own, world)) for one, own in bought),
        ]

    def sources(tokenizer: Any) -> Sequence[Source] | Sequence[ShardSource]:
        names = ["bought", *(f"bought {number}" for number in range(2, run.round + 1))]
        if run.recipe.sequence.stream:
            hours = [bought_seconds(one) for one in run.rounds]
            return [
                speech_stream(run, tokenizer, share, world),
                *(
                    bought_stream(one, tokenizer, name, share * h / sum(hours), world)
                    for name, h, one in zip(names, hours, run.rounds, strict=True)
                ),
                text_shards(run, tokenizer, settings.text_share, run.folder("corpus") / f"{plain}.jsonl"),
            ]
        (speech, old), *bought = spans()
        layouts = run.recipe.sequence.layouts
        hours = [sum(u.duration_s for u in own) for own, _ in bought]
        return [
            speech_source(run, tokenizer, "speech", share, speech, old, layouts),
            *(
                speech_source(run, tokenizer, name, share * h / sum(hours), own, new, layouts)
                for name, h, (own, new) in zip(names, hours, bought, strict=True)
            ),
            text_source(run, tokenizer, settings.text_share, stream_documents(run, plain)),
        ]

    seed = run.recipe.seed + run.round if run.recipe.sequence.stream or run.round > 1 else None  # an order of its own
    texts = text_weights(run) if run.recipe.model.ears == "symbols" else None
    summary = train_stage(run, "stage2", settings, sources, spans, resume=resume, seed=seed, weights_of_texts=texts)
    if world.is_first:
        _save(run)
    return summary


def _resume(run: Run) -> Path:
    """Stage I before its decay, or the end of the round before."""
    if run.round > 1:
        return last_checkpoint(run.rounds[-2].folder("stage2"))
    first = run.recipe.stage1
    resume = run.folder("stage1") / f"checkpoint-{before_decay(first.steps, first.decay_share):06d}"
    if not resume.exists():
        raise SaladError(f"stage2: {resume} (Stage I before its decay) is missing; run stage1 again")
    return resume


def _save(run: Run) -> None:
    """The finished model and its processor, as `from_pretrained` reads them."""
    folder = run.folder("stage2") / "model"
    model = build_model(
        run, latest_checkpoint(run.folder("stage2")), lora=run.recipe.stage2.llm == "lora", averaged=True
    )
    model.save_pretrained(folder)
    config = model.config
    processor = SaladProcessor(load_tokenizer(run), config.encoder, config.audio_token_id, config.start_token_id)
    processor.save_pretrained(folder)
    write_model_card(run)
