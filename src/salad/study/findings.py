"""The paper's findings beside ours: what each row of a grid says, with intervals, and whether it holds here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from salad.measure.format import with_interval
from salad.measure.statistics import detectable, two_sided_p
from salad.study.ablation import Difference, paired
from salad.study.cell_figures import BaseFigures, DoneCell, GridRow
from salad.study.regression import Regression, partial_r2, regress
from salad.study.scaling_law import Interval, Law, fit_law
from salad.study.verdicts import (
    HOLDS,
    OPEN,
    Documents,
    Finding,
    done,
    finished,
    judged,
    mean,
    missing,
    names,
    paired_documents,
    percent,
)
from salad.types import SaladError

TEXT_MARGIN = 5.0  # points


def findings(rows: Sequence[GridRow], base: BaseFigures) -> list[Finding]:
    """All findings, in the paper's order, then ours; one that has no cells says which are missing."""
    return [
        _rises_without_distillation(rows),
        _falls_with_distillation(rows),
        *_own_domains(rows, base),
        _same_speech("1", "1e. On the same narrow speech", rows, "narrow", "above 0"),
        _from_warm_start("1", "1f. Likelihood alone, narrow speech", rows, "narrow", 0.0, "above 0", base),
        _from_warm_start("1", "1g. Distillation, narrow speech", rows, "narrow", 1.0, "below 0", base),
        _law(rows, "narrow"),
        _law(rows, "broad"),
        _from_warm_start("3", "3a. Likelihood alone, broad speech", rows, "broad", 0.0, "does not help", base),
        _from_warm_start("3", "3b. Distillation, broad speech", rows, "broad", 1.0, "helps", base),
        _same_speech("3", "3c. On the same broad speech", rows, "broad", "needs distillation"),
        _active(rows, base),
        _text_stays(rows, base),
        _speech_on_m(rows),
        _text_on_f(rows),
        *_warm_start(rows, base),
        *_rates(rows),
    ]


def law_of(rows: Sequence[GridRow], speech: str, alpha: float) -> Law | None:
    """M against hours of speech of one kind, or None where fewer than four sizes are there."""
    own = done(rows, speech=speech, alpha=alpha)
    try:
        return fit_law([r.hours for r in own], [r.misalignment for r in own])
    except SaladError:
        return None


def _pairs(first: Sequence[DoneCell], second: Sequence[DoneCell]) -> tuple[list[DoneCell], list[DoneCell]]:
    """The cells of both that have a partner of the same share and seed, in one order."""
    one, other = ({(r.share, r.seed): r for r in rows} for rows in (first, second))
    keys = sorted(set(one) & set(other))
    return [one[key] for key in keys], [other[key] for key in keys]


def _paired(first: Sequence[DoneCell], second: Sequence[DoneCell], domains: set[str] | None = None) -> Difference:
    """M of the first cells minus M of the second."""
    one, other = ([r.documents for r in rows] for rows in (first, second))
    return paired_documents(one, other, domains, shares=[r.share for r in first])


def _trend(
    rows: Sequence[GridRow], alpha: float, domains: Sequence[str] = ()
) -> tuple[Regression | None, list[DoneCell]]:
    own = done(rows, speech="narrow", alpha=alpha)
    try:
        return regress(_doublings(own), [_m(r.documents, r.misalignment, domains) for r in own]), own
    except SaladError:
        return None, own


def _doublings(rows: Sequence[DoneCell]) -> list[float]:
    """Hours of speech of each cell, in doublings."""
    return [math.log2(r.hours) for r in rows]


def _m(documents: Documents, everywhere: float, domains: Sequence[str]) -> float:
    """M over documents of these domains; `everywhere` where there are none."""
    inside = [d for d in documents if d.domain in domains]
    return mean(inside) if inside else everywhere


def _rises_without_distillation(rows: Sequence[GridRow]) -> Finding:
    claim, paper = "1a. Likelihood alone (alpha = 0) on narrow speech: M rises with more of it", "rises"
    return _slope_finding("1", claim, paper, rows, 0.0, rising=True)


