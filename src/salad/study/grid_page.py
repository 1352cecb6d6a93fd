"""`reproduce.html`: the five findings with a figure and a sentence each, every row and every cell, from rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from markupsafe import Markup

from salad.files import write_json, write_text
from salad.measure.format import with_error, with_interval
from salad.measure.statistics import pooled_spread
from salad.report.page import template
from salad.study import grid_figures as draw
from salad.study.cell_figures import BaseFigures, DoneCell, GridRow, mean
from salad.study.findings import findings
from salad.study.verdicts import FAILS, HOLDS, Finding, finished, five, percent, process_seconds

SAID = {HOLDS: "This holds here.", FAILS: "This does not hold here."}
UNTOLD = "These cells cannot tell."
CONTROLS = ("documents", "unseen", "natural", "other", "blind")  # whose M stands in a cell's line


def write_reproduction(rows: Sequence[GridRow], base: BaseFigures, folder: Path, machine: str) -> list[Finding]:
    """Write folder/reproduce.html and folder/findings.json; returns the findings, the paper's five first."""
    found = findings(rows, base)
    paper = five(found)
    page = template("reproduce.html.j2", "salad.study")
    own = finished(rows)
    machines = sorted({row.machine for row in own if row.machine})
    html = page.render(
        five=[(f, _sentence(f, found), _figure(f, rows, base)) for f in paper], findings=found, rows=rows,
        figures=[draw.accuracies(rows)], machine=machine, machines=machines, intro=_intro(rows, base), percent=percent,
        with_error=with_error, with_interval=with_interval, means=_means, base=base, link=_link,
    )  # fmt: skip
    write_text(Path(folder) / "reproduce.html", html)
    write_json(Path(folder) / "findings.json", [asdict(f) for f in (*paper, *found)])
    return [*paper, *found]


def _intro(rows: Sequence[GridRow], base: BaseFigures) -> str:
    own, text = finished(rows), base.text_right
    minutes = process_seconds(own) / 60
    again = _between_seeds(own)
    narrow = [d for d in base.deaf if any(d.id == x.id for r in own[:1] for x in r.documents)] or base.deaf
    cascade = [d for d in base.cascade if any(d.id == x.id for x in narrow)]
    said = (
        f"{len(own)} of {len(rows)} cells were run, in {minutes:.0f} minutes of one process, and "
        f"{(base.spell_seconds + base.seconds) / 60:.0f} before for the shared spelling and the figures of the base. "
        f"The text LLM reads {percent(base.text_accuracy)} of {base.heard_items} next sentences right, the "
        f"cascade {percent(base.cascade_accuracy)}, chance is {100 * base.chance:.0f} %; {len(text)} items are read "
        f"in all. In the trained voice M is {mean(narrow):.2f} without the spoken words and {mean(cascade):.2f} of the "
        "cascade. "
    )
    if again:
        said += (
            f"Trained again with another seed, a cell's M differs by {again[0]:.3f} (standard deviation; {again[1]} "
        )
        said += "cells)."
    return said


def _between_seeds(rows: Sequence[DoneCell]) -> tuple[float, int] | None:
    """Standard deviation of M between trainings that differ in their seed alone, and of how many cells it is."""
    groups: dict[tuple[object, ...], list[float]] = {}
    for row in rows:
        groups.setdefault((row.speech, row.alpha, row.share, row.ears), []).append(row.misalignment)
    several = [group for group in groups.values() if len(group) > 1]
    return (pooled_spread(several)[0], sum(map(len, several))) if several else None


def _sentence(paper: Finding, rows: Sequence[Finding]) -> str:
    """What the finding comes to, in one sentence, with the figure of the row that decides most."""
    own = [row for row in rows if row.number == paper.number and row.ours != "-"]
    first = next((row for row in own if row.verdict == paper.verdict), own[0] if own else None)
    said = SAID.get(paper.verdict, UNTOLD)
    if first is None:
        return "Not run: these cells are of too few kinds." if paper.cells else "Its cells were not run."
    return f"{said} Asked: {first.claim.partition(' ')[2]}? Found: {first.ours}."


def _figure(paper: Finding, rows: Sequence[GridRow], base: BaseFigures) -> Markup | None:
    made = {
        "1": lambda: draw.objectives(rows, "narrow"), "2": lambda: draw.scaling(rows, base),
        "3": lambda: draw.objectives(rows, "broad"), "4": lambda: draw.purchases(rows),
        "5": lambda: draw.text(rows, base),
    }  # fmt: skip
    return made[paper.number]()


def _link(names: Sequence[str]) -> Markup:
    """The cells that a row rests on, each a link to its line."""
    return Markup(" ").join(Markup('<a href="#{0}">{0}</a>').format(name) for name in names)


def _means(row: DoneCell) -> list[str]:
    """M of each kind of recording, and of the controls; a dash for none."""
    groups = [getattr(row, name) for name in CONTROLS]
    return [f"{mean(group):.2f}" if group else "-" for group in groups]
