"""Time a recipe's own steps: whole ones on models of its width and two small depths, and those of ears in two parts."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig

from salad import assets
from salad.config import Recipe, Spell, WarmStart
from salad.measure.divergence import Ears, divergence, speech_ears, transcript_ears
from salad.model import SaladForConditionalGeneration
from salad.model.check import load_llm
from salad.model.ears import Lexicon
from salad.model.ears.lexicon import TRAITS
from salad.model.encoders.load import shape_of
from salad.model.freeze import freeze
from salad.model.llm import decoder_layers, remember_packing
from salad.model.teacher import Teacher
from salad.pipeline.plan.card import Figure
from salad.pipeline.plan.steps import piece_words, word_positions
from salad.pipeline.plan.timing import is_here, measured, quickest
from salad.sequence.interleave import interleave
from salad.sequence.simulate import Noise
from salad.sequence.spelling import SpelledText
from salad.text.phonemes import BOUNDARY
from salad.training.ears_tasks import LowerTask, SpellTask, SymbolSpan
from salad.training.estimate import SECONDS_PER_WORD, TOKENS_PER_WORD, llm_config, model_config
from salad.training.loop import autocast
from salad.training.optimizer import make_optimizer
from salad.training.tasks import DistillTask
from salad.types import Example, Span

DEPTHS = (2, 4)  # of the decoder: their difference is a layer, what is left is everything else
DOCUMENT_WORDS = 62
CPU_POSITIONS, GPU_POSITIONS = 2048, 16384  # at most, in a step that is timed
READ_POSITIONS = 1024  # of documents that are heard and read, on a CPU
WRITTEN = 8  # tokens of a continuation that is timed
WORD_SYMBOLS, TOKEN_SYMBOLS = 5, 4  # phones of a word with the boundary behind it, and of a token
SYMBOL_S = SECONDS_PER_WORD / WORD_SYMBOLS
MILLION = 1e6


def time_steps(recipe: Recipe, config: Any, device: str, bf16: bool) -> dict[str, Figure]:
    """Seconds of a position in training, in hearing (M of speech), in reading (M of a transcript, whose tokens are
    the text's) and in writing (one by one), by a million parameters of the layers and of the rest."""
    sizes, train, hear, read, write = [], [], [], [], []
    positions = min(recipe.stage1.positions, GPU_POSITIONS if device == "cuda" else CPU_POSITIONS)
    looked = made_up(recipe, GPU_POSITIONS if device == "cuda" else READ_POSITIONS, config.vocab_size)
    tokens, heard = sum(1 + len(e.token_ids) for e in looked), sum(word_positions(recipe) * _words(e) for e in looked)
    for depth in DEPTHS:
        model, base = _models(recipe, config, depth, device, bf16)
        examples = made_up(recipe, positions, config.vocab_size)
        few = positions < CPU_POSITIONS  # as a run whose teacher's states are kept
        task = DistillTask(
            model, Teacher(base, cache=False, alone=few), [examples], alpha=1.0, context=positions + 2048
        )
        count = 0

        def step(task: DistillTask = task, model: Any = model) -> None:
            nonlocal count
            count = 0
            for pack in task.packs(0):
                with autocast(bf16, device):
                    loss, logs = task.loss(pack)
                if loss is not None:
                    loss.backward()
                count += int(logs["positions"])
            model.zero_grad(set_to_none=True)

        teacher = Teacher(base, cache=True)

        def look(ears: Ears, model: Any = model, teacher: Teacher = teacher) -> None:
            with torch.no_grad(), autocast(bf16, device):
                divergence(model, teacher, looked, ears)

        layers = sum(p.numel() for n, p in decoder_layers(model.decoder()).named_parameters() if "lora_" not in n)
        others = sum(p.numel() for p in model.parameters()) - layers
        sizes.append((layers / MILLION, others / MILLION))
        train.append(quickest(step, device) / count)
        hear.append(quickest(partial(look, speech_ears(model)), device) / heard)
        read.append(quickest(partial(look, transcript_ears(model, _tokens_spoken)), device) / tokens)
        prompt = torch.ones(1, DOCUMENT_WORDS, dtype=torch.long, device=device)
        one_by_one: dict[str, Any] = {
            "min_new_tokens": WRITTEN,
            "max_new_tokens": WRITTEN,
            "do_sample": False,
            "pad_token_id": 0,
        }
        write.append(quickest(partial(model.generate, prompt, **one_by_one), device) / WRITTEN)
    kind, out = recipe.stage1.llm, dict[str, Figure]()
    for name, times, number in (
        (f"step {kind}", train, count), ("hear", hear, round(heard)), ("read", read, tokens),
        ("write", write, WRITTEN),
    ):  # fmt: skip
        layer = max(0.0, (times[1] - times[0]) / (sizes[1][0] - sizes[0][0]))
        rest = max(0.0, (times[0] - layer * sizes[0][0]) / sizes[0][1])
        what = {"hear": "M of speech", "read": "M of text", "write": "generate"}.get(name, "steps")
        said = f"{what}, {number} positions at depths {DEPTHS[0]} and {DEPTHS[1]}"
        out |= {f"{name} layer": measured(layer, said), f"{name} rest": measured(rest, said)}
    return out


def _models(
    recipe: Recipe, config: Any, depth: int, device: str, bf16: bool
) -> tuple[SaladForConditionalGeneration, SaladForConditionalGeneration]:
    """A student of random weights and its teacher, the LLM `depth` layers deep."""
    own = {k: v for k, v in config.to_dict().items() if k not in ("layer_types", "max_window_layers")}
    shallow = AutoConfig.for_model(**{**own, "num_hidden_layers": depth, "dtype": "float32"})
    torch.manual_seed(0)
    made = []
    for kind in (recipe.stage1.llm, "frozen")[: 1 + (recipe.stage1.llm != "frozen")]:
        model = SaladForConditionalGeneration(model_config(recipe, shallow)).to(device)
        remember_packing(model.llm, True)
        freeze(model, kind, bf16=bf16)
        if recipe.model.ears == "symbols":
            _hears_as_speech(model)
        made.append(model.eval())
    return made[0], made[-1]


def _hears_as_speech(model: SaladForConditionalGeneration) -> None:
    """Random ears hear one symbol or hundreds; these hear as many symbols, and tokens, as speech has."""
    rate, ears = model.config.frame_rate_hz / model.config.stride, model.symbol_ears
    upper = ears.upper
    vocab, depth = upper.sounds.shape
    sounds = torch.randint(1, 1 + len(upper.symbol), (vocab, depth))
    ears.learn_lexicon(Lexicon(sounds, torch.zeros(vocab, len(TRAITS)), torch.ones(vocab, dtype=torch.bool)))
    each = max(1, round(rate * ears.lower.up * SYMBOL_S))

    def say(module: Any, inputs: Any, scores: torch.Tensor) -> torch.Tensor:
        at = torch.arange(len(scores), device=scores.device) // each % (scores.shape[1] - 2) + 2
        return scores + 50.0 * torch.nn.functional.one_hot(at, scores.shape[1])

    def end(module: Any, inputs: Any, scores: torch.Tensor) -> torch.Tensor:
        ends = torch.arange(len(scores), device=scores.device) % TOKEN_SYMBOLS == 0
        return scores + 50.0 * (2.0 * ends.float()[:, None] - 1.0)

    ears.lower.out_proj.register_forward_hook(say)
    upper.emit.register_forward_hook(end)


def made_up(recipe: Recipe, positions: int, vocab: int) -> list[Example]:
    """Interleaved documents of noise that take about so many positions."""
    rng, draw, shape = np.random.default_rng(0), random.Random(0), shape_of(recipe.assets.encoder)
    spans, filled, out = recipe.sequence, 0.0, list[Example]()
    frame = SECONDS_PER_WORD * shape.frame_rate_hz
    while filled < positions:
        own = interleave(
            DOCUMENT_WORDS, text_words=spans.text_words, speech_words=spans.speech_words, first=spans.first, rng=draw
        )
        bounds = tuple((int(s.start_word * TOKENS_PER_WORD), int(s.end_word * TOKENS_PER_WORD)) for s in own)
        heard = [s.num_words * frame for s in own if s.modality == "speech"]
        frames = tuple(rng.normal(size=(max(8, int(n)), shape.frame_dim)).astype(np.float16) for n in heard)
        ids = rng.integers(1, vocab, bounds[-1][1])
        out.append(Example(f"made-up {len(out)}", tuple(own), ids, bounds, 0, frames))
        fixed = recipe.model.rate == "fixed"
        filled += sum(map(_tokens, own)) if not fixed else sum(
            n / recipe.model.stride for n in heard
        ) + sum(_tokens(s) for s in own if s.modality == "text")  # fmt: skip
    return out


def _tokens(span: Span) -> float:
    return span.num_words * TOKENS_PER_WORD


def _words(example: Example) -> int:
    return example.spans[-1].end_word


def _tokens_spoken(example: Example) -> list[list[int]]:
    return [ids.tolist() for ids in example.speech_tokens]


def time_ears(recipe: Recipe, config: Any, device: str, bf16: bool) -> dict[str, Figure]:
    """Seconds of CTC in the lower part, for a piece of speech, and of spelling in the upper one, for a second of
    speech; with their updates."""
    if recipe.model.ears != "symbols":
        return {}
    model, _ = _models(recipe, config, 1, device, bf16)
    ears = model.symbol_ears
    for hooked in (ears.lower.out_proj, ears.upper.emit):
        hooked._forward_hooks.clear()
    rng, symbols = np.random.default_rng(0), len(ears.upper.symbol)
    words, sizes = sum(recipe.sequence.speech_words) // 2, piece_words(recipe)
    spans = [_span(model, rng, size, symbols) for size in sizes[: 4 * recipe.warm_start.batch]]
    texts = [_spelled(rng, 60, symbols, config.vocab_size) for _ in range(32)]
    kinds: dict[str, WarmStart | Spell] = {"lower": recipe.warm_start, "spell": recipe.spell}
    shared: dict[str, Any] = {"steps": 4, "seed": 0}
    tasks: dict[str, LowerTask | SpellTask] = {
        "lower": LowerTask(model, spans, batch=recipe.warm_start.batch, by_word=0.0, **shared),
        "spell": SpellTask(
            model, texts, [], Noise.uniform(symbols), batch=recipe.spell.batch,
            words=recipe.sequence.speech_words, **shared,
        ),
    }  # fmt: skip
    out = {}
    for name, task in tasks.items():
        part: torch.nn.Module = ears.lower if name == "lower" else ears.upper
        model.requires_grad_(False)
        part.requires_grad_(True)
        names = {p: f"adapter.{n}" for n, p in ears.named_parameters() if p.requires_grad}
        groups = [{"params": list(names), "lr": 1e-6}]
        optimizer = make_optimizer(kinds[name].optimizer, groups, names, 0.01, fused=device == "cuda", bf16=bf16)
        seconds = quickest(partial(_update, task, optimizer, device, bf16), device)
        batch, told = kinds[name].batch, f"{name} steps of {kinds[name].batch} pieces"
        if name == "lower":
            out["lower piece"] = measured(seconds / batch, f"{told}, as the recipe cuts them")
        else:
            out[name] = measured(seconds / (batch * words * SECONDS_PER_WORD), told)
    return out


def _update(task: Any, optimizer: Any, device: str, bf16: bool) -> None:
    for pack in task.packs(1):
        with autocast(bf16, device):
            loss, _ = task.loss(pack)
        loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _span(model: SaladForConditionalGeneration, rng: Any, words: int, symbols: int) -> SymbolSpan:
    frames = int(words * SECONDS_PER_WORD * model.config.frame_rate_hz)
    said = rng.integers(1, symbols, words * WORD_SYMBOLS)
    every = [(w * WORD_SYMBOLS, (w + 1) * WORD_SYMBOLS) for w in range(words)]
    times = tuple((a, b, w * SECONDS_PER_WORD, (w + 1) * SECONDS_PER_WORD) for w, (a, b) in enumerate(every))
    return SymbolSpan(rng.normal(size=(frames, model.config.frame_dim)).astype(np.float16), said, times)


def _spelled(rng: Any, words: int, symbols: int, vocab: int) -> SpelledText:
    said = rng.integers(1, symbols, (words, WORD_SYMBOLS))
    said[:, -1] = BOUNDARY
    ends = np.arange(1, words + 1) * WORD_SYMBOLS - 1
    starts = np.arange(words + 1)
    return SpelledText(said.reshape(-1), rng.integers(1, vocab, words), ends, ends, starts * WORD_SYMBOLS, starts)


def time_load(recipe: Recipe) -> dict[str, Figure]:
    """Seconds to bring a parameter of the LLM from the disk into a model, where its files are here."""
    name = recipe.assets.llm
    if not is_here([name]):
        return {}
    folder = assets.llm_folder(name)
    llm = load_llm(folder)
    number = sum(p.numel() for p in llm.parameters())
    del llm

    def load() -> None:
        SaladForConditionalGeneration.from_llm(load_llm(folder), model_config(recipe, llm_config(recipe)))

    return {"load": measured(quickest(load) / number, f"{name} from the disk")}
