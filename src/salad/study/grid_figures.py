"""The figures of a grid's page, one a finding; None where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from salad.measure.format import Z95
from salad.report.style import AFTER, BEFORE, GREEN, PLUM, QUIET, WARM, new_figure, svg_figure
from salad.study.cell_figures import BaseFigures, GridRow, mean
from salad.study.findings import TEXT_MARGIN, law_of
from salad.study.verdicts import done, finished, paired_cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOUR_OF_ALPHA = {0.0: WARM, 0.25: PLUM, 0.5: BEFORE, 0.75: AFTER, 1.0: GREEN}
EARS = {"symbols": (GREEN, "o", "our ears"), "single": (AFTER, "s", "one adapter"), "cold": (WARM, "^", "paper's form"),
        "log-mel": (PLUM, "D", "behind log-mel")}  # fmt: skip


def scaling(rows: Sequence[GridRow], base: BaseFigures) -> Markup | None:
    caption = (
        "M against hours of narrow speech, alpha 1, by ears, and the law of each where four sizes allow one; dashed: M "
        "of the cascade, dotted: of a model that is not given the spoken words. Bars are 95 % intervals over documents."
    )
    return svg_figure(lambda: _scaling(rows, base), "M against hours of speech", caption)


def _scaling(rows: Sequence[GridRow], base: BaseFigures) -> Figure | None:
    drawn = [name for name in EARS if done(rows, speech="narrow", alpha=1.0, ears=name)]
    if not drawn:
        return None
    if len({r.share for name in drawn for r in done(rows, speech="narrow", alpha=1.0, ears=name)}) < 2:
        return None  # hours of one share differ by chance, and would look like growth
    figure, (axis,) = new_figure(300, grid="both")
    for name in drawn:
        colour, mark, label = EARS[name]
        own = sorted(done(rows, speech="narrow", alpha=1.0, ears=name), key=lambda r: r.hours)
        x, y = [r.hours for r in own], [r.misalignment for r in own]
        axis.errorbar(
            x, y, [Z95 * r.misalignment_se for r in own], fmt=mark, color=colour, capsize=2, markersize=5, label=label
        )
        law = law_of(rows, "narrow", 1.0, name)
        if law is not None:
            at = np.geomspace(min(x), max(x), 60)
            axis.plot(at, law(at), color=colour, linewidth=1.4)
    heard = {d.id for d in done(rows, speech="narrow", alpha=1.0, ears=drawn[0])[0].documents}
    for group, style, label in ((base.deaf, ":", "deaf"), (base.cascade, "--", "cascade")):
        own_documents = [d for d in group if d.id in heard]
        if own_documents:
            axis.axhline(mean(own_documents), color=QUIET, linewidth=1.4, linestyle=style, label=label)
    axis.set(xlabel="hours of narrow speech", ylim=(0, None))
    axis.set_title("M (nats per token)", loc="left")
    _log_x(axis, (1.0, 2.0, 3.0, 5.0, 7.0))
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def objectives(rows: Sequence[GridRow], speech: str) -> Markup | None:
    caption = (
        f"Each line is one training on {speech} speech: M of its warm start, and after its stage, by alpha. "
        "Trainings of one seed and share begin at the same point."
    )
    return svg_figure(lambda: _objectives(rows, speech), f"M before and after, {speech} speech", caption)


def _objectives(rows: Sequence[GridRow], speech: str) -> Figure | None:
    own = [r for r in done(rows, speech=speech) if r.before]
    if not own:
        return None
    figure, (axis,) = new_figure(260, grid="y")
    told: set[float] = set()
    for row in sorted(own, key=lambda r: r.alpha):
        label = None if row.alpha in told else f"alpha {row.alpha:g}"
        told.add(row.alpha)
        points = [mean(row.before), row.misalignment]
        axis.plot(
            [0, 1], points, "o-", color=COLOUR_OF_ALPHA.get(row.alpha, QUIET), markersize=4, linewidth=1.2, label=label
        )
    axis.set_xticks([0, 1], ["warm start", "after its stage"])
    axis.set(xlim=(-0.3, 1.3))
    axis.set_title("M (nats per token)", loc="left")
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def purchases(rows: Sequence[GridRow]) -> Markup | None:
    caption = (
        "Each line is one seed: M after as much bought speech, chosen uniformly and by the paper's active selection."
    )
    return svg_figure(lambda: _purchases(rows), "Active against uniform", caption)


def _purchases(rows: Sequence[GridRow]) -> Figure | None:
    active, uniform = paired_cells(*(done(rows, speech=name, alpha=1.0) for name in ("active", "uniform")))
    if not active:
        return None
    figure, (axis,) = new_figure(240, grid="y")
    for one, other in zip(active, uniform, strict=True):
        axis.plot([0, 1], [other.misalignment, one.misalignment], "o-", color=AFTER, markersize=4, linewidth=1.2)
    axis.set_xticks([0, 1], ["uniform", "active"])
    axis.set(xlim=(-0.3, 1.3))
    axis.set_title("M (nats per token)", loc="left")
    return figure


def text(rows: Sequence[GridRow], base: BaseFigures) -> Markup | None:
    caption = (
        "Items that the adapted LLM reads right, minus those of the text LLM, one point a cell at alpha 1 that reads "
        f"all of them; dashed: the margin of {TEXT_MARGIN:g} points, which is ours."
    )
    return svg_figure(lambda: _text(rows, base), "Text ability", caption)


def _text(rows: Sequence[GridRow], base: BaseFigures) -> Figure | None:
    own = [r for r in done(rows, alpha=1.0) if len(r.text_right) == len(base.text_right)]
    if not own:
        return None
    figure, (axis,) = new_figure(60 + 22 * len(own))
    for at, row in enumerate(own):
        axis.plot(
            100 * (row.text_right.count("1") - base.text_right.count("1")) / len(base.text_right), at, "o", color=GREEN
        )
    axis.axvline(-TEXT_MARGIN, color=WARM, linestyle="--", linewidth=1.2)
    axis.axvline(0, color=QUIET, linewidth=1.0)
    axis.set_yticks(range(len(own)), [f"{r.speech}, {r.hours:.2f} h, seed {r.seed}" for r in own])
    axis.set(xlabel="points of text accuracy, minus the text LLM's")
    return figure


def accuracies(rows: Sequence[GridRow]) -> Markup | None:
    caption = (
        "Accuracy on speech against M, and on text against F, one point a cell, in the colour of its alpha (circles: "
        "narrow speech, squares: broad, triangles: other); grey crosses: the same cell on silence, fewer items."
    )
    return svg_figure(lambda: _accuracies(rows), "Accuracy against M and F", caption)


def _accuracies(rows: Sequence[GridRow]) -> Figure | None:
    own = finished(rows)
    if len(own) < 2:
        return None
    figure, axes = new_figure(440, 2, grid="both")
    for axis, of, what in ((axes[0], "misalignment", "speech_accuracy"), (axes[1], "forgetting", "text_accuracy")):
        for row in own:
            colour, x = COLOUR_OF_ALPHA.get(row.alpha, QUIET), getattr(row, of)
            mark = {"narrow": "o", "broad": "s"}.get(row.speech, "^")
            axis.plot(x, 100 * (getattr(row, what).value or 0.0), mark, color=colour, markersize=5)
            if what == "speech_accuracy":
                axis.plot(x, 100 * (row.silence_accuracy.value or 0.0), "x", color=QUIET, markersize=4)
        axis.set(xlabel=f"{'M' if of == 'misalignment' else 'F'} (nats per token)")
        axis.set_title(f"{what.replace('_', ' ')} (%)", loc="left")
    _log_x(axes[0], _ticks([r.misalignment for r in own]))
    return figure


def _ticks(values: Sequence[float]) -> Sequence[float]:
    close = min(values) > 0 and max(values) < 3 * min(values)
    return (1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0) if close else (1.0, 2.0, 3.0, 5.0)


def _log_x(axis: Axes, ticks: Sequence[float]) -> None:
    """A logarithmic x axis with these ticks in each decade, written as plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=ticks))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(NullLocator())
