"""Texts that must not be bought or trained on: what is measured with, and what was taken already in other words."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

import numpy as np

from salad.files import hash64

PERMUTATIONS = 128
SHINGLE = 5
HEAD = 3  # words by which a short evaluation text is looked up


class Screen:
    """Finds texts that share `n` words in a row (case and punctuation aside) with an evaluation text.

    The contamination check of GPT-3 (Brown et al. 2020, appendix C). evaluation: (name, text); one shorter than n words
    counts as a whole, and one shorter than `least` words not at all: anybody says it. Rows of n words are held as
    64-bit hashes: of a billion rows that are compared with a million, one agrees by chance with probability 5e-5.
    """

    def __init__(self, evaluation: Iterable[tuple[str, str]], n: int = 13, least: int = 1) -> None:
        self.n = n
        self._names: list[str] = []
        self._short: dict[int, dict[tuple[str, ...], list[tuple[tuple[str, ...], str]]]] = {}  # size of head -> head
        hashes, names = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
        for name, text in evaluation:
            words = tuple(_words(text))
            if len(words) >= n:
                hashes.append(_hashes(words, n))
                names.append(np.full(len(hashes[-1]), len(self._names), np.int32))
                self._names.append(name)
            elif len(words) >= least:
                head = words[:HEAD]
                self._short.setdefault(len(head), {}).setdefault(head, []).append((words, name))
        self._long, last = np.unique(np.concatenate(hashes)[::-1], return_index=True)
        self._name_of = np.concatenate(names)[::-1][last]

    def overlap(self, text: str) -> str | None:
        """The name of an evaluation text that `text` shares words with; None where there is none."""
        words = tuple(_words(text))
        if len(self._long) and len(words) >= self.n:
            hashes = _hashes(words, self.n)
            at = np.searchsorted(self._long[:-1], hashes)
            hits = np.flatnonzero(self._long[at] == hashes)
            if len(hits):
                return str(self._names[self._name_of[at[hits[0]]]])
        for size, heads in self._short.items():
            for i, head in enumerate(_grams(words, size)):
                for whole, name in heads.get(head, ()):
                    if words[i : i + len(whole)] == whole:
                        return name
        return None


def overlapping(texts: Sequence[str], evaluation: Iterable[str], n: int = 13) -> list[bool]:
    """Whether each text shares `n` words in a row with any evaluation text, as `Screen` finds it."""
    screen = Screen((("", text) for text in evaluation), n)
    return [screen.overlap(text) is not None for text in texts]


def near_duplicates(texts: Sequence[str], threshold: float) -> list[int | None]:
    """For each text the earlier one that it repeats (Jaccard of its five-word shingles over `threshold`), or None.

    MinHash with locality-sensitive hashing finds the candidates (datasketch's permutations and bands), the exact
    Jaccard decides. The first of a group of like texts stays. A text takes 4 bytes a band (9 bands at 0.8), and 16 more
    where a band of it is another text's too, but not its shingles: those of candidates are made again from `texts`.
    """
    out = list[int | None](itertools.repeat(None, len(texts)))
    shared, buckets = _buckets(texts, threshold)
    last = np.full(buckets.max(initial=-1) + 1, -1)  # the latest text of each bucket that stays
    before = np.full_like(buckets, -1)  # the one before it there
    for i, row in enumerate(buckets):
        candidates = set[int]()
        for band in np.flatnonzero(last[row] >= 0).tolist():
            j = int(last[row[band]])
            while j >= 0:
                candidates.add(j)
                j = int(before[j, band])
        own = _shingles(texts[shared[i]]) if candidates else set()
        earlier = (int(shared[j]) for j in sorted(candidates))
        out[shared[i]] = next((j for j in earlier if _jaccard(own, _shingles(texts[j])) >= threshold), None)
        if out[shared[i]] is None:
            before[i] = last[row]
            last[row] = i
    return out


def _buckets(texts: Sequence[str], threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The texts [S] that share a bucket with another, in order, and the number of their bucket in each band, int64
    [S, bands]; no two bands share a bucket.

    Bands are told apart by 32 bits of a hash: where two agree by chance, there is one candidate more.
    """
    from datasketch import MinHash, MinHashLSH

    blank = MinHash(num_perm=PERMUTATIONS, seed=0)
    index = MinHashLSH(threshold=min(threshold, 0.9), num_perm=PERMUTATIONS)
    weights = _weights(index.r)
    keys = np.empty((len(texts), index.b), np.uint32)
    for i, text in enumerate(texts):
        sketch = blank.copy()  # drawing the permutations anew takes longer than a short text
        sketch.update_batch([shingle.encode() for shingle in _shingles(text)])
        bands = sketch.hashvalues[: index.b * index.r].reshape(index.b, index.r)
        keys[i] = (bands * weights).sum(axis=1) >> np.uint64(32)
    shares = np.zeros(len(texts), bool)
    for band in keys.T:
        values, counts = np.unique(band, return_counts=True)
        shares |= np.isin(band, values[counts > 1])
    shared = np.flatnonzero(shares)
    keys = keys[shared]
    out = np.empty(keys.shape, np.int64)
    start = 0
    for band in range(index.b):
        known, out[:, band] = np.unique(keys[:, band], return_inverse=True)
        out[:, band] += start
        start += len(known)
    return shared, out


def _shingles(text: str) -> set[str]:
    words = _words(text)
    return {" ".join(gram) for gram in _grams(words, min(SHINGLE, max(1, len(words))))}


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _grams(words: Sequence[str], n: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(n)), strict=False)


def _hashes(words: Sequence[str], n: int) -> np.ndarray:
    """uint64 [words - n + 1]: a hash of every n words in a row; there must be n."""
    own = np.frombuffer(b"".join(map(_hash, words)), np.uint64)
    rows = len(words) - n + 1
    return np.asarray(sum(weight * own[i : i + rows] for i, weight in enumerate(_weights(n))))


_hash = lru_cache(1 << 16)(hash64)


@cache
def _weights(n: int) -> np.ndarray:
    """uint64 [n], odd, the same always: sums of 64-bit numbers times them hash rows of n."""
    return np.random.default_rng(0).integers(0, 1 << 64, n, np.uint64) | np.uint64(1)


def _jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0
