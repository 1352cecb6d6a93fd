"""Fill packs of a fixed number of positions with whole examples."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from salad.types import SaladError


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: indices of `lengths` in packs that hold at most `capacity` each.

    Every index is in exactly one pack; the same input gives the same packs. Raises SaladError where one
    length alone exceeds the capacity.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    if order and lengths[order[0]] > capacity:
        longest = lengths[order[0]]
        raise SaladError(f"sequence.context: {capacity} positions, but one example takes {longest}; raise it to that")
    packs: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (positions left, pack), sorted
    for i in order:
        at = bisect.bisect_left(free, (lengths[i], -1))
        if at == len(free):
            packs.append([i])
            left, number = capacity - lengths[i], len(packs) - 1
        else:
            left, number = free.pop(at)
            packs[number].append(i)
            left -= lengths[i]
        bisect.insort(free, (left, number))
    return packs
