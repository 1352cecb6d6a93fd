"""Accuracies and the gap, with intervals from resampled items or, where items share a document, resampled groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from salad.types import Gap, Result, SaladError

__all__ = ["accuracy", "gap"]


def accuracy(
    results: Sequence[Result], resamples: int, seed: int, *, groups: Sequence[str] | None = None
) -> dict[str, float]:
    """{value, low, high}: accuracy and its 95 % bootstrap interval.

    `groups` labels each result (say, with its document), and whole groups are resampled; None: items are independent.
    Raises SaladError where there is not one label per result.
    """
    value, low, high = _interval(np.array([float(r.correct) for r in results]), resamples, seed, groups)
    return {"value": value, "low": low, "high": high}


def gap(
    text: Sequence[Result],
    speech: Sequence[Result],
    resamples: int,
    seed: int,
    *,
    groups: Sequence[str] | None = None,
) -> Gap:
    """Text accuracy minus speech accuracy on the same items; 95 % paired-bootstrap interval, `groups` as above."""
    if [r.id for r in text] != [r.id for r in speech]:
        raise SaladError("gap: text and speech results are not of the same items in the same order")
    difference = np.array([float(t.correct) - float(s.correct) for t, s in zip(text, speech, strict=True)])
    return Gap(*_interval(difference, resamples, seed, groups), n=len(difference))


def _interval(
    values: np.ndarray, resamples: int, seed: int, groups: Sequence[str] | None
) -> tuple[float, float, float]:
    """Mean of `values` [n], and the 2.5 and 97.5 percentiles of the mean over all items of the groups drawn.

    The cluster bootstrap (Davison & Hinkley 1997, 3.8): items of one group are not independent, groups are.
    """
    sums, counts = values, np.ones(len(values))
    if groups is not None:
        if len(groups) != len(values):
            raise SaladError(f"groups: got {len(groups)} labels for {len(values)} results; give each result one label")
        _, index = np.unique(np.asarray(groups), return_inverse=True)
        sums, counts = np.bincount(index, weights=values), np.bincount(index)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (resamples, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)  # groups differ in size, so both parts vary
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)
