"""Where a sentence ends, and runs of words that are short enough to be said, or aligned, at once."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

MAX_WORDS, MAX_CHARS = 40, 280  # one sentence stays well under the aligner's 29.5 s window

ENDS = re.compile(r"[.!?…]+[\"'”’)\]]*$")
CLAUSE_ENDS = re.compile(r"[,;:—–][\"'”’)\]]*$")
INITIALS = re.compile(r"^[\"'“‘(\[]*(?:[A-Za-z]\.)+$")  # J. or U.S. or e.g.
ABBREVIATIONS = set(
    "mr. mrs. ms. dr. prof. st. sr. jr. vs. etc. approx. no. fig. gen. gov. sen. rep. rev. inc. ltd. co. "
    "jan. feb. mar. apr. jun. jul. aug. sept. oct. nov. dec.".split()
)


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Runs of whitespace words, (first, last + 1), which together hold every word of `text` once, in order.

    A sentence ends at . ! ? or a blank line, not at an abbreviation or an initial. One of more than MAX_WORDS words or
    MAX_CHARS characters is cut, at the last comma of its second half where there is one. A run without a letter or a
    digit (a lone dash) joins its neighbour, as nobody can say it.
    """
    words: list[str] = []
    bounds = [0]
    for paragraph in re.split(r"\n\s*\n", text):
        for word in paragraph.split():
            if len(words) > bounds[-1] and _ends_sentence(words[-1], word):
                bounds.append(len(words))
            words.append(word)
        if len(words) > bounds[-1]:
            bounds.append(len(words))
    runs: list[tuple[int, int]] = []
    for start, end in itertools.pairwise(bounds):
        while (cut := _cut(words, start, end)) < end:
            runs.append((start, cut))
            start = cut
        runs.append((start, end))
    merged: list[tuple[int, int]] = []
    for start, end in runs:
        if merged and not (sayable(words[start:end]) and sayable(words[slice(*merged[-1])])):
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def sayable(words: Sequence[str]) -> bool:
    return any(character.isalnum() for word in words for character in word)


def _ends_sentence(word: str, following: str) -> bool:
    if not ENDS.search(word):
        return False
    if word.strip("\"'“”‘’()[]").lower() in ABBREVIATIONS or INITIALS.match(word):
        return False
    return not following.lstrip("\"'“‘([")[:1].islower()


def _cut(words: Sequence[str], start: int, end: int) -> int:
    """Where the sentence of words [start, end) must first be cut; `end` where it is short enough."""
    num_chars, fits = 0, start
    while fits < end and fits - start < MAX_WORDS and (num_chars == 0 or num_chars + len(words[fits]) + 1 <= MAX_CHARS):
        num_chars += len(words[fits]) + 1
        fits += 1
    if fits == end:
        return end
    for position in range(fits, start + (fits - start) // 2, -1):
        if CLAUSE_ENDS.search(words[position - 1]):
            return position
    return fits
