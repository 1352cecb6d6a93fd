"""One line of the findings, and how its verdict comes about: pairs of cells, intervals, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from salad.measure.format import with_interval
from salad.measure.results import Interval
from salad.measure.statistics import DRAWS_OF_ARMS, detectable, holm, two_sided_p
from salad.study.ablation import FEW, Difference, Everywhere, paired
from salad.study.cell_figures import DocumentSum, DoneCell, GridRow
from salad.study.regression import Regression
from salad.types import SaladError

Documents = Sequence[DocumentSum]  # of one cell
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot tell"
LEVEL = 0.05
SIZES = 4
MANY = 100  # times what was run: beyond it nobody will
FIVE = {  # the paper's findings, and the rows that decide each: it holds where all of them do
    "1": ("On narrow speech likelihood alone ends above its warm start, distillation below it", ("1f.", "1g.")),
    "2": ("M falls with the speech as E + B D^-beta, to a floor E above 0", ("2. ",)),
    "3": ("Broad speech alone does not help: it needs distillation", ("3a.", "3b.", "3c.")),
    "4": ("Active selection beats uniform at the same hours", ("4. ",)),
    "5": ("Text ability stays", ("5. ",)),
}


@dataclass(frozen=True)
class Finding:
    """One line of the page: the claim, the paper's figure, ours, the verdict and why.

    p: two-sided, of what the verdict rests on; 1 where nothing can be told.
    """

    number: str
    claim: str
    paper: str
    ours: str
    verdict: str
    why: str = ""
    cells: tuple[str, ...] = field(default=())
    p: float = 1.0


def finished(rows: Sequence[GridRow]) -> list[DoneCell]:
    return [row for row in rows if isinstance(row, DoneCell)]


def done(rows: Sequence[GridRow], **values: Any) -> list[DoneCell]:
    """Finished cells with these values; those behind our ears unless others are asked for."""
    wanted = {"ears": "symbols", **values}
    return [r for r in finished(rows) if all(getattr(r, k) == v for k, v in wanted.items())]


def several_sizes(rows: Sequence[DoneCell]) -> bool:
    """Whether these are of enough shares of the speech for a slope or a law over it: the hours of one share differ by
    chance from seed to seed, and tell of no growth."""
    return len({row.share for row in rows}) >= SIZES


def paired_cells(first: Sequence[DoneCell], second: Sequence[DoneCell]) -> tuple[list[DoneCell], list[DoneCell]]:
    """The cells of both that have a partner of the same share and seed, in one order."""
    one, other = ({(r.share, r.seed): r for r in rows} for rows in (first, second))
    keys = sorted(set(one) & set(other))
    return [one[key] for key in keys], [other[key] for key in keys]


def paired_documents(
    a: Sequence[Documents],
    b: Sequence[Documents],
    domains: set[str] | None = None,
    *,
    shares: Sequence[float] | None = None,
    resamples: int = DRAWS_OF_ARMS,
) -> Difference:
    """M of cells minus M of others on the same documents, as `paired`: from FEW pairs of cells on a t interval, whose
    spread is pooled over cells of one share (None: all alike). nan of 0 documents where none is in these domains.
    """
    size = min(len(a), len(b))
    cells = list(shares or [1.0] * size)[:size]
    try:
        inside: Everywhere = lambda domain: not domains or domain in domains  # noqa: E731
        return paired(a[:size], b[:size], domains=inside, cells=cells, resamples=resamples)
    except SaladError:  # none in these domains
        return Difference(math.nan, math.nan, math.nan, size, 0)


def judged(
    number: str,
    claim: str,
    paper: str,
    ours: str,
    found: Difference | Regression,
    own: Sequence[DoneCell],
    why: str = "",
    *,
    rising: bool = True,
    null: float = 0.0,
    unit: str = "nats",
) -> Finding:
    """It holds where the whole interval is above `null` (below it if not `rising`), not where all is on the other side.

    On fewer than FEW trainings nothing is told. What is open says which difference could have been told.
    """
    above, below = found.low > null, found.high < null
    held, against = (above, below) if rising else (below, above)
    trainings = found.replicates if isinstance(found, Difference) else found.n
    least = f"{detectable((found.high - found.low) / 2, found.freedom):.3f} {unit}"
    if trainings < FEW:
        why = (
            f"Over documents alone: the chance of training is not in this interval, of too few trainings (under {FEW}) "
            f"to tell. But for it a difference of {least} could have been told (power 0.8). {why}"
        )
        return Finding(number, claim, paper, ours, OPEN, why.strip(), names(own))
    if not (held or against):
        why = (
            f"The interval holds {null:g}. {why} A difference of {least} could have been told (power 0.8)."
            f"{_needed(found, own, null)}"
        )
    verdict = HOLDS if held else FAILS if against else OPEN
    p = two_sided_p(found.value, found.low, found.freedom, null=null)
    return Finding(number, claim, paper, ours, verdict, " ".join(why.split()), names(own), p)


def _needed(found: Difference | Regression, own: Sequence[DoneCell], null: float) -> str:
    """What would tell a difference as large as was found: an interval narrows with the root of what it is of."""
    least, size = detectable((found.high - found.low) / 2, found.freedom), abs(found.value - null)
    if size < 1e-9 or not math.isfinite(least) or least <= size:
        return ""
    times = (least / size) ** 2
    hours = times * process_seconds(own) / 3600
    if times > MANY:
        return f" One of {size:.3g}, as was found, would need over {MANY} times the trainings and the documents."
    return (
        f" One of {size:.3g}, as was found, would need {times:.1f} times the trainings and the documents: about "
        f"{hours:.1f} h of one process."
    )


def process_seconds(rows: Sequence[DoneCell]) -> float:
    """What cells took, with the lower parts that they have in common counted once."""
    shared = {(r.kind, r.share, r.seed, r.ears): r.warm_start_seconds for r in rows}
    return sum(r.seconds for r in rows) + sum(shared.values())


def five(rows: Sequence[Finding]) -> list[Finding]:
    """The paper's five findings out of their rows, each judged beside the other four (Holm's correction at 0.05).

    A finding holds where all its rows do, and its p is the largest of theirs (Berger 1982); it does not hold where one
    of them does not, by the smallest p of these times the number of its rows. What was not run counts among the five.
    """
    parts = {number: [row for row in rows if row.claim.startswith(prefixes)] for number, (_, prefixes) in FIVE.items()}
    verdicts, p = {}, []
    for number, own in parts.items():
        failed = [row.p for row in own if row.verdict == FAILS]
        holds = bool(own) and all(row.verdict == HOLDS for row in own)
        verdicts[number] = HOLDS if holds else FAILS if failed else OPEN
        p.append(max(row.p for row in own) if holds else min(1.0, len(own) * min(failed)) if failed else 1.0)
    found = []
    for (number, own), plain, adjusted in zip(parts.items(), p, holm(p), strict=True):
        verdict, why = verdicts[number], ""
        if verdict != OPEN and adjusted > LEVEL:
            verdict, why = OPEN, f"Alone it {verdict}; among five findings that may be chance."
        elif verdict == OPEN:
            told_of = dict.fromkeys(row.claim[:3].strip() for row in own if row.ours != "-")
            why = f"Its rows below say what could have been told: {', '.join(told_of)}" if told_of else "Not run."
        told = "; ".join(f"{row.claim[:3].strip()} {row.verdict if row.ours != '-' else 'not run'}" for row in own)
        ours = f"{told or '-'} (p {plain:.2g}, by Holm {adjusted:.2g})"
        cells = tuple(dict.fromkeys(cell for row in own for cell in row.cells))
        found.append(
            Finding(number, FIVE[number][0], own[0].paper if own else "-", ours, verdict, why, cells, adjusted)
        )
    return found


def missing(number: str, claim: str, paper: str, what: str, own: Sequence[DoneCell]) -> Finding:
    return Finding(number, claim, paper, "-", OPEN, f"Not run: {what}.", names(own))


def names(rows: Sequence[DoneCell]) -> tuple[str, ...]:
    return tuple(row.cell for row in rows)


def percent(value: Interval) -> str:
    """An accuracy with its interval: 45 % [33, 58]."""
    return with_interval(value, ".0f", scale=100, unit=" %")
