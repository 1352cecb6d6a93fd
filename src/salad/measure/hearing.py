"""What was heard of what was said: word and phone error rates, and the words found by how often they were heard before.

Figures are taken over spoken spans; whole documents are resampled for their 95 % intervals.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein

from salad.measure.oracle import symbols_of_model
from salad.measure.results import MarkedSpan, Recall
from salad.measure.statistics import proportion, ratio
from salad.text.normalise import normalise, wer_words
from salad.text.phonemes import BOUNDARY
from salad.text.speakable import speakable
from salad.types import Estimate, Example, Utterance

EXPOSURES = ("heard_10", "heard_3", "heard_1", "read", "neither")
SPANS_AT_ONCE = 64


@dataclass(frozen=True)
class HeardSpan:
    """One spoken span. said: its words as written; heard: text of the likeliest tokens; and the symbols of both."""

    document: str
    domain: str
    speaker: str
    said: tuple[str, ...]
    heard: str
    said_symbols: tuple[int, ...] | None = None
    heard_symbols: tuple[int, ...] | None = None


@dataclass(frozen=True)
class VoiceErrors:
    """Error rates of one voice; phone_error is None where the ears have no symbols."""

    voice: str
    spans: int
    wer: Estimate
    strict_wer: Estimate
    phone_error: Estimate | None


def heard_tokens(model: Any, ids: Sequence[int]) -> list[int]:
    """The likeliest tokens of one span, as long as `ids`: -1 for a blank, and for a repeat with no blank between where
    the ears left it in place (CTC at a fixed rate)."""
    if model.config.rate != "fixed" or getattr(model, "ctc", None) is None:
        return list(ids)
    return [-1 if at and ids[at - 1] == i else i for at, i in enumerate(ids)]


@torch.no_grad()
def _heard(
    model: Any, decode: Callable[[list[int]], str], frames: Sequence[torch.Tensor]
) -> list[tuple[str, list[int] | None]] | None:
    """The text that each span of frames is heard as, and its symbols; None for either that the ears do not score."""
    device = model.get_input_embeddings().weight.device
    out: list[tuple[str, list[int] | None]] = []
    for start in range(0, len(frames), SPANS_AT_ONCE):
        got = model.hear([f.float().to(device) for f in frames[start : start + SPANS_AT_ONCE]])
        if got.token_ids is None:
            return None
        spans = [heard_tokens(model, ids.tolist()) for ids in got.token_ids.split(got.lengths)]
        kept = [[i for i in ids if i >= 0] for ids in spans]
        texts = [decode(ids).strip() if ids else "" for ids in kept]
        out += zip(texts, got.symbols or [None] * len(texts), strict=True)
    return out


def heard_of_frames(model: Any, decode: Callable[[list[int]], str], frames: Sequence[torch.Tensor]) -> list[str] | None:
    """The text that each span of frames [num_frames, frame_dim] is heard as; None where the ears score no tokens."""
    found = _heard(model, decode, frames)
    return None if found is None else [text for text, _ in found]


def heard_of_utterances(
    model: Any, decode: Callable[[list[int]], str], examples: Sequence[Example], utterances: Iterable[Utterance]
) -> list[HeardSpan]:
    """Every spoken span of examples of these utterances as the model hears it, with the symbols that its words have
    where they stand; [] where its ears score no tokens."""
    found = _heard(model, decode, [torch.from_numpy(f) for e in examples for f in e.speech_frames])
    if found is None:
        return []
    by_id, alphabet = {u.id: u for u in utterances}, symbols_of_model(model)
    words = {e.id: by_id[e.id].text.split() for e in examples}
    symbols = None if alphabet is None else {i: alphabet.of_text(speakable(said)) for i, said in words.items()}
    spans = [(e, s) for e in examples for s in e.spans if s.modality == "speech"]
    out = []
    for (example, span), (text, heard) in zip(spans, found, strict=True):
        own, document = slice(span.start_word, span.end_word), by_id[example.id].document_id or example.id
        both: tuple[tuple[int, ...] | None, tuple[int, ...] | None] = (None, None)
        if symbols is not None and heard is not None:
            both = _joined(symbols[example.id][own]), tuple(heard)
        said = tuple(words[example.id][own])
        out.append(HeardSpan(document, example.domain, example.speaker, said, text, *both))
    return out


def _joined(words: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(symbol for word in words for symbol in word)


def spoken_words(text: str) -> list[str]:
    """The words of a text as they are counted and looked up: lower case, without punctuation."""
    return normalise(text).split()


def word_errors(span: HeardSpan) -> tuple[tuple[int, int], tuple[int, int]]:
    """(edits, words said) in Whisper's normal form, and strict: case and punctuation kept."""
    said = wer_words(" ".join(span.said))
    strict = Levenshtein.distance(span.said, span.heard.split()), len(span.said)
    return (Levenshtein.distance(said, wer_words(span.heard)), len(said)), strict


def exposure_parts(example: Example, words: Sequence[str], heard: Collection[str]) -> dict[str, np.ndarray]:
    """Which of the scored tokens come after a span of which every word was heard in training (`seen`), and which after
    one with a word that never was (`unseen`): bool [count] each. Text before the first span is in neither.

    words: the document's, as written; heard: normalised words (`spoken_words`).
    """
    after: list[str] = []
    last = ""
    for span, (first, end) in zip(example.spans, example.token_bounds, strict=True):
        if span.modality == "text":
            after += [last] * (end - first)
        else:
            said = spoken_words(" ".join(words[span.start_word : span.end_word]))
            last = "seen" if all(word in heard for word in said) else "unseen"
    return {name: np.array([kind == name for kind in after], dtype=bool) for name in ("seen", "unseen")}


