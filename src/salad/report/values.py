"""A report's values: how they are found, what their stages and systems are called, how numbers are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from salad.measure.format import bounds, cannot_tell, with_detectable, with_interval
from salad.measure.format import with_error as plus_minus
from salad.measure.results import Interval, MeanKL, TaskAccuracies
from salad.report.contents import Report

STAGES = {"init": "untrained", "warm_start": "warm start", "stage1": "Stage I", "stage2": "Stage II"}
CONTROLS = {"cascade": "cascade", "deaf": "deaf", "blind": "blind", "other": "another's"}
ACCURACIES = {
    "text_base": "text LLM reads",
    "text_adapted": "SALAD reads",
    "speech_adapted": "SALAD hears",
    "blind": "SALAD hears silence",
    "other": "SALAD hears another's",
    "cascade": "cascade hears",
}
EXPOSURES = {
    "heard_10": "heard 10 times or more",
    "heard_3": "heard 3 to 9 times",
    "heard_1": "heard once or twice",
    "read": "never heard, but read",
    "neither": "neither heard nor read",
}

NEXT_SENTENCE = "next sentence"  # what the items from held-out documents are called beside tasks


def pick(report: object, path: str) -> Any:
    """The value at `a.b.c`, or None where any part of the way is None or missing from a mapping.

    Raises AttributeError for a name that a result does not have.
    """
    value: Any = report
    for key in path.split("."):
        if value is not None:
            value = value.get(key) if isinstance(value, Mapping) else getattr(value, key)
    return value


def nats(value: float, sign: bool = False) -> str:
    text = f"{value:+.3f}" if sign else f"{value:.3f}"
    return ("0.000" if float(text) == 0 else text).replace("-", "−")


def with_error(entry: MeanKL | None) -> str:
    """M or F with its 95 % interval, `0.231 ± 0.022`; "–" where it was not measured."""
    return "–" if entry is None or entry.all is None else _typeset(plus_minus(entry.all, entry.se))


def percent(value: float) -> str:
    text = f"{100 * value:.1f}"
    return f"{'0.0' if float(text) == 0 else text}\xa0%".replace("-", "−")  # never broken over two lines


def task_rows(report: Report) -> tuple[TaskAccuracies, ...]:
    """Figures of each set of items and of all; none where there are but the next sentences, which have their own."""
    rows = report.accuracy.tasks or () if report.accuracy else ()
    return rows if any(row.task != NEXT_SENTENCE for row in rows) else ()


def heard_title(report: Report) -> str:
    """What `heard` is called: so, or `1 - M / M_ref` where no cascade was measured."""
    formula = report.heard.formula if report.heard else None
    return "heard" if formula is None or "cascade" in formula else formula.replace("-", "−")


def measured_stages(report: Report) -> list[str]:
    """Keys of the stages whose M was measured, in the order of the run."""
    return [key for key in STAGES if pick(report, f"misalignment.{key}.all") is not None]


def stage_two_beside(report: Report, stage: str) -> MeanKL:
    """M of Stage II on the documents that M of `stage` is of."""
    found: MeanKL | None = pick(report, f"misalignment.{stage}.stage2") or pick(report, "misalignment.stage2")
    return found or MeanKL()


def rate(value: Interval | None) -> str:
    """A share with its interval, in per cent: `24.8 % [20.1, 29.9]`; "–" where there is none."""
    if value is None or value.value is None:
        return "–"
    return _typeset(with_interval(value, ".1f", scale=100, unit="\xa0%"))


def points(share: float) -> str:
    return percent(share).replace("%", "points")


def interval(value: Interval | None) -> str:
    """`[low, high]` in per cent; "" where there is none."""
    return _typeset(bounds(value, ".1f", scale=100))


def share(value: Interval | None) -> str:
    """A share with its interval, without its unit: `24.8 [20.1, 29.9]`; "" where there is none."""
    return _typeset(with_interval(value, ".1f", scale=100))


def gap_points(value: Interval | None, unit: str = "") -> str:
    """A difference of shares in points, `17.2 [10.9, 23.8]`; where that holds 0, what could have been told."""
    return _typeset(with_detectable(value, ".1f", scale=100, unit=unit))


def gap_bounds(value: Interval | None) -> str:
    """The interval of a gap, without the value."""
    return _typeset(bounds(value, ".1f", scale=100) + cannot_tell(value, ".1f", scale=100))


def nats_interval(value: Interval | None) -> str:
    """A difference, `+0.213 [+0.101, +0.325]`, and what could be told where it holds 0; "" where there is none."""
    return _typeset(with_detectable(value, "+.3f"))


def _typeset(text: str) -> str:
    """A true minus, and no break inside an interval."""
    return text.replace("-", "−").replace(", ", ",\xa0")


def duration(seconds: float) -> str:
    """`8.4 s`, `3 min 20 s` or `2 h 05 min`."""
    if round(seconds, 1) < 60:
        text = f"{seconds:.1f} s"
    elif round(seconds) < 3600:
        text = f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    else:
        text = f"{round(seconds / 60) // 60} h {round(seconds / 60) % 60:02d} min"
    return text.replace(" ", "\xa0")


def bought_by_domain(report: Report) -> dict[str, float]:
    """Seconds of speech bought for each domain, as expected from the mix of domains in each cluster."""
    seconds: dict[str, float] = {}
    for row in report.selection or ():
        domains = {domain: count for domain, count in (row.domains or {}).items() if count}
        for domain, count in domains.items():
            seconds[domain] = seconds.get(domain, 0.0) + (row.bought_s or 0.0) * count / sum(domains.values())
    return {domain: s for domain, s in seconds.items() if s > 0}


def buys_more(report: Report) -> set[str]:
    """Domains whose share of the speech bought is larger than their share of the texts of D_web."""
    bought, texts = bought_by_domain(report), dict[str, float]()
    for row in report.selection or ():
        for domain, count in (row.domains or {}).items():
            texts[domain] = texts.get(domain, 0.0) + (count or 0)
    return {d for d, s in bought.items() if s / sum(bought.values()) > texts[d] / sum(texts.values())}
