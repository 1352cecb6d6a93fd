"""Which clusters to probe again: where another document can still change what is bought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Estimate", "fixed_probes", "next_probes", "unsettled"]

DRAWS = 512
GAIN = 1e-3  # of the budget: what knowing a cluster exactly must move for another document to be worth its price
FLOOR = 1e-3  # nats: scores are positive


@dataclass(frozen=True)
class Estimate:
    """What the probe knows of one cluster: mean and standard error of its score and of its CER, from n documents."""

    size: int
    score: float
    score_se: float
    cer: float
    cer_se: float
    documents: int


def unsettled(estimates: Sequence[Estimate], *, gamma: float, max_cer: float, seed: int) -> float:
    """Share of the budget that is still in doubt, 0 to 1.

    The mean distance (total variation) between the quotas by the estimates and by scores and CERs drawn from
    their intervals (log-normal and normal, 512 draws by seed).
    """
    return _doubt(estimates, _normals(len(estimates), seed), gamma, max_cer)


def next_probes(
    estimates: Sequence[Estimate],
    *,
    gamma: float,
    max_cer: float,
    tolerance: float,
    documents: int,
    available: Sequence[int],
    seed: int,
) -> list[int]:
    """How many more documents each cluster gets, at most `documents` in all; all zero once the selection is stable.

    Stable: `unsettled` is at most `tolerance`. A document goes where it takes away most doubt; to clusters whose
    interval cannot move the quotas (far under the others, or surely over the CER limit) none goes.
    `available`: unprobed documents of each cluster.
    """
    given = [0] * len(estimates)
    normals = _normals(len(estimates), seed)
    now = list(estimates)
    doubt = _doubt(now, normals, gamma, max_cer)
    known = np.array([doubt - _doubt(_exact(now, c), normals, gamma, max_cer) for c in range(len(now))])
    for _ in range(documents):
        if _doubt(now, normals, gamma, max_cer) <= tolerance:
            break
        # Doubt falls with the standard error: 1 - sqrt(n / (n + 1)) of it goes with the next document.
        gain = [
            known[c] * (1 - np.sqrt(e.documents / (e.documents + 1))) * np.sqrt(estimates[c].documents / e.documents)
            if given[c] < available[c] and known[c] > GAIN
            else 0.0
            for c, e in enumerate(now)
        ]
        best = int(np.argmax(gain))
        if gain[best] <= 0:
            break
        given[best] += 1
        now[best] = _with_documents(now[best], now[best].documents + 1)
    return given


def fixed_probes(
    estimates: Sequence[Estimate], *, gamma: float, max_cer: float, tolerance: float, seed: int, limit: int = 1024
) -> int:
    """Documents a cluster that a probe of one size for all would need for the same doubt (from the found variances)."""
    normals = _normals(len(estimates), seed)
    for n in range(1, limit):
        if _doubt([_with_documents(e, n) for e in estimates], normals, gamma, max_cer) <= tolerance:
            return n
    return limit


def _with_documents(e: Estimate, n: int) -> Estimate:
    shrink = np.sqrt(e.documents / n)
    return Estimate(e.size, e.score, e.score_se * shrink, e.cer, e.cer_se * shrink, n)


def _exact(estimates: Sequence[Estimate], c: int) -> list[Estimate]:
    e = estimates[c]
    return [*estimates[:c], Estimate(e.size, e.score, 0.0, e.cer, 0.0, e.documents), *estimates[c + 1 :]]


def _normals(k: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, k]).standard_normal((2, DRAWS, k))


def _doubt(estimates: Sequence[Estimate], normals: np.ndarray, gamma: float, max_cer: float) -> float:
    size, score, score_se, cer, cer_se = (
        np.array([getattr(e, name) for e in estimates], dtype=np.float64)
        for name in ("size", "score", "score_se", "cer", "cer_se")
    )
    score = np.maximum(score, FLOOR)
    best = _shares(size * score**gamma * (cer <= max_cer))
    spread = np.sqrt(np.log1p((score_se / score) ** 2))
    drawn = np.exp(np.log(score) + spread * normals[0]) ** gamma * size * (cer + cer_se * normals[1] <= max_cer)
    return float(0.5 * np.abs(_shares(drawn) - best).sum(axis=-1).mean())


def _shares(weights: np.ndarray) -> np.ndarray:
    total = weights.sum(axis=-1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
