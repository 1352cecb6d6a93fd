"""What the model of a run hears of the held-out speech, word by word: error rates by voice, recall by exposure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np

from salad.data.withheld import read_withheld
from salad.files import read_json, write_jsonl
from salad.measure.hearing import (
    HeardSpan,
    VoiceErrors,
    exposure_of,
    heard_of_utterances,
    marked,
    spoken_words,
    spread,
    voice_errors,
    word_recall,
)
from salad.measure.oracle import true_symbols
from salad.measure.results import ErrorRates, Hearing, Withheld
from salad.measure.voice_label import is_seen
from salad.pipeline.corpus_needs import stream_documents
from salad.pipeline.heldout import HeldoutEvaluator
from salad.pipeline.run import Run
from salad.pipeline.stages.align import stream_aligned
from salad.pipeline.stages.synthesize import load_bought
from salad.text.error_rates import cer, wer
from salad.types import Example, Utterance

SHOWN = 12  # spans on the page


def listen(evaluator: HeldoutEvaluator, model: Any, examples: Sequence[Example] | None = None) -> list[HeardSpan]:
    """Every spoken span of `examples`, or of what M is measured on; [] where the model's ears score no tokens."""
    examples = evaluator.examples if examples is None else examples
    return heard_of_utterances(model, evaluator.tokenizer.decode, examples, evaluator.utterances)


def said_symbols(evaluator: HeldoutEvaluator, symbols: Any, example: Example) -> list[list[int]]:
    """The true symbols of each spoken span, as they sound in the whole text, with a boundary between words."""
    text = next(u for u in evaluator.utterances if u.id == example.id).text
    return true_symbols(text, symbols, example)


def hearing_figures(evaluator: HeldoutEvaluator, spans: Sequence[HeardSpan]) -> tuple[Hearing, dict[str, VoiceErrors]]:
    """What figures.json tells of it, and the error rates of each voice; writes evaluate/heard.jsonl."""
    run = evaluator.run
    write_jsonl(run.folder("evaluate") / "heard.jsonl", [asdict(span) for span in spans])
    resamples, seed = run.recipe.evaluate.bootstrap, run.recipe.seed
    counts, read = heard_counts(run), read_words(run)
    withheld = read_withheld(run.folder("corpus") / "withheld.txt")

    def exposure(word: str) -> str:
        return exposure_of(word, counts, read)

    groups = {
        "trained": [s for s in spans if is_seen(s.speaker)],
        "unseen": [s for s in spans if not is_seen(s.speaker)],
    }
    recall = {name: word_recall(own, exposure) for name, own in groups.items() if own}
    met = tuple(sorted(word for word in withheld if exposure(word) != "neither"))
    figures = Hearing(
        word_recall={name: tuple(rows) for name, rows in recall.items()},
        withheld=Withheld(len(withheld), met) if withheld else None,
        spans=tuple(marked(span) for span in spread(spans, SHOWN, seed)),
    )
    return figures, {row.voice: row for row in voice_errors(spans, resamples, seed)}


def heard_counts(run: Run) -> Counter[str]:
    """How often each word was spoken in training, Stage II of every round included."""
    spoken = chain(*(load_bought(one) for one in run.latest.rounds), stream_aligned(run, "speech"))
    return Counter(word for u in spoken for word in spoken_words(u.text))


def read_words(run: Run) -> set[str]:
    """Words of the text that the ears could learn to spell from."""
    found = {w for name in ("web", "speech") for d in stream_documents(run, name) for w in spoken_words(d.text)}
    own = run.folder("spell") / "words.json"
    return found | {w for word in (read_json(own) if own.exists() else ()) for w in spoken_words(word)}


def transcript_errors(utterances: Sequence[Utterance], written: Mapping[str, str]) -> ErrorRates:
    """Errors of the cascade's transcripts, mean over documents (not edits pooled, as speech.json has them): each
    counts alike, however long it is and however many voices read it."""
    found: dict[str, list[tuple[float, float]]] = {}
    for u in utterances:
        heard = written.get(u.id, "")
        found.setdefault(u.document_id or u.id, []).append((cer(heard, u.text), wer(heard, u.text)))
    means = np.mean([np.mean(own, axis=0) for own in found.values()], axis=0)
    return ErrorRates(float(means[0]), float(means[1]))
