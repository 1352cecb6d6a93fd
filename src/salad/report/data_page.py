"""A data set's page and tables: hours, histograms, what is wrong and where. Reads the inspection's JSON only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

import salad
from salad.files import write_text
from salad.report.charts import figure
from salad.report.page import template
from salad.report.svg import Svg, scale, text_width, ticks
from salad.report.values import duration

__all__ = ["draw_histogram", "fault_rows", "overview_rows", "quarantine_rows", "write_data_page"]

TITLES = {
    "length": "Length",
    "words_per_s": "Speaking rate",
    "score": "Alignment",
    "level": "Loudness",
}
MISSING = {
    "length": "no recording could be read",
    "words_per_s": "no recording has a text",
    "score": "nothing is aligned yet",
    "level": "headers alone were read",
}
NAMED = 3  # on the terminal


def write_data_page(result: dict[str, Any], path: Path) -> None:
    """One self-contained page of what `salad.data.inspect.inspection.inspect_data` returned; atomic."""
    figures = {
        name: figure(lambda width, h=histogram: draw_histogram(h, width), TITLES[name], _caption(histogram))
        for name, histogram in result["histograms"].items()
        if histogram
    }
    page = template("data.html.j2").render(
        data=result,
        figures=figures,
        titles=TITLES,
        missing_figures=MISSING,
        headline=headline(result),
        overview=overview_rows(result),
        found={name: fault for name, fault in result["faults"].items() if fault["count"]},
        clean=[fault["what"] for fault in result["faults"].values() if not fault["count"]],
        duration=duration,
        version=salad.__version__,
    )
    write_text(path, page)


def headline(result: dict[str, Any]) -> Markup:
    bad = sum(1 for fault in result["faults"].values() if fault["count"])
    told = f"{bad} kinds of faults or oddities" if bad > 1 else "one kind of fault or oddity" if bad else "no fault"
    return Markup("{} of speech in {} utterances by {} speakers; {} found.").format(
        duration(3600 * result["hours"]), f"{result['utterances']:,}", f"{result['num_speakers']:,}", told
    )


def overview_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    """(what, figure), all as text."""
    utterances = f"{result['utterances']:,}"
    if unread := result["utterances"] - result["heard"]:
        utterances += f", {unread:,} of them unreadable"
    rows = [
        ("speech", f"{result['hours']:.3f} h ({duration(3600 * result['hours'])})"),
        ("utterances", utterances),
        ("words", f"{result['words']:,}"),
        ("aligned", f"{result['aligned']:,}" + (f" of {result['heard']:,}" if result["heard"] else "")),
        ("speakers", f"{result['num_speakers']:,}" if result["num_speakers"] else "not told"),
    ]
    rows += [(f"part {part['name']}", _amount(part)) for part in result["parts"]]
    rows += [(f"source {s['source']}", f"{_amount(s)}, licence {s['licence']}") for s in result["sources"][:8]]
    if more := result["sources"][8:]:
        rows.append((f"{len(more)} more sources", _amount(_sum(more))))
    for kind, title in (("rates", "sample rate"), ("channels", "channels"), ("formats", "format")):
        rows += [(f"{title} {name}", _amount(amount)) for name, amount in result[kind].items()]
    for name, histogram in result["histograms"].items():
        if histogram:
            rows.append((f"{TITLES[name].lower()}, {histogram['unit']}", _spread(histogram)))
    if not result["decoded"]:
        rows.append(("not looked at", "silence, clipping, duplicates, files cut short: headers alone were read"))
    return rows


def fault_rows(result: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(fault, files, the worst by name, what to do) for each fault that was found."""
    rows = []
    for fault in result["faults"].values():
        if fault["count"]:
            worst = [f"{w['id']}: {w['seen']}" if w["seen"] else w["id"] for w in fault["worst"][:NAMED]]
            worst += [f"and {fault['count'] - NAMED:,} more"] if fault["count"] > NAMED else []
            rows.append((fault["what"], f"{fault['count']:,}", "; ".join(worst), fault["do"]))
    return rows


def quarantine_rows(result: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    return [(row["stage"], row["reason"], f"{row['count']:,}", ", ".join(row["ids"])) for row in result["quarantine"]]


def draw_histogram(histogram: dict[str, Any], width: float) -> Svg:
    """Bars of equal width, one for each pair of edges (even or not), and one at each end for what lies outside."""
    counts, edges = list(histogram["counts"]), list(histogram["edges"])
    labels = [f"{edge:g}" for edge in edges]
    first = next((i for i, n in enumerate(counts) if n), 0)
    last = next((i for i in range(len(counts) - 1, -1, -1) if counts[i]), first)
    first, last = max(0, first - 1), min(len(counts) - 1, last + 1)  # empty bars at both ends say nothing
    bars = [(f"{labels[i]} to {labels[i + 1]}", counts[i]) for i in range(first, last + 1)]
    shown = labels[first : last + 2]
    if histogram["below"]:
        bars.insert(0, (f"under {labels[0]}", histogram["below"]))
        shown = ["", *labels[: last + 2]] if first == 0 else ["", "…", *shown[1:]]
    if histogram["above"]:
        bars.append((f"over {labels[-1]}", histogram["above"]))
        shown = [*shown[:-1], shown[-1] if last == len(counts) - 1 else "…", ""]
    left, right, top, bottom = 46, 14, 22, 182
    svg = Svg(width, bottom + 40)
    x = scale(0, len(bars), left, width - right)
    high = max(n for _, n in bars) or 1
    y = scale(0, high * 1.05, bottom, top)
    for tick in ticks(0, high * 1.05, 4):
        svg.line(left, y(tick), width - right, y(tick), "grid")
        svg.text(left - 8, y(tick) + 4, f"{tick:,.0f}" if tick >= 1 or tick == 0 else f"{tick:g}", "tick", "end")
    svg.text(left, top - 9, "utterances", "strong")
    for i, (name, n) in enumerate(bars):
        place = {"x": x(i) + 0.5, "y": float(y(n)), "width": x(1) - x(0) - 1.0, "height": float(bottom - y(n))}
        svg.add("rect", "", f"{name} {histogram['unit']}: {n:,}", **place, class_="bar")
    svg.line(left, bottom, width - right, bottom, "base")
    step = max(1, -(-int(max(map(text_width, shown)) + 10) // max(1, int(x(1) - x(0)))))
    for i, label in enumerate(shown):
        if i % step == 0 or label == "…":
            svg.text(x(i), bottom + 16, label, "tick", "middle")
    svg.text((left + width - right) / 2, bottom + 34, histogram["unit"], "axis", "middle")
    return svg


def _caption(histogram: dict[str, Any]) -> str:
    return f"{histogram['n']:,} measured: {_spread(histogram)}."


def _spread(histogram: dict[str, Any]) -> str:
    low, middle, high = (f"{histogram[key]:.3g}" for key in ("min", "p50", "max"))
    inner = f"{histogram['p05']:.3g} to {histogram['p95']:.3g}"  # the 5th to the 95th percentile
    return f"median {middle}, nine in ten {inner}, from {low} to {high}"


def _amount(amount: dict[str, Any]) -> str:
    return f"{amount['seconds'] / 3600:.3f} h in {amount['utterances']:,} utterances"


def _sum(amounts: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: sum(amount[key] for amount in amounts) for key in ("seconds", "utterances")}
