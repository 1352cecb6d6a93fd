"""The charts of a report, each drawn at a width in pixels; None where the report holds nothing to draw.

Every figure is drawn twice, at a desktop's and at a phone's width, and the style sheet shows one of them: so
the letters keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from markupsafe import Markup

from salad.report.svg import Svg, bold_width, scale, shorten, text_width, ticks, x_axis
from salad.report.values import (
    ACCURACIES,
    CONTROLS,
    EXPOSURES,
    STAGES,
    duration,
    heard_of,
    heard_title,
    nats,
    percent,
    pick,
)

__all__ = [
    "draw_accuracy",
    "draw_clusters",
    "draw_curves",
    "draw_dumbbells",
    "draw_recall",
    "draw_seconds",
    "draw_spell",
    "draw_stages",
    "draw_warm_start",
    "figure",
]

WIDE, NARROW = 540, 340  # pixels
MARGIN = 14
Z95 = 1.96
CURVE_POINTS = 240


def interval(entry: dict[str, Any]) -> float:
    return Z95 * (entry.get("se") or 0.0)


def draw_stages(report: dict[str, Any], width: float) -> Svg | None:
    """M after each stage as dots with 95 % whiskers; the controls as lines across.

    The untrained model, several times as far off, is told as text: on the axis it would press all others together.
    """
    entries = {key: pick(report, f"misalignment.{key}") or {} for key in (*STAGES, *CONTROLS)}
    entries = {key: entry for key, entry in entries.items() if entry.get("all") is not None}
    untrained = entries.pop("init", None) if set(entries) & set(STAGES) - {"init"} else None
    stages = [key for key in STAGES if key in entries]
    if not stages:
        return None
    left, right = 82, 74
    controls = sorted((key for key in CONTROLS if key in entries), key=lambda key: entries[key]["all"])
    top = 26 + 17 * len(controls) + (14 if untrained else 0)
    high = max(entry["all"] + interval(entry) for entry in entries.values()) * 1.06 or 1.0
    x = scale(0, high, left, width - right)
    bottom = top + 46 * len(stages)
    svg = Svg(width, bottom + 40)
    x_axis(svg, x, 0, high, bottom, top, "misalignment M (nats per token)")
    svg.line(left, top, left, bottom, "base")
    for index, key in enumerate(controls):  # labels go down a staircase to the right, so that no line crosses one
        entry, label = entries[key], f"{CONTROLS[key]} {nats(entries[key]['all'])}"
        y = top - 28 - 17 * (len(controls) - 1 - index)
        if interval(entry):
            start = x(max(0.0, entry["all"] - interval(entry)))
            band = {"x": start, "y": float(top), "width": x(entry["all"] + interval(entry)) - start}
            svg.add("rect", **band, height=float(bottom - top), class_=f"band {key}")
        svg.line(x(entry["all"]), y + 4, x(entry["all"]), bottom, f"control {key}")
        svg.text(min(x(entry["all"]) - 3, width - bold_width(label)), y, label, f"halo strong {key}")
    svg.text(width, top - 10, heard_title(report), "tick", "end")
    if untrained:
        svg.text(left, 12, f"untrained: M {nats(untrained['all'])}, off this axis", "tick")
    for index, key in enumerate(stages):
        y, entry = top + 23 + 46 * index, entries[key]
        svg.text(left - 10, y + 4, STAGES[key], "strong" if key == stages[-1] else "", "end")
        svg.line(x(0), y, x(entry["all"]), y, "stem")
        if interval(entry):
            svg.whisker(x(max(0.0, entry["all"] - interval(entry))), x(entry["all"] + interval(entry)), y)
        svg.dot(x(entry["all"]), y, "after" if key == stages[-1] else "before", 6)
        svg.text(x(entry["all"]), y - 10, nats(entry["all"]), "halo strong", "middle")
        heard = heard_of(report, f"by_stage.{key}")[1]
        svg.text(width, y + 4, "–" if heard is None else percent(heard), "", "end")
    return svg


def draw_accuracy(report: dict[str, Any], width: float) -> Svg | None:
    """Accuracies as dots with 95 % whiskers over the chance line."""
    rows = {
        key: value
        for key in ACCURACIES
        if (value := pick(report, f"accuracy.{key}")) and value.get("value") is not None
    }
    if not rows:
        return None
    left, right, top = max(106, *(round(text_width(ACCURACIES[key])) + 14 for key in rows)), 18, 34
    x = scale(0, 1, left, width - right)
    bottom = top + 46 * len(rows)
    svg = Svg(width, bottom + 40)
    x_axis(svg, x, 0, 1, bottom, top, "items answered rightly (%)", lambda tick: f"{100 * tick:g}")
    if (chance := pick(report, "accuracy.chance")) is not None:
        svg.line(x(chance), top - 6, x(chance), bottom, "control chance")
        svg.text(x(chance), top - 11, f"chance {percent(chance)}", "tick", "middle")
    for index, (key, row) in enumerate(rows.items()):
        y = top + 26 + 46 * index
        hears = "after" if key == "speech_adapted" else "heard" if key == "cascade" else "before"
        svg.text(left - 10, y + 4, ACCURACIES[key], "strong" if hears == "after" else "", "end")
        if row.get("low") is not None and row.get("high") is not None:
            svg.whisker(x(row["low"]), x(row["high"]), y)
        svg.dot(x(row["value"]), y, hears, 6)
        svg.text(x(row["value"]), y - 10, percent(row["value"]), "halo strong", "middle")
    return svg


def thin(rows: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) of the rows that hold `key`, as means over equal runs of rows where they are too many to draw."""
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None and row.get("step") is not None]
    if len(points) <= CURVE_POINTS:
        return points
    return [tuple(np.mean(chunk, axis=0)) for chunk in np.array_split(np.asarray(points, float), CURVE_POINTS)]