def phone_errors(said: Sequence[int], heard: Sequence[int]) -> tuple[int, int]:
    """(edits, symbols said), the boundary of words left out of both."""
    reference = [symbol for symbol in said if symbol != BOUNDARY]
    return Levenshtein.distance(reference, [symbol for symbol in heard if symbol != BOUNDARY]), len(reference)


def voice_errors(spans: Sequence[HeardSpan], resamples: int, seed: int) -> list[VoiceErrors]:
    """Word and phone error rates of each voice, in the order of the voices' names."""
    by_voice: dict[str, list[HeardSpan]] = defaultdict(list)
    for span in spans:
        by_voice[span.speaker].append(span)
    return [_errors(voice, own, [1.0] * len(own), resamples, seed) for voice, own in sorted(by_voice.items())]


def pooled_errors(spans: Sequence[HeardSpan], resamples: int, seed: int) -> VoiceErrors:
    """The errors of the voice `all`: a document that several voices read counts once, as the mean of its recordings."""
    voices = Counter(document for document, _ in {(span.document, span.speaker) for span in spans})
    return _errors("all", spans, [1 / voices[span.document] for span in spans], resamples, seed)


def _errors(voice: str, spans: Sequence[HeardSpan], weights: Sequence[float], resamples: int, seed: int) -> VoiceErrors:
    documents = [span.document for span in spans]

    def rate(counts: Iterable[tuple[int, int]]) -> Estimate:
        tops, bottoms = zip(
            *((w * top, w * bottom) for w, (top, bottom) in zip(weights, counts, strict=True)), strict=True
        )
        return ratio(tops, bottoms, documents, resamples, seed)

    phones = None
    if all(span.said_symbols is not None and span.heard_symbols is not None for span in spans):
        phones = rate(phone_errors(span.said_symbols or (), span.heard_symbols or ()) for span in spans)
    words, strict = (rate(counts) for counts in zip(*map(word_errors, spans), strict=True))
    return VoiceErrors(voice, len(spans), words, strict, phones)


def exposure_of(word: str, counts: Mapping[str, int], read: Collection[str]) -> str:
    """The class of a normalised word: heard 10 times or more, 3 to 9, 1 or 2; never heard but read; neither."""
    number = counts.get(word, 0)
    if number:
        return "heard_10" if number >= 10 else "heard_3" if number >= 3 else "heard_1"
    return "read" if word in read else "neither"


def _found(said: Sequence[str], heard: Sequence[str]) -> list[bool]:
    """Which words said stand in what was heard, by an alignment of fewest edits."""
    found = [False] * len(said)
    for block in Levenshtein.opcodes(said, heard).as_matching_blocks():
        for i in range(block.a, block.a + block.size):
            found[i] = True
    return found


def word_recall(spans: Sequence[HeardSpan], exposure: Callable[[str], str]) -> list[Recall]:
    """Share found of the words said, one row a class in the order of `EXPOSURES`; a class without words is left out.

    Documents are what was drawn, not words: the interval is `proportion`'s with documents as groups.
    """
    table: dict[str, list[tuple[bool, str]]] = {name: [] for name in EXPOSURES}
    for span in spans:
        said = spoken_words(" ".join(span.said))
        for word, found in zip(said, _found(said, spoken_words(span.heard)), strict=True):
            table[exposure(word)].append((found, span.document))
    return [
        Recall(e.value, e.low, e.high, e.n, name)
        for name, words in table.items()
        if words
        for e in [proportion(*zip(*words, strict=True))]
    ]


def marked(span: HeardSpan) -> MarkedSpan:
    """The span word by word as written; a word of several parts ("well-known") is right where all of them are."""
    said, heard = _parts(span.said), _parts(span.heard.split())
    flat_said, flat_heard = ([part for parts in side for part in parts] for side in (said, heard))
    both = (_found(flat_said, flat_heard), _found(flat_heard, flat_said))
    marks = [
        tuple(zip(words, _whole(parts, found), strict=True))
        for words, parts, found in zip((span.said, span.heard.split()), (said, heard), both, strict=True)
    ]
    return MarkedSpan(span.document, span.domain, span.speaker, *marks)


def _parts(words: Sequence[str]) -> list[list[str]]:
    return [spoken_words(word) for word in words]


def _whole(parts: Sequence[Sequence[str]], found: Sequence[bool]) -> list[bool]:
    flags = iter(found)
    return [all([next(flags) for _ in own]) for own in parts]


def spread(spans: Sequence[HeardSpan], number: int, seed: int) -> list[HeardSpan]:
    """`number` spans drawn blindly, voices in turn; a document comes again in a voice once all others were shown."""
    by_voice: dict[str, list[HeardSpan]] = defaultdict(list)
    for span in spans:
        by_voice[span.speaker].append(span)
    rng, lanes = random.Random(f"{seed}/spans"), []
    for _, own in sorted(by_voice.items()):
        order = rng.sample(own, len(own))
        seen: Counter[str] = Counter()
        ranked = []
        for span in order:
            ranked.append((seen[span.document], span))
            seen[span.document] += 1
        lanes.append([span for _, span in sorted(ranked, key=lambda pair: pair[0])])
    chosen: list[HeardSpan] = []
    for turn in range(max(map(len, lanes), default=0)):
        chosen += [lane[turn] for lane in lanes if turn < len(lane)]
    return sorted(chosen[:number], key=lambda span: span.speaker)
