"""Requests to score, of prefixes and options of many lengths, and whether two lists of scores are equal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from salad.evaluation.prompt import Request, Sound
from salad.evaluation.score import OptionScore
from salad.testing.models import DIM, VOCABULARY


def sounds(rng: np.random.Generator, number: int) -> list[Sound]:
    return [
        Sound(f"s{i}", tuple(rng.normal(size=(int(n), DIM)).astype(np.float32) for n in rng.integers(3, 14, 1 + i % 2)))
        for i in range(number)
    ]


def make_requests(
    seed: int, *, number: int = 12, head: tuple[int | Sound, ...] = (), hears: bool = False
) -> list[Request]:
    """Prefixes of many lengths; options of one token, of many, twice the same, and one that begins another."""
    rng = np.random.default_rng(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(i) for i in rng.integers(1, VOCABULARY, rng.integers(low, high)))

    out = []
    for own in sounds(rng, number):
        prefix: tuple[int | Sound, ...] = (*ids(1, 4), own, *ids(0, 5)) if hears else ids(1, 30)
        long = ids(4, 12)
        out.append(Request((*head, *prefix), (ids(1, 2), long, long[:3], long, ids(1, 8))))
    return out


def assert_equal(
    ours: Sequence[Sequence[OptionScore]], reference: Sequence[Sequence[OptionScore]], tolerance: float = 1e-4
) -> None:
    assert len(ours) == len(reference)
    for mine, others in zip(ours, reference, strict=True):
        for a, b in zip(mine, others, strict=True):
            assert abs(a.logprob - b.logprob) < tolerance
            assert (a.num_tokens, a.greedy) == (b.num_tokens, b.greedy)