def panel(
    svg: Svg, parts: Iterable[list[tuple[float, float]]], x: Any, top: float, bottom: float, title: str, dots: bool
) -> None:
    """One small plot of (x, y) series that share an axis; a series is not joined to the next."""
    parts = list(parts)
    values = [value for part in parts for _, value in part]
    low, high = min(0.0, *values), max(values) * 1.05 or 1.0
    y = scale(low, high, bottom, top)
    for tick in ticks(low, high, 4):
        svg.line(x.left, y(tick), x.right, y(tick), "grid")
        svg.text(x.left - 8, y(tick) + 4, f"{tick:g}", "tick", "end")
    svg.text(x.left, top - 9, title, "strong")
    for part in filter(None, parts):
        points = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in part)
        svg.add("polyline", points=points, class_="curve live" if dots else "curve")
        for step, value in part if dots else ():
            svg.dot(x(step), y(value), "after", 2.6, f"step {step:g}: {nats(value)}")
        if dots:
            step, value = part[-1]
            svg.text(x(step), y(value) - 8, nats(value), "halo", "end")


class Steps:
    """Steps of the stages side by side on one axis: x(step) for the stage that starts at `offset`."""

    def __init__(self, num_steps: float, left: float, right: float) -> None:
        self.left, self.right = left, right
        self.at = scale(0, num_steps, left, right)

    def __call__(self, step: float) -> float:
        return self.at(step)


def draw_curves(report: dict[str, Any], width: float) -> Svg | None:
    """Loss, live M and live F over the steps of both stages."""
    stages = {key: rows for key in ("stage1", "stage2") if (rows := pick(report, f"curves.{key}"))}
    starts, total = {}, 0.0
    for key, rows in stages.items():  # a stage's steps may start at 0 or go on from the stage before
        steps = [row["step"] for row in rows if row.get("step") is not None]
        if steps:
            first = min(steps) if min(steps) > 1 and total else 0
            starts[key] = total - first
            total += max(steps) - first
    kinds = {
        "loss": "loss (nats per token)",
        "misalignment": "live M (nats per token)",
        "forgetting": "live F (nats per token)",
    }
    series = {}
    for kind in kinds:
        parts = {key: [(s + starts[key], v) for s, v in thin(stages[key], kind)] for key in starts}
        if any(parts.values()):
            series[kind] = parts
    if not series or not total:
        return None
    x = Steps(total, 46, width - 12)
    tall, gap, top = 92, 36, 48
    bottom = top + len(series) * (tall + gap) - gap
    svg = Svg(width, bottom + 40)
    x_axis(svg, x, 0, total, bottom, top, "optimiser steps", lambda tick: f"{tick:,.0f}")
    for index, (kind, parts) in enumerate(series.items()):
        start = top + index * (tall + gap)
        panel(svg, parts.values(), x, start, start + tall, kinds[kind], dots=kind != "loss")
    for key in starts:
        steps = [row["step"] + starts[key] for row in stages[key] if row.get("step") is not None]
        if key == "stage2" and len(starts) > 1:
            svg.line(x(min(steps)), 24, x(min(steps)), bottom, "divide")
        svg.text((x(min(steps)) + x(max(steps))) / 2, 14, STAGES[key], "strong", "middle")
    return svg


