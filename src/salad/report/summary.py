"""The report of a run: `report.json`, `report.html`, a table for the terminal, and the sentence under the title.

The sentence is made from the numbers. A part that was not run is None, and the sentence says so.
A change of M is called none where its paired 95 % interval over the documents holds 0. Reports of before
`RunFigures.change` kept no pairs: there the interval is that of two independent means, which errs on the careful side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.console import Console
from rich.table import Column, Table

from salad.files import write_json, write_text
from salad.measure.format import Z95
from salad.measure.results import Clip, Interval
from salad.measure.statistics import detectable
from salad.records import from_json, to_json
from salad.report.contents import Report
from salad.report.page import render
from salad.report.values import (
    ACCURACIES,
    CONTROLS,
    STAGES,
    duration,
    gap_bounds,
    gap_points,
    heard_title,
    interval,
    measured_stages,
    nats,
    percent,
    pick,
    points,
    task_rows,
    with_error,
)


def write_report(report: Report, clips: Sequence[Clip], out_dir: Path) -> None:
    """Write `out_dir/report.json` (all figures) and `out_dir/report.html` (one self-contained page), atomically.

    Any figure may be None: the page says that it was not measured. NaN and infinity become null.
    Raises SaladError where a clip's audio cannot be decoded.
    """
    told = plain(to_json(report))
    report = from_json(Report, told, "report")
    page = render(report, clips, headline(report))
    out_dir = Path(out_dir)
    write_json(out_dir / "report.json", told)
    write_text(out_dir / "report.html", page)


def finite(report: Report) -> Report:
    """The report with None for every NaN and infinity."""
    return from_json(Report, plain(to_json(report)), "report")


def plain(value: Any) -> Any:
    """A value of JSON with None for every NaN and infinity."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def change(report: Report, last: str, first: str) -> tuple[float, float]:
    """The 95 % interval of M of the stage `last` minus M of `first` (both measured)."""
    paired: Interval | None = pick(report, f"change.{first}") if last == "stage2" else None
    if paired is not None and paired.low is not None and paired.high is not None:
        return paired.low, paired.high
    less = pick(report, f"misalignment.{last}.all") - pick(report, f"misalignment.{first}.all")
    reach = Z95 * math.hypot(*(pick(report, f"misalignment.{key}.se") or 0.0 for key in (first, last)))
    return less - reach, less + reach


def number(report: Report, path: str, show: Any) -> Markup:
    """The figure at `path` as text for people, with the exact value beside it for machines."""
    value = pick(report, path)
    return Markup('<data value="{}" data-key="{}">{}</data>').format(repr(value), path, show(value))


def headline(report: Report) -> Markup:
    """One sentence: what was heard, M before and after with its controls, accuracy on speech and on text."""
    parts = [_headline_heard(report), _headline_misalignment(report), _headline_accuracy(report)]
    return Markup("; ").join(parts) + "."


def _headline_heard(report: Report) -> Markup:
    share = pick(report, "heard.value")
    if share is None:
        return Markup("What was heard was not measured")
    shown = number(report, "heard.value", percent)
    if around := interval(report.heard):
        shown += f" {around}"
    if "cascade" not in (pick(report, "heard.formula") or ""):
        return Markup("M is {} under that of who cannot hear (1 − M / M_ref; no cascade was measured)").format(shown)
    if share <= 0:
        return Markup("SALAD heard none of what a transcript tells ({})").format(shown)
    return Markup("SALAD heard {} of what a recogniser's transcript tells").format(shown)


def _headline_misalignment(report: Report) -> Markup:
    stages = measured_stages(report)
    if not stages:
        return Markup("misalignment was not measured")

    def m(key: str) -> Markup:
        return number(report, f"misalignment.{key}.all", nats)

    first, last = stages[0], stages[-1]
    controls = [
        Markup("{} {}").format(name, m(key))
        for key, name in CONTROLS.items()
        if pick(report, f"misalignment.{key}.all") is not None
    ]
    against = Markup(" ({})").format(Markup(", ").join(controls)) if controls else ""
    if first == last or pick(report, f"misalignment.{first}.stage2"):  # not of the same documents
        return Markup("misalignment is {} nats per token ({}){}").format(m(last), STAGES[last], against)
    low, high = change(report, last, first)
    verb = "fell" if high < 0 else "rose" if low > 0 else "did not clearly change,"
    told = Markup("misalignment {} from {} ({}) to {} nats per token after {}{}").format(
        verb, m(first), STAGES[first], m(last), STAGES[last], against
    )
    if "not clearly" in verb:
        least = nats(detectable((high - low) / 2))
        told += f" (cannot tell: a change of {least} would have been found with probability 0.8)"
    return told


