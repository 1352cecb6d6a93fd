"""The paper's findings beside ours: what each row of a grid says, with intervals, and whether it holds here."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from salad.measure.format import Z95, with_interval
from salad.measure.statistics import detectable, two_sided_p
from salad.study.ablation import FEW, bought_more, paired
from salad.study.cell_figures import BaseFigures, DocumentSum, DoneCell, GridRow, mean
from salad.study.own_findings import beyond, without_hearing
from salad.study.regression import Regression, partial_r2, regress, regress_within
from salad.study.scaling_law import Law, fit_law
from salad.study.verdicts import (
    HOLDS,
    OPEN,
    Finding,
    done,
    finished,
    judged,
    missing,
    names,
    paired_cells,
    paired_documents,
    percent,
    several_sizes,
)
from salad.types import Estimate, SaladError

TEXT_MARGIN = 2.0  # points
M_MARGIN = 0.03  # nats: M that falls by less has not been helped
RAISES = "M rises with more data, accuracy falls"  # the paper has no warm start
WRITTEN = (  # scripts/make_demo_corpus.py
    "Likelihood is trained on text that the LLM itself wrote, at temperature 0.8 and 0.9: a part of this may be that "
    "it becomes as certain, whatever the domain."
)


def findings(rows: Sequence[GridRow], base: BaseFigures) -> list[Finding]:
    """All findings, in the paper's order, then ours; one that has no cells says which are missing."""
    return [
        _rises_without_distillation(rows),
        _falls_with_distillation(rows),
        *_own_domains(rows, base),
        _same_speech("1", "1e. On the same narrow speech", rows, "narrow", RAISES),
        _from_warm_start("1", "1f. Likelihood alone, narrow speech", rows, "narrow", 0.0, RAISES),
        _from_warm_start("1", "1g. Distillation, narrow speech", rows, "narrow", 1.0, "M falls, then saturates"),
        _law(rows, "narrow"),
        _law(rows, "broad"),
        _from_warm_start("3", "3a. Likelihood alone, broad speech", rows, "broad", 0.0, "does not help"),
        _from_warm_start("3", "3b. Distillation, broad speech", rows, "broad", 1.0, "helps"),
        _same_speech("3", "3c. On the same broad speech", rows, "broad", "needs distillation"),
        _broad_for_narrow(rows),
        _active(rows),
        _text_stays(rows, base),
        _speech_on_m(rows),
        _text_on_f(rows),
        *beyond(rows, base),
    ]


def law_of(rows: Sequence[GridRow], speech: str, alpha: float, ears: str = "symbols") -> Law | None:
    """M against hours of speech of one kind, or None where fewer than four sizes are there."""
    own = done(rows, speech=speech, alpha=alpha, ears=ears)
    if not several_sizes(own):
        return None
    try:
        return fit_law([r.hours for r in own], [r.misalignment for r in own])
    except SaladError:
        return None


def _trend(
    rows: Sequence[GridRow], alpha: float, domains: Sequence[str] = ()
) -> tuple[Regression | None, list[DoneCell]]:
    own = done(rows, speech="narrow", alpha=alpha)
    if not several_sizes(own):
        return None, own
    try:
        return regress(_doublings(own), [_m(r.documents, r.misalignment, domains) for r in own]), own
    except SaladError:
        return None, own


def _doublings(rows: Sequence[DoneCell]) -> list[float]:
    """Hours of speech of each cell, in doublings."""
    return [math.log2(r.hours) for r in rows]


def _m(documents: Sequence[DocumentSum], everywhere: float, domains: Sequence[str]) -> float:
    """M over documents of these domains; `everywhere` where there are none."""
    inside = [d for d in documents if d.domain in domains]
    return mean(inside) if inside else everywhere


def _rises_without_distillation(rows: Sequence[GridRow]) -> Finding:
    claim, paper = "1a. Likelihood alone (alpha = 0) on narrow speech: M rises with more of it", "rises"
    return _slope_finding("1", claim, paper, rows, 0.0, rising=True)


def _falls_with_distillation(rows: Sequence[GridRow]) -> Finding:
    claim = "1b. Warm start and distillation (alpha = 1) on narrow speech: M falls with more of it"
    paper = "falls to E = 0.13"
    return _slope_finding("1", claim, paper, rows, 1.0, rising=False)


