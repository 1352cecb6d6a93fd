"""What stage1 and stage2 share: a teacher, a task, a live probe, the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from salad import config
from salad.engine import Joined
from salad.engine.machine import default_device
from salad.measure.divergence import divergence, forgetting, speech_ears, summary
from salad.model import SaladForConditionalGeneration
from salad.model.freeze import freeze
from salad.model.teacher import Teacher
from salad.objective.distill import Objective
from salad.pipeline.ears import ears_sides, lower_part_again
from salad.pipeline.run import Run, Summary
from salad.pipeline.speechlm import build_model, ctc_spans, load_tokenizer, speech_examples
from salad.pipeline.stages.align import load_aligned, load_frames
from salad.pipeline.streaming import count_left_out, lanes_of, open_stream
from salad.sequence import Frames
from salad.sequence.examples import text_examples
from salad.sequence.stream import ShardSource, StreamBatches, check_lanes
from salad.training.broadcast_weights import place
from salad.training.compiled_layers import compile_layers
from salad.training.distributed import ProcessGroup, shard
from salad.training.loop import Schedule, SharedTask, autocast, train
from salad.training.tasks import CTCTask, DistillTask, OneBatch, Side, Source, Together, plan_batches
from salad.types import Document, Example, SaladError, Utterance

SMALL_BYTES = 2 * 2**30  # of the teacher's states of all documents


def train_stage(
    run: Run,
    name: str,
    settings: config.Stage,
    sources: Callable[[Any], Sequence[Source] | Sequence[ShardSource]],
    spoken: Callable[[], Sequence[tuple[Sequence[Utterance], Frames]]],
    *,
    weights: Path | None = None,
    resume: Path | None = None,
    overfit: Path | None = None,
    folder: Path | None = None,
    seed: int | None = None,
    weights_of_texts: Sequence[float] | None = None,
) -> Summary:
    """Distil from `weights` (a fresh optimiser) or `resume` (weights and optimiser).

    sources: of a tokenizer; examples in memory, of which a plan of all batches is made, or with `sequence.stream` the
    shards that batches are drawn from as they are needed.
    spoken: the stage's recordings and their frames, for the CTC loss beside the distillation.
    overfit: train on the first batch alone, into this folder; a sound set-up drives its loss towards zero.
    folder: where checkpoints and logs go; None: the stage's own. seed: of the order of documents; None: the recipe's.
    weights_of_texts: how often ears in two parts read each of their texts (`text_weights`); None: all alike.
    """
    run.use_threads()
    folder = overfit or folder or run.folder(name)
    tokenizer, device = load_tokenizer(run), default_device()
    world, context = ProcessGroup.join(), run.recipe.sequence.context
    if run.recipe.sequence.stream:
        check_lanes(lanes_of(folder, run.recipe.sequence), world.size)  # before hours of loading
    bf16 = run.uses_bf16("train", device)
    model, base = _student_and_base(run, world, settings, bf16, weights)
    seed = run.recipe.seed if seed is None else seed
    batches = _batches(run, folder, settings, sources(load_tokenizer(run)), world, seed)  # a stream reads in a thread
    room = max(context, settings.pack_positions)
    teacher = _teacher(settings, model, base, batches, room, world)
    task: SharedTask = DistillTask(
        model, teacher, batches, alpha=settings.alpha, context=room, objective=Objective.of(settings)
    )
    if run.recipe.model.ears == "symbols":
        task = Together(task, ears_sides(run, model, tokenizer, spoken(), settings, seed, weights_of_texts))
    elif settings.ctc_weight:
        spans = _ctc_spans(run, tokenizer, spoken())
        beside = CTCTask(model, spans, steps=settings.steps, batch=settings.ctc_batch, seed=seed)
        task = Together(task, [Side("ctc", beside, settings.ctc_weight)])
    rates = {"adapter": settings.lr_adapter, "ctc": settings.lr_adapter, "llm": settings.lr_llm}
    schedule = Schedule.of(settings, rates)
    probe = _probe(run, model, teacher, tokenizer, settings, bf16)
    if overfit:
        task = OneBatch(task)
        schedule = replace(schedule, decay_share=0.0, checkpoint_every=settings.steps, probe_every=settings.steps)
    elif settings.ctc_steps:
        resume = lower_part_again(run, model, tokenizer, spoken(), settings.ctc_steps, folder / "lower", resume, seed)
    sharded = (settings.shard or settings.shard_teacher) and world.size > 1
    last = train(model, task, schedule, folder, title=name, bf16=bf16, start_from=resume, probe=probe, world=world,
                 sharded=sharded, stream=batches if isinstance(batches, StreamBatches) else None)  # fmt: skip
    summary: Summary = {"checkpoint": last.name, "steps": settings.steps}
    if not isinstance(batches, StreamBatches):
        return {**summary, "documents": sum(map(len, batches))}
    drawn = sum(world.gather(batches.documents))
    return {**summary, "documents": drawn, "left_out": count_left_out(folder) if world.is_first else 0}


def _student_and_base(
    run: Run, world: ProcessGroup, settings: config.Stage, bf16: bool, weights: Path | None
) -> tuple[SaladForConditionalGeneration, SaladForConditionalGeneration]:
    """The model to train, and the one whose LLM teaches: the same where the LLM is frozen."""
    spread = partial(shard, world=world, reshard=settings.reshard, bf16=bf16)
    model = _placed(run, world, settings.llm, bf16, spread if settings.shard else None, weights)
    base = model
    if settings.llm != "frozen":  # the original LLM on its own: training changes the student's
        base = _placed(run, world, "frozen", bf16, partial(shard, world=world) if settings.shard_teacher else None)
    if settings.compile:
        for one in dict.fromkeys((model, base)):
            compile_layers(one)
    if settings.checkpoint_activations:
        model.llm.gradient_checkpointing_enable({"use_reentrant": False})
        model.llm.train()  # transformers forms activations again only while training; its dropout is 0
    return model, base


def _batches(
    run: Run,
    folder: Path,
    settings: config.Stage,
    sources: Sequence[Source] | Sequence[ShardSource],
    world: ProcessGroup,
    seed: int,
) -> StreamBatches | list[list[Example]]:
    """A stream over shards, or the plan of all batches of examples in memory. Raises SaladError where a document of
    the plan is longer than sequence.context."""
    layout = run.recipe.sequence
    if isinstance(sources[0], ShardSource):
        return open_stream(folder, settings, layout, cast(Sequence[ShardSource], sources), world, seed)
    plan = plan_batches(cast(Sequence[Source], sources), settings.steps, settings.positions, seed)
    longest = max((1 + len(e.token_ids), e.id) for batch in plan for e in batch)
    if longest[0] > layout.context:
        raise SaladError(
            f"sequence.context: {layout.context} positions, but document {longest[1]} takes {longest[0]}; raise it to "
            "that"
        )
    return plan


def _teacher(
    settings: config.Stage,
    model: SaladForConditionalGeneration,
    base: SaladForConditionalGeneration,
    batches: StreamBatches | list[list[Example]],
    room: int,
    world: ProcessGroup,
) -> Teacher:
    """Reads each document once where its states of all fit; where processes share its layers, as often in each."""
    small = isinstance(batches, list) and _is_small(batches, base) and not settings.shard_teacher
    together = settings.shard_teacher or (settings.shard and base is model)
    most = (lambda number: max(world.gather(number))) if together else (lambda number: number)
    return Teacher(base, cache=small, context=room, alone=small, most=most)


def _ctc_spans(
    run: Run, tokenizer: Any, spoken: Sequence[tuple[Sequence[Utterance], Frames]]
) -> Sequence[tuple[np.ndarray, np.ndarray]]:
    """What the CTC loss reads of these recordings, made when it is asked for: every process has it."""
    layout = run.recipe.sequence, run.recipe.seed
    return Joined([ctc_spans(tokenizer, group, frames, *layout) for group, frames in spoken])


def _is_small(plan: Sequence[Sequence[Example]], base: SaladForConditionalGeneration) -> bool:
    """Whether the teacher's states of all documents fit SMALL_BYTES: then each is read once."""
    tokens = {e.token_ids.tobytes(): 1 + len(e.token_ids) for batch in plan for e in batch}
    return bool(sum(tokens.values()) * base.config.llm_config.hidden_size * 4 <= SMALL_BYTES)


