"""warm_start: CTC of the adapter onto the LLM's own embeddings (ours; a switch, off in the paper recipes)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from salad.config import Recipe, WarmStart
from salad.engine.machine import default_device
from salad.files import write_json
from salad.measure.hearing import heard_of_frames
from salad.model import SaladForConditionalGeneration
from salad.pipeline.corpus_needs import stream_documents
from salad.pipeline.ears import lower_part
from salad.pipeline.run import Run, Summary
from salad.pipeline.speechlm import build_model, ctc_spans, ctc_vocabulary, load_tokenizer
from salad.pipeline.stages.align import load_aligned, load_frames, stream_aligned
from salad.sequence import Frames
from salad.training.checkpoint import load_weights
from salad.training.loop import Schedule, autocast, train
from salad.training.tasks import CTCTask
from salad.types import Utterance

SECTIONS = ("model", "warm_start")


def skips(recipe: Recipe) -> str:
    return "" if recipe.warm_start.enabled else "warm_start.enabled is false"


def run(run: Run) -> Summary:
    settings, folder = run.recipe.warm_start, run.folder("warm_start")
    if why := skips(run.recipe):
        return {"skipped": why}
    run.use_threads()
    if run.recipe.model.ears == "symbols":
        return lower_part(run)
    tokenizer = load_tokenizer(run)
    utterances = stream_aligned(run, "speech")
    texts = (d.text for d in chain(*(stream_documents(run, name) for name in ("speech", "web")), utterances))
    write_json(folder / "vocabulary.json", seen := ctc_vocabulary(tokenizer, texts))
    model, task, last = train_ctc(run, utterances, load_frames(run, "speech", utterances), folder, settings)
    device = next(model.parameters()).device.type
    heldout = load_aligned(run, "heldout")
    layout = run.recipe.sequence, run.recipe.seed
    spans = ctc_spans(tokenizer, heldout, load_frames(run, "heldout", heldout), *layout, with_text=False)
    samples = _decode(model, tokenizer, spans[:: max(1, len(heldout) // 4)][:8], run.uses_bf16("train", device))
    write_json(folder / "samples.json", samples)
    return {
        "spans": len(task.spans) + task.impossible,
        "impossible": task.impossible,
        "vocabulary": len(seen),
        "checkpoint": last.name,
    }


def train_ctc(
    run: Run,
    utterances: Sequence[Utterance],
    frames: Frames,
    folder: Path,
    settings: WarmStart,
    seed: int | None = None,
) -> tuple[SaladForConditionalGeneration, CTCTask, Path]:
    """The adapter and its CTC head on these recordings: the trained model, its task, the last checkpoint in `folder`.

    seed: of fresh weights and of the order of spans; None: the recipe's. The run's warm_start/vocabulary.json names the
    classes.
    """
    device = default_device()
    model, tokenizer = build_model(run, seed=seed).to(device), load_tokenizer(run)
    for parameter in model.llm.parameters():
        parameter.requires_grad_(False)
    assert model.ctc is not None
    model.ctc.residual.requires_grad_(False)
    spans = ctc_spans(tokenizer, utterances, frames, run.recipe.sequence, run.recipe.seed)
    seed = run.recipe.seed if seed is None else seed
    task = CTCTask(model, spans, steps=settings.steps, batch=settings.batch, seed=seed)
    schedule = Schedule.of(settings, dict.fromkeys(("adapter", "ctc"), settings.lr), weight_decay=0.01, decay_share=0.3)
    last = train(model, task, schedule, folder, title="warm start (CTC)", bf16=run.uses_bf16("train", device))
    load_weights(last, model)
    return model, task, last


def _decode(model: Any, tokenizer: Any, spans: list[Any], bf16: bool) -> list[dict[str, str]]:
    """What the ears hear in held-out spans, beside what was said."""
    with autocast(bf16, next(model.parameters()).device.type):
        heard = heard_of_frames(model, tokenizer.decode, [torch.from_numpy(frames) for frames, _ in spans])
    assert heard is not None
    said = [tokenizer.decode(ids).strip() for _, ids in spans]
    return [{"reference": own, "decoded": text} for own, text in zip(said, heard, strict=True)]