def _falls_with_distillation(rows: Sequence[GridRow]) -> Finding:
    claim, paper = "1b. Distillation (alpha = 1) on narrow speech: M falls with more of it", "falls to E = 0.13"
    return _slope_finding("1", claim, paper, rows, 1.0, rising=False)


def _own_domains(rows: Sequence[GridRow], base: BaseFigures) -> list[Finding]:
    """The same two slopes over held-out texts of the domains that the narrow speech is of."""
    domains = base.narrow_domains
    if not any(d.domain in domains for r in done(rows, speech="narrow") for d in r.documents):
        return []
    where, paper = f"in the speech's own domains ({', '.join(domains)})", "not told apart"
    return [
        _slope_finding("1", f"{claim}, {where}", paper, rows, alpha, rising=alpha == 0, domains=domains)
        for claim, alpha in (("1c. alpha = 0: M rises", 0.0), ("1d. alpha = 1: M falls", 1.0))
    ]


def _same_speech(number: str, what: str, rows: Sequence[GridRow], speech: str, paper: str) -> Finding:
    """Pairs of cells that differ in alpha alone: what both hear alike falls away, what the objective does is left."""
    claim = f"{what}: M at alpha 0 minus M at alpha 1"
    with_it, without = _pairs(*(done(rows, speech=speech, alpha=a) for a in (1.0, 0.0)))
    if not with_it:
        return missing(number, claim, paper, f"{speech} cells at alpha 1 and 0 of one share and seed", [])
    found = _paired(without, with_it)
    ours = f"{with_interval(found, '+.3f')} ({found.documents} documents, pairs of cells: {len(with_it)})"
    why = _growth(with_it, [a.misalignment - b.misalignment for a, b in zip(without, with_it, strict=True)])
    return judged(number, claim, paper, ours, found, [*with_it, *without], why)


def _growth(rows: Sequence[DoneCell], values: Sequence[float]) -> str:
    """How these grow with the cells' hours, in words; "" where there are too few."""
    try:
        line = regress(_doublings(rows), values)
    except SaladError:
        return ""
    return f"A doubling of the speech adds {with_interval(line, '+.3f')} (n = {line.n})."


def _from_warm_start(
    number: str, what: str, rows: Sequence[GridRow], speech: str, alpha: float, paper: str, base: BaseFigures
) -> Finding:
    """M of cells minus M of the warm starts that they began from: what the objective itself does to M."""
    rising = alpha == 0
    claim = f"{what}: M after training is {'above' if rising else 'below'} its warm start's"
    own = [r for r in done(rows, speech=speech, alpha=alpha) if r.before]
    if not own:
        return missing(number, claim, paper, f"{speech} cells at alpha {alpha:g}", own)
    shares = [r.share for r in own]
    found = paired_documents([r.documents for r in own], [r.before for r in own], shares=shares)
    ours = f"{with_interval(found, '+.3f')} ({found.documents} documents, {len(own)} cells)"
    why = _growth(own, [r.misalignment - mean(r.before) for r in own])
    if rising and (base.written_at or 1.0) < 1.0:
        why += f" The text was sampled from the LLM itself at temperature {base.written_at:g}: a part of this may be"
        why += " that likelihood makes it as certain, whatever the domain."
    if not rising:
        why += " The warm start has heard the same speech: this is what distillation adds to it."
    return judged(number, claim, paper, ours, found, own, why, rising=rising)


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
    why += "The warm starts scale with D as well. "
    if law.power_law_suffices or law.e.low <= 0:
        least = detectable(law.e.high - law.e.value, freedom)
        why += f"A floor cannot be told from none here; one of {least:.2f} could have been told (power 0.8)."
        return Finding("2", claim, paper, ours, OPEN, why, names(own))
    if law.near_floor is not None:
        why += f"1.05 E at {with_interval(_open(law.near_floor), '.3g', unit=' h')}"
        why += ", beyond what was measured: an extrapolation." if law.extrapolated else "."
    p = two_sided_p(law.e.value, law.e.low, freedom)
    return Finding("2", claim, paper, ours, HOLDS, why, names(own), p)


def _open(found: Interval) -> Interval:
    """With no upper end where that is too far off to say anything."""
    return found if found.high < 100 else replace(found, high=math.inf)


