"""What stands under each figure of a report: what it shows, and the numbers that belong to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from salad.measure.voice_label import is_seen
from salad.report.contents import CurvePoint, PurchaseEvidence, Report
from salad.report.values import (
    STAGES,
    buys_more,
    duration,
    gap_points,
    measured_stages,
    nats,
    nats_interval,
    percent,
    pick,
    stage_two_beside,
    with_error,
)

Numbers = list[tuple[str, str]]  # what, and its figure
CAPTIONS = {
    "stages": "Stages before the last are rings; the controls are dashed lines. Whiskers and bands: 95 % intervals "
    "over held-out documents.",
    "accuracy": "Whiskers are 95 % intervals. Where the interval of the gap holds 0, there is no clear gap, "
    "and the smallest that would have been found with probability 0.8 is named.",
    "warm_start": "CTC loss over the steps of the warm start.",
    "curves": "Loss, and M and F of the live probe, over the steps of both stages.",
    "domains": "A ring and a dot are of the same documents; the line between them is dashed where M rose.",
    "voices": "The line between ring and dot is dashed where M rose; voices marked (unseen) were never trained on.",
    "recall": "Share of the spoken words that the ears find; on the right, of how many.",
    "spell": "Loss and token accuracy of the upper part while it learns to spell from phones of text.",
    "clusters": "One mark a cluster of texts: M(c) with its 95 % interval over the error of speech recognition; area "
    "follows the number of texts.",
    "seconds": "Wall time of each stage, in the order of the run.",
}


def caption_numbers(report: Report) -> dict[str, Numbers]:
    """For each figure of CAPTIONS the numbers that it does not show itself, none where nothing was measured."""
    return {
        "stages": _stages(report),
        "accuracy": _accuracy(report),
        "warm_start": _warm_start(report),
        "curves": _curves(report),
        "domains": _domains(report),
        "voices": _voices(report),
        "recall": _recall(report),
        "spell": _moves("token accuracy", pick(report, "curves.spell"), "token_accuracy", percent),
        "clusters": _clusters(report),
        "seconds": _seconds(report),
    }


def _moves(name: str, rows: Sequence[CurvePoint] | None, key: str, show: Callable[[float], str]) -> Numbers:
    """The change from the first to the last of the rows that hold `key`."""
    values = [value for row in rows or () if (value := getattr(row, key)) is not None]
    return [(name, f"{show(values[0])} → {show(values[-1])}")] if values else []


def _stages(report: Report) -> Numbers:
    out = [(f"M {STAGES[key]}", with_error(pick(report, f"misalignment.{key}"))) for key in measured_stages(report)]
    for key in ("warm_start", "stage1"):
        if (beside := pick(report, f"misalignment.{key}.stage2")) and beside.all is not None:
            over = f"M Stage II on the {pick(report, f'misalignment.{key}.n_documents')} documents of {STAGES[key]}"
            out.append((over, with_error(beside)))
    if other := nats_interval(pick(report, "over.other")):
        out.append(("hearing another document's recording costs (paired)", other))
    documents = pick(report, "misalignment.stage2.n_documents")
    return [*out, ("held-out documents", str(documents))] if documents else out


def _accuracy(report: Report) -> Numbers:
    gap = report.accuracy.gap if report.accuracy else None
    if gap is None or gap.value is None:
        return []
    return [("gap, text − speech", gap_points(gap, "\xa0points"))]


def _warm_start(report: Report) -> Numbers:
    losses = [row.loss for row in pick(report, "curves.warm_start") or () if row.loss is not None]
    tenth = max(1, len(losses) // 10)
    if len(losses) < 2:
        return []
    return [("mean loss, first and last tenth", f"{np.mean(losses[:tenth]):.2f} → {np.mean(losses[-tenth:]):.2f}")]


def _curves(report: Report) -> Numbers:
    kinds = {"misalignment": "M", "forgetting": "F"}
    return [
        number
        for stage in ("stage1", "stage2")
        for key, name in kinds.items()
        for number in _moves(f"{name} {STAGES[stage]}", pick(report, f"curves.{stage}"), key, nats)
    ]


def _domains(report: Report) -> Numbers:
    before = pick(report, "misalignment.stage1.by_domain") or {}
    after = stage_two_beside(report, "stage1").by_domain or {}
    both = ((key, first, after.get(key)) for key, first in before.items())
    change = {key: then - first for key, first, then in both if first is not None and then is not None}
    if not change:
        return []
    more = buys_more(report)
    groups = {
        "mean change where it buys more than the domain's share of texts": [c for d, c in change.items() if d in more],
        "where it buys less": [c for d, c in change.items() if d not in more],
    }
    lower = ("domains that fell", f"{sum(delta < 0 for delta in change.values())} of {len(change)}")
    return [lower, *((name, nats(np.mean(group), sign=True)) for name, group in groups.items() if group)]


def _voices(report: Report) -> Numbers:
    voices = pick(report, f"misalignment.{(measured_stages(report) or ['stage2'])[-1]}.by_voice") or {}
    groups = {
        "mean M, voices trained on": [m for key, m in voices.items() if m is not None and is_seen(key)],
        "voices never trained on": [m for key, m in voices.items() if m is not None and not is_seen(key)],
    }
    return [(name, nats(np.mean(group))) for name, group in groups.items() if group]


def _recall(report: Report) -> Numbers:
    withheld = report.hearing.withheld if report.hearing else None
    leaked = len(withheld.heard_or_read) if withheld else 0
    return [("withheld words heard or read all the same", str(leaked))] if withheld else []


def _clusters(report: Report) -> Numbers:
    rows = [(row, row.misalignment) for row in report.selection or () if row.misalignment is not None]
    if not rows:
        return []
    groups = {
        "mean M, bought": [m for row, m in rows if row.bought_s],
        "others": [m for row, m in rows if not row.bought_s],
    }
    out = [("bought", f"{len(groups['mean M, bought'])} of {len(rows)}")]
    out += [(name, nats(float(np.mean(group)))) for name, group in groups.items() if group]
    out.append(("dropped", str(sum(bool(row.dropped) for row, _ in rows))))
    correlation = rank_correlation([(m, row.cer) for row, m in rows if row.cer is not None])
    if correlation is not None:
        out.append(("rank correlation of M and CER", f"{correlation:+.2f}".replace("-", "−")))
    return out + _evidence(report.evidence or PurchaseEvidence())


def _evidence(found: PurchaseEvidence) -> Numbers:
    """What the purchase rests on: whether the probe's M(c) differ beyond their errors."""
    shown = {"decision": "{}", "p": "p {:.3f} that all clusters have the same M", "reliability": "{:.2f} of M(c)",
             "documents": "{} documents", "seconds": "{:.0f} s of speech"}  # fmt: skip
    names = {"decision": "selection", "p": "test", "documents": "probed", "seconds": "probed, speech"}
    told = ((names.get(k, k), form, getattr(found, k)) for k, form in shown.items())
    out = [(name, form.format(value)) for name, form, value in told if value is not None]
    if found.overlap is not None and math.isfinite(found.overlap):
        out.append(("expected to share with a selection by the true M(c)", percent(found.overlap)))
    return out


def rank_correlation(pairs: list[tuple[float, float]]) -> float | None:
    """Spearman's correlation, ties sharing their mean rank; None for under four pairs or a constant side."""
    from scipy.stats import spearmanr

    if len(pairs) < 4 or any(len(set(side)) == 1 for side in zip(*pairs, strict=True)):
        return None
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def _seconds(report: Report) -> Numbers:
    stages = {key: s for key, s in (report.seconds or {}).items() if key != "total" and s is not None}
    if not stages:
        return []
    longest, total = max(stages, key=stages.__getitem__), pick(report, "seconds.total") or sum(stages.values())
    share = f" ({percent(stages[longest] / total)})" if total else ""
    return [("whole run", duration(total)), (f"longest stage, {longest}", f"{duration(stages[longest])}{share}")]
