"""K-means whose clusters differ in size by at most one, on millions of points.

    1. Prices and centroids are learned on a sample: distances, then the prices that balance soft assignments at a
       falling temperature (entropic transport, its dual maximised by Newton's method), then new centroids.
    2. A few passes over all points move the centroids, and tell which loads the sample gets wrong.
    3. Under the last prices nearly all points are where they belong. Those between two clusters are settled exactly
       (`transport.fill`); the prices prove how far the result can be from the cheapest (`BalancedClusters.gap`).

Few points (up to EXACT_POINTS) take Lloyd's iteration in float64 with an exact assignment at every step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from salad.progress import progress
from salad.select.kmeans.min_cost_flow import fill, price_of_sizes
from salad.select.kmeans.row_blocks import BLOCK, RowBlocks, check_rows, sums_of
from salad.select.kmeans.sinkhorn_newton import settle
from salad.types import SaladError

EXACT_POINTS, EXACT_CELLS = 4096, 1 << 20
SAMPLE_POINTS, SAMPLE_EACH = 1 << 15, 256  # points to learn on, or so many for each cluster
SAMPLE_CELLS = 1 << 27  # of their distances: 512 MB in float32
BOUNDARY_POINTS, BOUNDARY_CELLS = 1 << 16, 1 << 24  # points to settle exactly at first
FULL_PASSES, PRICE_PASSES = 3, 2  # over all points: that move centroids and prices, and that move prices alone
HOT, COLD = 0.4, 0.03  # first and last temperature of the centroids, as shares of the mean margin between two clusters
WARM = 0.05  # the temperature that the prices are first learned at, as a share of the mean square
WIDE_GAP = 1e-3  # a larger gap has twice as many points settled
SLACK = 1e-6  # costs that differ by less, as a share of the mean square, count as equal


@dataclass(frozen=True)
class BalancedClusters:
    """labels int64 [N]; centroids float32 [k, dim], the means; inertia: mean squared distance of a point to its own.

    gap: the last assignment's cost over the cheapest balanced one for the same centroids, minus 1, at most
    (from the dual; 0 is proof that it is the cheapest).
    """

    labels: np.ndarray
    centroids: np.ndarray
    inertia: float
    gap: float

    @property
    def sizes(self) -> np.ndarray:
        """Points of each cluster, int64 [k]: floor(N/k) or ceil(N/k)."""
        return np.bincount(self.labels, minlength=len(self.centroids))


def balanced_kmeans(
    x: np.ndarray, k: int, *, seed: int, iterations: int = 20, device: str | torch.device = "cpu"
) -> BalancedClusters:
    """Part `x` [N, dim] (any float type, may be memory-mapped: read in blocks) into `k` clusters of equal size.

    Every size is floor(N/k) or ceil(N/k) exactly; which clusters get the point more is chosen at least cost.
    Deterministic by seed: blocks are fixed, so nothing depends on how x is stored. Another number of threads, device or
    release of torch may round differently, and so end in other, equally good clusters.
    Memory beside x: under 2 GB for k up to a few thousand. Raises SaladError for k, shape, NaN, infinity.
    """
    if x.ndim != 2 or x.shape[1] == 0:
        raise SaladError(f"x: got shape {tuple(x.shape)}, expected [points, dimensions]")
    num = len(x)
    if not 1 <= k <= num:
        raise SaladError(f"cluster.k: got {k}, expected 1 to {num} (the number of documents)")
    if iterations < 1:
        raise SaladError(f"iterations: got {iterations}, expected 1 or more")
    rng = np.random.default_rng(seed)
    if num <= EXACT_POINTS and num * k <= EXACT_CELLS:
        check_rows(x)
        return _exact(np.array(x, dtype=np.float64), k, rng, iterations)
    sample = min(num, max(SAMPLE_POINTS, SAMPLE_EACH * k), max(2 * k, SAMPLE_CELLS // k))
    passes = 3 + (FULL_PASSES + PRICE_PASSES) * (sample < num)  # first look, assignment, means
    with progress("balanced k-means", passes * num + iterations * sample, "rows") as bar, torch.no_grad():
        rows = RowBlocks(x, torch.device(device), bar)
        return _Large(rows, k, rng).run(sample, iterations)


class _Large:
    """Prices float64 [k] and centroids float32 [k, dim] (about the mean of x) of many points."""

    def __init__(self, rows: RowBlocks, k: int, rng: np.random.Generator) -> None:
        self.rows, self.k, self.rng = rows, k, rng
        self.device = rows.device
        self.scale = max(rows.mean_square, 1e-10 * float((rows.mean**2).sum()), 1e-20)  # copies of one point: noise
        if not self.scale < 1e30:
            raise SaladError(f"x: mean square {self.scale:.1e} is too large for float32; divide x by a constant")
        self.prices = torch.zeros(k, dtype=torch.float64, device=self.device)
        self.unseen = torch.zeros_like(self.prices)  # load [k] that the sample lacks, or minus what it has too much
        self.excess, self.damping = torch.zeros_like(self.prices), 0.5  # of the last pass over all points
        self.temperature = self.scale

    def run(self, num_sample: int, iterations: int) -> BalancedClusters:
        num, everything = self.rows.num, num_sample == self.rows.num
        index = np.arange(num) if everything else np.sort(self.rng.choice(num, num_sample, replace=False))
        sample = self.rows.take(index)
        cost = torch.empty(num_sample, self.k, device=self.device)
        first = np.sort(self.rng.choice(num_sample, self.k, replace=False))
        self.centroids = sample[torch.from_numpy(first).to(self.device)]
        for iteration in range(iterations):
            share = self._price(sample, cost, iteration / max(1, iterations - 1))
            self.centroids = (share.T @ sample) / share.sum(0)[:, None].clamp(min=1e-6)
            self.rows.bar.advance(num_sample)
        for done in range(0 if everything else FULL_PASSES + PRICE_PASSES):
            self._price(sample, cost, 1.0)
            labels, _, _, total = self._cheapest(self.prices)
            load = torch.from_numpy(np.bincount(labels, minlength=self.k)).to(self.device)
            self._correct((load * self.k / num - 1).double() * (num_sample / self.k))
            if done < FULL_PASSES:
                self.centroids = torch.where(load[:, None] > 0, total / load[:, None], self.centroids).float()
        self._price(sample, cost, 1.0)
        del sample, cost
        labels, gap = self._assign()
        centroids, inertia = self.rows.means(labels, self.k)
        return BalancedClusters(labels, centroids, inertia, gap)

    def _correct(self, excess: torch.Tensor) -> None:
        """Move `unseen` by the excess [k] that all points show over even loads, in points of the sample.

        The sample lies nearer to centroids that it taught, so that the loads of all points give way to prices two or
        three times as much as its own do: a whole step would swing, and each is as long as the last one says.
        """
        if bool((last := self.excess).any()):
            brought = 1 - float(excess @ last) / float(last @ last)  # of what the last step should have brought
            self.damping = min(1.0, max(0.1, self.damping / max(brought, 0.1)))
        self.unseen = self.unseen + self.damping * excess
        self.excess = excess

    def _price(self, x: torch.Tensor, cost: torch.Tensor, progress: float) -> torch.Tensor:
        """Temperature and prices for the centroids, learned on rows x [n, dim]; returns the rows' shares [n, k]."""
        torch.addmm((self.centroids**2).sum(1), x, self.centroids.T, alpha=-2, out=cost)
        best = (cost + self.prices.to(cost.dtype)).topk(min(2, self.k), 1, largest=False).values
        margin = max(float((best[:, -1] - best[:, 0]).mean()), 1e-3 * self.scale)
        self.temperature = margin * HOT * (COLD / HOT) ** progress
        warm, cold = WARM * self.scale, self.temperature
        self.prices, share = settle(cost, self.prices, warm=warm, cold=cold, outside=self.unseen)
        return share

    def _assign(self) -> tuple[np.ndarray, float]:
        """The cheapest balanced assignment to the centroids: labels int64 [N] and its gap.

        Points keep their cluster under the prices so far but for those with the smallest margins, `near`, which are
        settled exactly. A point outside keeps its best cluster at the new prices too unless they moved by more than
        its margin; what that can cost at most enters the gap. Where that is too much, a pass at the new prices tells
        what it costs in fact, and is where the next try begins.
        """
        num, k = self.rows.num, self.k
        part, found, primal = min(1.0, BOUNDARY_POINTS / num, BOUNDARY_CELLS / k / num), None, 0.0
        prices = self.prices.cpu().numpy()
        while True:
            old, start = prices, torch.from_numpy(prices).to(self.device)
            labels, margin, best, _ = self._cheapest(start)
            if found is not None and _gap(primal, best - price_of_sizes(num, old)) <= WIDE_GAP:
                return found, _gap(primal, best - price_of_sizes(num, old))
            near = _nearest(labels, margin, k, part)
            away = np.ones(num, dtype=bool)
            away[near] = False
            outside = np.bincount(labels[away], minlength=k)
            cost = self._costs(near)
            warm = min(WARM * self.scale, float(margin[near].mean()) / 2)  # prices are near: stay within the margins
            cold, fixed = self.temperature / 5, torch.from_numpy(outside)
            prices = settle(cost, start, warm=warm, cold=cold, outside=fixed)[0].cpu().numpy()
            costs: np.ndarray = cost.cpu().numpy()
            filled = fill(costs, _cheapest_of(costs, prices)[0], prices, outside, slack=SLACK * self.scale)
            part = min(1.0, 2 * part)
            if filled is None:
                prices, found = old, None
                continue
            moved, prices = filled
            shift = prices - old
            short = np.maximum(shift[labels] - shift.min() - margin, 0)[away].sum(dtype=np.float64)
            kept = best - float(old @ np.bincount(labels, minlength=k)) - _cost_of(costs, labels[near])
            primal = kept + _cost_of(costs, moved)
            dual = kept + float(prices @ outside) - short
            dual += _cheapest_of(costs, prices)[1] - price_of_sizes(num, prices)
            labels[near] = moved
            found = labels
            if _gap(primal, dual) <= WIDE_GAP or len(near) == num:
                return found, _gap(primal, dual)

    def _cheapest(self, prices: torch.Tensor) -> tuple[np.ndarray, np.ndarray, float, torch.Tensor]:
        """One pass: every point's best cluster [N], its margin over the second best [N], the sum of cost + price,
        and the sums of each cluster's points, float64 [k, dim]."""
        num, k = self.rows.num, self.k
        labels, margin = np.empty(num, np.int64), np.full(num, np.inf, np.float32)
        bias, best = (self.centroids**2).sum(1) + prices.float(), self.rows.mean_square * num
        total = torch.zeros(self.centroids.shape, dtype=torch.float64, device=self.device)
        cost = torch.empty(self.rows.block, k, device=self.device)
        for at, x in self.rows.blocks():
            torch.addmm(bias, x, self.centroids.T, alpha=-2, out=cost[: len(x)])
            two = cost[: len(x)].topk(min(2, k), 1, largest=False)
            labels[at] = two.indices[:, 0].cpu().numpy()
            if k > 1:
                margin[at] = (two.values[:, 1] - two.values[:, 0]).cpu().numpy()
            best += float(two.values[:, 0].sum(dtype=torch.float64))
            total += sums_of(x, two.indices[:, 0], k)
        return labels, margin, best, total

    def _costs(self, index: np.ndarray) -> torch.Tensor:
        """Squared distances of some rows, less their squared norm, [len(index), k]."""
        cost = torch.empty(len(index), self.k, device=self.device)
        for at in range(0, len(index), self.rows.block):
            part = cost[at : at + self.rows.block]
            x = self.rows.take(index[at : at + self.rows.block])
            torch.addmm((self.centroids**2).sum(1), x, self.centroids.T, alpha=-2, out=part)
        return cost


