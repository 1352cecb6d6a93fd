"""Proportions, ratios and means with their 95 % intervals, and what could have been told where an interval holds 0.

Which interval depends on what is drawn by chance: items that stand alone (Wilson), documents that hold several items
(Wilson on as many items as their documents are worth; the bootstrap of documents for a gap or a ratio), or trainings
(Student's t, the variance pooled over cells).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit
from scipy.stats import norm, t

from salad.config import Evaluate
from salad.types import Estimate, SaladError

# Draws of a bootstrap, by what one costs. The end of a 95 % interval moves from seed to seed by 0.03 (10,000 draws),
# 0.04, 0.06 or 0.08 (1,000) of the figure's standard error: sqrt(0.025 * 0.975 / draws) / normal density at 1.96.
DRAWS = Evaluate().bootstrap  # 2,000: of a run's documents, over all measures, voices and stages
DRAWS_OF_ITEMS = 10_000  # of a benchmark: its items stand in published tables, and a draw is one mean
DRAWS_OF_ARMS = 4_000  # of two arms' documents: verdicts hang on the ends, of many pairs of arms
DRAWS_REFITTED = 1_000  # each fits a law again, or scores a probe and its shuffles again


def proportion(right: Sequence[float], groups: Sequence[str] | None = None) -> Estimate:
    """The share of ones among `right` [n] with its 95 % Wilson interval (Wilson 1927).

    Without `groups` each item is drawn alone. `groups` labels each with what was drawn (its document): the interval is
    that of n / design effect items, widened for few groups by Student's t (Korn & Graubard 1998). Where all or none are
    right there is no design effect to be seen, and each group counts as one item.
    Raises SaladError where there is no item, or not one label for each.
    """
    values = np.asarray(right, dtype=float)
    n, share = len(values), float(values.mean()) if len(values) else np.nan
    if not n:
        raise SaladError("proportion: got no items, expected one or more; leave out systems that were not asked")
    effective, z = float(n), norm.ppf(0.975)
    if groups is not None:
        index, number = _labelled(groups, n)
        if number < 2 or share in (0, 1):
            effective = float(number)
        else:
            sums, counts = np.bincount(index, weights=values), np.bincount(index)
            variance = number / (number - 1) * float(((sums - share * counts) ** 2).sum()) / n**2
            effect = max(1.0, variance / (share * (1 - share) / (n - 1)))
            effective = n / effect * (t.ppf(0.975, n - 1) / t.ppf(0.975, number - 1)) ** 2
    middle = (share + z**2 / (2 * effective)) / (1 + z**2 / effective)
    reach = z / (1 + z**2 / effective) * np.sqrt(share * (1 - share) / effective + z**2 / (4 * effective**2))
    low, high = max(0.0, middle - reach), min(1.0, middle + reach)
    return Estimate(share, min(float(low), share), max(float(high), share), n)


def _labelled(groups: Sequence[str], n: int) -> tuple[np.ndarray, int]:
    """Number of each item's group [n], and how many groups there are."""
    if len(groups) != n:
        raise SaladError(f"groups: got {len(groups)} labels for {n} results; give each result one label")
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    return index, len(names)


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
    return Estimate(float(top.sum() / bottom.sum()), *middle_95(values), n)


def mean_interval(
    values: np.ndarray, resamples: int, seed: int, groups: Sequence[str] | None
) -> tuple[float, float, float]:
    """Mean of `values` [n], and the 2.5 and 97.5 percentiles of the means that are drawn."""
    return float(values.mean()), *middle_95(bootstrap_means(values, resamples, np.random.default_rng(seed), groups))


def middle_95(draws: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def bootstrap_means(
    values: np.ndarray, resamples: int, rng: np.random.Generator, groups: Sequence[str] | None
) -> np.ndarray:
    """Means [resamples] of `values` [n] over all items of the groups drawn; without groups each item is its own.

    The cluster bootstrap (Davison & Hinkley 1997, 3.8): items of one group are not independent, groups are.
    """
    sums, counts = values, np.ones(len(values))
    if groups is not None:
        index, _ = _labelled(groups, len(values))
        sums, counts = np.bincount(index, weights=values), np.bincount(index).astype(float)
    drawn = rng.integers(0, len(sums), (resamples, len(sums)))
    means: np.ndarray = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)  # groups differ in size: both parts vary
    return means


