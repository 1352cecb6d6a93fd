"""From an aligned utterance and a layout to an Example."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from salad import config
from salad.audio import to_samples
from salad.audio.units import frames_heard
from salad.sequence.frames import Piece
from salad.sequence.interleave import cut, interleave
from salad.sequence.store import Frames
from salad.sequence.tokens import TokenisedDocument, start_token_id, tokenise
from salad.types import Document, Example, Span, Utterance


def draw_layout(utterance: Utterance, layout: int, settings: config.Sequence, seed: int) -> tuple[Span, ...]:
    """Interleaving number `layout` of an utterance: a pure function of its arguments."""
    rng = random.Random(f"{seed}/{utterance.id}/{layout}")
    return interleave(
        len(utterance.words),
        text_words=settings.text_words,
        speech_words=settings.speech_words,
        first=settings.first,
        rng=rng,
    )


def pieces_of(
    utterance: Utterance, spans: Sequence[Span], settings: config.Sequence, *, seed: int, with_text: bool = False
) -> list[Piece]:
    """Where the audio of each speech span lies; `with_text` also cuts the text spans into pieces of that length."""
    rng = random.Random(f"{seed}/{utterance.id}/pieces")
    ranges: list[tuple[int, int]] = []
    for span in spans:
        if span.modality == "speech":
            ranges.append((span.start_word, span.end_word))
        elif with_text:
            ranges += cut(span.start_word, span.end_word, settings.speech_words, rng)
    return [_piece(utterance, start, end) for start, end in ranges]


def all_pieces(
    utterance: Utterance, settings: config.Sequence, *, seed: int, layouts: int, whole: bool = False
) -> list[Piece]:
    """What is heard of an utterance in any of its first `layouts` interleavings, each piece once.

    whole: with the text spans of the first one, cut up as speech spans are.
    """
    pieces: dict[Hashable, Piece] = {}
    for layout in range(layouts):
        spans = draw_layout(utterance, layout, settings, seed)
        own = pieces_of(utterance, spans, settings, seed=seed, with_text=whole and layout == 0)
        pieces |= {piece.key: piece for piece in own}
    return list(pieces.values())


def recording_piece(utterance: Utterance) -> Piece:
    """All of a recording, for an encoder that is causal: what is heard of it in any interleaving is a slice."""
    return Piece(utterance.id, 0, len(utterance.words), 0, utterance.num_samples)


def word_frames(utterance: Utterance, frame_rate_hz: float) -> np.ndarray:
    """int32 [words, 2], `frames_heard` of each word: what `slice_of` needs to find any span in the whole recording."""
    pieces = (_piece(utterance, n, n + 1) for n in range(len(utterance.words)))
    rate = utterance.sample_rate_hz
    bounds = [frames_heard(p.start_sample, p.end_sample, rate, frame_rate_hz) for p in pieces]
    return np.array(bounds, np.int32).reshape(-1, 2)


def _piece(utterance: Utterance, start_word: int, end_word: int) -> Piece:
    rate = utterance.sample_rate_hz
    start = to_samples(utterance.words[start_word].start_s, rate)
    end = min(utterance.num_samples, max(start + 1, to_samples(utterance.words[end_word - 1].end_s, rate)))
    return Piece(utterance.id, start_word, end_word, start, end)


def build_example(
    utterance: Utterance, tokens: TokenisedDocument, spans: Sequence[Span], frames: Frames, start_id: int
) -> Example:
    """The Example of one layout, with the frames of its speech spans."""
    speech = [s for s in spans if s.modality == "speech"]
    return Example(
        id=utterance.id,
        spans=tuple(spans),
        token_ids=tokens.token_ids,
        token_bounds=tokens.bounds(spans),
        start_id=start_id,
        speech_frames=tuple(frames.get((utterance.id, s.start_word, s.end_word)) for s in speech),
        domain=utterance.domain,
        speaker=utterance.speaker,
    )


def speech_examples(
    tokenizer: Any,
    utterances: Sequence[Utterance],
    frames: Frames,
    settings: config.Sequence,
    seed: int,
    layout: int = 0,
) -> list[Example]:
    """One example of each utterance, in interleaving number `layout`."""
    start = start_token_id(tokenizer)
    return [
        build_example(u, tokenise(tokenizer, u.text), draw_layout(u, layout, settings, seed), frames, start)
        for u in utterances
    ]


def text_examples(tokenizer: Any, documents: Sequence[Document]) -> list[Example]:
    """Documents as plain text: one text span each, no speech."""
    start, out = start_token_id(tokenizer), []
    for document in documents:
        tokens = tokenise(tokenizer, document.text)
        span = Span("text", 0, len(tokens.word_starts) - 1)
        told = (span,), tokens.token_ids, tokens.bounds([span]), start
        out.append(Example(document.id, *told, domain=document.domain))
    return out


def num_positions(example: Example, stride: int, rate: str) -> int:
    """Student positions that an example takes; at text rate an estimate, one for each spoken token."""
    text = sum(b - a for s, (a, b) in zip(example.spans, example.token_bounds, strict=True) if s.modality == "text")
    if rate == "text":
        return 1 + text + sum(max(1, len(ids)) for ids in example.speech_tokens)
    return 1 + text + sum(int(np.ceil(len(frames) / stride)) for frames in example.speech_frames)