def _gap(primal: float, dual: float) -> float:
    return float(max(primal - dual, 0.0) / max(dual, 1e-30))


def _cheapest_of(costs: np.ndarray, prices: np.ndarray) -> tuple[np.ndarray, float]:
    """The cheapest cluster [n] by `costs` [n, k] and `prices` [k], and the sum of what it takes; float64, by blocks."""
    labels, total = np.empty(len(costs), np.int64), 0.0
    for at in range(0, len(costs), BLOCK):
        priced = costs[at : at + BLOCK] + prices
        labels[at : at + BLOCK] = priced.argmin(1)
        total += float(priced.min(1).sum(dtype=np.float64))
    return labels, total


def _nearest(labels: np.ndarray, margin: np.ndarray, k: int, part: float) -> np.ndarray:
    """Points [n], sorted, with the smallest margins of their cluster: this part of it, and twice its surplus."""
    sizes = np.bincount(labels, minlength=k)
    quotas = np.ceil(part * sizes) + 2 * np.maximum(sizes - len(labels) // k, 0)
    order = np.lexsort((margin, labels))
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank < np.repeat(quotas, sizes)])


def _cost_of(cost: np.ndarray, labels: np.ndarray) -> float:
    return float(np.take_along_axis(cost, labels[:, None], 1).sum(dtype=np.float64))


