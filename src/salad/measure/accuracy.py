"""Accuracy on items of several choices, chance accuracy, and the gap between text and speech on the same items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest, norm

from salad.measure.results import McNemar
from salad.measure.statistics import bootstrap_means, mean_interval, middle_95, proportion
from salad.types import Estimate, Gap, Result, SaladError


def accuracy(results: Sequence[Result], groups: Sequence[str] | None = None) -> Estimate:
    """The share of `results` that are right, as `proportion`."""
    return proportion([r.correct for r in results], groups)


def chance(choices: Sequence[str], answer: int) -> float:
    """The share of an item's choices that are right by their text: equal ones are equally right."""
    return choices.count(choices[answer]) / len(choices)


def gap(
    text: Sequence[Result], speech: Sequence[Result], resamples: int, seed: int, *, groups: Sequence[str] | None = None
) -> Gap:
    """Text accuracy minus speech accuracy on the same items, as a share of 1; 95 % paired bootstrap of items, or of
    whole `groups`. Raises SaladError where the items or their order differ.
    """
    if [r.id for r in text] != [r.id for r in speech]:
        raise SaladError("gap: text and speech results are not of the same items in the same order; pair them by id")
    difference = np.array([float(t.correct) - float(s.correct) for t, s in zip(text, speech, strict=True)])
    return Gap(*mean_interval(difference, resamples, seed, groups), n=len(difference))


def margin(results: Sequence[Result], resamples: int, seed: int, *, groups: Sequence[str] | None = None) -> Estimate:
    """Mean of log P(right) - log P(best other), in the scores' own unit, with its 95 % interval; `groups` as above."""
    return Estimate(*mean_interval(_margins(results), resamples, seed, groups), n=len(results))


def margin_over(
    first: Sequence[Result], second: Sequence[Result], resamples: int, seed: int, *, groups: Sequence[str] | None = None
) -> Estimate:
    """The margin of `first` less that of `second` on the same items, paired."""
    _same_items(first, second)
    return Estimate(*mean_interval(_margins(first) - _margins(second), resamples, seed, groups), n=len(first))


def _margins(results: Sequence[Result]) -> np.ndarray:
    return np.array([r.scores[r.answer] - max(s for i, s in enumerate(r.scores) if i != r.answer) for r in results])


def mcnemar(first: Sequence[Result], second: Sequence[Result]) -> McNemar:
    """Items that one of two got right alone, and McNemar's exact two-sided p.

    Under no difference each such item is a fair coin (McNemar 1947; exact form, Fagerland et al. 2013).
    """
    _same_items(first, second)
    only_first = sum(a.correct and not b.correct for a, b in zip(first, second, strict=True))
    only_second = sum(b.correct and not a.correct for a, b in zip(first, second, strict=True))
    either = only_first + only_second
    p = float(binomtest(only_first, either).pvalue) if either else 1.0
    return McNemar(only_first, only_second, p)


def pooled_gap(
    pairs: Sequence[tuple[Sequence[Result], Sequence[Result]]],
    resamples: int,
    seed: int,
    *,
    groups: Sequence[Sequence[str] | None] | None = None,
) -> tuple[Gap, Gap]:
    """The gap over several tasks, (item-weighted, macro): each item counts alike, or each task does.

    Items, or the `groups` of each task as in `gap`, are resampled within their task: which tasks there are is not
    chance.
    """
    rng = np.random.default_rng(seed)
    sizes, values, means = [], [], []
    for (first, second), labels in zip(pairs, groups or [None] * len(pairs), strict=True):
        _same_items(first, second)
        difference = np.array([float(a.correct) - float(b.correct) for a, b in zip(first, second, strict=True)])
        sizes.append(len(difference))
        values.append(difference.mean())
        means.append(bootstrap_means(difference, resamples, rng, labels))
    n = sum(sizes)
    out = []
    for weights in (np.array(sizes) / n, np.full(len(sizes), 1 / len(sizes))):
        out.append(Gap(float(weights @ np.array(values)), *middle_95(weights @ np.array(means)), n))
    return out[0], out[1]


def minimum_detectable_gap(n: int, discordant: float, *, level: float = 0.05, power: float = 0.8) -> float:
    """The smallest true gap that McNemar's two-sided test on `n` items finds with probability `power`.

    `discordant`: share of items that one of the two gets right and the other wrong. Solves Connor's (1987) equation
    gap * sqrt(n) = z_level * sqrt(discordant) + z_power * sqrt(discordant - gap^2) for the gap, a share of 1.
    Raises SaladError for n below 1, or a share that is none.
    """
    if n < 1 or not 0 < discordant <= 1:
        raise SaladError(
            f"minimum detectable gap: got n {n} and discordant {discordant}, expected n of 1 or more, and a share of "
            "items above 0 and at most 1"
        )
    level_z, power_z = norm.ppf(1 - level / 2), norm.ppf(power)
    a, b = n + power_z**2, level_z * np.sqrt(discordant * n)
    c = discordant * (level_z**2 - power_z**2)
    return float(min(discordant, (b + np.sqrt(max(0.0, b * b - a * c))) / a))


def _same_items(first: Sequence[Result], second: Sequence[Result]) -> None:
    if [r.id for r in first] != [r.id for r in second] or not first:
        raise SaladError("gap: the two results are not of the same items in the same order; pair them by id")
