"""A report's values: how they are found, what their stages and systems are called, how numbers are written."""

from __future__ import annotations

from typing import Any

__all__ = [
    "ACCURACIES",
    "CONTROLS",
    "NEXT_SENTENCE",
    "STAGES",
    "bought_by_domain",
    "duration",
    "interval",
    "nats",
    "percent",
    "pick",
    "points",
    "task_rows",
]

STAGES = {"init": "untrained", "warm_start": "warm start", "stage1": "Stage I", "stage2": "Stage II"}
CONTROLS = {"cascade": "cascade", "deaf": "deaf", "blind": "blind"}
ACCURACIES = {
    "text_base": "text LLM reads",
    "text_adapted": "SALAD reads",
    "speech_adapted": "SALAD hears",
    "cascade": "cascade hears",
}


NEXT_SENTENCE = "next sentence"  # what the items from held-out documents are called beside tasks


def pick(report: dict[str, Any], path: str) -> Any:
    """The value at `a.b.c`, or None where any part of the way is missing."""
    value: Any = report
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def nats(value: float, sign: bool = False) -> str:
    text = f"{value:+.3f}" if sign else f"{value:.3f}"
    return ("0.000" if float(text) == 0 else text).replace("-", "−")


def percent(value: float) -> str:
    text = f"{100 * value:.1f}"
    return f"{'0.0' if float(text) == 0 else text}\xa0%".replace("-", "−")  # never broken over two lines


def task_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Figures of each set of items and of all; none where there are but the next sentences, which have their own."""
    rows = pick(report, "accuracy.tasks") or []
    return rows if any(row["task"] != NEXT_SENTENCE for row in rows) else []


def points(share: float) -> str:
    return percent(share).replace("%", "points")


def interval(value: dict[str, Any] | None) -> str:
    """`[low, high]` of {low, high} in per cent; "" where there is none."""
    if not value or value.get("low") is None or value.get("high") is None:
        return ""
    return f"[{100 * value['low']:.1f},\xa0{100 * value['high']:.1f}]".replace("-", "−")


def duration(seconds: float) -> str:
    """`8.4 s`, `3 min 20 s` or `2 h 05 min`."""
    if round(seconds, 1) < 60:
        text = f"{seconds:.1f} s"
    elif round(seconds) < 3600:
        text = f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    else:
        text = f"{round(seconds / 60) // 60} h {round(seconds / 60) % 60:02d} min"
    return text.replace(" ", "\xa0")


def bought_by_domain(report: dict[str, Any]) -> dict[str, float]:
    """Seconds of speech bought for each domain, as expected from the mix of domains in each cluster."""
    seconds: dict[str, float] = {}
    for row in report.get("selection") or []:
        domains = {domain: count for domain, count in (row.get("domains") or {}).items() if count}
        for domain, count in domains.items():
            seconds[domain] = seconds.get(domain, 0.0) + (row.get("bought_s") or 0.0) * count / sum(domains.values())
    return {domain: s for domain, s in seconds.items() if s > 0}
