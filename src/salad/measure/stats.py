"""Accuracies and the gap, with intervals from resampled items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from salad.types import Gap, Result, SaladError

__all__ = ["accuracy", "gap"]


def accuracy(results: Sequence[Result], resamples: int, seed: int) -> dict[str, float]:
    """{value, low, high}: accuracy and its 95 % bootstrap interval over items."""
    value, low, high = _interval(np.array([float(r.correct) for r in results]), resamples, seed)
    return {"value": value, "low": low, "high": high}


def gap(text: Sequence[Result], speech: Sequence[Result], resamples: int, seed: int) -> Gap:
    """Text accuracy minus speech accuracy on the same items; 95 % paired-bootstrap interval."""
    if [r.id for r in text] != [r.id for r in speech]:
        raise SaladError("gap: text and speech results are not of the same items in the same order")
    difference = np.array([float(t.correct) - float(s.correct) for t, s in zip(text, speech, strict=True)])
    return Gap(*_interval(difference, resamples, seed), n=len(difference))


def _interval(values: np.ndarray, resamples: int, seed: int) -> tuple[float, float, float]:
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (resamples, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)
