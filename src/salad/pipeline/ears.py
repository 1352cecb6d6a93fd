"""The two parts of `model.ears: symbols`: the lower one on speech (warm_start), the upper one on text (spell)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from safetensors.torch import save_file

from salad import config
from salad.data.withheld import has_withheld, read_withheld
from salad.engine.machine import default_device
from salad.engine.memory import keep_freed_memory
from salad.files import read_json, write_json
from salad.model import SaladForConditionalGeneration
from salad.model.ears import Lexicon
from salad.model.freeze import freeze
from salad.model.teacher import Teacher
from salad.pipeline.run import Run
from salad.pipeline.speechlm import build_model, load_symbols, load_tokenizer, symbol_spans
from salad.pipeline.stages.align import load_aligned, load_frames
from salad.pipeline.stages.corpus import load_documents
from salad.select import overlapping
from salad.sequence import Frames, start_token_id, tokenise
from salad.sequence.examples import num_positions
from salad.sequence.interleave import interleave
from salad.sequence.simulate import Noise
from salad.sequence.spelling import SpelledText, spell
from salad.text.phonemes import BOUNDARY, Symbols
from salad.text.speakable import speakable
from salad.training.checkpoint import latest_checkpoint, load_weights
from salad.training.distributed import World
from salad.training.ears_tasks import HeardSpellTask, LowerTask, SimulatedBatches, SpellTask, SymbolSpan
from salad.training.loop import Schedule, Task, autocast, train
from salad.training.tasks import DistillTask, Side, Source, Together, plan_batches
from salad.types import Document, Example, SaladError, Utterance

__all__ = [
    "choose_symbols",
    "ears_again",
    "ears_sides",
    "lists_of",
    "load_noise",
    "lower_part",
    "noise_of",
    "simulated_task",
    "spell_documents",
    "upper_part",
]

Spoken = Sequence[tuple[Sequence[Utterance], Frames]]  # D_speech first, then what was bought
LISTS, WORDS_OF_A_LIST = 3000, 40  # texts of words in no order
HEARD_AT_ONCE = 32
NOISE = "noise.safetensors"
RARE = 13  # words in a row that a spelled text may not share with what is held out
LAYOUTS = 4  # interleavings of a simulated document


def lower_part(run: Run) -> dict[str, Any]:
    """Choose the alphabet, learn how the LLM's tokens sound, and train frames -> symbols by CTC on D_speech but for a
    tenth, from which `spell` takes its noise."""
    settings, folder, device = run.recipe.warm_start, run.folder("warm_start"), default_device()
    tokenizer = load_tokenizer(run)
    utterances = load_aligned(run, "speech")
    symbols = choose_symbols(run, tokenizer, utterances)
    model = build_model(run).to(device)
    for parameter in (*model.llm.parameters(), *model.adapter.upper.parameters()):
        parameter.requires_grad_(False)
    frames = load_frames(run, "speech", utterances)
    trained, _ = kept_back(utterances, run.recipe.spell.kept_back, run.recipe.seed)
    spans = [span for span, _ in symbol_spans(run, tokenizer, symbols, trained, frames)]
    task = LowerTask(model, spans, steps=settings.steps, batch=settings.batch, seed=run.recipe.seed)
    schedule = _schedule(settings, settings.steps, decay_share=0.4)
    bf16 = run.uses_bf16("train", device)
    last = train(model, task, schedule, folder, title="frames to symbols (CTC)", bf16=bf16)
    heldout = load_aligned(run, "heldout")
    spans = symbol_spans(run, tokenizer, symbols, heldout, load_frames(run, "heldout", heldout), with_text=False)
    with torch.no_grad(), autocast(bf16, device):
        errors, said, samples = _phone_errors(model, symbols, [span for span, _ in spans])
    write_json(folder / "samples.json", samples)
    return {
        "spans": len(task.spans) + task.impossible,
        "impossible": task.impossible,
        "symbols": len(symbols),
        "symbol_error": errors / max(1, said),
        "checkpoint": last.name,
    }


def ears_again(
    run: Run,
    model: SaladForConditionalGeneration,
    tokenizer: Any,
    spoken: Callable[[], Spoken],
    settings: config.Stage,
    folder: Path,
    start_from: Path | None,
    seed: int,
) -> Path | None:
    """Each part alone, before the LLM has its say: `ctc_steps` of the lower part on all of a stage's speech, then
    `spell_steps` of the upper part through the noise that the lower part has by then. Many cheap steps in place of a
    few dear ones. Returns the checkpoint to go on from."""
    if settings.ctc_steps:
        again, symbols = run.recipe.warm_start, load_symbols(run)
        spans = [span for span, _ in _spans_of(run, tokenizer, symbols, _not_kept_back(run, spoken()))]
        lower = LowerTask(model, spans, steps=settings.ctc_steps, batch=again.batch, seed=seed, by_word=0.0)
        title = "frames to symbols (CTC), all speech"
        start_from = _part(run, model, lower, again, settings.ctc_steps, folder / "lower", title, start_from)
    if settings.spell_steps:
        again, device = run.recipe.spell, next(model.parameters()).device.type
        if not settings.ctc_steps and start_from is not None:
            load_weights(start_from, model)
        if not (folder / NOISE).exists():
            with torch.no_grad(), autocast(run.uses_bf16("train", device), device):
                noise = noise_of(run, model, tokenizer, load_symbols(run))
            if World.join().is_first:
                _save_noise(noise, folder / NOISE)
            World.join().barrier()
        upper = _text_task(run, model, tokenizer, load_noise(folder), settings.spell_steps, again.batch, seed + 1)
        title = "symbols to tokens (text), the noise of all speech"
        start_from = _part(run, model, upper, again, settings.spell_steps, folder / "upper", title, start_from)
    return start_from


def _part(
    run: Run,
    model: SaladForConditionalGeneration,
    task: Task,
    settings: config.WarmStart | config.Spell,
    steps: int,
    folder: Path,
    title: str,
    start_from: Path | None,
) -> Path:
    schedule, bf16 = _schedule(settings, steps, decay_share=0.6), run.uses_bf16("train", default_device())
    return train(model, task, schedule, folder, title=title, bf16=bf16, start_from=start_from, world=World.join())


def _not_kept_back(run: Run, spoken: Spoken) -> Spoken:
    """Without the documents that noise will be taken from, where a later part of the recipe takes it anew."""
    if not run.recipe.stage2.spell_steps or run.recipe.spell.noise == "uniform":
        return spoken
    (speech, frames), *bought = spoken
    return [(kept_back(speech, run.recipe.spell.kept_back, run.recipe.seed)[0], frames), *bought]


def upper_part(run: Run) -> dict[str, Any]:
    """Symbols -> tokens, from text alone, with the noise of the lower part; then the LLM's own judgement of it."""
    settings, folder, device = run.recipe.spell, run.folder("spell"), default_device()
    torch.set_num_threads(run.recipe.threads)
    keep_freed_memory()
    tokenizer, symbols = load_tokenizer(run), load_symbols(run)
    model = build_model(run, latest_checkpoint(run.folder("warm_start"))).to(device)
    bf16 = run.uses_bf16("train", device)
    freeze(model, "frozen", bf16=bf16)
    with torch.no_grad(), autocast(bf16, device):
        noise = noise_of(run, model, tokenizer, symbols)
    _save_noise(noise, folder / NOISE)
    documents, aside = spell_documents(run)
    texts = {d.id: spell(tokenizer, d.text, symbols) for d in documents}
    lists = lists_of(run, tokenizer, symbols)
    words = {w for d in documents for w in d.text.split()} | set(_words_of_lists(run, tokenizer))
    write_json(folder / "words.json", sorted(words))
    task: Any = SpellTask(
        model,
        list(texts.values()),
        lists,
        noise,
        steps=settings.steps,
        batch=settings.batch,
        seed=run.recipe.seed,
        words=run.recipe.sequence.speech_words,
        lists_share=settings.lists_share,
        rate=settings.error_rate,
    )
    if settings.kl_steps:
        kl = simulated_task(run, model, tokenizer, documents, texts, noise)
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
    folder: Path,
    seed: int,
) -> list[Side]:
    """What Stages I and II train beside the distillation: symbols by CTC, and spelling of text and of speech.

    folder: of the stage, which may hold noise of its own (`ears_again`); else it is that of the spell stage.
    """
    symbols, sides = load_symbols(run), []
    if folder == run.folder("stage1"):
        spoken = _not_kept_back(run, spoken)
    if settings.ctc_weight or settings.spell_weight:
        spans = _spans_of(run, tokenizer, symbols, spoken)
    if settings.ctc_weight:
        lower = LowerTask(
            model,
            [span for span, _ in spans],
            steps=settings.steps,
            batch=settings.ctc_batch,
            seed=seed,
            by_word=0.0,
        )
        sides.append(Side("ctc", lower, settings.ctc_weight))
    if settings.spell_weight:
        noise = load_noise(folder if (folder / NOISE).exists() else run.folder("spell"))
        read = _text_task(run, model, tokenizer, noise, settings.steps, settings.spell_batch, seed)
        heard = HeardSpellTask(model, spans, steps=settings.steps, batch=settings.spell_batch, seed=seed)
        sides += [Side("spell", read, settings.spell_weight), Side("heard", heard, settings.spell_weight)]
    return sides


