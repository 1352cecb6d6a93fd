"""Two prices: what a second of a cluster's speech, and what a text of it, is expected to be worth (decision 0014).

M(c) = known(c) + unheard(c). The first is left when the upper part of the ears reads the true symbols: it does not know
how the words of c are spelled, and *text* of c mends that. The second comes from symbols that the lower part hears
wrong: *speech* of c mends that. Either falls with exposure, by a share for each doubling of how often the words of a
document were heard, or read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from salad.select.looks import reliability_of, shrink
from salad.types import Cluster, SaladError

__all__ = ["Price", "PricedDocument", "exposure", "fall_of", "spread_text", "two_prices"]

PRIOR_FALL, PRIOR_SE = 0.15, 0.15  # share of an error that a doubling takes away: docs/log.md, words by how often heard
LEAST_FALL = 0.01  # so that clusters keep their order where a probe finds none
EVEN = 0.5  # share of the text that is read as before, whatever is bought


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
    """Of a cluster: the two parts of M(c) in nats a token, and by how much each is expected to fall: unheard for a
    second of its speech, known for a second's worth of words of its text."""

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


def two_prices(
    documents: Sequence[PricedDocument],
    words: Mapping[int, Mapping[str, int]],
    heard: Mapping[str, int],
    read: Mapping[str, int],
    *,
    seconds_per_word: float,
) -> tuple[dict[int, Price], dict[str, float]]:
    """The prices of every cluster that has probed documents, and what they rest on.

    words: of each cluster, how often each word stands in its documents. heard, read: how often each word was heard in
    speech and stands in the text that the upper part learns to spell from. Means over documents are drawn towards the
    mean of all by their reliability. What a wrong symbol costs is one number: (M as heard - M with the true symbols)
    over the phone error, over all documents. Raises SaladError where no document was probed.
    """
    if not documents:
        raise SaladError("select.score: two_prices has no usable probe document; take misalignment, or mend the voice")
    of = {name: np.array([getattr(d, name) for d in documents]) for name in PricedDocument.__annotations__}
    clusters = sorted(set(of["cluster"].tolist()))
    wrong, lost = of["phone_error"].sum(), (of["misalignment"] - of["known"]).sum()
    cost = max(0.0, float(lost / wrong)) if wrong > 0 else 0.0
    falls = {"speech": fall_of(of["phone_error"], of["heard"]), "text": fall_of(of["known"], of["read"])}
    known, error = (_means(of[name], of["cluster"], clusters) for name in ("known", "phone_error"))
    prices = {}
    for at, cluster in enumerate(clusters):
        rates = [_doublings(words[cluster], counts) / seconds_per_word for counts in (heard, read)]
        unheard = cost * error[at]
        prices[cluster] = Price(
            known=known[at],
            unheard=unheard,
            phone_error=error[at],
            speech=unheard * falls["speech"] * rates[0],
            text=known[at] * falls["text"] * rates[1],
        )
    return prices, {"fall_speech": falls["speech"], "fall_text": falls["text"], "cost_of_a_wrong_symbol": cost}


def spread_text(clusters: Sequence[Cluster], prices: Mapping[int, Price], gamma: float) -> dict[int, float]:
    """How often a text of each cluster is read, 1 on average over the documents: half as before, half bought by
    P_web(c) * text(c)^gamma. A cluster without a price is read as before."""
    most = max((price.text for price in prices.values()), default=0.0)
    if not most > 0:
        return {c.id: 1.0 for c in clusters}
    worth = {i: (price.text / most) ** gamma for i, price in prices.items()}
    sizes = {c.id: c.size for c in clusters if c.id in worth}
    mean = sum(worth[i] * size for i, size in sizes.items()) / sum(sizes.values())
    return {c.id: EVEN + (1 - EVEN) * worth[c.id] / mean if c.id in worth else 1.0 for c in clusters}


def _means(values: np.ndarray, labels: np.ndarray, clusters: Sequence[int]) -> list[float]:
    means = [float(values[labels == c].mean()) for c in clusters]
    counts = [int((labels == c).sum()) for c in clusters]
    return shrink(means, counts, reliability_of(values, labels)).tolist()


def _doublings(words: Mapping[str, int], counts: Mapping[str, int]) -> float:
    """By how much one word more, drawn from a cluster's texts, raises the exposure of its other texts.

    d/dk of mean log2(1 + count): the chance that the word bought and a word of another place are the same one, over
    (1 + count) ln 2. Pairs of places without repetition, so that a word that stands once helps no other text.
    """
    total = sum(words.values())
    pairs = total * (total - 1)
    if not pairs:
        return 0.0
    return sum(n * (n - 1) / (1 + counts.get(word, 0)) for word, n in words.items()) / pairs / math.log(2)
