"""What is to be bought of each cluster, and what was: rows for the run directory and for the report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from salad.types import Cluster, Utterance

KEPT = ("size", "misalignment", "misalignment_se", "cer", "quota_s", "top_words", "dropped", "reason")


def cluster_row(cluster: Cluster, max_cer: float) -> dict[str, Any]:
    """A cluster without its centroid, as JSON; `dropped`, with the reason, where its CER is over the limit."""
    row = {k: v for k, v in asdict(cluster).items() if k != "centroid"}
    row = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
    row["dropped"] = row["cer"] is None or row["cer"] > max_cer
    row["reason"] = ""
    if row["dropped"]:
        over = f"CER {cluster.cer:.2f} over select.max_cer {max_cer}"
        row["reason"] = "no probe document was usable" if row["cer"] is None else over
    return row


def purchase_rows(
    clusters: Sequence[Mapping[str, Any]],
    drawn: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, float],
    documents: Sequence[tuple[str, int]],
) -> list[dict[str, Any]]:
    """One row a cluster, largest M first.

    clusters: rows of `select`, with their quotas. drawn: the documents that it chose, {id, cluster, ...}. seconds: of
    the speech that was bought and can be used, by document. documents: (domain, cluster) of every document of D_web.
    """
    total = sum(row["quota_s"] for row in clusters)
    rows = []
    for row in clusters:
        own = [seconds[d["id"]] for d in drawn if d["cluster"] == row["id"] and d["id"] in seconds]
        domains = Counter(domain for domain, cluster in documents if cluster == row["id"])
        rows.append(
            {
                "cluster": row["id"],
                **{key: row[key] for key in KEPT},
                "weight": row["quota_s"] / total if total else 0.0,
                "bought_s": sum(own),
                "bought_documents": len(own),
                "domains": dict(domains.most_common()),
            }
        )
    return sorted(rows, key=lambda r: -(r["misalignment"] or 0.0))


def coincidence(first: Sequence[Utterance], second: Sequence[Utterance]) -> float:
    """Share of the seconds of two purchases, 0 to 1, that both hold: 1 where they bought the same documents."""
    own, other = ({u.document_id: u.duration_s for u in purchase} for purchase in (first, second))
    both = sum(own[i] + other[i] for i in own.keys() & other.keys())
    return both / max(sum(own.values()) + sum(other.values()), 1e-9)