def _own_domains(rows: Sequence[GridRow], base: BaseFigures) -> list[Finding]:
    """The two slopes over held-out texts of the domains that the narrow speech is of."""
    domains = base.narrow_domains
    if not any(d.domain in domains for r in done(rows, speech="narrow") for d in r.documents):
        return []
    where, paper = f"in the speech's own domains ({', '.join(domains)})", "does not separate them"
    return [
        _slope_finding("1", f"{claim}, {where}", paper, rows, alpha, rising=alpha == 0, domains=domains)
        for claim, alpha in (("1c. alpha = 0: M rises", 0.0), ("1d. alpha = 1: M falls", 1.0))
    ]


def _same_speech(number: str, what: str, rows: Sequence[GridRow], speech: str, paper: str) -> Finding:
    """Pairs of cells that differ in alpha alone: what both hear alike falls away, what the objective does is left."""
    claim = f"{what}: M at alpha 1 is below M at alpha 0"
    with_it, without = paired_cells(*(done(rows, speech=speech, alpha=a) for a in (1.0, 0.0)))
    if not with_it:
        return missing(number, claim, paper, f"{speech} cells at alpha 1 and 0 of one share and seed", [])
    found = paired_documents(
        [r.documents for r in without], [r.documents for r in with_it], shares=[r.share for r in with_it]
    )
    ours = f"alpha 0 minus alpha 1 {with_interval(found, '+.3f')} ({found.documents} documents, pairs of cells: "
    ours += f"{len(with_it)})"
    why = _growth(with_it, [a.misalignment - b.misalignment for a, b in zip(without, with_it, strict=True)])
    why += f" {without_hearing(without, with_it)} {WRITTEN}"
    return judged(number, claim, paper, ours, found, [*with_it, *without], why)


def _broad_for_narrow(rows: Sequence[GridRow]) -> Finding:
    """What the paper sees of broad speech without distillation; here the warm starts, too, have heard it."""
    claim, paper = "3d. Likelihood alone: M of broad speech is below M of narrow speech", "does not help"
    broad, narrow = paired_cells(*(done(rows, speech=name, alpha=0.0) for name in ("broad", "narrow")))
    if not broad:
        return missing("3", claim, paper, "broad and narrow cells at alpha 0 of one share and seed", [])
    found = paired_documents([r.documents for r in broad], [r.documents for r in narrow])
    hours = [sum(r.hours for r in own) / len(own) for own in (broad, narrow)]
    ours = f"broad minus narrow {with_interval(found, '+.3f')} ({found.documents} documents, pairs of cells: "
    ours += f"{len(broad)}; {hours[0]:.2f} and {hours[1]:.2f} h)"
    before = [sum(mean(r.before) for r in own) / len(own) for own in (broad, narrow)]
    why = f"Their warm starts alone differ by {before[0] - before[1]:+.3f}: so much is not the objective's."
    return judged("3", claim, paper, ours, found, [*broad, *narrow], why, rising=False)


def _growth(rows: Sequence[DoneCell], values: Sequence[float]) -> str:
    """How these grow with the cells' hours, in words; "" where there are too few."""
    if not several_sizes(rows):
        return ""
    try:
        line = regress(_doublings(rows), values)
    except SaladError:
        return ""
    return f"A doubling of the speech adds {with_interval(line, '+.3f')} (n = {line.n})."


def _from_warm_start(number: str, what: str, rows: Sequence[GridRow], speech: str, alpha: float, paper: str) -> Finding:
    """M of cells minus M of the warm starts that they began from: what the objective itself does to M.

    Finding 3 says of likelihood that it does not help: M is not lowered by more than a margin.
    """
    rising, null = alpha == 0, -M_MARGIN if alpha == 0 and number == "3" else 0.0
    where = "above" if rising and not null else "below"
    claim = f"{what}: M after training is {where} its warm start's"
    if null:
        claim = f"{what}: M after training is lowered by less than {M_MARGIN:g} from its warm start's"
    own = [r for r in done(rows, speech=speech, alpha=alpha) if r.before]
    if not own:
        return missing(number, claim, paper, f"{speech} cells at alpha {alpha:g}", own)
    shares = [r.share for r in own]
    found = paired_documents([r.documents for r in own], [r.before for r in own], shares=shares)
    ours = f"after minus before {with_interval(found, '+.3f')} ({found.documents} documents, {len(own)} cells)"
    why = _growth(own, [r.misalignment - mean(r.before) for r in own])
    if rising:
        why += f" {WRITTEN}"
    else:
        why += " The warm start has heard the same speech: this is what further steps with distillation, of the ears"
        why += " and LoRA together, add; as many without it were not run."
    return judged(number, claim, paper, ours, found, own, why, rising=rising, null=null)