def _active(rows: Sequence[GridRow], base: BaseFigures) -> Finding:
    claim = "4. Active selection beats uniform at the same hours"
    paper = "MMSU 52.5 v 49.5, OBQA 76.7 v 71.9, ARC-C 79.9 v 78.9"
    active, uniform = _pairs(*(done(rows, speech=name, alpha=1.0) for name in ("active", "uniform")))
    if not active or not uniform:
        return missing("4", claim, paper, "active and uniform cells", [*active, *uniform])
    found = _paired(active, uniform)
    ours = f"M active minus uniform: {with_interval(found, '+.3f')} ({found.documents} documents, pairs of cells: "
    ours += f"{len(active)})"
    why = "".join(
        f"In the {len(domains)} domains of which active buys a {size} share: "
        f"{with_interval(_paired(active, uniform, set(domains)), '+.3f')}. "
        for size, domains in (("larger", base.active_domains), ("smaller", base.uniform_domains))
        if domains
    )
    why += "Seeds share one purchase of each kind (`salad ablate` draws more)."
    return judged("4", claim, paper, ours, found, [*active, *uniform], why, rising=False)


def _text_stays(rows: Sequence[GridRow], base: BaseFigures) -> Finding:
    """Accuracy of the adapted LLM minus the base's on the same items, document by document."""
    claim = f"5. Text ability stays (alpha = 1): less than {TEXT_MARGIN:g} points lost"
    paper = "text accuracy +0.5 and +0.9 points"
    own = done(rows, alpha=1.0, share=1.0)
    if not own:
        return missing("5", claim, paper, "cells at alpha 1", own)
    groups = [one.text_by_document for one in own], [base.text_by_document] * len(own)
    tables = [[{d.id: (float(d.correct), d.count, "") for d in one} for one in group] for group in groups]
    change = paired(*tables, cells=[(one.speech, one.rate, one.stride) for one in own])
    ends = {name: 100 * getattr(change, name) for name in ("value", "low", "high")}
    found = replace(change, **ends)
    f = np.mean([r.forgetting for r in own])
    ours = (
        f"{with_interval(found, '+.1f', unit=' points')} ({own[0].items} items of {change.documents} documents, "
        f"{len(own)} cells); F = {f:.4f} nats a token"
    )
    return judged("5", claim, paper, ours, found, own, null=-TEXT_MARGIN, unit="points")


def _speech_on_m(rows: Sequence[GridRow]) -> Finding:
    own = finished(rows)
    claim, paper = "Speech accuracy falls with log M", "leave-one-out R^2 0.75, partial R^2 0.56"
    found = _regression("R1", claim, paper, own, "misalignment", "forgetting", "speech_accuracy")
    if not (warm := [r for r in own if r.warm]) or len(warm) == len(own):
        return found
    rest = _regression("R1", claim, paper, warm, "misalignment", "forgetting", "speech_accuracy")
    heard = ", ".join(percent(r.speech_accuracy) for r in own if not r.warm)
    why = f"{found.why} Left out the cells that had no warm start, which hear {heard}: {rest.ours}, {rest.verdict}."
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
    try:
        line, partial = regress(x, y), partial_r2(x, z, y)
    except SaladError as error:
        return Finding(number, claim, paper, "-", OPEN, str(error), names(own))
    ours = f"slope {with_interval(line, '+.3f')}, leave-one-out R^2 {line.r2_leave_one_out:.2f}, "
    ours += f"partial R^2 {partial:.2f} (n = {line.n})"
    unit = "accuracy for log M" if of == "misalignment" else "accuracy a nat"
    return judged(number, claim, paper, ours, line, own, rising=False, unit=unit)