def _text_task(
    run: Run,
    model: SaladForConditionalGeneration,
    tokenizer: Any,
    noise: Noise,
    steps: int,
    batch: int,
    seed: int,
) -> SpellTask:
    """Spelling of the recipe's texts, and of lists of words."""
    settings, symbols = run.recipe.spell, load_symbols(run)
    texts = [spell(tokenizer, d.text, symbols) for d in spell_documents(run)[0]]
    return SpellTask(
        model,
        texts,
        lists_of(run, tokenizer, symbols),
        noise,
        steps=steps,
        batch=batch,
        seed=seed,
        words=run.recipe.sequence.speech_words,
        lists_share=settings.lists_share,
        rate=settings.error_rate,
    )


def kept_back(utterances: Sequence[Utterance], share: float, seed: int) -> tuple[list[Utterance], list[Utterance]]:
    """What the lower part trains on, and the documents whose mistakes it is asked for; at least one each."""
    documents = sorted({u.document_id or u.id for u in utterances})
    random.Random(f"{seed}/kept back").shuffle(documents)
    if len(documents) < 2:
        raise SaladError(f"spell: {len(documents)} document of speech, but one must be kept back for noise; give more")
    back = set(documents[: max(1, round(share * len(documents)))])
    return (
        [u for u in utterances if (u.document_id or u.id) not in back],
        [u for u in utterances if (u.document_id or u.id) in back],
    )