def _slope_finding(
    number: str,
    claim: str,
    paper: str,
    rows: Sequence[GridRow],
    alpha: float,
    *,
    rising: bool,
    domains: Sequence[str] = (),
) -> Finding:
    trend, own = _trend(rows, alpha, domains)
    if trend is None:
        return missing(number, claim, paper, f"narrow cells of at least four sizes at alpha {alpha:g}", own)
    ours = f"{with_interval(trend, '+.3f')} nats a doubling (n = {trend.n})"
    why = _warm_trend(own, domains)
    return judged(number, claim, paper, ours, trend, own, why, rising=rising, unit="nats a doubling")


def _warm_trend(own: Sequence[DoneCell], domains: Sequence[str]) -> str:
    """How much of a slope the warm starts alone have: they, too, hear more where there is more speech."""
    if not all(r.before for r in own):
        return ""
    line = regress(_doublings(own), [_m(r.before, mean(r.before), domains) for r in own])
    slope = with_interval(line, "+.3f")
    told = f"The cells' warm starts, each on its own share of the speech, alone: {slope}."
    return f"{told} What the objective adds to them: 1e to 1g."


def _law(rows: Sequence[GridRow], speech: str) -> Finding:
    claim = f"2. M(D) = E + B D^-beta, alpha = 1, {speech} speech"
    paper = "E = 0.13; 47.6 B tokens to 1.05 E" if speech == "narrow" else "E = 0.04"
    own, law = done(rows, speech=speech, alpha=1.0), law_of(rows, speech, 1.0)
    if law is None:
        return missing("2", claim, paper, f"{speech} cells of four sizes at alpha 1", own)
    ours = f"E = {with_interval(law.e, '.2f')}, beta = {with_interval(_open(law.beta), '.2f')} "
    ours += f"(n = {law.points}, D in hours)"
    freedom = law.points - 3  # of three parameters
    why = f"AICc {law.aicc:.1f}, of a power law without floor {law.aicc_power:.1f}. "
    if not math.isfinite(law.aicc):
        why = "Too few points to weigh it against a power law without floor. "
    why += "The warm starts scale with D as well; steps grow with its square root. "
    if law.power_law_suffices or law.e.low <= 0:
        least = detectable(law.e.high - law.e.value, freedom)
        why += f"A floor cannot be told from none here; one of {least:.2f} could have been told (power 0.8)."
        return Finding("2", claim, paper, ours, OPEN, why, names(own))
    if law.near_floor is not None:
        why += f"1.05 E at {with_interval(_open(law.near_floor), '.3g', unit=' h')}"
        why += ", beyond what was measured: an extrapolation." if law.extrapolated else "."
    p = two_sided_p(law.e.value, law.e.low, freedom)
    return Finding("2", claim, paper, ours, HOLDS, why, names(own), p)


def _open(found: Estimate) -> Estimate:
    """The interval with no upper end where that is too far off to say anything."""
    return found if found.high < 100 else replace(found, high=math.inf)


def _active(rows: Sequence[GridRow]) -> Finding:
    claim = "4. Active selection beats uniform at the same hours"
    paper = "MMSU 52.5 v 49.5, OBQA 76.7 v 71.9, ARC-C 79.9 v 78.9"
    active, uniform = paired_cells(*(done(rows, speech=name, alpha=1.0) for name in ("active", "uniform")))
    if not active:
        return missing("4", claim, paper, "active and uniform cells", [])
    first, second = ([r.documents for r in own] for own in (active, uniform))
    found = paired_documents(first, second)
    ours = f"M active minus uniform: {with_interval(found, '+.3f')} ({found.documents} documents, pairs of cells: "
    ours += f"{len(active)})"
    why = ""
    own, other = _words_bought(active), _words_bought(uniform)
    for size, domains in (("larger", bought_more(own, other)), ("smaller", bought_more(other, own))):
        inside = paired_documents(first, second, domains) if domains else None
        if inside is not None and inside.documents:
            why += (
                f"In the {len(domains)} domains of which active buys a {size} share: {with_interval(inside, '+.3f')}. "
            )
    why += "Every seed has a market, two purchases and trainings of its own."
    return judged("4", claim, paper, ours, found, [*active, *uniform], why, rising=False)


def _words_bought(own: Sequence[DoneCell]) -> Counter[str]:
    return sum((Counter(row.bought or {}) for row in own), Counter())