def _exact(x: np.ndarray, k: int, rng: np.random.Generator, iterations: int) -> BalancedClusters:
    """Lloyd's iteration whose assignment is the cheapest balanced one; stops where it repeats."""
    x_mean = x.mean(0)
    x = x - x_mean
    centroids, prices = _spread(x, k, rng), np.zeros(k)
    labels, gap = np.full(len(x), -1), 0.0
    for _ in range(iterations):
        cost = (x**2).sum(1)[:, None] - 2 * x @ centroids.T + (centroids**2).sum(1)
        filled = fill(cost, (cost + prices).argmin(1), prices, np.zeros(k, dtype=np.int64))
        assert filled is not None
        new, prices = filled
        dual = float((cost + prices).min(1).sum()) - price_of_sizes(len(x), prices)
        gap = _gap(_cost_of(cost, new), dual) if dual > 1e-12 else 0.0
        if np.array_equal(new, labels):
            break
        labels = new
        centroids = np.stack([x[labels == c].mean(axis=0) for c in range(k)])
    inertia = float(((x - centroids[labels]) ** 2).sum() / len(x))
    return BalancedClusters(labels, (centroids + x_mean).astype(np.float32), inertia, gap)


def _spread(x: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++ starting points (Arthur and Vassilvitskii, 2007)."""
    chosen = [int(rng.integers(len(x)))]
    nearest = ((x - x[chosen[0]]) ** 2).sum(1)
    for _ in range(k - 1):
        total = nearest.sum()
        at = int(rng.choice(len(x), p=nearest / total)) if total > 0 else int(rng.integers(len(x)))
        chosen.append(at)
        nearest = np.minimum(nearest, ((x - x[at]) ** 2).sum(1))
    return x[chosen].copy()
