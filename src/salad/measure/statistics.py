"""Accuracies and the gap, with intervals from resampled items or, where items share a document, resampled groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest, norm, t

from salad.types import Estimate, Gap, Result, SaladError

__all__ = [
    "accuracy",
    "gap",
    "margin",
    "margin_over",
    "mcnemar",
    "minimum_detectable_gap",
    "pooled_gap",
    "pooled_spread",
    "ratio",
    "replicate_reach",
]


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


def margin(results: Sequence[Result], resamples: int, seed: int, *, groups: Sequence[str] | None = None) -> Estimate:
    """Mean of log P(right) - log P(best other), in the scores' own unit, with its 95 % interval; `groups` as above."""
    return Estimate(*_interval(_margins(results), resamples, seed, groups), n=len(results))


def margin_over(
    first: Sequence[Result],
    second: Sequence[Result],
    resamples: int,
    seed: int,
    *,
    groups: Sequence[str] | None = None,
) -> Estimate:
    """The margin of `first` less that of `second` on the same items, paired."""
    _same_items(first, second)
    return Estimate(*_interval(_margins(first) - _margins(second), resamples, seed, groups), n=len(first))


def _margins(results: Sequence[Result]) -> np.ndarray:
    return np.array([r.scores[r.answer] - max(s for i, s in enumerate(r.scores) if i != r.answer) for r in results])


def ratio(
    numerators: Sequence[float], denominators: Sequence[float], groups: Sequence[str], resamples: int, seed: int
) -> Estimate:
    """sum(numerators) / sum(denominators) with its 95 % interval from resampled groups; n: the denominators' sum.

    nan where there is nothing to divide by, as for a class of words that never came up.
    """
    top, bottom = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    n = round(float(bottom.sum()))
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    tops, bottoms = np.bincount(index, weights=top), np.bincount(index, weights=bottom)
    drawn = np.random.default_rng(seed).integers(0, len(tops), (resamples, len(tops)))
    below = bottoms[drawn].sum(axis=1)
    values = tops[drawn].sum(axis=1)[below > 0] / below[below > 0]
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(float(top.sum() / bottom.sum()), float(low), float(high), n)


def _interval(
    values: np.ndarray, resamples: int, seed: int, groups: Sequence[str] | None
) -> tuple[float, float, float]:
    """Mean of `values` [n], and the 2.5 and 97.5 percentiles of the means that are drawn."""
    low, high = np.percentile(_draws(values, resamples, np.random.default_rng(seed), groups), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def _draws(values: np.ndarray, resamples: int, rng: np.random.Generator, groups: Sequence[str] | None) -> np.ndarray:
    """Means [resamples] of `values` [n] over all items of the groups drawn; without groups each item is its own.

    The cluster bootstrap (Davison & Hinkley 1997, 3.8): items of one group are not independent, groups are.
    """
    sums, counts = values, np.ones(len(values))
    if groups is not None:
        if len(groups) != len(values):
            raise SaladError(f"groups: got {len(groups)} labels for {len(values)} results; give each result one label")
        _, index = np.unique(np.asarray(groups), return_inverse=True)
        sums, counts = np.bincount(index, weights=values), np.bincount(index)
    drawn = rng.integers(0, len(sums), (resamples, len(sums)))
    return sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)  # groups differ in size, so both parts vary


def mcnemar(first: Sequence[Result], second: Sequence[Result]) -> dict[str, float]:
    """{only_first, only_second, p}: items that one of two got right alone, and McNemar's exact two-sided p.

    Under no difference each such item is a fair coin (McNemar 1947; exact form, Fagerland et al. 2013).
    """
    _same_items(first, second)
    only_first = sum(a.correct and not b.correct for a, b in zip(first, second, strict=True))
    only_second = sum(b.correct and not a.correct for a, b in zip(first, second, strict=True))
    either = only_first + only_second
    p = float(binomtest(only_first, either).pvalue) if either else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": p}


def pooled_gap(
    pairs: Sequence[tuple[Sequence[Result], Sequence[Result]]],
    resamples: int,
    seed: int,
    *,
    groups: Sequence[Sequence[str] | None] | None = None,
) -> tuple[Gap, Gap]:
    """The gap over several tasks, (item-weighted, macro): each item counts alike, or each task does.

    Items, or the `groups` of each task as in `accuracy`, are resampled within their task: which tasks there are is not
    chance.
    """
    rng = np.random.default_rng(seed)
    sizes, values, means = [], [], []
    for (first, second), labels in zip(pairs, groups or [None] * len(pairs), strict=True):
        _same_items(first, second)
        difference = np.array([float(a.correct) - float(b.correct) for a, b in zip(first, second, strict=True)])
        sizes.append(len(difference))
        values.append(difference.mean())
        means.append(_draws(difference, resamples, rng, labels))
    n = sum(sizes)
    out = []
    for weights in (np.array(sizes) / n, np.full(len(sizes), 1 / len(sizes))):
        low, high = np.percentile(weights @ np.array(means), [2.5, 97.5])
        out.append(Gap(float(weights @ np.array(values)), float(low), float(high), n))
    return out[0], out[1]


def minimum_detectable_gap(n: int, discordant: float, *, level: float = 0.05, power: float = 0.8) -> float:
    """The smallest true gap that McNemar's two-sided test on `n` items finds with probability `power`.

    `discordant`: share of items that one of the two gets right and the other wrong. Solves Connor's (1987) equation
    gap * sqrt(n) = z_level * sqrt(discordant) + z_power * sqrt(discordant - gap^2) for the gap.
    """
    if n < 1 or not 0 < discordant <= 1:
        raise SaladError(f"minimum detectable gap: got n {n}, discordant {discordant}; expected n >= 1, 0 < share <= 1")
    level_z, power_z = norm.ppf(1 - level / 2), norm.ppf(power)
    a, b = n + power_z**2, level_z * np.sqrt(discordant * n)
    c = discordant * (level_z**2 - power_z**2)
    return float(min(discordant, (b + np.sqrt(max(0.0, b * b - a * c))) / a))


def pooled_spread(cells: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Standard deviation between trainings of one cell, pooled over cells that share it, and its degrees of freedom.

    Each cell is its replicates' values, whose mean may differ from cell to cell. (nan, 0) where no cell has two.
    """
    freedom = sum(len(cell) - 1 for cell in cells if len(cell))
    if not freedom:
        return float("nan"), 0
    squares = sum(float(((np.asarray(cell) - np.mean(cell)) ** 2).sum()) for cell in cells if len(cell))
    return float(np.sqrt(squares / freedom)), freedom


def replicate_reach(spread: float, freedom: int, replicates: int, *, other_se: float = 0.0) -> float:
    """Half the width of a mean's 95 % interval (Student's t) over `replicates` trainings of this pooled spread.

    other_se: a standard error of another, independent source (say, which documents were drawn), added in quadrature.
    Not a bootstrap: of three replicates its percentiles hold the truth in 84 to 90 % of draws. nan without freedom.
    """
    if not freedom:
        return float("nan")
    return float(t.ppf(0.975, freedom) * np.sqrt(spread**2 / replicates + other_se**2))


def _same_items(first: Sequence[Result], second: Sequence[Result]) -> None:
    if [r.id for r in first] != [r.id for r in second] or not first:
        raise SaladError("gap: the two results are not of the same items in the same order")