def _headline_accuracy(report: Report) -> Markup:
    def a(key: str) -> Markup:
        around = interval(pick(report, f"accuracy.{key}"))
        return Markup("{}{}").format(number(report, f"accuracy.{key}.value", percent), around and f" {around}")

    if pick(report, "accuracy.speech_adapted.value") is None:
        if task_rows(report):
            return Markup("accuracy is given task by task below")
        return Markup("accuracy on speech was not scored")
    items = number(report, "accuracy.n", str) + " " if pick(report, "accuracy.n") is not None else Markup("")
    sentence = Markup("hearing the context of {}multiple-choice items it is right in {}").format(
        items, a("speech_adapted")
    )
    others = [
        Markup("{} {}").format(a(key), words)
        for key, words in (("text_base", "for the text LLM that reads it"), ("cascade", "for the cascade"))
        if pick(report, f"accuracy.{key}.value") is not None
    ]
    if others:
        sentence += Markup(", against {}").format(Markup(" and ").join(others))
    if pick(report, "accuracy.chance") is not None:
        sentence += Markup(" (chance {})").format(number(report, "accuracy.chance", percent))
    return sentence


def _table(first: Column | str, *columns: str) -> Table:
    return Table(first, *(Column(column, justify="right") for column in columns), title_justify="left")


def print_report(report: Report, console: Console) -> None:
    """Print the headline figures as two compact tables; "–" marks what was not measured."""
    report = finite(report)

    def show(value: Any, form: Any) -> str:
        return "–" if value is None else form(value)

    table = _table("", "M (nats/token)", heard_title(report), "F (nats/token)")
    table.title, table.title_style = f"SALAD run: {report.name or 'unnamed'}", "bold"
    for key, name in (STAGES | CONTROLS).items():
        cells = [with_error(pick(report, f"{kind}.{key}")) for kind in ("misalignment", "forgetting")]
        heard = show(pick(report, f"heard_by_stage.{key}.value"), percent)
        table.add_row(name, cells[0], heard, cells[1], end_section=key == list(STAGES)[-1])
    console.print(table)

    table = _table(f"accuracy, n = {show(pick(report, 'accuracy.n'), str)}", "value", "95 % interval")
    for key, name in ACCURACIES.items():
        value = pick(report, f"accuracy.{key}")
        table.add_row(name, show(pick(report, f"accuracy.{key}.value"), percent), interval(value) or "–")
    gap = pick(report, "accuracy.gap")
    table.add_row("gap, text − speech", show(pick(report, "accuracy.gap.value"), points), gap_bounds(gap) or "–")
    table.add_row("chance", show(pick(report, "accuracy.chance"), percent), "")
    console.print(table)

    if tasks := task_rows(report):
        systems = {"text_base": "read", "speech_adapted": "heard", "blind": "silence", "other": "other"}
        systems |= {"cascade": "cascade"}
        items = Column("items", overflow="fold", min_width=11)
        table = _table(items, "n", "chance", *systems.values(), "gap, points")
        for row in tasks:
            values = [row.chance, *(pick(row, f"{key}.value") for key in systems)]
            cells = ["" if value is None else f"{100 * value:.0f}" for value in values]
            table.add_row(row.task, str(row.n), *cells, gap_points(row.gap))
        console.print(table)

    if voices := report.voices:
        table = _table("voice", "M", "heard", "WER", "phone error")
        for one in voices:
            shares = [pick(one, f"{key}.value") for key in ("heard", "wer", "phone_error")]
            table.add_row(one.voice, show(pick(one, "stage2.all"), nats), *(show(share, percent) for share in shares))
        console.print(table)

    hours = {key: pick(report, f"speech_hours.{key}") for key in ("stage1", "bought")}
    said = [f"{show(h, '{:.2f}'.format)} h {key}" for key, h in hours.items()]
    simulated = ", simulated" if report.simulated else ""
    console.print(f"speech{simulated}: {', '.join(said)}; run time {show(pick(report, 'seconds.total'), duration)}")