def draw_warm_start(report: dict[str, Any], width: float) -> Svg | None:
    points = thin(pick(report, "curves.warm_start") or [], "loss")
    if len(points) < 2:
        return None
    x = Steps(max(step for step, _ in points), 46, width - 12)
    svg = Svg(width, 200)
    x_axis(svg, x, 0, max(step for step, _ in points), 160, 30, "steps", lambda tick: f"{tick:,.0f}")
    panel(svg, [points], x, 30, 160, "CTC loss (nats)", dots=False)
    return svg


def draw_spell(report: dict[str, Any], width: float) -> Svg | None:
    """Loss and token accuracy of the upper part over its steps, learning from text alone."""
    rows = pick(report, "curves.spell") or []
    kinds = {"loss": "loss (nats per token)", "token_accuracy": "tokens spelled rightly (share)"}
    series = {kind: points for kind in kinds if len(points := thin(rows, kind)) > 1}
    if not series:
        return None
    last = max(step for points in series.values() for step, _ in points)
    x, tall, gap, top = Steps(last, 46, width - 12), 92, 36, 30
    bottom = top + len(series) * (tall + gap) - gap
    svg = Svg(width, bottom + 40)
    x_axis(svg, x, 0, last, bottom, top, "steps", lambda tick: f"{tick:,.0f}")
    for index, (kind, points) in enumerate(series.items()):
        start = top + index * (tall + gap)
        panel(svg, [points], x, start, start + tall, kinds[kind], dots=False)
    return svg


def draw_recall(report: dict[str, Any], width: float) -> Svg | None:
    """Share of the spoken words found, by how often they were heard before: bars with 95 % whiskers."""
    groups = {name: pick(report, f"hearing.word_recall.{name}") or [] for name in ("trained", "unseen")}
    tables = {name: {row["exposure"]: row for row in rows if row["value"] is not None} for name, rows in groups.items()}
    tables = {name: rows for name, rows in tables.items() if rows}
    keys = [key for key in EXPOSURES if any(key in rows for rows in tables.values())]
    if not keys:
        return None
    left, right, top, bar_px = round(text_width("neither heard nor read")) + 14, 100, 36, 15
    row_px = bar_px * len(tables) + 14
    x, bottom = scale(0, 1, left, width - right), top + row_px * len(keys)
    svg = Svg(width, bottom + 40)
    x_axis(svg, x, 0, 1, bottom, top, "words found (%)", lambda tick: f"{100 * tick:g}")
    at = 0.0
    for name, title in (("trained", "voices trained on"), ("unseen", "voices never heard")):
        if name in tables:
            svg.add("rect", x=at, y=8.0, width=12.0, height=10.0, class_=f"bar {name}")
            svg.text(at + 17, 17, title, "tick")
            at += 34 + text_width(title)
    for index, key in enumerate(keys):
        y = top + 7 + row_px * index
        svg.text(left - 8, y + bar_px * len(tables) / 2 + 4, EXPOSURES[key], "", "end")
        for number, (name, rows) in enumerate(tables.items()):
            if key not in rows:
                continue
            row, own = rows[key], float(y + bar_px * number)
            wide = max(1.0, x(row["value"]) - left)
            title = f"{EXPOSURES[key]}, {name}: {percent(row['value'])} of {row['n']} words"
            svg.add("rect", "", title, x=float(left), y=own, width=wide, height=bar_px - 3.0, class_=f"bar {name}")
            if row.get("low") is not None and row.get("high") is not None:
                svg.whisker(x(row["low"]), x(row["high"]), own + (bar_px - 3) / 2)
            svg.text(width, own + bar_px - 4, f"{percent(row['value'])} of {row['n']}", "tick", "end", title)
    return svg