def noise_of(run: Run, model: SaladForConditionalGeneration, tokenizer: Any, symbols: Symbols) -> Noise:
    """What the lower part makes of speech that it was not trained on."""
    if run.recipe.spell.noise == "uniform":
        return Noise.uniform(len(symbols))
    utterances = load_aligned(run, "speech")
    _, back = kept_back(utterances, run.recipe.spell.kept_back, run.recipe.seed)
    spans = symbol_spans(run, tokenizer, symbols, back, load_frames(run, "speech", utterances))
    pairs = []
    for start in range(0, len(spans), HEARD_AT_ONCE):
        part = [span for span, _ in spans[start : start + HEARD_AT_ONCE]]
        runs = _runs(model, part)
        heard = runs.posteriors.float().cpu().split(runs.lengths)
        pairs += [(span.symbols.tolist(), own.numpy()) for span, own in zip(part, heard, strict=True)]
    return Noise.of_runs(pairs, len(symbols))


def spell_documents(run: Run) -> tuple[list[Document], list[str]]:
    """The recipe's texts that may be read, and ids of those that share words with what is held out."""
    documents = load_documents(run, "web") + load_documents(run, "speech")
    unique = list({d.id: d for d in documents}.values())
    heldout = [d.text for d in load_documents(run, "heldout")]
    overlaps = overlapping([d.text for d in unique], heldout, RARE)
    kept = [d for d, overlap in zip(unique, overlaps, strict=True) if not overlap]
    return kept, [d.id for d, overlap in zip(unique, overlaps, strict=True) if overlap]


def vocabulary_words(tokenizer: Any) -> list[str]:
    """The LLM's own tokens that are whole words, commonest first as far as a vocabulary tells."""
    words = {}
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        if token[:1] in ("Ġ", "▁") and token[1:].isalpha():
            words[token[1:]] = number
    return list(words)


def lists_of(run: Run, tokenizer: Any, symbols: Symbols) -> list[SpelledText]:
    """Texts of words in no order, out of the LLM's own vocabulary but for the words that are withheld."""
    words = _words_of_lists(run, tokenizer)
    if not words:
        return []
    rng = random.Random(f"{run.recipe.seed}/lists")
    return [
        spell(tokenizer, " ".join(rng.choice(words) for _ in range(WORDS_OF_A_LIST)), symbols) for _ in range(LISTS)
    ]


def _words_of_lists(run: Run, tokenizer: Any) -> list[str]:
    """The LLM's own words, but for those that are withheld until they are measured."""
    withheld = read_withheld(run.folder("corpus") / "withheld.txt")
    return [word for word in vocabulary_words(tokenizer) if not has_withheld(word, withheld)]