def _placed(
    run: Run,
    world: ProcessGroup,
    llm: str,
    bf16: bool,
    spread: Callable[[SaladForConditionalGeneration], None] | None,
    weights: Path | None = None,
) -> SaladForConditionalGeneration:
    """A model on this process's device: the first process reads the weights, the others get them from it."""
    reading = world if run.recipe.model.ears == "single" else ProcessGroup()  # ears in two parts are small
    model = build_model(run, weights, lora=llm == "lora", empty=not reading.is_first)
    freeze(model, llm, bf16=bf16)
    place(model, default_device(), reading, spread or (lambda model: None))
    return model


def _probe(
    run: Run, model: SaladForConditionalGeneration, teacher: Teacher, tokenizer: Any, settings: config.Stage, bf16: bool
) -> Callable[[], dict[str, float]]:
    """Live M and F on a fixed few of the held-out documents, spread over the domains."""
    everyone = load_aligned(run, "heldout")
    heldout = [u for u in everyone if u.speaker not in run.recipe.corpus.unseen_voices]
    heldout = sorted(heldout, key=lambda u: (u.id.split("-")[-1], u.id))
    chosen = heldout[:: max(1, len(heldout) // settings.probe_documents)][: settings.probe_documents]
    frames = load_frames(run, "heldout", everyone, ProcessGroup.join())
    examples = speech_examples(run, tokenizer, chosen, frames)
    texts = text_examples(tokenizer, [Document(u.id, u.text, u.source, u.domain) for u in chosen])
    frozen = settings.llm == "frozen"
    device = next(model.parameters()).device.type

    def measure() -> dict[str, float]:
        with torch.no_grad(), autocast(bf16, device):
            reading = teacher if frozen else Teacher(model, cache=False)  # M reads by the adapted weights (eq. 2)
            m = summary(divergence(model, reading, examples, speech_ears(model))).all
            f = 0.0 if frozen else summary(forgetting(model, teacher, texts)).all
        return {"misalignment": m, "forgetting": f}

    return measure
