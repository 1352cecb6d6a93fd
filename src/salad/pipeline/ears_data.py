"""What the ears of two parts learn from: symbols of the corpus, texts that may be read, noise of what was heard."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig

from salad import assets, config
from salad.data.withheld import has_withheld, read_withheld
from salad.engine import pick
from salad.files import read_json, write_json, write_tensors
from salad.model import SaladForConditionalGeneration
from salad.model.ears import Lexicon
from salad.model.teacher import Teacher
from salad.pipeline.corpus_needs import stream_documents
from salad.pipeline.run import Run
from salad.pipeline.speechlm import symbol_spans
from salad.pipeline.stages.align import load_frames, stream_aligned
from salad.pipeline.stages.corpus import load_documents
from salad.select.screen import overlapping
from salad.sequence import start_token_id, tokenise
from salad.sequence.examples import num_positions
from salad.sequence.interleave import interleave
from salad.sequence.simulate import Noise
from salad.sequence.spelling import SpelledText, spell
from salad.text.phonemes import Symbols
from salad.text.speakable import speakable
from salad.training.ears_tasks import SimulatedBatches, SymbolSpan
from salad.training.tasks import DistillTask, Source, plan_batches
from salad.types import Document, Example, SaladError, Utterance

LISTS, WORDS_OF_A_LIST = 3000, 40  # texts of words in no order
HEARD_AT_ONCE = 32
NOISE = "noise.safetensors"
TEXTS = "texts.json"  # of the select stage: how often a document's text is read in Stage II, 1 on average
RARE = 13  # words in a row that a spelled text may not share with what is held out
LAYOUTS = 4  # interleavings of a simulated document
MOST_SPELLED = 50_000  # documents that the upper part reads runs of: more than a training has steps for
MOST_BACK = 500  # documents that noise is taken from


def choose_symbols(run: Run, tokenizer: Any, utterances: Sequence[Utterance]) -> Symbols:
    """The alphabet of the corpus and of the LLM's vocabulary, kept with the LLM's lexicon."""
    folder, model = run.folder("warm_start"), run.recipe.model
    path = folder / "symbols.json"
    if path.exists() and (folder / "lexicon.safetensors").exists():  # a resumed stage goes on with its own
        return Symbols.from_dict(read_json(path))
    texts = (d.text for d in chain(stream_documents(run, "speech"), stream_documents(run, "web"), utterances))
    words = {word for text in texts for form in speakable(text.split()) for word in form.split()}
    symbols = Symbols.found_in(sorted(words | set(vocabulary_words(tokenizer))), model.symbols, model.language)
    llm = AutoConfig.from_pretrained(assets.llm_folder(run.recipe.assets.llm))
    lexicon = Lexicon.of_tokenizer(tokenizer, symbols, int(llm.vocab_size), model.depth)
    write_json(path, symbols.to_dict())
    known = {name: getattr(lexicon, name).numpy() for name in ("sounds", "traits", "sayable")}
    write_tensors(folder / "lexicon.safetensors", known)
    return symbols


def vocabulary_words(tokenizer: Any) -> list[str]:
    """The LLM's own tokens that are whole words, commonest first as far as a vocabulary tells."""
    words = {}
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        if token[:1] in ("Ġ", "▁") and token[1:].isalpha():
            words[token[1:]] = number
    return list(words)


