"""K-means whose clusters differ in size by at most one."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from salad.types import SaladError

__all__ = ["balanced_kmeans"]


def balanced_kmeans(x: np.ndarray, k: int, *, seed: int, iterations: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Labels int64 [N] and centroids float32 [k, dim] of `x` float [N, dim]; sizes differ by at most one.

    Lloyd's iteration whose assignment step is exact: the cheapest way to fill k clusters of floor(N/k) or
    ceil(N/k) places. Deterministic by seed. Meant for thousands of points (the assignment is O(N^3)).
    """
    if not 1 <= k <= len(x):
        raise SaladError(f"cluster.k: got {k}, expected 1 to {len(x)} (the number of documents)")
    rng = np.random.default_rng(seed)
    x = np.asarray(x, dtype=np.float64)
    centroids = _spread(x, k, rng)
    places = np.arange(len(x)) % k  # the first N % k clusters have one place more
    labels = np.full(len(x), -1)
    for _ in range(iterations):
        distances = ((x[:, None] - centroids[None]) ** 2).sum(-1) if len(x) * k < 1 << 20 else _distances(x, centroids)
        rows, columns = linear_sum_assignment(distances[:, places])
        new = np.empty_like(labels)
        new[rows] = places[columns]
        if np.array_equal(new, labels):
            break
        labels = new
        centroids = np.stack([x[labels == c].mean(axis=0) for c in range(k)])
    return labels, centroids.astype(np.float32)


def _distances(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return (x**2).sum(1)[:, None] - 2 * x @ centroids.T + (centroids**2).sum(1)[None]


def _spread(x: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++ starting points."""
    chosen = [int(rng.integers(len(x)))]
    nearest = ((x - x[chosen[0]]) ** 2).sum(1)
    for _ in range(k - 1):
        total = nearest.sum()
        at = int(rng.choice(len(x), p=nearest / total)) if total > 0 else int(rng.integers(len(x)))
        chosen.append(at)
        nearest = np.minimum(nearest, ((x - x[at]) ** 2).sum(1))
    return x[chosen].copy()
