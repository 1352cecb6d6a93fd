"""Symbols as ears would hear them: a text's own, with the posteriors and mistakes of recordings, or uniform ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein

SMOOTH = 2.0  # times that each symbol counts as said with the mean rates


@dataclass(frozen=True)
class Noise:
    """What becomes of each symbol when it is heard.

    posteriors: float32 [N, S] of runs that were heard, those of true symbol s at rows starts[s] to starts[s + 1], the
    right ones first, `right[s]` of them. starts: int64 [S + 2]; the last group is of runs where nothing was said.
    dropped: float [S], how often a symbol is not heard; inserted: float [S], how often more is heard after it.
    """

    posteriors: np.ndarray
    starts: np.ndarray
    right: np.ndarray
    dropped: np.ndarray
    inserted: np.ndarray

    @classmethod
    def uniform(cls, num_symbols: int, error: float = 0.1, soft: float = 0.15) -> Noise:
        """Without a recording: a share `error` of all symbols changed, half as many dropped or inserted."""
        eye = np.eye(num_symbols, dtype=np.float32)
        rng = np.random.default_rng(0)
        rows, right = [], []
        for s in range(num_symbols):
            good = max(1, round(100 * (1 - error)))
            others = rng.choice([o for o in range(num_symbols) if o != s] or [s], 100 - good)
            for target in [s] * good + others.tolist():
                share = rng.uniform(0, 2 * soft)
                row = (1 - share) * eye[target]
                row[rng.integers(num_symbols, size=3)] += share / 3
                rows.append(row)
            right.append(good)
        for _ in range(100):
            rows.append(eye[rng.integers(num_symbols)])
        starts = np.array([100 * s for s in range(num_symbols + 1)] + [100 * (num_symbols + 1)])
        drop = np.full(num_symbols, error / 4)
        return cls(np.stack(rows), starts, np.array(right), drop, drop.copy())

    @classmethod
    def of_runs(cls, pairs: Sequence[tuple[Sequence[int], np.ndarray]], num_symbols: int) -> Noise:
        """Learn the noise from recordings: (true symbols, posteriors float [n, S] of the runs heard) of each span.

        A symbol that was seldom said borrows the mean rates, and a clear posterior of its own.
        """
        groups: list[list[np.ndarray]] = [[] for _ in range(num_symbols + 1)]
        said, lost, more = (np.zeros(num_symbols) for _ in range(3))
        for truth, posteriors in pairs:
            truth = list(truth)
            for block in Levenshtein.opcodes(truth, posteriors.argmax(-1).tolist()):
                width, length = block.src_end - block.src_start, block.dest_end - block.dest_start
                for k in range(max(width, length)):
                    if k < width:
                        said[truth[block.src_start + k]] += 1
                    if k < width and k < length:
                        groups[truth[block.src_start + k]].append(posteriors[block.dest_start + k])
                    elif k < width:
                        lost[truth[block.src_start + k]] += 1
                    else:
                        before = truth[max(0, block.src_end - 1)] if truth else 0
                        more[before] += 1
                        groups[-1].append(posteriors[block.dest_start + k])
        rates = [(x + SMOOTH * x.sum() / max(said.sum(), 1)) / (said + SMOOTH) for x in (lost, more)]
        rows: list[np.ndarray] = []
        right, starts = [], [0]
        eye = np.eye(num_symbols, dtype=np.float32)
        for s, group in enumerate(groups):
            if s == num_symbols:
                good, bad = group or [eye[0]], []
            else:
                good = [row for row in group if row.argmax() == s] or [eye[s]]
                bad = [row for row in group if row.argmax() != s]
                right.append(len(good))
            rows += [*good, *bad]
            starts.append(len(rows))
        return cls(np.stack(rows).astype(np.float32), np.array(starts), np.array(right), *rates)

    def hear(self, symbols: np.ndarray, rng: np.random.Generator, rate: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Posteriors float32 [n, S] of a text's symbols int64 [L], and `where` int64 [L] each is among them (-1 before
        the first; see `salad.sequence.spelling.place`).

        rate: the dial of mistakes; 1 as often as in what this noise was made of, 0 none at all.
        """
        num = len(symbols)
        keep = rng.random(num) >= rate * self.dropped[symbols]
        if num and not keep.any():
            keep[rng.integers(num)] = True
        more = rng.random(num) < rate * self.inserted[symbols]
        first, last = self.starts[symbols], self.starts[symbols + 1]
        right = self.right[symbols]
        wrong = (last - first) - right
        mistaken = rng.random(num) < rate * wrong / np.maximum(last - first, 1)
        low = np.where(mistaken & (wrong > 0), first + right, first)
        high = np.where(mistaken & (wrong > 0), last, first + right)
        rows = low + (rng.random(num) * (high - low)).astype(np.int64)
        extra = rng.integers(self.starts[-2], self.starts[-1], size=num)
        counts = keep.astype(np.int64) + more
        ends = np.cumsum(counts)
        out = np.empty(int(ends[-1]) if num else 0, np.int64)
        at = ends - counts
        out[at[keep]] = rows[keep]
        out[(ends - 1)[more]] = extra[more]
        where = np.where(keep, at, at - 1)
        return self.posteriors[out], where