def draw_dumbbells(
    before: dict[str, float], after: dict[str, float], notes: dict[str, str], note_title: str, width: float
) -> Svg | None:
    """M before (hollow) and after Stage II (filled), one row a key; `notes` at the right end."""
    keys = {key for side in (before, after) for key, value in side.items() if value is not None}
    if not keys:
        return None

    def highest(key: str) -> float:
        return max(value for side in (before, after) if (value := side.get(key)) is not None)

    rows = sorted(keys, key=lambda key: (-highest(key), key))
    left = min(max(bold_width(key) for key in rows) + 14, width * (0.38 if width == WIDE else 0.56))
    right = 66 if note_title else 14
    x = scale(0, (high := max(map(highest, rows)) * 1.05 or 1.0), left, width - right)
    top, row_px = 36, 26
    bottom = top + row_px * len(rows) + 4
    svg = Svg(width, bottom + 40)
    x_axis(svg, x, 0, high, bottom, top, "misalignment M (nats per token)")
    if note_title:
        svg.text(width, top - 14, note_title, "tick", "end")
    at = float(left)
    for kind, name in (("before", "Stage I"), ("after", "Stage II")):
        svg.dot(at + 5, top - 18, kind, 5)
        svg.text(at + 15, top - 14, name, "tick")
        at += 30 + text_width(name)
    for index, key in enumerate(rows):
        y, bought = top + 16 + row_px * index, bool(notes.get(key))
        svg.text(left - 10, y + 4, shorten(key, left - 10), "strong" if bought else "", "end", title=key)
        values = [side.get(key) for side in (before, after)]
        if None not in values:
            svg.line(x(values[0]), y, x(values[1]), y, "link worse" if values[1] > values[0] else "link")
        for value, kind, name in zip(values, ("before", "after"), ("Stage I", "Stage II"), strict=True):
            if value is not None:
                svg.dot(x(value), y, kind, 5, f"{key}, {name}: {nats(value)}")
        svg.text(width, y + 4, notes.get(key, ""), "", "end")
    return svg


