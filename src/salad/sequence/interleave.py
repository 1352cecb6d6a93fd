"""Alternate text spans and speech spans over the words of a document."""

from __future__ import annotations

import random
from typing import Literal

from salad.types import Span


def interleave(
    num_words: int,
    *,
    text_words: tuple[int, int],
    speech_words: tuple[int, int],
    first: Literal["text", "speech", "random"],
    rng: random.Random,
) -> tuple[Span, ...]:
    """Spans that cover words 0 to `num_words` without gap or overlap, modalities alternating.

    Lengths are uniform over the closed ranges (SALAD, section on data format: text 10-30, speech 5-15);
    the last span takes what is left. `first: random` starts with either modality.
    """
    spans: list[Span] = []
    start = 0
    speech = rng.random() < 0.5 if first == "random" else first == "speech"
    while start < num_words:
        length = rng.randint(*(speech_words if speech else text_words))
        end = min(num_words, start + length)
        spans.append(Span("speech" if speech else "text", start, end))
        start, speech = end, not speech
    return tuple(spans)


def cut(start_word: int, end_word: int, speech_words: tuple[int, int], rng: random.Random) -> list[tuple[int, int]]:
    """Cut a run of words into pieces as long as speech spans are; the last one takes what is left."""
    pieces = []
    while start_word < end_word:
        end = min(end_word, start_word + rng.randint(*speech_words))
        pieces.append((start_word, end))
        start_word = end
    return pieces
