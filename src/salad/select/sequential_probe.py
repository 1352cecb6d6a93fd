"""Probe in looks until M(c) differs beyond doubt or the cap: permutation test with spent alpha, and reliability."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from salad.types import Cluster, SaladError

ACTIVE, UNIFORM = "active", "uniform, for lack of evidence"
PERMUTATIONS = 1999
DRAWS = 512
SPENDING_POWER = 5  # alpha spent at a share t of the cap is alpha * t^5 (Kim and DeMets 1987): most is kept for the end


@dataclass(frozen=True)
class ProbedDocument:
    """What one probe document told: its cluster, its M in nats per token, and its speech in seconds."""

    cluster: int
    misalignment: float
    seconds: float


@dataclass(frozen=True)
class Look:
    """The state after one look: all documents and seconds of speech so far, p of equal M(c), the alpha that this look
    may spend, and the reliability of the clusters' means."""

    documents: int
    seconds: float
    p: float
    level: float
    reliability: float


def reliability_of(values: np.ndarray, labels: np.ndarray) -> float:
    """Share of the variance between clusters' means that is not sampling error, 0 to 1.

    values: M of each document [n], nats per token; labels: its cluster [n]. One-way analysis of variance with random
    effects: 1 - (mean square within) / (mean square between), never under 0. 0 where no cluster has two documents.
    """
    found, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    k, n = len(found), len(values)
    if k < 2 or n <= k:
        return 0.0
    means = np.bincount(index, weights=values) / counts
    between = float((counts * (means - values.mean()) ** 2).sum() / (k - 1))
    within = float(((values - means[index]) ** 2).sum() / (n - k))
    return max(0.0, 1 - within / between) if between > 0 else 0.0


def permutation_p(values: np.ndarray, labels: np.ndarray, seed: int, permutations: int = PERMUTATIONS) -> float:
    """p of the hypothesis that M is the same in every cluster, by permuting documents over clusters. values: M of each
    document [n]; labels: its cluster, int [n].

    The statistic is the sum of squares between clusters; the smallest p is 1 / (permutations + 1). 1 where no cluster
    has two documents, for then every permutation gives the same sum.
    """
    found, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(found) < 2 or len(values) <= len(found):
        return 1.0
    centred = values - values.mean()
    member = np.eye(len(found))[index]  # [n, k]
    order = np.random.default_rng(seed).random((permutations, len(values))).argsort(axis=1)
    drawn = (((centred[order] @ member) ** 2) / counts).sum(axis=1)
    own = float((((centred @ member) ** 2) / counts).sum())
    return float((1 + (drawn >= own * (1 - 1e-12)).sum()) / (permutations + 1))


def probe_in_looks(
    order: Mapping[int, Sequence[int]],
    measure: Callable[[list[tuple[int, int]], int], Sequence[ProbedDocument]],
    *,
    first: int,
    further: int,
    cap_s: float,
    alpha: float,
    reliability: float,
    seed: int,
) -> tuple[list[Look], str]:
    """Measure documents of every cluster in looks until there is evidence; returns the looks and the decision.

    order: documents of each cluster in the order in which they are probed. measure: takes (document, cluster) pairs and
    the number of the look, returns what could be used of them. The first look takes `first` documents a cluster,
    whatever it costs, for without a CER nothing of a cluster can be bought; each later one `further` more, while the
    speech so far and that of the next look, at the seconds a document took, stay within `cap_s`.

    Evidence: p is at most the alpha that the look may spend, and the reliability at least `reliability`. The looks
    together spend at most `alpha`, the last one all that is left, so that clusters of equal M are called different with
    no higher probability. Without evidence the decision is `UNIFORM`. Raises SaladError where `first` or `further` is
    below 1.
    """
    if first < 1 or further < 1:
        raise SaladError(f"probe: got {first} documents at first and {further} a further look; both must be at least 1")
    asked = dict.fromkeys(order, 0)
    seen: list[ProbedDocument] = []
    looks: list[Look] = []
    spent, size = 0.0, first
    while chosen := [(i, c) for c, own in order.items() for i in own[asked[c] : asked[c] + size]]:
        asked = {c: asked[c] + size for c in asked}
        seen += measure(chosen, len(looks))
        seconds, size = sum(row.seconds for row in seen), further
        ahead = sum(len(own[asked[c] : asked[c] + size]) for c, own in order.items())
        last = not ahead or not seen or seconds * (1 + ahead / len(seen)) > cap_s
        values = np.array([row.misalignment for row in seen], dtype=np.float64)
        labels = np.array([row.cluster for row in seen], dtype=np.int64)
        testable = len(seen) > len(set(labels.tolist()))
        share = 1.0 if last else min(1.0, seconds / cap_s) ** SPENDING_POWER
        level = alpha * share - spent if testable else 0.0
        spent += level
        p = permutation_p(values, labels, seed + len(looks))
        looks.append(Look(len(seen), float(seconds), p, level, reliability_of(values, labels)))
        if p <= level and looks[-1].reliability >= reliability:
            return looks, ACTIVE
        if last:
            break
    return looks, UNIFORM


def shrink(scores: Sequence[float], weights: Sequence[float], reliability: float) -> np.ndarray:
    """Scores [n] drawn towards their weighted mean by their reliability (empirical Bayes): float64 [n].

    The result is mean + reliability * (score - mean); reliability 1 leaves scores as they are, 0 makes them equal.
    nan stays nan and counts in no mean.
    """
    values, w = np.asarray(scores, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    known = ~np.isnan(values) & (w > 0)
    if not known.any():
        return values
    mean = np.average(values[known], weights=w[known])
    return mean + reliability * (values - mean)


def expected_overlap(
    clusters: Sequence[Cluster], quotas: Sequence[float], *, gamma: float, reliability: float, seed: int
) -> float:
    """Share of the purchase, 0 to 1, that a selection by the true M(c) would buy in the same clusters.

    The true M(c) are drawn 512 times from what the probe leaves open: normal about the shrunk means, with the variance
    reliability * (squared standard error). `quotas`: what each cluster gets; clusters that get nothing are left out of
    both (their CER, not their M, ruled them out). nan where nothing is bought, or the reliability is 0: then the
    probe tells nothing of how the true M(c) differ.
    """
    bought = [(c, q) for c, q in zip(clusters, quotas, strict=True) if q > 0 and c.misalignment >= 0]
    if not bought or reliability <= 0:
        return float("nan")
    size = np.array([c.size for c, _ in bought], dtype=np.float64)
    error = np.nan_to_num([c.misalignment_se for c, _ in bought])
    mean = shrink([c.misalignment for c, _ in bought], size.tolist(), reliability)
    normals = np.random.default_rng([seed, len(bought)]).standard_normal((DRAWS, len(bought)))
    weights = size * np.maximum(mean + np.sqrt(reliability) * error * normals, 1e-3) ** gamma
    true, own = weights / weights.sum(axis=1, keepdims=True), np.array([q for _, q in bought])
    return float(np.minimum(true, own / own.sum()).sum(axis=1).mean())
