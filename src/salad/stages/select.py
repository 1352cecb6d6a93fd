"""select: quotas by P_web * M^gamma, and the documents to buy speech for."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from salad.files import write_jsonl
from salad.pipeline import Run
from salad.select import allocate, draw
from salad.stages.corpus import load_documents
from salad.stages.probe import load_probed

__all__ = ["run"]


def run(run: Run) -> dict[str, Any]:
    settings, folder = run.recipe.select, run.folder("select")
    clusters, labels, seconds_per_word = load_probed(run)
    budget_s = settings.budget_share * run.done("align")["summary"]["hours"] * 3600
    clusters = allocate(clusters, gamma=settings.gamma, budget_s=budget_s, max_cer=settings.max_cer)
    drawn = draw(
        clusters,
        load_documents(run, "web"),
        labels.tolist(),
        budget_s=budget_s,
        seconds_per_word=seconds_per_word,
        taken=set(),
        seed=run.recipe.seed,
    )
    rows = []
    for cluster in clusters:
        row = {k: v for k, v in asdict(cluster).items() if k != "centroid"}
        row |= {k: None for k in ("misalignment", "misalignment_se", "cer") if math.isnan(row[k])}
        row["dropped"] = row["cer"] is None or row["cer"] > settings.max_cer
        row["reason"] = ""
        if row["dropped"]:
            over = f"CER {cluster.cer:.2f} over select.max_cer {settings.max_cer}"
            row["reason"] = "no probe document was usable" if row["cer"] is None else over
        rows.append(row)
    write_jsonl(folder / "clusters.jsonl", rows)
    write_jsonl(folder / "documents.jsonl", [{**asdict(d), "cluster": c} for d, c in drawn])
    return {
        "documents": len(drawn),
        "clusters": len({c for _, c in drawn}),
        "dropped": sum(row["dropped"] for row in rows),
        "budget_hours": budget_s / 3600,
    }
