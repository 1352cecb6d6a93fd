"""`reproduce.html`: the findings' table, the figures and every cell, from a grid's rows alone."""

from __future__ import annotations

import importlib.resources
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from salad.files import write_json, write_text
from salad.measure.format import Z95, with_error
from salad.measure.statistics import pooled_spread
from salad.study.cell_figures import DoneCell, GridRow, Shared
from salad.study.findings import findings, law_of
from salad.study.verdicts import Finding, done, finished, five, percent

COLOURS = {0.0: "#c0392b", 0.25: "#d98324", 0.5: "#8e6fb5", 0.75: "#3d7ebd", 1.0: "#0b6b3a"}


def write_reproduction(rows: Sequence[GridRow], shared: Shared, folder: Path, machine: str) -> list[Finding]:
    """Write folder/reproduce.html and folder/findings.json; returns the findings, the paper's five first."""
    found = findings(rows, shared.base)
    paper = five(found)
    source = importlib.resources.files("salad.study").joinpath("reproduce.html.j2").read_text(encoding="utf-8")
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)
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


def _figures(rows: Sequence[GridRow], deaf: float) -> list[dict[str, Markup | str]]:
    drawn = [
        (_draw_scaling(rows, deaf), "M against hours of speech, by alpha, and the law fitted where four sizes "
         "allow one; dotted: M of a model that is not given the spoken words. Bars are 95 % intervals over documents, "
         "most of which is what documents differ by: the findings compare cells document by document."),
        (_draw_accuracy(rows), "Speech accuracy against M, and text accuracy against F, one point a cell."),
    ]  # fmt: skip
    return [{"svg": svg, "caption": caption} for svg, caption in drawn if svg is not None]


def _draw_scaling(rows: Sequence[GridRow], deaf: float) -> Markup | None:
    kinds = [k for k in ("narrow", "broad") if done(rows, speech=k)]
    if not kinds:
        return None
    figure, axes = _axes(len(kinds))
    for axis, kind in zip(axes, kinds, strict=True):
        for alpha, colour in COLOURS.items():
            own = sorted(done(rows, speech=kind, alpha=alpha), key=lambda r: r.hours)
            if not own:
                continue
            x, y = [r.hours for r in own], [r.misalignment for r in own]
            error = [Z95 * r.misalignment_se for r in own]
            axis.errorbar(x, y, error, fmt="o", color=colour, capsize=2, markersize=4, label=f"alpha {alpha:g}")
            law = law_of(rows, kind, alpha)
            if law is not None:
                at = np.geomspace(min(x), max(x), 60)
                axis.plot(at, law(at), color=colour, linewidth=1)
        axis.axhline(deaf, color="#777", linewidth=1, linestyle=":", label="deaf")
        axis.set(xlabel=f"hours of {kind} speech", ylabel="M, nats per token")
        _log_x(axis, (1.0, 2.0, 3.0, 5.0, 7.0))
        axis.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _draw_accuracy(rows: Sequence[GridRow]) -> Markup | None:
    own = finished(rows)
    if len(own) < 2:
        return None
    figure, axes = _axes(2)
    for axis, of, what in ((axes[0], "misalignment", "speech_accuracy"), (axes[1], "forgetting", "text_accuracy")):
        for row in own:
            x, y = getattr(row, of), getattr(row, what).value
            axis.plot(x, y, "o", color=COLOURS.get(row.alpha, "#444"), markersize=4)
        name = "M" if of == "misalignment" else "F"
        axis.set(xlabel=f"{name}, nats per token", ylabel=what.replace("_", " "))
    if min(r.misalignment for r in own) > 0:
        _log_x(axes[0], (1.0, 1.2, 1.4, 1.7, 2.0, 2.5, *range(3, 10)))
    return _svg(figure)


def _axes(number: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * number, 3.6), layout="constrained")
    axes = [figure.add_subplot(1, number, i + 1) for i in range(number)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    return figure, axes


def _log_x(axis: Any, ticks: Sequence[float]) -> None:
    """A logarithmic x axis with these ticks in each decade, written as plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=ticks))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(NullLocator())


def _svg(figure: Any) -> Markup:
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "salad", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return Markup(text[text.index("<svg") :])
