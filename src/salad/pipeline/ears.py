"""The two parts of `model.ears: symbols`: the lower one on speech (warm_start), the upper one on text (spell)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from salad import config
from salad.engine import Joined, Made
from salad.engine.machine import default_device
from salad.files import write_json
from salad.measure.hearing import phone_errors
from salad.model import SaladForConditionalGeneration
from salad.model.freeze import freeze
from salad.pipeline.ears_data import (
    HEARD_AT_ONCE,
    NOISE,
    choose_symbols,
    kept_back,
    lists_of,
    load_noise,
    noise_of,
    runs_of,
    save_noise,
    simulated_task,
    spell_documents,
    words_of_lists,
)
from salad.pipeline.run import Run, Summary
from salad.pipeline.speechlm import build_model, load_symbols, load_tokenizer, symbol_spans
from salad.pipeline.stages.align import load_aligned, load_frames, stream_aligned
from salad.sequence import Frames
from salad.sequence.simulate import Noise
from salad.sequence.spelling import SpelledText, load_spelled, save_spelled, spell
from salad.text.phonemes import Symbols
from salad.training.checkpoint import latest_checkpoint
from salad.training.distributed import ProcessGroup
from salad.training.ears_tasks import HeardSpellTask, LowerTask, SpellTask, SymbolSpan
from salad.training.loop import Schedule, SharedTask, autocast, train
from salad.training.tasks import Side, Together
from salad.types import Utterance

Spoken = Sequence[tuple[Sequence[Utterance], Frames]]  # D_speech first, then what was bought


def lower_part(run: Run) -> Summary:
    """Choose the alphabet, learn how the LLM's tokens sound, and train frames -> symbols by CTC on D_speech but for a
    tenth, from which `spell` takes its noise."""
    settings, folder, device = run.recipe.warm_start, run.folder("warm_start"), default_device()
    tokenizer = load_tokenizer(run)
    utterances = stream_aligned(run, "speech")
    symbols = choose_symbols(run, tokenizer, utterances)
    model = build_model(run).to(device)
    for parameter in (*model.llm.parameters(), *model.symbol_ears.upper.parameters()):
        parameter.requires_grad_(False)
    frames = load_frames(run, "speech", utterances)
    layout = run.recipe.sequence, run.recipe.seed
    trained, _ = kept_back(utterances, run.recipe.spell.kept_back, run.recipe.seed)
    spans = _heard(symbol_spans(tokenizer, symbols, trained, frames, *layout))
    task = LowerTask(model, spans, steps=settings.steps, batch=settings.batch, seed=run.recipe.seed)
    schedule = _schedule(settings, settings.steps, decay_share=0.4)
    bf16 = run.uses_bf16("train", device)
    last = train(model, task, schedule, folder, title="frames to symbols (CTC)", bf16=bf16)
    heldout = load_aligned(run, "heldout")
    unseen = symbol_spans(tokenizer, symbols, heldout, load_frames(run, "heldout", heldout), *layout, with_text=False)
    with torch.no_grad(), autocast(bf16, device):
        errors, said, samples = _phone_errors(model, symbols, _heard(unseen))
    write_json(folder / "samples.json", samples)
    return {
        "spans": len(task.spans) + task.impossible,
        "impossible": task.impossible,
        "symbols": len(symbols),
        "symbol_error": errors / max(1, said),
        "checkpoint": last.name,
    }


def lower_part_again(
    run: Run,
    model: SaladForConditionalGeneration,
    tokenizer: Any,
    spoken: Spoken,
    steps: int,
    folder: Path,
    start_from: Path | None,
    seed: int,
    by_word: float = 0.0,
) -> Path:
    """The lower part alone on all of a stage's speech, before the LLM has its say: many cheap steps in place of a few
    dear ones. Returns the checkpoint to go on from. by_word: as `LowerTask` has it, for a part that begins anew."""
    settings, symbols = run.recipe.warm_start, load_symbols(run)
    spans = _heard(_spans_of(run, tokenizer, symbols, spoken))
    task = LowerTask(model, spans, steps=steps, batch=settings.batch, seed=seed, by_word=by_word)
    schedule = _schedule(settings, steps, decay_share=0.6)
    title, bf16 = "frames to symbols (CTC), all speech", run.uses_bf16("train", default_device())
    return train(
        model, task, schedule, folder, title=title, bf16=bf16, start_from=start_from, world=ProcessGroup.join()
    )


def upper_part(run: Run) -> Summary:
    """Symbols -> tokens, from text alone, with the noise of the lower part; then the LLM's own judgement of it."""
    settings, folder, device = run.recipe.spell, run.folder("spell"), default_device()
    run.use_threads()
    tokenizer, symbols = load_tokenizer(run), load_symbols(run)
    model = build_model(run, latest_checkpoint(run.folder("warm_start"))).to(device)
    bf16 = run.uses_bf16("train", device)
    freeze(model, "frozen", bf16=bf16)
    with torch.no_grad(), autocast(bf16, device):
        noise = noise_of(run, model, tokenizer, symbols)
    save_noise(noise, folder / NOISE)
    documents, aside = spell_documents(run)
    texts = {d.id: spell(tokenizer, d.text, symbols) for d in documents}
    own = words_of_lists(run, tokenizer)
    lists = lists_of(own, tokenizer, symbols, run.recipe.seed)
    save_spelled(folder / "texts.safetensors", list(texts.values()))
    save_spelled(folder / "lists.safetensors", lists)
    words = {w for d in documents for w in d.text.split()} | set(own)
    write_json(folder / "words.json", sorted(words))
    spelled, seed = list(texts.values()), run.recipe.seed
    task: Any = _text_task(run, model, spelled, lists, noise, steps=settings.steps, batch=settings.batch, seed=seed)
    if settings.kl_steps:
        kl = simulated_task(model, tokenizer, documents, texts, noise, settings, run.recipe.sequence, run.recipe.seed)
        task = Together(task, [Side("kl", kl, settings.kl_weight, settings.steps - settings.kl_steps)])
    schedule = _schedule(settings, settings.steps, decay_share=0.4)
    last = train(model, task, schedule, folder, title="symbols to tokens (text)", bf16=bf16)
    return {
        "documents": len(documents),
        "words": sum(len(text) for text in texts.values()),
        "left_out": len(aside),
        "noise": len(noise.posteriors),
        "checkpoint": last.name,
    }


