"""`reproduce.html`: the findings' table, the figures and every cell, from a grid's rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from salad.files import write_json, write_text
from salad.measure.format import Z95, with_error
from salad.measure.statistics import pooled_spread
from salad.report.page import template
from salad.report.style import AFTER, BEFORE, GREEN, PLUM, QUIET, WARM, new_figure, svg_figure
from salad.study.cell_figures import DoneCell, GridRow, Shared
from salad.study.findings import findings, law_of
from salad.study.verdicts import Finding, done, finished, five, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOUR_OF_ALPHA = {0.0: WARM, 0.25: PLUM, 0.5: BEFORE, 0.75: AFTER, 1.0: GREEN}
SCALING = (
    "M against hours of speech, by alpha, and the law fitted where four sizes allow one; dotted: M of a model that is "
    "not given the spoken words. Bars are 95 % intervals over documents, most of which is what documents differ by: "
    "the findings compare cells document by document."
)
ACCURACY = "Speech accuracy against M, and text accuracy against F, one point a cell in the colour of its alpha."


def write_reproduction(rows: Sequence[GridRow], shared: Shared, folder: Path, machine: str) -> list[Finding]:
    """Write folder/reproduce.html and folder/findings.json; returns the findings, the paper's five first."""
    found = findings(rows, shared.base)
    paper = five(found)
    page = template("reproduce.html.j2", "salad.study")
    own, base = finished(rows), shared.base
    again = _between_seeds(own)
    intro = (
        f"{len(own)} of {len(rows)} cells were run, in {sum(r.seconds for r in own) / 60:.0f} minutes "
        f"after {shared.base_seconds / 60:.0f} minutes for the data that they share. The text LLM reads "
        f"{percent(base.text_accuracy)} of {base.items} items right, the cascade hears "
        f"{percent(base.cascade_accuracy)}, chance is {100 * base.chance:.0f} %. M is {base.deaf:.2f} "
        f"without the spoken words and {base.warm_start:.2f} after the base's warm start on all narrow speech. "
        + (f"Trained again with another seed, a cell's M differs by {again[0]:.3f} (standard deviation; {again[1]} "
           "cells)." if again else "")
    )  # fmt: skip
    html = page.render(
        five=paper, findings=found, rows=rows, figures=_figures(rows, base.deaf), machine=machine, intro=intro,
        percent=percent, with_error=with_error,
    )  # fmt: skip
    write_text(Path(folder) / "reproduce.html", html)
    write_json(Path(folder) / "findings.json", [asdict(f) for f in (*paper, *found)])
    return [*paper, *found]


def _between_seeds(rows: Sequence[DoneCell]) -> tuple[float, int] | None:
    """Standard deviation of M between trainings that differ in their seed alone, and of how many cells it is."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        key = (row.speech, row.alpha, row.share, row.warm, row.rate, row.stride)
        groups.setdefault(key, []).append(row.misalignment)
    several = [group for group in groups.values() if len(group) > 1]
    return (pooled_spread(several)[0], sum(map(len, several))) if several else None


def _figures(rows: Sequence[GridRow], deaf: float) -> list[Markup]:
    drawn = (
        svg_figure(lambda: _draw_scaling(rows, deaf), "M against hours of speech", SCALING),
        svg_figure(lambda: _draw_accuracy(rows), "Accuracy against M and F", ACCURACY),
    )
    return [figure for figure in drawn if figure is not None]


def _draw_scaling(rows: Sequence[GridRow], deaf: float) -> Figure | None:
    kinds = [k for k in ("narrow", "broad") if done(rows, speech=k)]
    if not kinds:
        return None
    figure, axes = new_figure(40 + 220 * len(kinds), len(kinds), grid="both")
    for axis, kind in zip(axes, kinds, strict=True):
        for alpha, colour in COLOUR_OF_ALPHA.items():
            own = sorted(done(rows, speech=kind, alpha=alpha), key=lambda r: r.hours)
            if not own:
                continue
            x, y = [r.hours for r in own], [r.misalignment for r in own]
            error = [Z95 * r.misalignment_se for r in own]
            axis.errorbar(x, y, error, fmt="o", color=colour, capsize=2, markersize=5, label=f"alpha {alpha:g}")
            law = law_of(rows, kind, alpha)
            if law is not None:
                at = np.geomspace(min(x), max(x), 60)
                axis.plot(at, law(at), color=colour, linewidth=1.4)
        axis.axhline(deaf, color=QUIET, linewidth=1.4, linestyle=":", label="deaf")
        axis.set(xlabel=f"hours of {kind} speech")
        axis.set_title("M (nats per token)", loc="left")
        _log_x(axis, (1.0, 2.0, 3.0, 5.0, 7.0))
    named = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside upper left", ncols=4)
    return figure


def _draw_accuracy(rows: Sequence[GridRow]) -> Figure | None:
    own = finished(rows)
    if len(own) < 2:
        return None
    figure, axes = new_figure(440, 2, grid="both")
    for axis, of, what in ((axes[0], "misalignment", "speech_accuracy"), (axes[1], "forgetting", "text_accuracy")):
        for row in own:
            x, y = getattr(row, of), 100 * getattr(row, what).value
            axis.plot(x, y, "o", color=COLOUR_OF_ALPHA.get(row.alpha, QUIET), markersize=5)
        axis.set(xlabel=f"{'M' if of == 'misalignment' else 'F'} (nats per token)")
        axis.set_title(f"{what.replace('_', ' ')} (%)", loc="left")
    if min(r.misalignment for r in own) > 0:
        _log_x(axes[0], (1.0, 1.2, 1.4, 1.7, 2.0, 2.5, *range(3, 10)))
    return figure


def _log_x(axis: Axes, ticks: Sequence[float]) -> None:
    """A logarithmic x axis with these ticks in each decade, written as plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=ticks))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(NullLocator())