def simulated_task(
    run: Run,
    model: SaladForConditionalGeneration,
    tokenizer: Any,
    documents: Sequence[Document],
    texts: dict[str, SpelledText],
    noise: Noise,
) -> DistillTask:
    """KL(teacher on the text || student that reads simulated symbols) on interleaved documents; no audio is needed."""
    settings, sequence, seed = run.recipe.spell, run.recipe.sequence, run.recipe.seed
    start, columns = start_token_id(tokenizer), list[list[Example]]()
    for document in documents:
        tokens = tokenise(tokenizer, document.text)
        group = []
        for layout in range(LAYOUTS):
            spans = interleave(
                len(tokens.word_starts) - 1,
                text_words=sequence.text_words,
                speech_words=sequence.speech_words,
                first=sequence.first,
                rng=random.Random(f"{seed}/{document.id}/simulated {layout}"),
            )
            group.append(Example(document.id, spans, tokens.token_ids, tokens.bounds(spans), start))
        columns.append(group)
    sizes = [num_positions(group[0], 1, "text") for group in columns]
    plan = plan_batches([Source("simulated", 1.0, columns, sizes)], settings.kl_steps, settings.kl_positions, seed)
    batches = SimulatedBatches(plan, texts, noise, seed, settings.error_rate)
    teacher = Teacher(model, cache=False, context=sequence.context, alone=True)
    return DistillTask(model, teacher, batches, alpha=1.0, context=sequence.context, hear=model.hear_symbols)


def choose_symbols(run: Run, tokenizer: Any, utterances: Sequence[Utterance]) -> Symbols:
    """The alphabet of the corpus and of the LLM's vocabulary, kept with the LLM's lexicon."""
    folder, model = run.folder("warm_start"), run.recipe.model
    path = folder / "symbols.json"
    if path.exists() and (folder / "lexicon.safetensors").exists():  # a resumed stage goes on with its own
        return Symbols.from_dict(read_json(path))
    texts = [d.text for name in ("speech", "web") for d in load_documents(run, name)] + [u.text for u in utterances]
    words = {word for text in texts for form in speakable(text.split()) for word in form.split()}
    symbols = Symbols.found_in(sorted(words | set(vocabulary_words(tokenizer))), model.symbols, model.language)
    lexicon = Lexicon.of_tokenizer(tokenizer, symbols, _vocabulary_size(run), model.depth)
    write_json(path, symbols.to_dict())
    save_file(
        {name: getattr(lexicon, name) for name in ("sounds", "traits", "sayable")}, folder / "lexicon.safetensors"
    )
    return symbols


def _vocabulary_size(run: Run) -> int:
    from transformers import AutoConfig

    from salad import assets

    return AutoConfig.from_pretrained(assets.llm_folder(run.recipe.assets.llm)).vocab_size


def _schedule(settings: config.WarmStart | config.Spell, steps: int, decay_share: float) -> Schedule:
    """How either part trains on its own."""
    rates = {"adapter": settings.lr}
    return Schedule.of(settings, rates, steps=steps, weight_decay=0.01, decay_share=decay_share)


def _spans_of(run: Run, tokenizer: Any, symbols: Symbols, spoken: Spoken) -> list[tuple[SymbolSpan, SpelledText]]:
    return [row for group, frames in spoken for row in symbol_spans(run, tokenizer, symbols, group, frames)]


def _runs(model: SaladForConditionalGeneration, spans: Sequence[SymbolSpan]) -> Any:
    device = model.adapter.upper.symbol.device
    return model.adapter.runs([torch.from_numpy(span.frames).float().to(device) for span in spans])


def _phone_errors(
    model: SaladForConditionalGeneration, symbols: Symbols, spans: Sequence[SymbolSpan]
) -> tuple[int, int, list[dict[str, str]]]:
    """Edits and length over all spans, boundaries left out, and some as they were heard beside what was said."""
    errors, said, samples = 0, 0, []
    for start in range(0, len(spans), HEARD_AT_ONCE):
        part = spans[start : start + HEARD_AT_ONCE]
        runs = _runs(model, part)
        for span, own in zip(part, runs.posteriors.argmax(-1).split(runs.lengths), strict=True):
            truth, heard = ([int(s) for s in ids if int(s) != BOUNDARY] for ids in (span.symbols, own))
            errors += Levenshtein.distance(truth, heard)
            said += len(truth)
            if len(samples) < 8:
                names = [" ".join(symbols.names[int(i)] for i in ids) for ids in (span.symbols, own)]
                samples.append({"reference": names[0], "decoded": names[1]})
    return errors, said, samples


def _save_noise(noise: Noise, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in vars(noise).items()}, path)


def load_noise(folder: Path) -> Noise:
    """The noise that the upper part read through in a stage."""
    from safetensors.numpy import load_file

    return Noise(**load_file(folder / NOISE))