def draw_clusters(report: dict[str, Any], width: float) -> Svg | None:
    """M(c) over CER(c): bought clusters filled, dropped ones crossed; area follows the number of documents."""
    rows = [r for r in report.get("selection") or [] if r.get("misalignment") is not None and r.get("cer") is not None]
    if not rows:
        return None
    max_cer = pick(report, "recipe.select.max_cer")
    far = max(row["cer"] for row in rows)
    limit = max_cer if max_cer is not None and max_cer <= 2 * far else None
    high_x = max(far, limit or 0.0) * 1.12 or 1.0
    high_y = max(row["misalignment"] + Z95 * (row.get("misalignment_se") or 0) for row in rows) * 1.08 or 1.0
    left, top, bottom = 46, 60, 320
    x, y = scale(0, high_x, left, width - MARGIN), scale(0, high_y, bottom, top)
    svg = Svg(width, bottom + 40)
    x_axis(svg, x, 0, high_x, bottom, top, "character error rate, CER (%)", lambda tick: f"{100 * tick:g}")
    for tick in ticks(0, high_y, 6):
        svg.line(left, y(tick), width - MARGIN, y(tick), "grid")
        svg.text(left - 8, y(tick) + 4, f"{tick:g}", "tick", "end")
    svg.text(left, top - 12, "M(c) (nats per token)", "axis")
    at = float(width - MARGIN)
    for name, kind in (("dropped", "cross"), ("not bought", "before"), ("bought", "after")):
        at -= text_width(name)
        svg.text(at, 16, name, "tick")
        _mark(svg, at - 10, 12, kind, 4.5)
        at -= 30
    if limit is not None:
        svg.line(x(limit), top, x(limit), bottom, "control")
        svg.text(x(limit) - 5, top + 12, f"limit {percent(limit)}", "tick", "end")
    biggest = max(row.get("size") or 1 for row in rows)
    taken = [(x(row["cer"]) - 8, y(row["misalignment"]), x(row["cer"]) + 8) for row in rows]
    if limit is not None:
        taken += [(x(limit), float(py), x(limit)) for py in range(top, bottom, 8)]
    labels = 0
    for row in sorted(rows, key=lambda row: -row["misalignment"]):
        cx, cy, error = x(row["cer"]), y(row["misalignment"]), Z95 * (row.get("misalignment_se") or 0)
        radius = 3 + 6 * math.sqrt((row.get("size") or 1) / biggest)
        if error:
            svg.line(cx, y(max(0.0, row["misalignment"] - error)), cx, y(row["misalignment"] + error), "thread")
        kind = "cross" if row.get("dropped") else "after" if row.get("bought_s") else "before"
        label = ", ".join((row.get("top_words") or [])[:2])
        _mark(svg, cx, cy, kind, radius, f"cluster {row.get('cluster')}: {label}")
        label = shorten(label, 130)
        for start in (cx + radius + 4, cx - radius - 4 - text_width(label)):
            box = (start, cy, start + text_width(label))
            free = left < start and box[2] < width and not any(_overlap(box, other) for other in taken)
            if label and free and labels < 6:
                svg.text(start, cy + 4, label, "halo tick")
                taken.append(box)
                labels += 1
                break
    return svg


def _overlap(a: tuple[float, float, float], b: tuple[float, float, float]) -> bool:
    """Whether two lines of text, (start, middle, end) in pixels, touch."""
    return abs(a[1] - b[1]) < 13 and a[0] < b[2] and b[0] < a[2]


def _mark(svg: Svg, x: float, y: float, kind: str, radius: float, title: str = "") -> None:
    if kind != "cross":
        return svg.dot(x, y, kind, radius, title)
    r = radius * 0.8
    path = f"M{x - r:.1f},{y - r:.1f} L{x + r:.1f},{y + r:.1f} M{x - r:.1f},{y + r:.1f} L{x + r:.1f},{y - r:.1f}"
    svg.add("path", "", title, d=path, class_="cross")


def draw_seconds(report: dict[str, Any], width: float) -> Svg | None:
    """Wall time of each stage as bars, in the order of the run."""
    rows = [(key, s) for key, s in (report.get("seconds") or {}).items() if key != "total" and s is not None]
    if not rows or max(s for _, s in rows) <= 0:
        return None
    longest = max(s for _, s in rows)
    divisor, unit = next(
        (d, u) for d, u in ((3600, "hours"), (60, "minutes"), (1, "seconds")) if longest >= 2 * d or d == 1
    )
    left, right, top, row_px = 86, 78, 8, 24
    x = scale(0, longest / divisor, left, width - right)
    bottom = top + row_px * len(rows) + 4
    svg = Svg(width, bottom + 40)
    x_axis(svg, x, 0, longest / divisor, bottom, top, f"wall time ({unit})")
    for index, (key, s) in enumerate(rows):
        y = top + 4 + row_px * index
        svg.text(left - 8, y + 13, key.replace("_", " "), "", "end")
        bar = {"x": float(left), "y": float(y), "width": max(1.0, x(s / divisor) - left), "height": float(row_px - 7)}
        svg.add("rect", **bar, class_="bar")
        svg.text(x(s / divisor) + 6, y + 13, duration(s), "halo")
    return svg


def figure(draw: Callable[[float], Svg | None], name: str, caption: str) -> Markup | None:
    """The drawing at both widths over its caption; None where there is nothing to draw."""
    wide, narrow = draw(WIDE), draw(NARROW)
    if wide is None or narrow is None:
        return None
    label = f"{name}. {caption}"
    return Markup("<figure>{}{}<figcaption>{}</figcaption></figure>").format(
        wide.markup(label, "wide"), narrow.markup(label, "narrow"), caption
    )
