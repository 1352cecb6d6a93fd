"""Fill clusters of set sizes at the least cost: a transportation problem, solved exactly by shortest paths.

Each point goes to one of k clusters; a cluster takes floor(N/k) or ceil(N/k) points. With a price on every cluster a
point takes the cheapest sum of cost and price; the prices at which the sizes come out right are the problem's dual
variables. Starting from any prices, the surplus is sent from cluster to cluster along shortest paths (successive
shortest paths with potentials; Ahuja, Magnanti and Orlin, "Network Flows", 1993, section 9.7). The graph has one node
a cluster: an arc a -> b costs the cheapest move of a point of a to b, so the points never become nodes.
"""

from __future__ import annotations

import itertools

import numpy as np


def capacities(num: int, prices: np.ndarray) -> np.ndarray:
    """Sizes [k] for `num` points: ceil(num/k) at the highest prices (where points want to go), floor elsewhere."""
    k = len(prices)
    sizes = np.full(k, num // k)
    sizes[np.argsort(-prices, kind="stable")[: num % k]] += 1
    return sizes


def price_of_sizes(num: int, prices: np.ndarray) -> float:
    """The dual's second term: max over allowed sizes of prices . sizes. prices: float [k], one a cluster."""
    return float(prices @ capacities(num, prices))


def fill(
    costs: np.ndarray, labels: np.ndarray, prices: np.ndarray, fixed: np.ndarray, *, slack: float = 0.0
) -> tuple[np.ndarray, np.ndarray] | None:
    """Move points until every cluster's size is floor or ceil of the mean; the clusters that get ceil are chosen too.

    costs [n, k] of the points that may move, labels [n] their cheapest cluster under prices [k], fixed [k] how many
    points stay in each. Returns labels and prices (never raised), or None where the movable points do not suffice,
    which cannot happen when no point is fixed. The result is the cheapest for its sizes to within `slack` a point;
    slack > 0 lets points of nearly equal cost (copies of one text) move together.
    """
    return _Flow(costs, labels, prices, fixed, slack).run()


class _Flow:
    """Clusters are nodes 0..k-1. Node k joins clusters that have a place more to those without one."""

    def __init__(self, costs: np.ndarray, labels: np.ndarray, prices: np.ndarray, fixed: np.ndarray, slack: float):
        self.costs, self.labels = costs, labels.copy()
        num, k = int(len(labels) + fixed.sum()), len(fixed)
        self.k, self.slack, self.small = k, slack, num // k
        self.sizes = np.bincount(labels, minlength=k) + fixed
        self.places = capacities(num, prices)
        spare = np.sort(prices)[::-1][num % k - 1] if num % k else 0.0
        self.prices = np.append(prices.astype(np.float64), spare)
        order = np.argsort(labels, kind="stable")
        self.members = np.split(order, np.cumsum(np.bincount(labels, minlength=k))[:-1])
        self.step = np.full((k + 1, k + 1), np.inf)  # cheapest move a -> b, without prices
        self.mover = np.full((k + 1, k + 1), -1)
        if num % k:
            self.step[:k, k] = np.where(self.places == self.small, 0.0, np.inf)
            self.step[k, :k] = np.where(self.places > self.small, 0.0, np.inf)
        for a in range(k):
            self._scan(a)

    def run(self) -> tuple[np.ndarray, np.ndarray] | None:
        while np.any(self.sizes != self.places):
            distance, parent = self._search()
            sinks = np.flatnonzero((self.sizes < self.places) & np.isfinite(distance[:-1]))
            if not len(sinks):
                return None
            self.prices -= np.minimum(distance, distance[sinks].max())
            for sink in sinks[np.argsort(distance[sinks], kind="stable")]:
                self._push(int(sink), parent)
        return self.labels, self.prices[:-1]

    def _search(self) -> tuple[np.ndarray, np.ndarray]:
        """Dijkstra over reduced costs from every cluster with a surplus: distances and parents [k + 1]."""
        distance = np.where(np.append(self.sizes > self.places, False), 0.0, np.inf)
        parent = np.full(self.k + 1, -1)
        open_distance = distance.copy()
        wanted = int((self.sizes < self.places).sum())
        while wanted:
            at = int(open_distance.argmin())
            if not np.isfinite(open_distance[at]):
                break
            open_distance[at] = np.inf
            if at < self.k and self.sizes[at] < self.places[at]:
                wanted -= 1
            reach = distance[at] + np.maximum(self.step[at] + (self.prices - self.prices[at]), 0.0)
            closer = np.flatnonzero(reach < distance)
            distance[closer] = open_distance[closer] = reach[closer]
            parent[closer] = at
        return distance, parent

    def _push(self, sink: int, parent: np.ndarray) -> None:
        """Send as much as arcs of zero reduced cost carry to `sink`; nothing where an earlier push used an arc up."""
        path = [sink]
        while parent[path[-1]] >= 0:
            path.append(int(parent[path[-1]]))
        path.reverse()
        amount = min(self.sizes[path[0]] - self.places[path[0]], self.places[sink] - self.sizes[sink])
        carried: list[np.ndarray | None] = []
        for a, b in itertools.pairwise(path):
            if amount <= 0:
                return
            limit = self.prices[a] - self.prices[b] + self.tolerance
            if not self.step[a, b] <= limit:
                return
            if self.k in (a, b):
                amount, movers = 1, None
            elif amount == 1:
                movers = np.array([self.mover[a, b]])
            else:
                gain = self.costs[self.members[a], b] - self.costs[self.members[a], a]
                near = np.flatnonzero(gain <= limit)
                movers = self.members[a][near[np.argsort(gain[near], kind="stable")]]
                amount = min(amount, len(movers))
            carried.append(movers)
        if amount <= 0:
            return
        for a, b, movers in zip(path, path[1:], carried, strict=False):
            if movers is None:
                self._swap_place(a, b)
            else:
                self._move(movers[:amount], a, b)

    @property
    def tolerance(self) -> float:
        return self.slack + 1e-12 * float(np.abs(self.prices).max())

    def _swap_place(self, a: int, b: int) -> None:
        """a -> k: cluster a takes the place more that k holds; k -> b: cluster b gives its own to k."""
        at, gained = (a, 1) if b == self.k else (b, -1)
        self.places[at] += gained
        self.step[at, self.k] = np.inf if gained > 0 else 0.0
        self.step[self.k, at] = 0.0 if gained > 0 else np.inf

    def _move(self, movers: np.ndarray, a: int, b: int) -> None:
        self.labels[movers] = b
        self.members[a] = self.members[a][~np.isin(self.members[a], movers)]
        self.members[b] = np.concatenate([self.members[b], movers])
        self.sizes[a] -= len(movers)
        self.sizes[b] += len(movers)
        self._scan(a, np.flatnonzero(np.isin(self.mover[a, : self.k], movers)))
        self._join(b, movers)

    def _scan(self, a: int, columns: np.ndarray | None = None) -> None:
        """Cheapest moves out of `a`, to all clusters or to those in `columns`."""
        columns = np.arange(self.k) if columns is None else columns
        self.step[a, columns], self.mover[a, columns] = np.inf, -1
        self._join(a, self.members[a], columns)

    def _join(self, a: int, movers: np.ndarray, columns: np.ndarray | None = None) -> None:
        """Let points that now belong to `a` offer their moves."""
        if not len(movers):
            return
        costs = self.costs[movers] if columns is None else self.costs[np.ix_(movers, columns)]
        columns = np.arange(self.k) if columns is None else columns
        gains = costs - self.costs[movers, a][:, None]
        best = gains.argmin(axis=0)
        gain = gains[best, np.arange(len(columns))]
        better = (gain < self.step[a, columns]) & (columns != a)
        self.step[a, columns[better]] = gain[better]
        self.mover[a, columns[better]] = movers[best[better]]