def _text_stays(rows: Sequence[GridRow], base: BaseFigures) -> Finding:
    """Accuracy of the adapted LLM minus the base's on the same items, each drawn with the others of its document."""
    claim = f"5. Text ability stays (alpha = 1): less than {TEXT_MARGIN:g} points lost"
    paper = "text accuracy +0.5 and +0.9 points"
    own = [r for r in done(rows, alpha=1.0) if len(r.text_right) == len(base.text_right)]
    if not own:
        return missing("5", claim, paper, "cells at alpha 1 that read all items", own)
    tables = (
        [_by_group(row.text_right, base.groups) for row in own],
        [_by_group(base.text_right, base.groups)] * len(own),
    )
    change = paired(*tables, cells=[one.speech for one in own])
    ends = {name: 100 * getattr(change, name) for name in ("value", "low", "high")}
    found = replace(change, **ends)
    items = len(base.text_right)
    flips = float(np.mean([np.mean([a != b for a, b in zip(r.text_right, base.text_right, strict=True)]) for r in own]))
    needed = math.ceil(flips * (100 * detectable(Z95) / TEXT_MARGIN) ** 2)
    ours = (
        f"{with_interval(found, '+.1f', unit=' points')} ({items} items, {len(own)} cells); "
        f"F = {np.mean([r.forgetting for r in own]):.4f} nats a token"
    )
    why = f"Of the answers {100 * flips:.1f} % flip: at that share a margin of {TEXT_MARGIN:g} points needs {needed} "
    why += f"items for a chance of 0.8, and more where items share documents ({', '.join(base.items_of)}; next "
    why += "sentences are of texts that the LLM wrote)."
    return judged("5", claim, paper, ours, found, own, why, null=-TEXT_MARGIN, unit="points")


def _by_group(right: str, groups: Sequence[str]) -> list[DocumentSum]:
    """Right answers of each document's items in the place of KL, and its items in that of tokens."""
    table: dict[str, tuple[float, int]] = {}
    for one, group in zip(right, groups, strict=True):
        correct, count = table.get(group, (0.0, 0))
        table[group] = (correct + float(one), count + 1)
    return [DocumentSum(group, "", correct, count) for group, (correct, count) in table.items()]


def _speech_on_m(rows: Sequence[GridRow]) -> Finding:
    own = finished(rows)
    claim, paper = "Speech accuracy falls with log M", "leave-one-out R^2 0.75, partial R^2 0.56"
    found = _regression("R1", claim, paper, own, "misalignment", "forgetting", "speech_accuracy")
    if not (warm := [r for r in own if r.warm]) or len(warm) == len(own):
        return found
    rest = _regression("R1", claim, paper, warm, "misalignment", "forgetting", "speech_accuracy")
    heard = ", ".join(percent(r.speech_accuracy) for r in own if not r.warm)
    why = f"{found.why} Left out the cold cells, which hear {heard}: {rest.ours}, {rest.verdict}."
    return replace(found, why=why.strip())


def _text_on_f(rows: Sequence[GridRow]) -> Finding:
    own = finished(rows)
    claim, paper = "Text accuracy falls with F", "R^2 0.74, partial R^2 0.32"
    return _regression("R2", claim, paper, own, "forgetting", "misalignment", "text_accuracy")


def _regression(
    number: str, claim: str, paper: str, own: Sequence[DoneCell], of: str, given: str, accuracy: str
) -> Finding:
    values = {"misalignment": [math.log(r.misalignment) for r in own], "forgetting": [r.forgetting for r in own]}
    x, z, y = values[of], values[given], [getattr(r, accuracy).value for r in own]
    same = max(y, key=y.count, default=0.0)
    if len(own) > 1 and len(y) - y.count(same) < FEW:
        why = f"It is {100 * same:.0f} % in {y.count(same)} of {len(y)} cells: that allows no slope."
        return Finding(number, claim, paper, "-", OPEN, why, names(own))
    kinds = [(row.speech, row.ears) for row in own]
    try:
        line, partial = regress(x, y), partial_r2(x, z, y)
        within = regress_within(x, y, kinds)
    except SaladError as error:
        return Finding(number, claim, paper, "-", OPEN, str(error), names(own))
    ours = f"slope {with_interval(line, '+.3f')}, leave-one-out R^2 {line.r2_leave_one_out:.2f}, "
    ours += f"partial R^2 {partial:.2f} (n = {line.n}); within a kind of speech {with_interval(within, '+.3f')}"
    why = "Judged within a kind of speech: kinds differ in more than this. "
    with contextlib.suppress(SaladError):  # where no kind has two cells of one size
        alike = regress_within(x, y, [(row.speech, row.ears, row.share) for row in own])
        why += "Within a kind and a share of it, of about as many hours: "
        why += f"{with_interval(alike, '+.3f')}. "
    unit = "accuracy for log M" if of == "misalignment" else "accuracy a nat"
    why += "Cells answer the same items, and those of one seed share a warm start, which no interval here holds."
    return judged(number, claim, paper, ours, within, own, why, rising=False, unit=unit)
