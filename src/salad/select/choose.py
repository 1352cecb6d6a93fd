"""What to buy: quotas of the clusters by the recipe's score, and the documents to speak, what was probed among them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from salad.config import Select
from salad.select.allocate import allocate, draw
from salad.select.coverage import Unit, cover, frequencies
from salad.select.prices import Prices
from salad.select.sequential_probe import ACTIVE
from salad.types import Cluster, Document

Units = tuple[Sequence[Mapping[Unit, int]], Collection[Unit]]  # of every document of D_web; of the speech that is there


@dataclass(frozen=True)
class Market:
    """What there is to buy, and what is known of it.

    clusters: with what the probe found; labels: the cluster of each document. seconds_per_word: of speech. decision,
    reliability: the probe's. taken: ids that are never bought. kept: seconds of the documents that the probe spoke and
    that are bought by that, by id.
    """

    clusters: Sequence[Cluster]
    documents: Sequence[Document]
    labels: Sequence[int]
    seconds_per_word: float
    decision: str
    reliability: float
    taken: Collection[str] = ()
    kept: Mapping[str, float] = field(default_factory=dict)


def choose(
    settings: Select,
    market: Market,
    *,
    budget_s: float,
    seed: int,
    prices: Callable[[], Prices] | None = None,
    units: Callable[[], Units] | None = None,
) -> tuple[list[Cluster], list[tuple[Document, int]]]:
    """The clusters with their quotas, and the documents to buy with their clusters, those of the probe first.

    What the probe spoke counts towards the budget and towards its cluster's quota, but for ids in `taken` and clusters
    that get nothing. The last document crosses the budget. prices, units: asked for where the score is `two_prices`,
    `coverage`. Raises SaladError where a score leaves no cluster to buy from.
    """
    clusters, labels = list(market.clusters), list(market.labels)
    quotas, places = clusters, labels
    if settings.draw == "random":  # one cluster of everything: no probe decides anything
        whole = replace(clusters[0], id=0, size=len(labels), misalignment=1.0, cer=0.0)
        quotas, places = allocate([whole], gamma=0, budget_s=budget_s, max_cer=settings.max_cer), [0] * len(labels)
    else:
        gamma, score, reliability = settings.gamma, settings.score, 1.0
        values: dict[int, float] | None = None
        if settings.score in ("uniform", "coverage"):
            gamma, score = 0.0, "misalignment"
        elif settings.score == "two_prices":
            assert prices is not None
            sizes = {c.id: c.size for c in clusters if c.cer <= settings.max_cer}
            seconds = prices().spend(sizes, budget_s)
            gamma, values = 1.0, {i: s / sizes[i] for i, s in seconds.items()}
        elif settings.rule == "evidence" and settings.score == "misalignment":
            known = market.decision == ACTIVE
            gamma, reliability = (gamma, market.reliability) if known else (0.0, 1.0)
        quotas = clusters = allocate(
            clusters, gamma=gamma, budget_s=budget_s, max_cer=settings.max_cer, score=score, reliability=reliability,
            values=values,
        )  # fmt: skip
    open_ = {c.id for c in quotas if c.quota_s > 0}
    kept = [
        (d, at)
        for d, at in zip(market.documents, places, strict=True)
        if d.id in market.kept and d.id not in market.taken and at in open_
    ]
    spent: dict[int, float] = defaultdict(float)
    for document, at in kept:
        spent[at] += market.kept[document.id]
    left_s, taken = budget_s - sum(spent.values()), {*market.taken, *(d.id for d, _ in kept)}
    if settings.draw == "clusters" and settings.score == "coverage":
        assert units is not None
        drawn = _covering(market, units(), {d.id for d, _ in kept}, taken, open_, left_s, seed)
        for document, at in drawn:
            spent[at] += len(document.words) * market.seconds_per_word
        return [replace(c, quota_s=float(spent[c.id])) for c in clusters], [*kept, *drawn]
    drawn = draw(
        [replace(c, quota_s=max(0.0, c.quota_s - spent[c.id])) for c in quotas], market.documents, places,
        budget_s=left_s, seconds_per_word=market.seconds_per_word, taken=taken, seed=seed,
        replicate=settings.replicate,
    )  # fmt: skip
    return clusters, [*kept, *drawn]


def _covering(
    market: Market,
    units: Units,
    kept: Collection[str],
    taken: Collection[str],
    bought: Collection[int],
    budget_s: float,
    seed: int,
) -> list[tuple[Document, int]]:
    """The draw by coverage: what was heard, or kept of the probe, covers already."""
    of_documents, heard = units
    pairs = list(zip(market.documents, market.labels, strict=True))
    heard = {*heard, *(unit for (d, _), own in zip(pairs, of_documents, strict=True) if d.id in kept for unit in own)}
    open_ = [i for i, (d, at) in enumerate(pairs) if d.id not in taken and at in bought]
    chosen = cover(
        [of_documents[i] for i in open_],
        [len(pairs[i][0].words) * market.seconds_per_word for i in open_],
        frequencies(of_documents),
        heard,
        budget_s=budget_s,
        seed=seed,
    )
    return [pairs[open_[i]] for i in chosen]
