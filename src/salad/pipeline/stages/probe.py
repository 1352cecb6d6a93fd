"""probe: speak documents of every cluster, in looks until there is evidence or the cap; M(c), its parts, CER."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from salad.data.quarantine import gather_quarantine
from salad.files import read_jsonl, write_json, write_jsonl
from salad.pipeline.corpus_needs import stream_documents
from salad.pipeline.probe_rows import ProbeRows
from salad.pipeline.prober import Prober
from salad.pipeline.run import Run, Summary
from salad.pipeline.stages.cluster import load_clusters
from salad.records import read_record, to_json
from salad.report.contents import PurchaseEvidence
from salad.select.cluster_rows import ProbeFindings, probed_cluster
from salad.select.explain import with_evidence
from salad.select.sequential_probe import ProbedDocument, probe_in_looks
from salad.types import Cluster

SECTIONS = ("probe",)
REUSES = True  # shards of the last result


def run(run: Run) -> Summary:
    settings, folder, seed = run.recipe.probe, run.folder("probe"), run.recipe.seed
    clusters, labels = load_clusters(run)
    documents = stream_documents(run, "web")
    before = {r["id"] for one in run.rounds[:-1] for name in ("probe", "select")
              for r in read_jsonl(one.folder(name) / "documents.jsonl")}  # fmt: skip
    drawn = {c.id: np.random.default_rng([seed, c.id]).permutation(np.flatnonzero(labels == c.id)) for c in clusters}
    order = {c: members.tolist() for c, members in drawn.items()}
    if before:
        order = {c: [i for i in members if documents[i].id not in before] for c, members in order.items()}
    prober, measured = Prober(run), ProbeRows()

    def measure(chosen: list[tuple[int, int]], look: int) -> Sequence[ProbedDocument]:
        pairs, title = [(documents[i], c) for i, c in chosen], f"the probe, look {look + 1}"
        rows = prober.measure(folder / f"look-{look:02d}", pairs, title if look else "the probe")
        measured.extend(rows)
        return [ProbedDocument(e.cluster, float(e.heard.mean()), u.duration_s) for u, e, *_ in rows if len(e.heard)]

    looks, decision = probe_in_looks(
        order, measure, first=settings.documents, further=settings.look_documents, cap_s=settings.max_seconds,
        alpha=settings.alpha, reliability=settings.reliability, seed=seed,
    )  # fmt: skip
    _, evidence, cers, losses = zip(*measured, strict=True) if measured else ((), (), (), ())
    clusters, slopes = with_evidence(clusters, evidence, cers, losses)
    trained = {d.domain for d in stream_documents(run, "speech")}
    away = np.array([d.domain not in trained for d in documents], dtype=float)
    clusters = [replace(c, foreign=float(away[labels == c.id].mean())) for c in clusters]
    words, seconds = sum(len(u.words) for u, *_ in measured), sum(u.duration_s for u, *_ in measured)
    last = looks[-1] if looks else None
    found = ProbeFindings(
        clusters=tuple(map(probed_cluster, clusters)),
        seconds_per_word=seconds / max(words, 1),
        slopes=slopes,
        decision=decision,
        looks=tuple(looks),
        **{name: getattr(last, name) for name in ("documents", "seconds", "p", "reliability") if last},
    )
    write_json(folder / "probe.json", to_json(found))
    rows = [
        {"id": u.document_id, "cluster": e.cluster, "count": len(e.heard), "misalignment": e.heard.mean().item(),
         "transcript": e.transcript.mean().item(), "stakes": e.stakes.mean().item(),
         "entropy": e.entropy.mean().item(), "nll": nll / max(len(e.heard), 1), "cer": error}
        for u, e, error, nll in measured if len(e.heard)
    ]  # fmt: skip
    write_jsonl(folder / "documents.jsonl", rows)
    tokens = sum(row["count"] for row in rows)
    return {
        "documents": len(measured),
        "hours": seconds / 3600,
        "misalignment": sum(row["misalignment"] * row["count"] for row in rows) / max(1, tokens),
        "cer": float(np.mean(cers)) if measured else float("nan"),
        "decision": decision,
        "looks": len(looks),
        "p": last.p if last else 1.0,
        "reliability": last.reliability if last else 0.0,
        "quarantined": len(gather_quarantine(folder)),
    }


def load_probed(run: Run) -> tuple[list[Cluster], np.ndarray, ProbeFindings]:
    """Clusters with what the probe found, the cluster of every document, and probe.json."""
    clusters, labels = load_clusters(run)
    saved = read_record(ProbeFindings, run.folder("probe") / "probe.json")
    known = {row.id: {k: v for k, v in vars(row).items() if v is not None} for row in saved.clusters}
    return [replace(c, **known[c.id]) for c in clusters], labels, saved


def load_evidence(run: Run) -> PurchaseEvidence:
    """What the purchase rests on, of the probe alone."""
    found = load_probed(run)[2]
    return PurchaseEvidence(found.decision, found.p, found.reliability, found.documents, found.seconds)