def pooled_spread(cells: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Standard deviation between trainings of one cell, pooled over cells that share it, and its degrees of freedom.

    Each cell is its replicates' values, whose mean may differ from cell to cell. (nan, 0) where no cell has two.
    """
    freedom = sum(len(cell) - 1 for cell in cells if len(cell))
    if not freedom:
        return float("nan"), 0
    squares = sum(float(((np.asarray(cell) - np.mean(cell)) ** 2).sum()) for cell in cells if len(cell))
    return float(np.sqrt(squares / freedom)), freedom


def replicate_reach(spread: float, freedom: int, replicates: int) -> float:
    """Half the width of a mean's 95 % interval (Student's t) over `replicates` trainings of this pooled spread.

    Not a bootstrap: of three replicates its percentiles hold the truth in 84 to 90 % of draws. nan without freedom.
    """
    if not freedom:
        return float("nan")
    return float(t.ppf(0.975, freedom) * spread / np.sqrt(replicates))


def two_sources_reach(
    spread: float, freedom: int, replicates: int, other_se: float, other_freedom: int
) -> tuple[float, float]:
    """Half the width of a mean's 95 % interval where an independent source adds a standard error, say
    which documents were drawn; and the freedom of the one Student's t that is as wide.

    Each source has the t of its own freedom, and the two reaches are added in quadrature (Zou and Donner 2008). One t
    of the trainings' freedom for both holds the truth in 999 of 1,000 draws where three trainings agree and documents
    do not, and this in 950 to 980 (tests/measure). nan without freedom.
    """
    if not freedom:
        return float("nan"), 0.0
    own, ends = spread / np.sqrt(replicates), sorted((float(freedom), float(other_freedom)))
    error = float(np.hypot(own, other_se))
    reach = float(np.hypot(stdtrit(freedom, 0.975) * own, stdtrit(other_freedom, 0.975) * other_se))
    if not error or ends[0] == ends[1]:
        return reach, ends[0]
    return reach, float(brentq(lambda f: stdtrit(f, 0.975) - reach / error, ends[0] - 1e-6, ends[1] + 1e-6))


def blocked_spread(cells: Mapping[tuple[str, Hashable], float]) -> tuple[float, int]:
    """Standard deviation between trainings that share a variance, over {(arm, replicate): value}, and its freedom.

    What an arm has in all replicates, and a replicate in all arms, is taken away (a randomised block design), so that
    arms may share one reference. The paired difference of two arms has sqrt(2) times this. (nan, 0) without freedom.
    """
    arms, replicates = (sorted({key[i] for key in cells}, key=str) for i in (0, 1))
    design = np.array(
        [[*(a == arm for arm in arms), *(r == replicate for replicate in replicates)] for a, r in cells], dtype=float
    )
    values = np.array(list(cells.values()), dtype=float)
    found, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    freedom = len(values) - int(rank)
    if not freedom:
        return float("nan"), 0
    return float(np.sqrt(((values - design @ found) ** 2).sum() / freedom)), freedom


def detectable(reach: float, freedom: float = 0, *, power: float = 0.8) -> float:
    """The smallest true difference that is found with probability `power`, where half a 95 % interval is `reach` wide.

    freedom: of Student's t that the interval was made with; 0: normal.
    """
    known = t(freedom) if freedom else norm
    return float(reach * (1 + known.ppf(power) / known.ppf(0.975)))


def two_sided_p(value: float, low: float, freedom: float = 0, *, null: float = 0.0) -> float:
    """p of the hypothesis that the truth is `null`, from a figure and the low end of its 95 % interval; as above."""
    known = t(freedom) if freedom else norm
    error = (value - low) / known.ppf(0.975)
    return float(2 * known.sf(abs(value - null) / error)) if error else float(value == null)


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for their number (Holm 1979): those up to 0.05 are all true with probability 0.95 or more."""
    adjusted, largest = [1.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted
