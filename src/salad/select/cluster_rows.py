"""What is to be bought of each cluster, and what was: rows for the run directory and for the report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from salad.measure.results import PurchaseRow
from salad.records import null
from salad.select.sequential_probe import Look
from salad.types import Cluster

KEPT = ("size", "misalignment", "misalignment_se", "cer", "quota_s", "top_words", "dropped", "reason")


@dataclass(frozen=True)
class ProbedCluster:
    """What the probe found of a cluster, by the names of `salad.types.Cluster`; None where it found nothing."""

    id: int
    misalignment: float | None = null()
    misalignment_se: float | None = null()
    cer: float | None = null()
    voice: float | None = null()
    difficulty: float | None = null()
    domain: float | None = null()
    domain_se: float | None = null()
    nll: float | None = null()
    foreign: float | None = null()
    documents: int | None = null()


@dataclass(frozen=True)
class ProbeFindings:
    """probe.json. documents, seconds, p, reliability: of the last look; decision: how to buy."""

    clusters: tuple[ProbedCluster, ...]
    seconds_per_word: float
    decision: str
    slopes: Mapping[str, float] = field(default_factory=dict)  # none where nothing was trained before
    documents: int | None = None
    seconds: float | None = None
    p: float | None = None
    reliability: float | None = None
    looks: tuple[Look, ...] = ()


@dataclass(frozen=True)
class ClusterRow:
    """A line of select/clusters.jsonl: a `Cluster` without its centroid, None for what was not measured; `dropped`,
    with the reason, where its CER is over the limit."""

    id: int
    size: int | None
    misalignment: float | None
    misalignment_se: float | None
    cer: float | None
    voice: float | None
    difficulty: float | None
    domain: float | None
    domain_se: float | None
    nll: float | None
    foreign: float | None
    documents: int | None
    quota_s: float
    top_words: tuple[str, ...] | None
    dropped: bool | None
    reason: str | None


def _known(cluster: Cluster, names: Iterable[str]) -> dict[str, Any]:
    """What is known of a cluster, by name; None for what is not finite."""
    found = ((name, getattr(cluster, name)) for name in names)
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in found}


def probed_cluster(cluster: Cluster) -> ProbedCluster:
    """What probe.json keeps of a cluster; None for a figure that the probe could not take."""
    return ProbedCluster(**_known(cluster, [one.name for one in fields(ProbedCluster)]))


def cluster_row(cluster: Cluster, max_cer: float) -> ClusterRow:
    """A cluster as `select` keeps it."""
    known = _known(cluster, [one.name for one in fields(Cluster) if one.name != "centroid"])
    reason = ""
    if dropped := known["cer"] is None or cluster.cer > max_cer:
        over = f"CER {cluster.cer:.2f} over select.max_cer {max_cer}"
        reason = "no probe document was usable" if known["cer"] is None else over
    return ClusterRow(**known, dropped=dropped, reason=reason)


def purchase_rows(
    clusters: Sequence[ClusterRow],
    drawn: Sequence[tuple[str, int]],
    seconds: Mapping[str, float],
    documents: Sequence[tuple[str, int]],
) -> list[PurchaseRow]:
    """One row a cluster, largest M first.

    clusters: of `select`, with their quotas. drawn: (id, cluster) of the documents that it chose. seconds: of the
    speech that was bought and can be used, by document. documents: (domain, cluster) of every document of D_web.
    """
    total = sum(row.quota_s for row in clusters)
    rows = []
    for row in clusters:
        own = [seconds[document] for document, cluster in drawn if cluster == row.id and document in seconds]
        domains = Counter(domain for domain, cluster in documents if cluster == row.id)
        rows.append(
            PurchaseRow(
                cluster=row.id,
                **{key: getattr(row, key) for key in KEPT},
                weight=row.quota_s / total if total else 0.0,
                bought_s=sum(own),
                bought_documents=len(own),
                domains=dict(domains.most_common()),
            )
        )
    return sorted(rows, key=lambda r: -(r.misalignment or 0.0))
