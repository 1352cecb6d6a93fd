"""Two prices: what a second of a cluster's speech, and what a text of it, is expected to be worth (decision 0014).

M(c) = known(c) + unheard(c). The first is left when the upper part of the ears reads the true symbols: it does not know
how the words of c are spelled, and *text* of c mends that. The second comes from symbols that the lower part hears
wrong: *speech* of c mends that. Either falls with exposure, by a share for each doubling of how often the words of a
document were heard, or read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from salad.select.sequential_probe import reliability_of, shrink
from salad.types import Cluster, SaladError

PRIOR_FALL, PRIOR_SE = 0.15, 0.15  # share of an error that a doubling takes away: docs/log.md, words by how often heard
LEAST_FALL = 0.01  # so that clusters keep their order where a probe finds none
EVEN = 0.5  # share of the text that is read as before, whatever is bought
PARTS = 100  # in which a budget is spent, each where it is expected to bring most by then


@dataclass(frozen=True)
class PricedDocument:
    """One probed document. misalignment: M as it is heard, and known: M with the true symbols, nats a token;
    phone_error: share of its symbols that are heard wrong; heard, read: `exposure` of its words in speech and in text.
    """

    cluster: int
    misalignment: float
    known: float
    phone_error: float
    heard: float
    read: float


@dataclass(frozen=True)
class Price:
    """What a cluster's speech is worth: the two parts of M(c) in nats a token, and by how much each
    is expected to fall: unheard for the first second of its speech, known for a second's worth of words of its text."""

    known: float
    unheard: float
    phone_error: float
    speech: float
    text: float


def exposure(words: Mapping[str, int], counts: Mapping[str, int]) -> float:
    """How often the words of a text were met before, in doublings: the mean of log2(1 + count) over its words."""
    total = sum(words.values())
    return sum(n * math.log2(1 + counts.get(word, 0)) for word, n in words.items()) / total if total else 0.0


def fall_of(values: Sequence[float], exposures: Sequence[float]) -> float:
    """Share of the mean value that one doubling of exposure takes away, never under `LEAST_FALL`.

    values, exposures: of each probed document. The regression's slope is drawn towards `PRIOR_FALL` by how little it is
    known (normal prior of standard error `PRIOR_SE`), so that ten documents cannot say much.
    """
    y, x = np.asarray(values, dtype=float), np.asarray(exposures, dtype=float)
    spread = float(((x - x.mean()) ** 2).sum()) if len(x) else 0.0
    if len(x) < 3 or not spread > 0 or not y.mean() > 0:
        return PRIOR_FALL
    y = y / y.mean()
    slope = float(((x - x.mean()) * y).sum()) / spread
    error2 = float(((y - y.mean() - slope * (x - x.mean())) ** 2).sum()) / (len(x) - 2) / spread
    weight = PRIOR_SE**2 / (PRIOR_SE**2 + error2)
    return max(LEAST_FALL, weight * -slope + (1 - weight) * PRIOR_FALL)


@dataclass(frozen=True)
class Prices:
    """The prices of every cluster that has probed documents, and what they rest on.

    words: of each cluster, how often each word stands in its documents; heard: how often each word was heard in speech.
    fall_speech, fall_text: see `fall_of`. cost: of a wrong symbol, (M as heard - M with the true symbols) over the
    phone error, over all documents.
    """

    clusters: Mapping[int, Price]
    words: Mapping[int, Mapping[str, int]]
    heard: Mapping[str, int]
    seconds_per_word: float
    fall_speech: float
    fall_text: float
    cost: float

    def spend(self, sizes: Mapping[int, int], budget_s: float) -> dict[int, float]:
        """Seconds of speech to buy of each cluster with a size and a price, `budget_s` in all.

        The budget goes in `PARTS`, each to the cluster where a second is then expected to lower M over D_web most:
        documents of the cluster times its own fall, what was bought of it before counted as heard. All 0
        where no speech is expected to bring anything.
        """
        seconds = dict.fromkeys(self.clusters.keys() & sizes.keys(), 0.0)
        worth = {i: sizes[i] * self._speech(i) for i in sorted(seconds)}
        if not worth or not max(worth.values()) > 0:
            return seconds
        for _ in range(PARTS):
            best = max(worth, key=worth.__getitem__)
            seconds[best] += budget_s / PARTS
            worth[best] = sizes[best] * self._speech(best, seconds[best])
        return seconds

    def row(self) -> dict[str, Any]:
        """The price as JSON."""
        names = ("fall_speech", "fall_text", "cost")
        return {"clusters": {i: asdict(p) for i, p in self.clusters.items()}, **{n: getattr(self, n) for n in names}}

    def _speech(self, cluster: int, bought_s: float = 0.0) -> float:
        doublings = _doublings(self.words[cluster], self.heard, bought_s / self.seconds_per_word)
        return self.clusters[cluster].unheard * self.fall_speech * doublings / self.seconds_per_word


