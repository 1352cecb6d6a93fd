"""P_target(c) ~ P_web(c) * score(c)^gamma, and the draw to a budget (SALAD, active selection)."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from salad.select.sequential_probe import shrink
from salad.types import Cluster, Document, SaladError

SCORES = {"misalignment": "misalignment", "domain": "domain", "nll": "nll", "oracle": "foreign"}


def score_of(cluster: Cluster, name: str) -> float:
    """What drives the quota: M(c) (the paper's), its domain part, the model's own loss, or what an oracle knows.

    nan where the cluster was not probed; never under 0.
    """
    value = float(getattr(cluster, SCORES[name]))
    return value if math.isnan(value) else max(value, 0.0)


def allocate(
    clusters: Sequence[Cluster],
    *,
    gamma: float,
    budget_s: float,
    max_cer: float,
    score: str = "misalignment",
    reliability: float = 1.0,
    values: Mapping[int, float] | None = None,
) -> list[Cluster]:
    """Give every cluster its quota of seconds; clusters over the CER limit (TTS artefacts) and unprobed ones get none.

    gamma = 0 is uniform over documents. reliability: of the scores, by which they are drawn towards the mean of the
    usable clusters before the power; 1 is the paper's raw form. values: of each cluster, in place of its score; one
    without gets nothing. Raises SaladError where no cluster is left.
    """
    usable = [c.cer <= max_cer and c.misalignment >= 0 for c in clusters]  # false for nan
    if values is not None:
        usable = [ok and c.id in values for c, ok in zip(clusters, usable, strict=True)]
    scores = shrink(
        [score_of(c, score) if values is None else values.get(c.id, math.nan) for c in clusters],
        [c.size if ok else 0 for c, ok in zip(clusters, usable, strict=True)],
        reliability,
    ).tolist()
    weights = np.array([c.size * v**gamma if ok else 0.0 for c, v, ok in zip(clusters, scores, usable, strict=True)])
    if not any(usable):
        cers = ", ".join(f"{c.cer:.2f}" for c in clusters)
        raise SaladError(f"select.max_cer: {max_cer} leaves no cluster (their CER: {cers}); raise it or mend the voice")
    if not weights.sum() > 0:
        raise SaladError(
            f"select.score: {score} is 0 in every usable cluster, so nothing would be bought; set score: "
            "misalignment, or gamma: 0"
        )
    return [replace(c, quota_s=float(budget_s * w)) for c, w in zip(clusters, weights / weights.sum(), strict=True)]


def draw(
    clusters: Sequence[Cluster],
    documents: Sequence[Document],
    labels: Sequence[int],
    *,
    budget_s: float,
    seconds_per_word: float,
    taken: set[str],
    seed: int,
    replicate: int = 0,
) -> list[tuple[Document, int]]:
    """Documents to speak with their cluster: draw a cluster by quota, then a text uniformly, without replacement.

    Stops at the budget, counted by `seconds_per_word`. `taken` ids are never drawn. A cluster that runs out
    leaves the draw, so a budget larger than the corpus takes all of it.
    """
    rng = np.random.default_rng([seed, replicate] if replicate else seed)
    left = {c.id: array("q") for c in clusters}
    for number, (document, at) in enumerate(zip(documents, labels, strict=True)):
        if at in left and document.id not in taken:
            left[at].append(number)
    weights = {c.id: c.quota_s for c in clusters if c.quota_s > 0}
    drawn: list[tuple[Document, int]] = []
    spent_s = 0.0
    while spent_s < budget_s:
        open_ids = [i for i in weights if left[i]]
        if not open_ids:
            break
        p = np.array([weights[i] for i in open_ids])
        at = open_ids[int(rng.choice(len(open_ids), p=p / p.sum()))]
        document = documents[left[at].pop(int(rng.integers(len(left[at]))))]
        drawn.append((document, at))
        spent_s += len(document.words) * seconds_per_word
    return drawn