def spell_documents(run: Run) -> tuple[list[Document], list[str]]:
    """The recipe's texts that may be read, and ids of those that share words with what is held out; of more than
    MOST_SPELLED only so many, from all over."""
    groups = stream_documents(run, "web"), stream_documents(run, "speech")
    every = max(1, -(-sum(map(len, groups)) // MOST_SPELLED))
    unique = list({d.id: d for d in islice(chain(*groups), 0, None, every)}.values())
    heldout = [d.text for d in load_documents(run, "heldout")]
    overlaps = overlapping([d.text for d in unique], heldout, RARE)
    kept = [d for d, overlap in zip(unique, overlaps, strict=True) if not overlap]
    return kept, [d.id for d, overlap in zip(unique, overlaps, strict=True) if overlap]


def text_weights(run: Run) -> list[float] | None:
    """How often Stage II reads each of `spell_documents`, where `select` bought text beside speech; None: all alike."""
    if run.recipe.select.score != "two_prices":
        return None
    bought = read_json(run.folder("select") / TEXTS)
    return [bought.get(document.id, 1.0) for document in spell_documents(run)[0]]


def words_of_lists(run: Run, tokenizer: Any) -> list[str]:
    """The LLM's own words, but for those that are withheld until they are measured."""
    withheld = read_withheld(run.folder("corpus") / "withheld.txt")
    return [word for word in vocabulary_words(tokenizer) if not has_withheld(word, withheld)]


def lists_of(words: Sequence[str], tokenizer: Any, symbols: Symbols, seed: int) -> list[SpelledText]:
    """Texts of these words in no order; none where there are no words."""
    if not words:
        return []
    rng = random.Random(f"{seed}/lists")
    return [
        spell(tokenizer, " ".join(rng.choice(words) for _ in range(WORDS_OF_A_LIST)), symbols) for _ in range(LISTS)
    ]


def simulated_task(
    model: SaladForConditionalGeneration,
    tokenizer: Any,
    documents: Sequence[Document],
    texts: dict[str, SpelledText],
    noise: Noise,
    settings: config.Spell,
    sequence: config.Sequence,
    seed: int,
    *,
    alpha: float = 1.0,
    base: SaladForConditionalGeneration | None = None,
) -> DistillTask:
    """KL(teacher on the text || student that reads simulated symbols) on interleaved documents; no audio is needed.

    texts: how each document is spelled, by its id; noise: what simulated symbols are read through. alpha: 0 is the
    likelihood of the text in place of the KL. base: whose LLM teaches where the model's own is trained.
    """
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
    teacher = Teacher(base or model, cache=False, context=sequence.context, alone=True)
    return DistillTask(model, teacher, batches, alpha=alpha, context=sequence.context, hear=model.hear_symbols)


def kept_back(
    utterances: Sequence[Utterance], share: float, seed: int
) -> tuple[Sequence[Utterance], Sequence[Utterance]]:
    """What the lower part trains on, and the documents whose mistakes it is asked for: at least one each, and at most
    MOST_BACK of these."""
    documents = sorted({u.document_id or u.id for u in utterances})
    random.Random(f"{seed}/kept back").shuffle(documents)
    if len(documents) < 2:
        raise SaladError(f"spell: {len(documents)} document of speech, but one must be kept back for noise; give more")
    back = set(documents[: max(1, min(MOST_BACK, round(share * len(documents))))])
    parts = array("q"), array("q")
    for number, utterance in enumerate(utterances):
        parts[(utterance.document_id or utterance.id) in back].append(number)
    trained, heard = (pick(utterances, part) for part in parts)
    return trained, heard


def noise_of(run: Run, model: SaladForConditionalGeneration, tokenizer: Any, symbols: Symbols) -> Noise:
    """What the lower part makes of speech that it was not trained on."""
    if run.recipe.spell.noise == "uniform":
        return Noise.uniform(len(symbols))
    utterances = stream_aligned(run, "speech")
    _, back = kept_back(utterances, run.recipe.spell.kept_back, run.recipe.seed)
    frames = load_frames(run, "speech", utterances)
    spans = symbol_spans(tokenizer, symbols, back, frames, run.recipe.sequence, run.recipe.seed)
    pairs = []
    for start in range(0, len(spans), HEARD_AT_ONCE):
        part = [span for span, _ in spans[start : start + HEARD_AT_ONCE]]
        runs = runs_of(model, part)
        heard = runs.posteriors.float().cpu().split(runs.lengths)
        pairs += [(span.symbols.tolist(), own.numpy()) for span, own in zip(part, heard, strict=True)]
    return Noise.of_runs(pairs, len(symbols))


def runs_of(model: SaladForConditionalGeneration, spans: Sequence[SymbolSpan]) -> Any:
    """What the lower part hears in each span: symbols with their posteriors (`Runs`)."""
    device = model.symbol_ears.upper.symbol.device
    return model.symbol_ears.runs([torch.from_numpy(span.frames).float().to(device) for span in spans])


def save_noise(noise: Noise, path: Path) -> None:
    """What `load_noise` reads, given its folder."""
    write_tensors(path, {name: np.ascontiguousarray(value) for name, value in vars(noise).items()})


def load_noise(folder: Path) -> Noise:
    """The noise that the upper part read through in a stage."""
    from safetensors.numpy import load_file

    return Noise(**load_file(folder / NOISE))
