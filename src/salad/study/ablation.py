"""Cells of a sweep side by side: M of each, and the difference of two arms on the same documents with its interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from salad.files import read_json, read_jsonl
from salad.measure.format import Z95, with_detectable, with_interval
from salad.measure.results import RunFigures
from salad.measure.statistics import (
    DRAWS_OF_ARMS,
    blocked_spread,
    detectable,
    middle_95,
    pooled_spread,
    two_sources_reach,
)
from salad.measure.voice_label import is_seen
from salad.records import read_records
from salad.study.cell_figures import DocumentSum, Sums, mean
from salad.types import SaladError

REPLICATE = "select.replicate"
FEW = 3  # pairs of trainings from which on an interval holds the chance of training, too
Everywhere = Callable[[str], bool]


@dataclass(frozen=True)
class CellRun:
    """A row of cells.json: what a cell of a sweep sets over the recipe, where it lies, and its figures; or, where it
    is `dropped`, why. seconds: of its own stages."""

    cell: str
    values: Mapping[str, Any]
    run_dir: str
    status: str
    reason: str | None = None
    seconds: Mapping[str, float] | None = None
    figures: RunFigures | None = None


@dataclass(frozen=True)
class Seen:
    """A line of divergence.jsonl; by_exposure: (summed KL, tokens) of parts of a document by what was heard before."""

    of: str
    id: str
    domain: str
    speaker: str
    kl: float
    count: int
    by_exposure: Mapping[str, tuple[float, int]] | None = None


@dataclass(frozen=True)
class Difference:
    """M of an arm minus M of the reference, nats per token, with its 95 % interval.

    freedom: of the t that is as wide as the interval over trainings and documents; 0 where there are fewer than FEW
    pairs, and the interval is over documents alone.
    """

    value: float
    low: float
    high: float
    replicates: int
    documents: int
    freedom: float = 0

    @property
    def significant(self) -> bool:
        return self.freedom > 0 and (self.low > 0 or self.high < 0)

    @property
    def minimum_detectable(self) -> float:
        """The smallest true difference that would have been found with probability 0.8."""
        return detectable((self.high - self.low) / 2, self.freedom)


def document_sums(run_dir: Path, of: str = "stage2") -> Sums:
    """Of the seen voices' documents, out of a run's divergence.jsonl."""
    by_id = {r.id: DocumentSum(r.id, r.domain, r.kl, r.count, r.speaker) for r in _seen_rows(run_dir, of)}
    return tuple(by_id.values())


def _seen_rows(run_dir: Path, of: str = "stage2") -> list[Seen]:
    rows = read_records(Seen, Path(run_dir) / "evaluate" / "divergence.jsonl")
    found = [r for r in rows if r.of == of and is_seen(r.speaker)]
    if not found:
        raise SaladError(
            f"{run_dir}: its evaluate stage has no M of {of}; finish the run, or name {of} in evaluate.only"
        )
    return found


def arms_of(rows: Sequence[CellRun]) -> dict[str, list[CellRun]]:
    """Finished cells by what they set apart from the replicate, in order."""
    arms: dict[str, list[CellRun]] = {}
    for row in rows:
        if row.status == "done":
            name = ", ".join(f"{k}={v}" for k, v in row.values.items() if k != REPLICATE) or "base"
            arms.setdefault(name, []).append(row)
    return arms


def compare(
    arm: Sequence[Path],
    reference: Sequence[Path],
    *,
    domains: Everywhere = lambda _: True,
    spread: tuple[float, int] | None = None,
    resamples: int = DRAWS_OF_ARMS,
    seed: int = 0,
) -> Difference:
    """Paired difference of M, arm k with reference k, over the documents of `domains` that all runs measured.

    spread: as for `paired`. Raises SaladError where the arms differ in number or share no document.
    """
    if len(arm) != len(reference) or not arm:
        raise SaladError(f"compare: got {len(arm)} runs against {len(reference)}; give as many of both, at least one")
    sums = [[document_sums(run) for run in runs] for runs in (arm, reference)]
    return paired(*sums, domains=domains, spread=spread, resamples=resamples, seed=seed)


def paired(
    arm: Sequence[Sequence[DocumentSum]],
    reference: Sequence[Sequence[DocumentSum]],
    *,
    domains: Everywhere = lambda _: True,
    cells: Sequence[Any] | None = None,
    spread: tuple[float, int] | None = None,
    resamples: int = DRAWS_OF_ARMS,
    seed: int = 0,
) -> Difference:
    """Compare what each training has of each document, training by training.

    From FEW pairs on a t interval over trainings, and one over documents (which are resampled, the same for both arms)
    in quadrature; with fewer, over documents alone. spread: of the pairs' differences, and its freedom, pooled
    over more cells than these. Without it, it is pooled over `cells`, which name the cell of each pair, or over all
    pairs as one cell where none has two.
    """
    tables = [[{d.id: d for d in own} for own in runs] for runs in (arm, reference)]
    shared = set.intersection(*(set(one) for runs in tables for one in runs))
    first = tables[0][0]
    ids = sorted(i for i in shared if domains(first[i].domain))
    if not ids:
        raise SaladError("compare: the runs share no measured document in these domains; compare runs of one corpus")
    kl = [np.array([[one[i].kl for i in ids] for one in runs]) for runs in tables]  # [replicates, documents]
    count, difference = np.array([first[i].count for i in ids], dtype=float), kl[0] - kl[1]
    pairs, of_documents = difference.sum(axis=1) / count.sum(), difference.mean(axis=0)
    columns = np.random.default_rng(seed).integers(0, len(ids), (resamples, len(ids)))
    low, high = middle_95(of_documents[columns].sum(axis=1) / count[columns].sum(axis=1))
    value = float(pairs.mean())
    if len(arm) < FEW:
        return Difference(value, low, high, len(arm), len(ids))
    own, freedom = spread or pooled_spread([pairs[[c == cell for c in cells or ()]] for cell in set(cells or ())])
    if not freedom:
        own, freedom = pooled_spread([pairs])
    documents_se, others = (high - low) / (2 * Z95), max(1, len(ids) - 1)
    reach, as_wide = two_sources_reach(own, freedom, len(arm), documents_se, others)
    return Difference(value, value - reach, value + reach, len(arm), len(ids), as_wide)


def table(rows: Sequence[CellRun], reference: str | None = None) -> tuple[list[str], list[list[str]]]:
    """Header and lines for people: what each arm cost, its M, and its difference to the reference arm: in all domains,
    in those of which it bought a larger share of its words, and in those of which it bought a smaller one.

    reference: an arm's name as `arms_of` gives it; the last arm if None. Arms are compared over the replicates that
    both finished; the spread between trainings is pooled over all of them. From fewer than FEW nothing can be told.
    """
    arms = arms_of(rows)
    if not arms:
        return ["arm"], []
    name = reference if reference is not None else list(arms)[-1]
    if name not in arms:
        raise SaladError(f"reference: {name!r} is not an arm; expected one of {'; '.join(arms)}")
    header = ["arm", "runs", "seconds", "hours of speech", "M", "M after words heard before", "M after a new word"]
    header += [f"M minus {name}", "where it buys more", "where it buys less"]
    sums = {(arm, _replicate(r)): document_sums(Path(r.run_dir)) for arm, own in arms.items() for r in own}

    def told(pairs: Sequence[tuple[CellRun, CellRun]], domains: set[str] | None) -> str:
        """The difference over these domains (None: all), with the spread over all arms in the same domains."""
        inside = domains.__contains__ if domains is not None else lambda _: True
        spread, freedom = blocked_spread({key: _mean_inside(one, domains) for key, one in sums.items()})
        sides = [[Path(r.run_dir) for r in side] for side in zip(*pairs, strict=True)]
        found = compare(*sides, domains=inside, spread=(math.sqrt(2) * spread, freedom))
        return difference_text(found) + (f" ({', '.join(sorted(domains))})" if domains is not None else "")

    lines = []
    for arm, own in arms.items():
        runs = [Path(r.run_dir) for r in own]
        cost = [_average_text([sum(r.seconds.values()) if r.seconds is not None else None for r in own], ".0f")]
        cost.append(_average_text([_hours(run) for run in runs], ".2f"))
        m = [_average_text([mean(sums[arm, _replicate(r)]) for r in own])]
        m += [_average_text([_exposed(run, kind) for run in runs]) for kind in ("seen", "unseen")]
        line, pairs = [arm, str(len(own)), *cost, *m], _pairs(own, arms[name])
        if arm == name or not pairs:
            lines.append([*line, "" if arm == name else "no replicate in common", "", ""])
            continue
        sides = [[Path(r.run_dir) for r in side] for side in zip(*pairs, strict=True)]
        words, others = map(_words_bought, sides)
        places = bought_more(words, others), bought_more(others, words)
        lines.append([*line, told(pairs, None), *(told(pairs, domains) if domains else "" for domains in places)])
    return header, lines


def _replicate(row: CellRun) -> Any:
    return row.values.get(REPLICATE, 0)


def _pairs(arm: Sequence[CellRun], reference: Sequence[CellRun]) -> list[tuple[CellRun, CellRun]]:
    by_replicate = {_replicate(r): r for r in reference}
    return [(r, by_replicate[_replicate(r)]) for r in arm if _replicate(r) in by_replicate]


def _mean_inside(sums: Sums, domains: set[str] | None) -> float:
    """Over the documents of these domains; None: over all."""
    return mean([d for d in sums if domains is None or d.domain in domains])


def _exposed(run_dir: Path, kind: str) -> float | None:
    """M after spans of words that all were heard in training (`seen`), or of which one never was (`unseen`)."""
    found = [r.by_exposure[kind] for r in _seen_rows(run_dir) if r.by_exposure]
    tokens = sum(n for _, n in found)
    return sum(kl for kl, _ in found) / tokens if tokens else None


def _hours(run_dir: Path) -> float | None:
    """Hours of speech that was trained on: D_speech, and what all rounds bought."""
    states = [path for stage in ("align", "rounds") if (path := run_dir / stage / "stage.json").exists()]
    hours = [read_json(path)["summary"].get("hours") for path in states]
    return sum(hours) if len(hours) == 2 and None not in hours else None


def _average_text(values: Sequence[float | None], spec: str = ".3f") -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):{spec}}" if known else ""


def bought_more(arm: Counter[str], reference: Counter[str]) -> set[str]:
    """Domains of which the arm's purchases hold a larger share of words than the reference's; words by domain."""
    whole, other = arm.total(), max(1, reference.total())
    return {domain for domain, number in arm.items() if number / whole > reference[domain] / other}


def _words_bought(runs: Sequence[Path]) -> Counter[str]:
    words: Counter[str] = Counter()
    for run in runs:
        for row in read_jsonl(run / "select" / "documents.jsonl"):
            words[row["domain"]] += len(row["text"].split())
    return words


def difference_text(found: Difference) -> str:
    """The difference and what could have been told; of fewer than FEW pairs, that they tell nothing."""
    if found.replicates < FEW:
        text = f"{with_interval(found, '+.3f')} over documents alone: {found.replicates} trainings, cannot tell"
        return f"{text} ({found.minimum_detectable:.3f} could be but for the chance of training, power 0.8)"
    return with_detectable(found, "+.3f")