def ears_sides(
    run: Run,
    model: SaladForConditionalGeneration,
    tokenizer: Any,
    spoken: Spoken,
    settings: config.Stage,
    seed: int,
    weights: Sequence[float] | None = None,
) -> list[Side]:
    """What Stages I and II train beside the distillation: symbols by CTC, and spelling of text and of speech.

    weights: how often each text is read (`text_weights`); None: all alike.
    """
    symbols, sides = load_symbols(run), []
    if settings.ctc_weight or settings.spell_weight:
        spans = _spans_of(run, tokenizer, symbols, spoken)
    if settings.ctc_weight:
        lower = LowerTask(model, _heard(spans), steps=settings.steps, batch=settings.ctc_batch, seed=seed, by_word=0.0)
        sides.append(Side("ctc", lower, settings.ctc_weight))
    if settings.spell_weight:
        texts, lists = _spelled(run, tokenizer, symbols)
        noise, batch = load_noise(run.folder("spell")), settings.spell_batch
        shared = {"steps": settings.steps, "batch": batch, "seed": seed}
        read = _text_task(run, model, texts, lists, noise, weights=weights, **shared)
        heard = HeardSpellTask(model, spans, **shared)
        sides += [Side("spell", read, settings.spell_weight), Side("heard", heard, settings.spell_weight)]
    return sides


