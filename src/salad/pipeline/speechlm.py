"""Build the SpeechLM of a recipe, put a checkpoint in it, and turn utterances into examples."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from salad import assets
from salad.align.transcript_match import words_for_ranges
from salad.config import Sequence as Layout
from salad.files import AtHand, read_json
from salad.model import SaladConfig, SaladForConditionalGeneration, load_encoder
from salad.model.check import load_llm
from salad.model.ears import Lexicon
from salad.model.empty import WeightsOnMeta
from salad.model.freeze import freeze
from salad.model.llm import most_positions, require_positions
from salad.model.nested import causal_config
from salad.model.processor import placeholder_id
from salad.pipeline.run import Run
from salad.sequence import Frames, examples, start_token_id, token_ids, tokenise
from salad.sequence.examples import draw_layout, num_positions, pieces_of, text_examples
from salad.sequence.spelling import SpelledText, spell
from salad.text.phonemes import Symbols
from salad.training.checkpoint import latest_checkpoint, load_weights
from salad.training.ears_tasks import SymbolSpan
from salad.training.tasks import Source
from salad.types import Document, Example, Utterance

KEPT_UTTERANCES = 1024  # whose pieces stay in memory: all of a demo's


def load_tokenizer(run: Run) -> Any:
    return AutoTokenizer.from_pretrained(assets.llm_folder(run.recipe.assets.llm))


def build_model(
    run: Run,
    checkpoint: Path | None = None,
    *,
    lora: bool = False,
    averaged: bool = False,
    empty: bool = False,
    seed: int | None = None,
) -> SaladForConditionalGeneration:
    """The recipe's model with the text LLM's weights and a fresh adapter, or a checkpoint's.

    empty: laid out alone, for weights that another process has read (`salad.training.broadcast_weights`). seed: of
    the fresh weights; None: the recipe's.
    """
    recipe = run.recipe
    folder = assets.llm_folder(recipe.assets.llm)
    encoder = load_encoder(recipe.assets.encoder)
    tokenizer = load_tokenizer(run)
    ctc = run.folder("warm_start") / "vocabulary.json"
    two_parts = recipe.model.ears == "symbols"
    config = SaladConfig(
        llm_config=causal_config(AutoConfig.from_pretrained(folder)),
        encoder=recipe.assets.encoder,
        frame_rate_hz=encoder.frame_rate_hz,
        frame_dim=encoder.frame_dim,
        **recipe.model.shape(),
        ctc_vocab_size=len(read_json(ctc)) if recipe.warm_start.enabled and not two_parts else 0,
        symbols=dict(load_symbols(run).to_dict()) if two_parts else None,
        causal=encoder.causal,
        lora_rank=recipe.stage1.lora_rank if lora else 0,
        start_token_id=start_token_id(tokenizer),
        audio_token_id=placeholder_id(tokenizer),
        origin=assets.origin_of(recipe.model_dump(mode="json")),
    )
    torch.manual_seed(recipe.seed if seed is None else seed)
    if empty:
        with WeightsOnMeta(draw=False):
            laid_out = SaladForConditionalGeneration(config).eval()
        _require_context(laid_out.llm, recipe.sequence.context)
        return laid_out
    llm = load_llm(folder)
    _require_context(llm, recipe.sequence.context)
    model = SaladForConditionalGeneration.from_llm(llm, config)
    if model.ctc is not None:
        model.ctc.token_ids.copy_(torch.tensor(read_json(ctc)))
    if two_parts:
        model.symbol_ears.learn_lexicon(load_lexicon(run))
    if checkpoint is not None:
        load_weights(checkpoint, model, averaged=averaged)
    model.eval()
    return model


def _require_context(llm: Any, context: int) -> None:
    """Before anything is trained: documents may take as many positions as sequence.context says."""
    require_positions(llm, context, "sequence.context", f"set sequence.context={most_positions(llm)}, or less")


def model_and_base(
    run: Run, checkpoint: Path | None = None, device: str = "cpu"
) -> tuple[SaladForConditionalGeneration, SaladForConditionalGeneration]:
    """The recipe's model to score with, and the text LLM that it came from: the same object where that is frozen."""
    llm, bf16 = run.recipe.stage1.llm, run.uses_bf16("score", device)
    model = build_model(run, checkpoint, lora=llm == "lora")
    base = model if llm == "frozen" else build_model(run)
    for each in {id(model): model, id(base): base}.values():
        freeze(each, "frozen", bf16=bf16)
        each.to(device)
    return model, base


def ctc_vocabulary(tokenizer: Any, texts: Iterable[str]) -> list[int]:
    """The classes of a single adapter's CTC head: every token of these texts."""
    return sorted({i for text in texts for i in tokenise(tokenizer, text).token_ids.tolist()})


def load_symbols(run: Run) -> Symbols:
    """The alphabet that the warm start chose."""
    return Symbols.from_dict(read_json(run.folder("warm_start") / "symbols.json"))


def load_lexicon(run: Run) -> Lexicon:
    """How the LLM's tokens sound; made by the warm start."""
    return Lexicon(**load_file(run.folder("warm_start") / "lexicon.safetensors"))


def ears_checkpoint(run: Run) -> Path | None:
    """What Stage I begins from: the ears after their own stages, or nothing."""
    if not run.recipe.warm_start.enabled:
        return None
    return latest_checkpoint(run.folder("spell" if run.recipe.model.ears == "symbols" else "warm_start"))