def two_prices(
    documents: Sequence[PricedDocument],
    words: Mapping[int, Mapping[str, int]],
    heard: Mapping[str, int],
    read: Mapping[str, int],
    *,
    seconds_per_word: float,
) -> Prices:
    """What the two parts of M(c) cost; read: how often each word stands in the text that the upper part spells from.

    Means over documents are drawn towards the mean of all by their reliability. Raises SaladError where no document was
    probed.
    """
    if not documents:
        raise SaladError("select.score: two_prices has no usable probe document; take misalignment, or mend the voice")
    of = {name: np.array([getattr(d, name) for d in documents]) for name in PricedDocument.__annotations__}
    clusters = sorted(set(of["cluster"].tolist()))
    wrong, lost = of["phone_error"].sum(), (of["misalignment"] - of["known"]).sum()
    cost = max(0.0, float(lost / wrong)) if wrong > 0 else 0.0
    falls = (
        fall_of(of["phone_error"].tolist(), of["heard"].tolist()),
        fall_of(of["known"].tolist(), of["read"].tolist()),
    )
    known, error = (_means(of[name], of["cluster"], clusters) for name in ("known", "phone_error"))
    prices = {}
    for at, cluster in enumerate(clusters):
        rates = [_doublings(words[cluster], counts) / seconds_per_word for counts in (heard, read)]
        parts = known[at], cost * error[at]
        prices[cluster] = Price(*parts, error[at], parts[1] * falls[0] * rates[0], parts[0] * falls[1] * rates[1])
    return Prices(prices, words, heard, seconds_per_word, *falls, cost)


def spread_text(clusters: Sequence[Cluster], prices: Mapping[int, Price]) -> dict[int, float]:
    """How often a text of each cluster is read, 1 on average over the documents: half as before, half by what it is
    expected to bring. A cluster without a price is read as before."""
    sizes = {c.id: c.size for c in clusters if c.id in prices}
    mean = sum(prices[i].text * size for i, size in sizes.items()) / max(1, sum(sizes.values()))
    if not mean > 0:
        return {c.id: 1.0 for c in clusters}
    return {c.id: EVEN + (1 - EVEN) * prices[c.id].text / mean if c.id in sizes else 1.0 for c in clusters}


def _means(values: np.ndarray, labels: np.ndarray, clusters: Sequence[int]) -> list[float]:
    means = [float(values[labels == c].mean()) for c in clusters]
    counts = [int((labels == c).sum()) for c in clusters]
    return [float(mean) for mean in shrink(means, counts, reliability_of(values, labels))]


def _doublings(words: Mapping[str, int], counts: Mapping[str, int], more: float = 0.0) -> float:
    """By how much one word more, drawn from a cluster's texts, raises the exposure of its other texts.

    d/dk of mean log2(1 + count): the chance that the word bought and a word of another place are the same one, over
    (1 + count) ln 2. Pairs of places without repetition, so that a word that stands once helps no other text. more:
    words of the cluster that were bought already.
    """
    total = sum(words.values())
    pairs = total * (total - 1)
    if not pairs:
        return 0.0
    share = more / total
    return sum(n * (n - 1) / (1 + counts.get(w, 0) + share * n) for w, n in words.items()) / pairs / math.log(2)
