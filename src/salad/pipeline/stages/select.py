"""select: quotas by P_web * score^gamma, and the documents to buy speech for."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

from salad.files import read_jsonl, write_jsonl
from salad.pipeline.leakage import evaluation_texts
from salad.pipeline.run import Run
from salad.pipeline.stages.corpus import load_documents
from salad.pipeline.stages.probe import load_probed
from salad.select import ACTIVE, allocate, draw, expected_overlap, near_duplicates, overlapping
from salad.select.purchase import cluster_row

__all__ = ["run"]

SECTIONS = ("select", "rounds")


def run(run: Run) -> dict[str, Any]:
    settings, folder = run.recipe.select, run.folder("select")
    clusters, labels, probed = load_probed(run)
    documents = load_documents(run, "web")
    budget_s = settings.budget_share / run.recipe.rounds.number * run.done("align")["summary"]["hours"] * 3600
    if settings.draw == "random":  # one cluster of everything: no probe decides anything
        whole = replace(clusters[0], id=0, size=len(documents), misalignment=1.0, cer=0.0)
        quotas, places = allocate([whole], gamma=0, budget_s=budget_s, max_cer=settings.max_cer), [0] * len(documents)
    else:
        gamma, reliability = settings.gamma, 1.0
        if settings.rule == "evidence" and settings.score == "misalignment":
            gamma, reliability = (gamma, probed["reliability"]) if probed["decision"] == ACTIVE else (0.0, 1.0)
        clusters = allocate(
            clusters,
            gamma=gamma,
            budget_s=budget_s,
            max_cer=settings.max_cer,
            score=settings.score,
            reliability=reliability,
        )
        quotas, places = clusters, labels.tolist()
    overlap = expected_overlap(
        clusters,
        [c.size if settings.draw == "random" else c.quota_s for c in clusters],
        gamma=settings.gamma,
        reliability=probed["reliability"],
        seed=run.recipe.seed,
    )
    excluded = _excluded(run)
    drawn = draw(
        quotas,
        documents,
        places,
        budget_s=budget_s,
        seconds_per_word=probed["seconds_per_word"],
        taken={row["id"] for row in excluded} | _bought_before(run),
        seed=run.recipe.seed,
        replicate=settings.replicate,
    )
    own = dict(zip((d.id for d in documents), labels.tolist(), strict=True))
    write_jsonl(folder / "clusters.jsonl", [cluster_row(c, settings.max_cer) for c in clusters])
    write_jsonl(folder / "documents.jsonl", [{**asdict(d), "cluster": own[d.id]} for d, _ in drawn])
    write_jsonl(folder / "excluded.jsonl", excluded)
    return {
        "documents": len(drawn),
        "clusters": len({own[d.id] for d, _ in drawn}),
        "dropped": sum(c.cer > settings.max_cer or math.isnan(c.cer) for c in clusters),
        "excluded": len(excluded),
        "budget_hours": budget_s / 3600,
        "overlap": None if math.isnan(overlap) else overlap,
    }


def _bought_before(run: Run) -> set[str]:
    """Ids that the rounds before this one bought."""
    return {r["id"] for one in run.rounds[:-1] for r in read_jsonl(one.folder("select") / "documents.jsonl")}


def _excluded(run: Run) -> list[dict[str, Any]]:
    """What is never bought, and why: texts of an evaluation, and near-duplicates of an earlier text."""
    settings = run.recipe.select
    documents, heldout = load_documents(run, "web"), load_documents(run, "heldout")
    texts = [d.text for d in documents]
    evaluation = [text for _, text in evaluation_texts(run.recipe, heldout)]
    seen = overlapping(texts, evaluation, settings.overlap_words)
    again = near_duplicates(texts, settings.near_duplicate)
    rows = []
    for document, overlaps, earlier in zip(documents, seen, again, strict=True):
        if overlaps:
            reason = f"shares {settings.overlap_words} words in a row with a held-out document or an item"
        elif earlier is not None:
            reason = f"nearly the same text as {documents[earlier].id}"
        else:
            continue
        rows.append({"id": document.id, "reason": reason})
    return rows
