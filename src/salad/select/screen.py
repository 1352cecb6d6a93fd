"""Texts that must not be bought: what an evaluation asks about, and what was taken already in other words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["near_duplicates", "overlapping"]

PERMUTATIONS = 128
SHINGLE = 5


def overlapping(texts: Sequence[str], evaluation: Iterable[str], n: int = 13) -> list[bool]:
    """Whether each text shares `n` words in a row (case and punctuation aside) with any evaluation text.

    The contamination check of GPT-3 (Brown et al. 2020, appendix C). An evaluation text shorter than n words counts
    as a whole.
    """
    grams: set[tuple[str, ...]] = set()
    shorter: dict[int, set[tuple[str, ...]]] = {}
    for text in evaluation:
        words = _words(text)
        if len(words) >= n:
            grams.update(_grams(words, n))
        elif words:
            shorter.setdefault(len(words), set()).add(tuple(words))
    out = []
    for text in texts:
        words = _words(text)
        hit = any(gram in grams for gram in _grams(words, n))
        out.append(hit or any(gram in few for size, few in shorter.items() for gram in _grams(words, size)))
    return out


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
    return (tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0