def speech_examples(
    run: Run, tokenizer: Any, utterances: Sequence[Utterance], frames: Frames, layout: int = 0
) -> list[Example]:
    """One example of each utterance, as the recipe interleaves it in layout number `layout`."""
    return examples.speech_examples(tokenizer, utterances, frames, run.recipe.sequence, run.recipe.seed, layout)


def transcript_tokens(
    tokenizer: Any, utterances: Sequence[Utterance], interleaved: Sequence[Example], transcripts: dict[str, str]
) -> dict[str, list[list[int]]]:
    """Token ids of what the ASR wrote for each spoken span, by example; transcripts: of whole utterances, by id."""
    out, by_id = {}, {u.id: u for u in utterances}
    for example in interleaved:
        utterance = by_id[example.id]
        ranges = [(s.start_word, s.end_word) for s in example.spans if s.modality == "speech"]
        spans = words_for_ranges(utterance.text.split(), transcripts.get(utterance.id, ""), ranges)
        texts = [(" " if start else "") + " ".join(words) for words, (start, _) in zip(spans, ranges, strict=True)]
        out[example.id] = [token_ids(tokenizer, t, after=t.startswith(" ")) if t.strip() else [] for t in texts]
    return out


def speech_source(
    run: Run, tokenizer: Any, name: str, share: float, utterances: Sequence[Utterance], frames: Frames, layouts: int
) -> Source:
    """All interleavings of the utterances as one source of training batches."""
    columns = [speech_examples(run, tokenizer, utterances, frames, layout) for layout in range(layouts)]
    return _source(run, name, share, list(zip(*columns, strict=True)))


def text_source(run: Run, tokenizer: Any, share: float, documents: Sequence[Document]) -> Source:
    return _source(run, "text", share, [(example,) for example in text_examples(tokenizer, documents)])


def _source(run: Run, name: str, share: float, layouts: Sequence[Sequence[Example]]) -> Source:
    model = run.recipe.model
    positions = [int(np.mean([num_positions(e, model.stride, model.rate) for e in group])) for group in layouts]
    return Source(name, share, layouts, positions)


class Pieces(AtHand):
    """What `make` gives of each utterance, of one after the other: made when it is asked for, and kept of the last
    KEPT_UTTERANCES. In memory is how many there are of each."""

    def __init__(self, make: Callable[[Utterance], list[Any]], utterances: Sequence[Utterance]) -> None:
        self._make, self._utterances = make, utterances
        self._starts = array("q", [0])  # of the utterances that were made so far
        self._last = OrderedDict[int, list[Any]]()

    def __len__(self) -> int:
        if len(self._starts) <= len(self._utterances):
            deque(self, maxlen=0)
        return self._starts[-1]

    def __iter__(self) -> Iterator[Any]:
        for number, utterance in enumerate(self._utterances):
            own = self._of(number, utterance)
            if number == len(self._starts) - 1:
                self._starts.append(self._starts[-1] + len(own))
            yield from own

    def _at(self, number: int) -> Any:
        at = bisect_right(self._starts, number) - 1
        return self._of(at)[number - self._starts[at]]

    def _of(self, number: int, utterance: Utterance | None = None) -> list[Any]:
        if number not in self._last:
            self._last[number] = self._make(utterance or self._utterances[number])
            if len(self._last) > KEPT_UTTERANCES:
                self._last.popitem(last=False)
        self._last.move_to_end(number)
        return self._last[number]


def ctc_spans(
    tokenizer: Any, utterances: Sequence[Utterance], frames: Frames, sequence: Layout, seed: int, with_text: bool = True
) -> Pieces:
    """(frames, token ids) of every piece of the first interleaving: its speech spans, and its text spans cut up."""

    def make(utterance: Utterance) -> list[tuple[np.ndarray, np.ndarray]]:
        tokens = tokenise(tokenizer, utterance.text)
        layout, spans = draw_layout(utterance, 0, sequence, seed), []
        for piece in pieces_of(utterance, layout, sequence, seed=seed, with_text=with_text):
            ids = tokens.token_ids[tokens.word_starts[piece.start_word] : tokens.word_starts[piece.end_word]]
            spans.append((frames.get(piece.key), ids))
        return spans

    return Pieces(make, utterances)


def symbol_spans(
    tokenizer: Any,
    symbols: Symbols,
    utterances: Sequence[Utterance],
    frames: Frames,
    sequence: Layout,
    seed: int,
    with_text: bool = True,
) -> Pieces:
    """(SymbolSpan, SpelledText) of the same pieces: the symbols said in them, the times of their words, and how their
    text is spelled."""

    def make(utterance: Utterance) -> list[tuple[SymbolSpan, SpelledText]]:
        text = spell(tokenizer, utterance.text, symbols)
        layout, out = draw_layout(utterance, 0, sequence, seed), []
        for piece in pieces_of(utterance, layout, sequence, seed=seed, with_text=with_text):
            own = text.cut(piece.start_word, piece.end_word)
            words = utterance.words[piece.start_word : piece.end_word]
            bounds = list(zip(own.symbol_starts[:-1].tolist(), own.symbol_starts[1:].tolist(), words, strict=True))
            times = tuple(
                (first, last - 1, word.start_s - words[0].start_s, word.end_s - words[0].start_s)
                for first, last, word in bounds
                if last - 1 > first  # the last one is the boundary
            )
            if times:
                out.append((SymbolSpan(frames.get(piece.key), own.symbols[:-1], times), own))
        return out

    return Pieces(make, utterances)
