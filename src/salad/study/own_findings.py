"""Findings beyond the paper's: what our ears are worth, beside the paper's form, and where hearing falls short.

Each is told with its interval, or named as not run with the computation that would tell it.
"""

from __future__ import annotations

from collections.abc import Sequence

from salad.measure.divergence import once
from salad.measure.format import with_interval
from salad.study.cell_figures import BaseFigures, DocumentSum, DoneCell, GridRow, mean, rows_of, sums
from salad.study.cells import MAIN
from salad.study.regression import regress
from salad.study.scaling_law import hours_at
from salad.study.verdicts import (
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
from salad.types import SaladError

ELSEWHERE = (  # what other commands tell, and no cell of the grid
    ("B3", "Ours: a second of text bought against a second of speech",
     "`python scripts/purchases.py runs/demo --budget 0.3 --draws 4`, two prices beside uniform: 16 cells, about two "
     "hours of one core"),
    ("B4c", "Ours: noise, hearing against transcribing",
     "`salad run recipes/demo.yaml --set evaluate.noise=[white:10,telephone]`: about 15 minutes after a demo"),
    ("B5", "Ours: what distillation erases of the voice",
     "`salad retention` of a model before and after its stage, for alpha 1 and 0: about 10 minutes each"),
)  # fmt: skip


def beyond(rows: Sequence[GridRow], base: BaseFigures) -> list[Finding]:
    """Rows in the order of the page."""
    return [
        _worth(rows, base),
        _mixtures(rows),
        *(_objectives(rows, kind) for kind in ("spoken", "simulated")),
        _papers_form(rows, base),
        _log_mel(rows, base),
        *_voices(rows, base),
        *_ablations(rows),
        *(missing(number, claim, "-", what, []) for number, claim, what in ELSEWHERE),
    ]


def _worth(rows: Sequence[GridRow], base: BaseFigures) -> Finding:
    """Hours of speech at which a single adapter hears as well: by its law, or a bound where it never does."""
    claim, paper = "Ours: what the symbols and the spelling from text are worth in hours of speech", "-"
    ours, single = (done(rows, speech="narrow", alpha=1.0, ears=ears) for ears in ("symbols", "single"))
    at = [r for r in ours if r.share == MAIN]
    if not at or not single:
        return missing("B1", claim, paper, "narrow cells behind our ears and behind a single adapter", at)
    hours, target = sum(r.hours for r in at) / len(at), sum(r.misalignment for r in at) / len(at)
    told = f"ours: M {target:.3f} at {hours:.2f} h ({len(at)} cells); "
    why = f"Beside the speech, ours read text for {base.spell_seconds:.0f} s, which all cells share."
    try:
        if not several_sizes(single):
            raise SaladError("a law needs four sizes")
        found = hours_at([r.hours for r in single], [r.misalignment for r in single], target)
        ratio = with_interval(_divided(found, hours), ".3g")
        told += (
            f"a single adapter is there by its law at {with_interval(found, '.3g', unit=' h')}: {ratio} times as much"
        )
        beyond_data = found.value > max(r.hours for r in single)
        why += " Beyond what was measured: an extrapolation." if beyond_data else ""
        return Finding("B1", claim, paper, told, "-", why, names([*at, *single]))
    except SaladError:
        most = max(single, key=lambda r: r.hours)
        found_m = paired_documents([r.documents for r in at], [most.documents] * len(at))
        told += f"a single adapter {most.misalignment:.3f} at {most.hours:.2f} h; ours minus it "
        told += f"{with_interval(found_m, '+.3f')} ({found_m.documents} documents)"
        if found_m.high < 0:
            told += f": it needs more than {most.hours / hours:.1f} times the speech"
        why += " A law of the single adapter needs four sizes of it."
        return judged("B1", claim, paper, told, found_m, [*at, most], why, rising=False)


def _divided(found: object, by: float) -> dict[str, float]:
    return {name: getattr(found, name) / by for name in ("value", "low", "high")}


def _mixtures(rows: Sequence[GridRow]) -> Finding:
    """M against alpha between likelihood and distillation."""
    claim, paper = (
        "Between: M falls with alpha, in a straight line, narrow speech",
        "alpha above 0: M falls, then saturates",
    )
    own = done(rows, speech="narrow", share=MAIN)
    between = [r for r in own if 0 < r.alpha < 1]
    if not between:
        return missing("1", claim, paper, "narrow cells at alpha 0.25, 0.5 and 0.75", [])
    groups = [(a, [r.misalignment for r in own if r.alpha == a]) for a in sorted({r.alpha for r in own})]
    told = ", ".join(f"{alpha:g}: {sum(ms) / len(ms):.3f} ({len(ms)})" for alpha, ms in groups)
    try:
        line = regress([r.alpha for r in own], [r.misalignment for r in own])
        return judged("1", claim, paper, f"{told}; slope {with_interval(line, '+.3f')}", line, own, rising=False)
    except SaladError:
        return Finding("1", claim, paper, told, OPEN, "Too few cells for a slope.", names(own))


def _objectives(rows: Sequence[GridRow], kind: str) -> Finding:
    """Distillation against cross-entropy, on documents that are spoken, narrow or broad, and on simulated ones."""
    claim = f"Ours: KL against cross-entropy on {kind} documents: M at alpha 1 is below M at alpha 0"
    kinds = ("narrow", "broad") if kind == "spoken" else ("simulated",)
    pairs = [paired_cells(*(done(rows, speech=name, alpha=a) for a in (1.0, 0.0))) for name in kinds]
    with_it, without = ([r for pair in pairs for r in pair[side]] for side in (0, 1))
    if not with_it:
        return missing("B2", claim, "-", f"{' and '.join(kinds)} cells at alpha 1 and 0 of one share and seed", [])
    less = paired_documents(
        [r.documents for r in with_it], [r.documents for r in without], shares=[r.share for r in with_it]
    )
    told = f"alpha 1 minus alpha 0 {with_interval(less, '+.3f')} ({less.documents} documents, pairs of cells: "
    told += f"{len(with_it)})"
    why = without_hearing(without, with_it)
    if kind == "spoken":
        why += " Its pairs are those of 1e and 3c."
    return judged("B2", claim, "-", told, less, [*with_it, *without], why, rising=False)


def without_hearing(likelihood: Sequence[DoneCell], distilled: Sequence[DoneCell]) -> str:
    """What of a difference between alpha 0 and 1 is there on silence too, and whether either hears better."""
    silent = [_on([r.blind for r in own]) for own in (likelihood, distilled)]
    if not all(silent):
        return ""
    names = {d.id for r in (*likelihood, *distilled) for d in r.blind}
    spoken = [_on([[d for d in r.documents if d.id in names] for r in own]) for own in (likelihood, distilled)]
    wer = [
        [w.value for r in own if (w := r.wer) is not None and w.value is not None] for own in (likelihood, distilled)
    ]
    told = f"On silence alpha 0 minus alpha 1 is {silent[0] - silent[1]:+.3f}, on the {len(names)} documents heard "
    told += f"{spoken[0] - spoken[1]:+.3f}: what is there on silence as well need not be hearing; "
    told += f"these two have no interval. Heard: {_heard(likelihood)} and {_heard(distilled)}"
    if all(wer):
        told += f"; WER {100 * sum(wer[0]) / len(wer[0]):.0f} and {100 * sum(wer[1]) / len(wer[1]):.0f} %"
    return f"{told}."


def _on(cells: Sequence[Sequence[DocumentSum]]) -> float:
    """Mean over cells of M on these documents; 0 where a cell has none."""
    return sum(map(mean, cells)) / len(cells) if cells and all(cells) else 0.0


def _papers_form(rows: Sequence[GridRow], base: BaseFigures) -> Finding:
    claim = "The paper's form (one adapter, cold, no symbols) beside ours at about equal seconds, narrow speech"
    cold = done(rows, speech="narrow", alpha=1.0, ears="cold")
    ours, cold = paired_cells(done(rows, speech="narrow", alpha=1.0), cold)
    if not cold:
        return missing("P", claim, "-", "the cold narrow cell and ours of its seed", [])
    found = paired_documents([r.documents for r in ours], [r.documents for r in cold])
    seconds = [sum(r.stage_seconds for r in own) / len(own) for own in (ours, cold)]
    told = (
        f"ours M {_m(ours):.3f} after {seconds[0]:.0f} s and {base.spell_seconds:.0f} s of spelling that all share, "
        f"cold {_m(cold):.3f} after {seconds[1]:.0f} s; ours minus cold {with_interval(found, '+.3f')}; heard "
        f"{_heard(ours)} and {_heard(cold)}; right {_right(ours)} and {_right(cold)}"
    )
    return judged(
        "P", claim, "-", told, found, [*ours, *cold], "Seconds of the clock, with what else ran.", rising=False
    )


def _log_mel(rows: Sequence[GridRow], base: BaseFigures) -> Finding:
    claim = "Honest: the same ears behind a filter bank that never saw a transcript, narrow speech"
    filters = done(rows, speech="narrow", alpha=1.0, ears="log-mel")
    ours, filters = paired_cells(done(rows, speech="narrow", alpha=1.0), filters)
    if not filters:
        return missing("H", claim, "-", "the cell behind log-mel and ours of its seed", [])
    found = paired_documents([r.documents for r in filters], [r.documents for r in ours])
    deaf = mean([d for d in base.deaf if d.id in {x.id for x in filters[0].documents}])
    errors = [
        f"{100 * r.phone_error.value:.0f} %" for r in (filters[0], ours[0]) if r.phone_error and r.phone_error.value
    ]
    told = (
        f"M {_m(filters):.3f} behind log-mel, {_m(ours):.3f} behind Whisper (deaf {deaf:.2f}): "
        f"{with_interval(found, '+.3f')}; phone errors {' and '.join(errors)}; {filters[0].stage_seconds:.0f} s trained"
    )
    why = "Whisper was trained on transcripts: its hours are in no axis of this page."
    return judged("H", claim, "-", told, found, [*filters, *ours], why)


def _voices(rows: Sequence[GridRow], base: BaseFigures) -> list[Finding]:
    """Where, if anywhere, hearing beats transcribing: voices that were never trained on, and people."""
    best = _best(rows)
    found = []
    for number, what, of in (
        ("B4", "the voice that was trained on", "documents"),
        ("B4a", "voices that were never trained on", "unseen"),
        ("B4b", "people", "natural"),
    ):
        claim = f"Ours: hearing beats transcribing, {what}: M of the ears is below M of the cascade"
        if not best:
            found.append(missing(number, claim, "-", "narrow or broad cells at alpha 1", []))
            continue
        sides = [_by_document(getattr(r, of)) for r in best]
        wanted = {d.speaker for r in best for d in getattr(r, of)}
        cascade, deaf = (_by_document([d for d in own if d.speaker in wanted]) for own in (base.cascade, base.deaf))
        less = paired_documents(sides, [cascade] * len(best))
        if not less.documents or not sides[0]:
            found.append(missing(number, claim, "-", "recordings of this kind", best))
            continue
        wer = {"documents": "wer", "unseen": "wer_unseen", "natural": "wer_natural"}[of]
        errors = [w.value for r in best if (w := getattr(r, wer)) is not None and w.value is not None]
        told = f"{with_interval(less, '+.3f')} ({less.documents} documents, {len(best)} cells); "
        if less.documents == 1:  # no interval over documents, and one over trainings says nothing of people
            told = (
                f"{less.value:+.3f} (one recording, {sum(d.count for d in sides[0]):.0f} tokens, {len(best)} cells); "
            )
        told += f"M {sum(map(mean, sides)) / len(sides):.3f}, deaf {mean(deaf):.3f}, cascade {mean(cascade):.3f}"
        told += f"; WER {100 * sum(errors) / len(errors):.0f} %" if errors else ""
        why = f"The cells with the lowest M, of three trainings or more where there are any: {best[0].speech} speech, "
        why += f"share {best[0].share:g}."
        if of == "natural":
            why += f" Recordings of people: {less.documents}. A look, whatever an interval says."
        row = judged(number, claim, "-", told, less, best, why, rising=False)
        found.append(row if of != "natural" else Finding(number, claim, "-", told, OPEN, why, names(best)))
    return found


def _by_document(own: Sequence[DocumentSum]) -> list[DocumentSum]:
    """One sum a document, the mean of its recordings, whatever the number of voices that read it."""
    return list(sums(once(rows_of(own), {one.id: one.id.partition("--")[0] for one in own})))


def _ablations(rows: Sequence[GridRow]) -> list[Finding]:
    """Active selection with other gammas, and with other numbers of clusters, against the grid's own."""
    plain = done(rows, speech="active", alpha=1.0)
    kinds = sorted({r.speech for r in finished(rows) if r.speech.startswith("active-")})
    found = []
    for kind in kinds:
        own, reference = paired_cells(done(rows, speech=kind, alpha=1.0), plain)
        if own:
            less = paired_documents([r.documents for r in own], [r.documents for r in reference])
            told = f"{with_interval(less, '+.3f')} ({less.documents} documents, pairs of cells: {len(own)})"
            claim, paper = f"Ablation: {kind.partition('-')[2]} minus the grid's own gamma and K", "K matters little"
            found.append(judged("K", claim, paper, told, less, [*own, *reference], rising=False))
    if not found:
        what = "cells active-gammaG and active-kK beside active ones, three of each"
        found.append(missing("K", "Ablation: gamma and K of active selection", "K matters little; gamma 5", what, []))
    return found


def _best(rows: Sequence[GridRow]) -> list[DoneCell]:
    """The cells of ours at alpha 1 with the lowest M, all seeds of them; three trainings go before fewer."""
    own = [r for r in done(rows, alpha=1.0) if not r.buys]
    groups: dict[tuple[str, float], list[DoneCell]] = {}
    for row in own:
        groups.setdefault((row.speech, row.share), []).append(row)
    return min(groups.values(), key=lambda g: (-min(len(g), 3), _m(g)), default=[])


def _m(own: Sequence[DoneCell]) -> float:
    return sum(r.misalignment for r in own) / len(own)


def _heard(own: Sequence[DoneCell]) -> str:
    shares = [r.heard.value for r in own if r.heard is not None and r.heard.value is not None]
    return f"{100 * sum(shares) / len(shares):.0f} %" if shares else "-"


def _right(own: Sequence[DoneCell]) -> str:
    return percent(own[0].speech_accuracy) if len(own) == 1 else ", ".join(percent(r.speech_accuracy) for r in own)