def upper_part_again(
    run: Run,
    model: SaladForConditionalGeneration,
    tokenizer: Any,
    spoken: Spoken,
    steps: int,
    lr: float,
    folder: Path,
    start_from: Path,
    seed: int,
    weights: Sequence[float] | None = None,
) -> Path:
    """The upper part alone on text and on speech, so that it knows a lower part's mistakes; no step goes through the
    LLM. Returns the checkpoint to go on from. weights: as `ears_sides` takes them."""
    settings = run.recipe.stage2.model_copy(update={"steps": steps, "ctc_weight": 0.0, "spell_weight": 1.0})
    read, *beside = ears_sides(run, model, tokenizer, spoken, settings, seed, weights)
    schedule = Schedule.of(
        run.recipe.spell, {"adapter": lr}, steps=steps, weight_decay=0.01, decay_share=0.6, checkpoint_every=steps
    )
    title, bf16 = "symbols to tokens (text and speech)", run.uses_bf16("train", default_device())
    task = Together(cast(SharedTask, read.task), beside)
    return train(model, task, schedule, folder, title=title, bf16=bf16, start_from=start_from)


def _spelled(run: Run, tokenizer: Any, symbols: Symbols) -> tuple[list[SpelledText], list[SpelledText]]:
    """The texts and the lists of words that the spell stage read, as it kept them."""
    files = [run.folder("spell") / f"{name}.safetensors" for name in ("texts", "lists")]
    if all(path.exists() for path in files):
        return load_spelled(files[0]), load_spelled(files[1])
    texts = [spell(tokenizer, d.text, symbols) for d in spell_documents(run)[0]]  # a run made before they were kept
    return texts, lists_of(words_of_lists(run, tokenizer), tokenizer, symbols, run.recipe.seed)


def _text_task(
    run: Run,
    model: SaladForConditionalGeneration,
    texts: Sequence[SpelledText],
    lists: Sequence[SpelledText],
    noise: Noise,
    *,
    steps: int,
    batch: int,
    seed: int,
    weights: Sequence[float] | None = None,
) -> SpellTask:
    """Spelling of the recipe's texts, and of lists of words."""
    settings, words = run.recipe.spell, run.recipe.sequence.speech_words
    return SpellTask(
        model, texts, lists, noise, steps=steps, batch=batch, seed=seed, words=words, weights=weights,
        lists_share=settings.lists_share, rate=settings.error_rate,
    )  # fmt: skip


def _schedule(settings: config.WarmStart | config.Spell, steps: int, decay_share: float) -> Schedule:
    """How either part trains on its own."""
    rates = {"adapter": settings.lr}
    return Schedule.of(settings, rates, steps=steps, weight_decay=0.01, decay_share=decay_share)


def _spans_of(run: Run, tokenizer: Any, symbols: Symbols, spoken: Spoken) -> Sequence[tuple[SymbolSpan, SpelledText]]:
    layout = run.recipe.sequence, run.recipe.seed
    return Joined([symbol_spans(tokenizer, symbols, group, frames, *layout) for group, frames in spoken])


def _heard(spans: Sequence[tuple[SymbolSpan, SpelledText]]) -> Sequence[SymbolSpan]:
    """What is heard of each, without how it is spelled."""
    return Made(lambda row: row[0], spans)


def _phone_errors(
    model: SaladForConditionalGeneration, symbols: Symbols, spans: Sequence[SymbolSpan]
) -> tuple[int, int, list[dict[str, str]]]:
    """Edits and length over all spans, boundaries left out, and some as they were heard beside what was said."""
    errors, said, samples = 0, 0, list[dict[str, str]]()
    for start in range(0, len(spans), HEARD_AT_ONCE):
        part = spans[start : start + HEARD_AT_ONCE]
        runs = runs_of(model, part)
        for span, own in zip(part, runs.posteriors.argmax(-1).split(runs.lengths), strict=True):
            edits, length = phone_errors(span.symbols.tolist(), own.tolist())
            errors, said = errors + edits, said + length
            if len(samples) < 8:
                names = [" ".join(symbols.names[int(i)] for i in ids) for ids in (span.symbols, own)]
                samples.append({"reference": names[0], "decoded": names[1]})
    return errors, said, samples
