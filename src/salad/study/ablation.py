"""Cells of a sweep side by side: M of each, and the difference of two arms on the same documents with its interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from salad.files import read_jsonl
from salad.types import SaladError

__all__ = ["Difference", "arms_of", "bought_more", "compare", "document_sums", "paired", "table"]

REPLICATE = "select.replicate"
Sums = Mapping[str, tuple[float, int, str]]  # of each document: summed KL, tokens, domain


@dataclass(frozen=True)
class Difference:
    """M of an arm minus M of the reference, nats per token: 95 % interval over replicates and documents."""

    value: float
    low: float
    high: float
    replicates: int
    documents: int

    @property
    def significant(self) -> bool:
        return self.low > 0 or self.high < 0


def document_sums(run_dir: Path, of: str = "stage2") -> Sums:
    """{document of a seen voice: (summed KL, tokens, domain)} of a run's divergence.jsonl."""
    rows = read_jsonl(Path(run_dir) / "evaluate" / "divergence.jsonl")
    found = {
        r["id"]: (r["kl"], r["count"], r["domain"])
        for r in rows
        if r["of"] == of and not r["speaker"].endswith("(unseen)")
    }
    if not found:
        raise SaladError(
            f"{run_dir}: its evaluate stage has no M of {of}; finish the run, or name {of} in evaluate.only"
        )
    return found


def arms_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Finished cells by what they set apart from the replicate, in order."""
    arms: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["status"] == "done":
            name = ", ".join(f"{k}={v}" for k, v in row["values"].items() if k != REPLICATE) or "base"
            arms.setdefault(name, []).append(row)
    return arms


def compare(
    arm: Sequence[Path],
    reference: Sequence[Path],
    *,
    domains: Callable[[str], bool] = lambda _: True,
    resamples: int = 4000,
    seed: int = 0,
) -> Difference:
    """Paired difference of M, arm k with reference k, over the documents of `domains` that all runs measured.

    Two-stage bootstrap: replicates are resampled, then documents (the same ones for both arms).
    Raises SaladError where the arms differ in number or share no document.
    """
    if len(arm) != len(reference) or not arm:
        raise SaladError(f"compare: {len(arm)} runs against {len(reference)}; give as many of both")
    sums = [[document_sums(run) for run in runs] for runs in (arm, reference)]
    return paired(*sums, domains=domains, replicates=True, resamples=resamples, seed=seed)


def paired(
    arm: Sequence[Sums],
    reference: Sequence[Sums],
    *,
    domains: Callable[[str], bool],
    replicates: bool,
    resamples: int,
    seed: int,
) -> Difference:
    """The same of tables {document: (summed KL, tokens, domain)}; without `replicates` only documents are resampled."""
    shared = set.intersection(*(set(one) for runs in (arm, reference) for one in runs))
    ids = sorted(i for i in shared if domains(arm[0][i][2]))
    if not ids:
        raise SaladError("compare: the runs share no measured document in these domains")
    kl = [np.array([[one[i][0] for i in ids] for one in runs]) for runs in (arm, reference)]  # [replicates, documents]
    count = np.array([arm[0][i][1] for i in ids], dtype=float)
    difference = kl[0] - kl[1]
    value = difference.sum() / (count.sum() * len(arm))
    rng = np.random.default_rng(seed)
    size = (resamples, len(arm))
    rows = rng.integers(0, len(arm), size) if replicates else np.broadcast_to(np.arange(len(arm)), size)
    columns = rng.integers(0, len(ids), (resamples, len(ids)))
    drawn = np.array(
        [difference[rs][:, ds].sum() / (count[ds].sum() * len(rs)) for rs, ds in zip(rows, columns, strict=True)]
    )
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Difference(float(value), float(low), float(high), len(arm), len(ids))


def table(rows: Sequence[Mapping[str, Any]], reference: str | None = None) -> tuple[list[str], list[list[str]]]:
    """Header and lines for people: each arm's M, and its difference to the reference arm, in all domains and in those
    of which it bought a larger share of its words.

    reference: an arm's name as `arms_of` gives it; the last arm if None. Arms are compared over the replicates that
    both finished.
    """
    arms = arms_of(rows)
    if not arms:
        return ["arm"], []
    name = reference if reference is not None else list(arms)[-1]
    if name not in arms:
        raise SaladError(f"reference: {name!r} is not an arm; expected one of {'; '.join(arms)}")
    header = ["arm", "runs", "M", f"M minus {name}", "M where it buys more", "the same there", "where"]
    lines = []
    for arm, own in arms.items():
        runs = [Path(r["run_dir"]) for r in own]
        line = [arm, str(len(own)), f"{np.mean([_mean(document_sums(run)) for run in runs]):.3f}"]
        pairs = _pairs(own, arms[name])
        if arm == name or not pairs:
            lines.append([*line, "" if arm == name else "no replicate in common", "", "", ""])
            continue
        sides = [[Path(r["run_dir"]) for r in side] for side in zip(*pairs, strict=True)]
        more = bought_more(*sides)
        inside = np.mean([_mean(document_sums(run), more) for run in runs])
        there = compare(*sides, domains=more.__contains__) if more else None
        lines.append(
            [*line, _say(compare(*sides)), f"{inside:.3f}", _say(there) if there else "", ", ".join(sorted(more))]
        )
    return header, lines


def _pairs(
    arm: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    by_replicate = {r["values"].get(REPLICATE, 0): r for r in reference}
    return [(r, by_replicate[key]) for r in arm for key in [r["values"].get(REPLICATE, 0)] if key in by_replicate]


def _mean(sums: Sums, domains: set[str] | None = None) -> float:
    rows = [(kl, n) for kl, n, domain in sums.values() if domains is None or domain in domains]
    return sum(kl for kl, _ in rows) / max(1, sum(n for _, n in rows))


def bought_more(arm: Sequence[Path], reference: Sequence[Path]) -> set[str]:
    """Domains of which the arm's purchases hold a larger share of words than the reference's."""
    own, other = (_shares(runs) for runs in (arm, reference))
    return {domain for domain, share in own.items() if share > other.get(domain, 0.0)}


def _shares(runs: Sequence[Path]) -> dict[str, float]:
    words: Counter[str] = Counter()
    for run in runs:
        for row in read_jsonl(run / "select" / "documents.jsonl"):
            words[row["domain"]] += len(row["text"].split())
    return {domain: number / words.total() for domain, number in words.items()}


def _say(d: Difference) -> str:
    return f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
