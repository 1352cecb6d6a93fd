"""The charts of a run's report as matplotlib figures; None where there is nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from salad.measure.format import Z95
from salad.measure.results import Interval, MeanKL
from salad.report.contents import CurvePoint, Report
from salad.report.style import AFTER, BEFORE, GREEN, INK, LINE, PAPER, PLUM, QUIET, WARM, new_figure
from salad.report.values import (
    ACCURACIES,
    CONTROLS,
    EXPOSURES,
    STAGES,
    duration,
    heard_title,
    nats,
    percent,
    pick,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONTROL_COLOURS = {"cascade": GREEN, "deaf": WARM, "blind": PLUM, "other": BEFORE}
CURVE_POINTS = 240
LABEL_LETTERS = 30
NAMED_CLUSTERS = 6


def shorten(text: str) -> str:
    return text if len(text) <= LABEL_LETTERS else text[: LABEL_LETTERS - 1].rstrip() + "…"


def _half(entry: MeanKL) -> float:
    return Z95 * (entry.se or 0.0)


def _ends(row: Interval) -> tuple[float, float]:
    """Both ends of the interval, or the value for each that is missing."""
    value = row.value or 0.0
    return value if row.low is None else row.low, value if row.high is None else row.high


def _rows(axis: Axes, names: Sequence[str], limit: float, xlabel: str) -> None:
    """One line for each name, the first on top, over an axis from 0 to `limit`."""
    axis.set_yticks(range(len(names)), [shorten(name) for name in names])
    axis.set(ylim=(len(names) - 0.4, -0.7), xlim=(0, limit), xlabel=xlabel)
    axis.spines["bottom"].set_visible(False)


def _dots(axis: Axes, xs: Sequence[float], ys: Sequence[float], colour: str, label: str = "") -> None:
    """Filled dots, or hollow ones for BEFORE."""
    face = PAPER if colour == BEFORE else colour
    axis.plot(xs, ys, "o", color=colour, markerfacecolor=face, markeredgewidth=2, markersize=9, label=label)


def _value(axis: Axes, x: float, y: float, low: float, high: float, colour: str, shown: str) -> None:
    """A dot with its whisker, and what it shows above it."""
    if high > low:
        axis.errorbar(x, y, xerr=[[x - max(0.0, low)], [high - x]], color=INK, linewidth=1.4, capsize=4)
    _dots(axis, [x], [y], colour)
    axis.annotate(shown, (x, y), (0, 8), textcoords="offset points", ha="center", weight="bold")


def _beside(axis: Axes, y: float, text: str) -> None:
    """Text to the right of a line."""
    axis.annotate(text, (1, y), (6, 0), ("axes fraction", "data"), "offset points", va="center")


def _column_title(axis: Axes, text: str) -> None:
    """Over the texts that stand to the right."""
    axis.annotate(text, (1, 1), (6, 6), "axes fraction", "offset points", color=QUIET, fontsize=11)


def draw_stages(report: Report) -> Figure | None:
    """M after each stage as dots with 95 % whiskers; the controls as lines across.

    The untrained model, several times as far off, is told as text: on the axis it would press all others together.
    """
    entries: dict[str, MeanKL] = {key: pick(report, f"misalignment.{key}") for key in (*STAGES, *CONTROLS)}
    means = {key: entry.all for key, entry in entries.items() if entry is not None and entry.all is not None}
    untrained = means.pop("init", None) if set(means) & set(STAGES) - {"init"} else None
    stages = [key for key in STAGES if key in means]
    if not stages:
        return None
    figure, [axis] = new_figure(116 + 46 * len(stages))
    for key in sorted((key for key in CONTROLS if key in means), key=means.__getitem__):
        m, half, colour = means[key], _half(entries[key]), CONTROL_COLOURS[key]
        axis.axvspan(max(0.0, m - half), m + half, color=colour, alpha=0.12, linewidth=0)
        axis.axvline(m, color=colour, linestyle=(0, (5, 3)), label=f"{CONTROLS[key]} {nats(m)}")
    for index, key in enumerate(stages):
        m, half = means[key], _half(entries[key])
        axis.hlines(index, 0, m, color=LINE, linewidth=2)
        _value(axis, m, index, m - half, m + half, AFTER if key == stages[-1] else BEFORE, nats(m))
        heard = pick(report, f"heard_by_stage.{key}.value")
        _beside(axis, index, "–" if heard is None else percent(heard))
    high = max(m + _half(entries[key]) for key, m in means.items()) * 1.06 or 1.0
    _rows(axis, [STAGES[key] for key in stages], high, "misalignment M (nats per token)")
    _column_title(axis, heard_title(report))
    if untrained is not None:
        axis.set_title(f"untrained: M {nats(untrained)}, off this axis", loc="left")
    if set(means) & set(CONTROLS):
        figure.legend(loc="outside upper left", ncols=2)
    return figure


def draw_accuracy(report: Report) -> Figure | None:
    """Accuracies as dots with 95 % whiskers over the chance line."""
    found: dict[str, Interval | None] = {key: pick(report, f"accuracy.{key}") for key in ACCURACIES}
    rows = {key: (row.value, row) for key, row in found.items() if row is not None and row.value is not None}
    if not rows:
        return None
    figure, [axis] = new_figure(84 + 46 * len(rows))
    if (chance := pick(report, "accuracy.chance")) is not None:
        axis.axvline(100 * chance, color=QUIET, linestyle=(0, (5, 3)))
        axis.set_title(f"dashed: chance, {percent(chance)}", loc="left")
    for index, (key, (value, row)) in enumerate(rows.items()):
        colour = {"speech_adapted": AFTER, "cascade": GREEN}.get(key, BEFORE)
        low, high = _ends(row)
        _value(axis, 100 * value, index, 100 * low, 100 * high, colour, percent(value))
    _rows(axis, [ACCURACIES[key] for key in rows], 100, "items answered rightly (%)")
    return figure


def thin(rows: Sequence[CurvePoint], key: str) -> list[tuple[float, float]]:
    """(step, value) of the rows that hold `key`, as means over equal runs of rows where they are too many to draw."""
    told = ((row.step, getattr(row, key)) for row in rows)
    points = [(float(step), float(value)) for step, value in told if step is not None and value is not None]
    if len(points) <= CURVE_POINTS:
        return points
    means = (np.mean(chunk, axis=0) for chunk in np.array_split(np.asarray(points, float), CURVE_POINTS))
    return [(float(step), float(value)) for step, value in means]


def draw_curves(report: Report, stages: Sequence[str], kinds: Mapping[str, str]) -> Figure | None:
    """Each of `kinds` (key of a row: what it is) over the steps of `stages`, which stand side by side."""
    found = {key: rows for key in stages if (rows := pick(report, f"curves.{key}"))}
    bounds, total = {}, 0.0
    for key, rows in found.items():  # a stage's steps may start at 0 or go on from the stage before
        steps = [row.step for row in rows if row.step is not None]
        if steps:
            start = total - (min(steps) if min(steps) > 1 and total else 0)
            bounds[key], total = (start, start + min(steps), start + max(steps)), start + max(steps)
    series = {kind: {key: thin(found[key], kind) for key in bounds} for kind in kinds}
    series = {kind: parts for kind, parts in series.items() if sum(map(len, parts.values())) > 1}
    if not series or not total:
        return None
    figure, axes = new_figure(60 + 128 * len(series), len(series), grid="both")
    for axis, (kind, parts) in zip(axes, series.items(), strict=True):
        live = kind in ("misalignment", "forgetting")
        for key, points in parts.items():
            if points:
                steps, values = np.array(points).T
                axis.plot(steps + bounds[key][0], values, color=AFTER if live else QUIET, marker="o" if live else "",
                          markersize=4, linewidth=1.6)  # fmt: skip
                shown, end = nats(values[-1]) if live else f"{values[-1]:.3g}", steps[-1] + bounds[key][0]
                axis.annotate(shown, (end, values[-1]), (0, 6), textcoords="offset points", ha="right")
        highest = max(value for points in parts.values() for _, value in points)
        lowest = min(value for points in parts.values() for _, value in points)
        axis.set(xlim=(0, total), ylim=(min(0.0, lowest), highest * 1.18 or 1.0))
        axis.set_title(kinds[kind], loc="left", color=INK)
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.tick_params(axis="y", labelcolor=QUIET, labelsize=11)
        for _, first, _ in list(bounds.values())[1:]:
            axis.axvline(first, color=QUIET, linestyle=":")
    for key, (_, first, last) in bounds.items() if len(bounds) > 1 else ():
        axes[0].annotate(STAGES[key], ((first + last) / 2, 1), (0, 20), ("data", "axes fraction"), "offset points",
                         ha="center", weight="bold")  # fmt: skip
    for axis in axes[:-1]:
        axis.tick_params(labelbottom=False)
    axes[-1].set_xlabel("optimiser steps")
    return figure


def draw_recall(report: Report) -> Figure | None:
    """Share of the spoken words found, by how often they were heard before: bars with 95 % whiskers."""
    groups = {name: pick(report, f"hearing.word_recall.{name}") or [] for name in ("trained", "unseen")}
    tables = {name: {row.exposure: row for row in rows if row.value is not None} for name, rows in groups.items()}
    tables = {name: rows for name, rows in tables.items() if rows}
    keys = [key for key in EXPOSURES if any(key in rows for rows in tables.values())]
    if not keys:
        return None
    titles = {"trained": ("voices trained on", AFTER), "unseen": ("voices never heard", BEFORE)}
    thick = 0.8 / len(tables)
    figure, [axis] = new_figure(80 + (14 + 18 * len(tables)) * len(keys))
    for number, (name, rows) in enumerate(tables.items()):
        title, colour = titles[name]
        own = [(keys.index(key) + thick * (number - (len(tables) - 1) / 2), rows[key]) for key in keys if key in rows]
        for y, row in own:
            low, high = _ends(row)
            axis.plot([100 * low, 100 * high], [y, y], color=INK, marker="|", linewidth=1.4)
            _beside(axis, y, f"{percent(row.value)} of {row.n}")
        ys, values = [y for y, _ in own], [100 * row.value for _, row in own]
        axis.barh(ys, values, 0.85 * thick, color=colour, alpha=0.75, label=title)
    _rows(axis, [EXPOSURES[key] for key in keys], 100, "words found (%)")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def draw_dumbbells(
    before: Mapping[str, float | None], after: Mapping[str, float | None], notes: dict[str, str], note_title: str
) -> Figure | None:
    """M before (hollow) and after Stage II (filled), one row a key; `notes` at the right end."""
    sides = [{key: value for key, value in side.items() if value is not None} for side in (before, after)]
    highest = {key: max(side[key] for side in sides if key in side) for key in sides[0] | sides[1]}
    if not highest:
        return None
    keys = sorted(highest, key=lambda key: (-highest[key], key))
    figure, [axis] = new_figure(84 + 25 * len(keys))
    for index, key in enumerate(keys):
        if all(key in side for side in sides):
            worse = sides[1][key] > sides[0][key]
            axis.plot([side[key] for side in sides], [index, index], "--" if worse else "-",
                      color=WARM if worse else AFTER, alpha=0.5, linewidth=2.4)  # fmt: skip
        _beside(axis, index, notes.get(key, ""))
    for name, side, colour in zip(("Stage I", "Stage II"), sides, (BEFORE, AFTER), strict=True):
        own = [key for key in keys if key in side]
        _dots(axis, [side[key] for key in own], [keys.index(key) for key in own], colour, name)
    _rows(axis, keys, max(highest.values()) * 1.05 or 1.0, "misalignment M (nats per token)")
    _column_title(axis, note_title)
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def draw_clusters(report: Report) -> Figure | None:
    """M(c) over CER(c): bought clusters filled, dropped ones crossed; area follows the number of documents."""
    told = ((row, row.cer, row.misalignment) for row in report.selection or ())
    rows = [(row, cer, m) for row, cer, m in told if cer is not None and m is not None]
    if not rows:
        return None
    limit, far = pick(report, "recipe.select.max_cer"), max(cer for _, cer, _ in rows)
    limit = limit if limit is not None and limit <= 2 * far else None
    right = 112 * max(far, limit or 0.0) or 1.0
    top = max(m + Z95 * (row.misalignment_se or 0) for row, _, m in rows) * 1.08 or 1.0
    biggest = max(row.size or 1 for row, _, _ in rows)
    figure, [axis] = new_figure(340, grid="both")
    marks = {"dropped": ("x", WARM, WARM), "not bought": ("o", BEFORE, PAPER), "bought": ("o", AFTER, AFTER)}
    for name, (marker, colour, face) in marks.items():
        axis.scatter([], [], marker=marker, color=colour, facecolor=face, linewidth=2, label=name)
    labelled: list[tuple[float, float]] = []
    for row, cer, m in sorted(rows, key=lambda own: -own[2]):
        x, y, half = 100 * cer, m, Z95 * (row.misalignment_se or 0)
        kind = "dropped" if row.dropped else "bought" if row.bought_s else "not bought"
        marker, colour, face = marks[kind]
        axis.plot([x, x], [max(0.0, y - half), y + half], color=BEFORE, linewidth=1, alpha=0.55)
        area = (6 + 10 * math.sqrt((row.size or 1) / biggest)) ** 2 / 2
        axis.scatter(x, y, area, marker=marker, color=colour, facecolor=face, linewidth=2, zorder=3)
        label = shorten(", ".join((row.top_words or ())[:2]))
        apart = all(abs(y - b) > top / 18 or abs(x - a) > right / 2.5 for a, b in labelled)
        if label and apart and len(labelled) < NAMED_CLUSTERS:
            left = x > right / 2
            axis.annotate(label, (x, y), (-9 if left else 9, 0), textcoords="offset points", va="center",
                          ha="right" if left else "left", fontsize=10.5, color=QUIET)  # fmt: skip
            labelled.append((x, y))
    if limit is not None:
        axis.axvline(100 * limit, color=QUIET, linestyle=(0, (5, 3)))
        axis.annotate(f"limit {percent(limit)}", (100 * limit, 1), (-5, -12), ("data", "axes fraction"),
                      "offset points", ha="right", color=QUIET, fontsize=11)  # fmt: skip
    axis.set(xlim=(0, right), ylim=(0, top), xlabel="character error rate, CER (%)")
    axis.set_title("M(c) (nats per token)", loc="left")
    axis.tick_params(axis="y", labelcolor=QUIET, labelsize=11)
    figure.legend(loc="outside upper right", ncols=3)
    return figure


def draw_seconds(report: Report) -> Figure | None:
    """Wall time of each stage as bars, in the order of the run."""
    rows = {key: s for key, s in (report.seconds or {}).items() if key != "total" and s is not None}
    longest = max(rows.values(), default=0)
    if longest <= 0:
        return None
    units = (3600, "hours"), (60, "minutes"), (1, "seconds")
    divisor, unit = next((d, u) for d, u in units if longest >= 2 * d or d == 1)
    figure, [axis] = new_figure(56 + 24 * len(rows))
    for index, s in enumerate(rows.values()):
        axis.barh(index, s / divisor, 0.7, color=AFTER, alpha=0.75)
        axis.annotate(duration(s), (s / divisor, index), (5, 0), textcoords="offset points", va="center")
    _rows(axis, [key.replace("_", " ") for key in rows], 1.22 * longest / divisor, f"wall time ({unit})")
    return figure
