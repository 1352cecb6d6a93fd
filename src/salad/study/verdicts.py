"""One line of the findings, and how its verdict comes about: pairs of cells, intervals, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from salad.measure.format import with_interval
from salad.measure.statistics import pooled_spread, replicate_reach
from salad.study.ablation import paired
from salad.types import SaladError

__all__ = ["Finding", "done", "paired_documents", "percent"]

FEW = 3  # pairs of cells from which on an interval holds the chance of training, too
Z95 = 1.96
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot tell"


@dataclass(frozen=True)
class Finding:
    """One line of the page: the claim, the paper's figure, ours, the verdict and why."""

    number: str
    claim: str
    paper: str
    ours: str
    verdict: str
    why: str = ""
    cells: tuple[str, ...] = field(default=())


def done(rows: Sequence[dict[str, Any]], **values: Any) -> list[dict[str, Any]]:
    """Finished cells with these values; the plain ones (warm start, text rate) unless others are asked for."""
    wanted = {"warm": True, "rate": "text", **values}
    return [r for r in rows if r["status"] == "done" and all(r[k] == v for k, v in wanted.items())]


def paired_documents(
    a: Sequence[dict[str, Any]],
    b: Sequence[dict[str, Any]],
    domains: set[str] | None = None,
    resamples: int = 4000,
) -> tuple[float, float, float, int]:
    """M of cells `a` minus M of cells `b` on the same documents: mean, 95 % interval, documents.

    Fewer than FEW pairs of cells: documents are resampled, and the chance of training is not in the interval. From FEW
    on each pair is another training: a t interval, whose spread is pooled over cells of one share (as one cell where
    no share has two), with the bootstrap's error over documents in quadrature.
    """
    size = min(len(a), len(b))
    tables = [
        [{d["id"]: (d["kl"], d["count"], d["domain"]) for d in row["documents"]} for row in group[:size]]
        for group in (a, b)
    ]
    try:
        found = paired(
            *tables, domains=lambda d: not domains or d in domains, replicates=False, resamples=resamples, seed=0
        )
    except SaladError:  # none in these domains
        return math.nan, math.nan, math.nan, 0
    if size < FEW:
        return found.value, found.low, found.high, found.documents
    by_share: dict[float, list[float]] = {}
    for row, other in zip(a, b, strict=False):
        own, theirs = ([d for d in r["documents"] if not domains or d["domain"] in domains] for r in (row, other))
        by_share.setdefault(row.get("share", 1.0), []).append(mean(own) - mean(theirs))
    spread, freedom = pooled_spread(list(by_share.values()))
    if not freedom:
        spread, freedom = pooled_spread([[value for values in by_share.values() for value in values]])
    reach = replicate_reach(spread, freedom, size, other_se=(found.high - found.low) / (2 * Z95))
    return found.value, found.value - reach, found.value + reach, found.documents


def judged(
    number: str,
    claim: str,
    paper: str,
    ours: str,
    held: bool,
    against: bool,
    own: Sequence[dict[str, Any]],
    why: str = "",
) -> Finding:
    verdict = HOLDS if held else FAILS if against else OPEN
    if verdict == OPEN and "interval holds" not in why:
        why = f"The interval holds 0: more cells or more documents would be needed. {why}".strip()
    return Finding(number, claim, paper, ours, verdict, why, names(own))


def enough(
    pairs: Sequence[dict[str, Any]], low: float, high: float, held: bool, against: bool, why: str
) -> tuple[bool, bool, str]:
    """held, against and why; neither is so on fewer than FEW trainings, and what is open names what could be told."""
    enough = len(pairs) >= FEW
    if not enough:
        why = f"{few(pairs)} The interval holds too few trainings (under {FEW}) to tell. {why}"
    elif not (held or against):
        # a difference is found with probability 0.8 from 1.96 + 0.84 standard errors on
        why = f"{why} A difference of {(high - low) / 2 * (Z95 + 0.84) / Z95:.3f} could have been told."
    return held and enough, against and enough, why.strip()


def few(pairs: Sequence[dict[str, Any]]) -> str:
    return "" if len(pairs) >= FEW else "Over documents alone: the chance of training is not in this interval."


def missing(number: str, claim: str, paper: str, what: str, own: Sequence[dict[str, Any]]) -> Finding:
    return Finding(number, claim, paper, "-", OPEN, f"Not run: {what}.", names(own))


def names(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(row["cell"] for row in rows)


def plain(value: float) -> str:
    return f"{value:.2f}" if value < 100 else "any"


def percent(value: dict[str, float]) -> str:
    """An accuracy with its interval: 45 % [33, 58]."""
    return with_interval(value, ".0f", scale=100, unit=" %")


def mean(documents: Sequence[dict[str, Any]]) -> float:
    """Nats per token over all documents' tokens."""
    return sum(d["kl"] for d in documents) / sum(d["count"] for d in documents)
