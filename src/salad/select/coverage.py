"""Coverage: the documents that bring the most unseen words and diphones for each second of speech, greedily."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from salad.text.normalise import normalise
from salad.text.phonemes import BOUNDARY, Symbols
from salad.text.speakable import speakable

Unit = str | tuple[int, int]  # a normalised word, or two symbols that are said one after the other


def units_of(texts: Iterable[str], symbols: Symbols | None = None) -> list[Counter[Unit]]:
    """The words of each text and, with an alphabet, its diphones (boundaries of words are not heard: left out)."""
    out = []
    for text in texts:
        own: Counter[Unit] = Counter(normalise(text).split())
        if symbols is not None:
            said = [s for word in symbols.of_text(speakable(text.split())) for s in word if s != BOUNDARY]
            own.update(itertools.pairwise(said))
        out.append(own)
    return out


def frequencies(units: Iterable[Mapping[Unit, int]]) -> dict[Unit, float]:
    """How frequent each unit is among those of its kind; words add up to 1, and diphones do."""
    counts: Counter[Unit] = Counter()
    for own in units:
        counts.update(own)
    totals: Counter[type] = Counter()
    for unit, number in counts.items():
        totals[type(unit)] += number
    return {unit: number / totals[type(unit)] for unit, number in counts.items()}


def cover(
    units: Sequence[Collection[Unit]],
    seconds: Sequence[float],
    weights: Mapping[Unit, float],
    heard: Collection[Unit],
    *,
    budget_s: float,
    seed: int,
) -> list[int]:
    """Numbers of the documents to speak, in the order in which they are chosen, until their seconds reach the budget.

    units, seconds: of each document; heard: units of the speech that is there. The next document is the one whose
    units that nothing covers yet weigh most for each second. The covered weight is submodular, so that what a document
    brings can only fall, and a value from before is a bound: only documents whose bound is the largest are weighed
    again (lazy greedy: Minoux 1978; by the second: Leskovec et al. 2007). Once every unit is covered the cover begins
    anew with nothing heard. Equal values are told apart by the seed. A document of no seconds is never chosen.
    """
    ties = np.random.default_rng(seed).permutation(len(units)).tolist()
    left = [i for i in range(len(units)) if seconds[i] > 0]
    covered, chosen, spent = set(heard), list[int](), 0.0

    def worth(i: int) -> float:
        return sum(weights[unit] for unit in units[i] if unit not in covered) / seconds[i]

    while left and spent < budget_s:
        heap = [(-worth(i), ties[i], i) for i in left]
        heapq.heapify(heap)
        before = len(chosen)
        while heap and spent < budget_s:
            _, tie, i = heapq.heappop(heap)
            now = worth(i)
            if heap and (-now, tie) > heap[0][:2]:
                heapq.heappush(heap, (-now, tie, i))
                continue
            if now <= 0:
                break
            chosen.append(i)
            spent += seconds[i]
            covered.update(units[i])
        if len(chosen) == before and not covered:
            break
        covered, taken = set(), set(chosen[before:])
        left = [i for i in left if i not in taken]
    return chosen
