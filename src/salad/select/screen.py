"""Texts that must not be bought or trained on: what is measured with, and what was taken already in other words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

PERMUTATIONS = 128
SHINGLE = 5
HEAD = 3  # words by which a short evaluation text is looked up


class Screen:
    """Finds texts that share `n` words in a row (case and punctuation aside) with an evaluation text.

    The contamination check of GPT-3 (Brown et al. 2020, appendix C). evaluation: (name, text); one shorter than n words
    counts as a whole, and one shorter than `least` words not at all: anybody says it.
    """

    def __init__(self, evaluation: Iterable[tuple[str, str]], n: int = 13, least: int = 1) -> None:
        self.n = n
        self._long: dict[tuple[str, ...], str] = {}
        self._short: dict[int, dict[tuple[str, ...], list[tuple[tuple[str, ...], str]]]] = {}  # size of head -> head
        for name, text in evaluation:
            words = tuple(_words(text))
            if len(words) >= n:
                self._long.update(dict.fromkeys(_grams(words, n), name))
            elif len(words) >= least:
                head = words[:HEAD]
                self._short.setdefault(len(head), {}).setdefault(head, []).append((words, name))

    def found(self, text: str) -> str | None:
        """The name of an evaluation text that `text` shares words with; None where there is none."""
        words = tuple(_words(text))
        if not self._long.keys().isdisjoint(_grams(words, self.n)):
            return next(self._long[gram] for gram in _grams(words, self.n) if gram in self._long)
        for size, heads in self._short.items():
            for i, head in enumerate(_grams(words, size)):
                for whole, name in heads.get(head, ()):
                    if words[i : i + len(whole)] == whole:
                        return name
        return None


def overlapping(texts: Sequence[str], evaluation: Iterable[str], n: int = 13) -> list[bool]:
    """Whether each text shares `n` words in a row with any evaluation text, as `Screen` finds it."""
    screen = Screen((("", text) for text in evaluation), n)
    return [screen.found(text) is not None for text in texts]


def near_duplicates(texts: Sequence[str], threshold: float, seed: int = 0) -> list[int | None]:
    """For each text the earlier one that it repeats (Jaccard of its five-word shingles over `threshold`), or None.

    MinHash with locality-sensitive hashing finds the candidates (datasketch), the exact Jaccard decides. The first of
    a group of like texts stays.
    """
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=min(threshold, 0.9), num_perm=PERMUTATIONS)
    shingles: list[set[str]] = []
    out: list[int | None] = []
    for i, text in enumerate(texts):
        words = _words(text)
        own = {" ".join(gram) for gram in _grams(words, min(SHINGLE, max(1, len(words))))}
        shingles.append(own)
        sketch = MinHash(num_perm=PERMUTATIONS, seed=seed)
        sketch.update_batch([shingle.encode() for shingle in sorted(own)])
        found = sorted(j for j in index.query(sketch) if _jaccard(own, shingles[j]) >= threshold)
        out.append(found[0] if found else None)
        if not found:
            index.insert(i, sketch)
    return out


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _grams(words: Sequence[str], n: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(n)), strict=False)


def _jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0
