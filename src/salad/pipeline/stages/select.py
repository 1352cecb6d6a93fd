"""select: quotas by P_web * score^gamma, and the documents to buy speech for; what the probe spoke is among them."""

from __future__ import annotations

import math
from dataclasses import asdict

from salad.files import write_json, write_jsonl
from salad.pipeline.buying import excluded, market_of, price, units_of_run
from salad.pipeline.ears_data import TEXTS
from salad.pipeline.run import Run, Summary
from salad.select.choose import choose
from salad.select.cluster_rows import cluster_row
from salad.select.prices import Prices, spread_text
from salad.select.sequential_probe import expected_overlap

SECTIONS = ("select", "rounds")


def run(run: Run) -> Summary:
    settings, folder, seed = run.recipe.select, run.folder("select"), run.recipe.seed
    budget_s = settings.budget_share / run.recipe.rounds.number * run.done("align").summary["hours"] * 3600
    left_out = excluded(run)
    market = market_of(run, left_out)

    def prices() -> Prices:
        found = price(run, market)
        share = spread_text(market.clusters, found.clusters)
        write_json(folder / "prices.json", found.row())
        pairs = zip(market.documents, market.labels, strict=True)
        write_json(folder / TEXTS, {document.id: share[cluster] for document, cluster in pairs})
        return found

    clusters, bought = choose(
        settings, market, budget_s=budget_s, seed=seed, prices=prices, units=lambda: units_of_run(run)
    )
    overlap = expected_overlap(
        clusters,
        [c.size if settings.draw == "random" else c.quota_s for c in clusters],
        gamma=settings.gamma,
        reliability=market.reliability,
        seed=seed,
    )
    wanted = {d.id for d, _ in bought}
    own = {d.id: at for d, at in zip(market.documents, market.labels, strict=True) if d.id in wanted}
    write_jsonl(folder / "clusters.jsonl", [asdict(cluster_row(c, settings.max_cer)) for c in clusters])
    write_jsonl(folder / "documents.jsonl", [{**asdict(d), "cluster": own[d.id]} for d, _ in bought])
    write_jsonl(folder / "excluded.jsonl", left_out)
    summary = {
        "documents": len(bought),
        "clusters": len({own[d.id] for d, _ in bought}),
        "dropped": sum(c.cer > settings.max_cer or math.isnan(c.cer) for c in clusters),
        "excluded": len(left_out),
        "budget_hours": budget_s / 3600,
        "overlap": None if math.isnan(overlap) else overlap,
    }
    if kept := sum(d.id in market.kept for d, _ in bought):
        summary["probed"] = kept
    return summary