def _warm_start(rows: Sequence[GridRow], base: BaseFigures) -> list[Finding]:
    """Cold cells beside warm ones: at the text rate, which only a warm start makes possible, and at the cold's own.

    Over all documents, and for narrow speech also over those of its domains: nothing else was to be heard.
    """
    found: list[Finding] = []
    for speech in ("narrow", "broad"):
        cold = [r for r in finished(rows) if not r.warm and r.speech == speech]
        warm = [
            r for rate in ("text", "fixed") for r in done(rows, speech=speech, alpha=1.0, share=1.0, rate=rate)
            if r.before and (rate == "text" or (cold and r.stride == cold[0].stride))
        ]  # fmt: skip
        partners = {r.rate: r for r in reversed(warm)}  # the first of each rate
        if not cold or not partners:
            claim = f"Ours: the CTC warm start saves seconds to the same M, {speech} speech"
            found.append(missing("W", claim, "-", f"the cold {speech} cell and a warm one", []))
            continue
        places: list[tuple[str, ...]] = [(), base.narrow_domains] if speech == "narrow" else [()]
        for domains in dict.fromkeys(places):
            found += [
                _warm_start_of(partners[rate], cold[0], domains) for rate in ("text", "fixed") if rate in partners
            ]
    return found


def _warm_start_of(with_it: DoneCell, without: DoneCell, domains: Sequence[str]) -> Finding:
    """Whether the cold cell ends as near the text LLM as the warm one's warm start alone, or failing that its end.

    Where it does not, its seconds over the warm's are a lower bound of the ratio at equal quality. Where it does, there
    is none: a live M on a few documents does not tell when each was there first. One training of each has no verdict.
    """
    speech, rate = with_it.speech, "at the text rate" if with_it.rate == "text" else f"at {_hz(with_it)}"
    where = f", in its own domains ({', '.join(domains)})" if domains else ""
    claim, paper = f"Ours: the CTC warm start, read {rate}, saves seconds to the same M, {speech} speech{where}", "-"
    began, trained = with_it.warm_start_seconds, with_it.warm_start_seconds + with_it.train_seconds
    moments = [("the warm start alone", began, with_it.before), ("all of it", trained, with_it.documents)]
    compared = [paired_documents([m[2]], [without.documents], set(domains)) for m in moments]
    best = next((n for n, one in enumerate(compared) if one.high < 0), len(moments) - 1)
    (what, warm_s, documents), found = moments[best], compared[best]
    total = without.train_seconds
    ratio = total / warm_s
    groups = (documents, without.documents)
    at_warm, at_cold = (mean([d for d in group if not domains or d.domain in domains]) for group in groups)
    ours = (
        f"warm M {at_warm:.2f} after {warm_s:.0f} s ({what}), cold {at_cold:.2f} after {total:.0f} s; warm minus cold "
        f"{with_interval(found, '+.3f')} ({found.documents} documents); ratio of seconds "
        + (f"above {ratio:.2f}" if found.high < 0 else "not told")
    )
    speeches = " and ".join(percent(r.speech_accuracy) for r in (with_it, without))
    why = f"Speech accuracy at the end, warm and cold: {speeches}. Cold reads at {_hz(without)}, with no CTC "
    why += "loss beside distillation either. Seconds of the clock, with whatever else the machine did."
    if found.high >= 0 and speech == "narrow" and not domains:
        why += " In most of these domains nothing was heard: M there is how well a model guesses."
    return judged("W", claim, paper, ours, found, [with_it, without], why, rising=False)


def _rates(rows: Sequence[GridRow]) -> list[Finding]:
    found = []
    text = done(rows, speech="narrow", alpha=1.0, share=1.0, seed=0)
    for row in [*text, *done(rows, rate="fixed")]:
        what = _hz(row) if row.rate == "fixed" else f"{_hz(row)}, blanks dropped (text rate)"
        ours = (
            f"M {row.misalignment:.2f}, speech {percent(row.speech_accuracy)}, "
            f"{row.train_seconds:.0f} s for {row.positions:.0f} positions"
        )
        if text and row.rate == "fixed":
            less = _paired([row], text[:1])
            ours += f"; M minus the text rate's {with_interval(less, '+.3f')} ({less.documents} documents)"
        why = "A batch holds as many positions at every rate: at a lower one it holds more speech."
        found.append(Finding("C", f"Ours: speech positions at {what}", "12.5 Hz", ours, "-", why, (row.cell,)))
    return found


def _hz(row: DoneCell) -> str:
    return f"{50 / row.stride:.3g} Hz"
