"""A data set's page and tables: hours, histograms, what is wrong and where. Reads the inspection's JSON only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

import salad
from salad.data.inspect.result import DataAmount, Histogram, Inspection
from salad.files import write_text
from salad.report.page import template
from salad.report.style import AFTER, INK, new_figure, svg_figure
from salad.report.values import duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {"length": "Length", "words_per_s": "Speaking rate", "score": "Alignment", "level": "Loudness"}
MISSING = {
    "length": "no recording could be read",
    "words_per_s": "no recording has a text",
    "score": "nothing is aligned yet",
    "level": "headers alone were read",
}
NAMED = 3  # on the terminal


def write_data_page(result: Inspection, path: Path) -> None:
    """One self-contained page of what `salad.data.inspect.inspection.inspect_data` returned; atomic."""
    figures = {
        name: svg_figure(partial(draw_histogram, histogram), TITLES[name], _caption(histogram))
        for name, histogram in result.histograms.items()
        if histogram
    }
    page = template("data.html.j2").render(
        data=result,
        figures=figures,
        titles=TITLES,
        missing_figures=MISSING,
        headline=headline(result),
        overview=overview_rows(result),
        found={name: fault for name, fault in result.faults.items() if fault.count},
        clean=[fault.what for fault in result.faults.values() if not fault.count],
        duration=duration,
        version=salad.__version__,
    )
    write_text(path, page)


def headline(result: Inspection) -> Markup:
    bad = sum(1 for fault in result.faults.values() if fault.count)
    told = f"{bad} kinds of faults or oddities" if bad > 1 else "one kind of fault or oddity" if bad else "no fault"
    return Markup("{} of speech in {} utterances by {} speakers; {} found.").format(
        duration(3600 * result.hours), f"{result.utterances:,}", f"{result.num_speakers:,}", told
    )


def overview_rows(result: Inspection) -> list[tuple[str, str]]:
    """(what, figure), all as text."""
    utterances = f"{result.utterances:,}"
    if unread := result.utterances - result.heard:
        utterances += f", {unread:,} of them unreadable"
    rows = [
        ("speech", f"{result.hours:.3f} h ({duration(3600 * result.hours)})"),
        ("utterances", utterances),
        ("words", f"{result.words:,}"),
        ("aligned", f"{result.aligned:,}" + (f" of {result.heard:,}" if result.heard else "")),
        ("speakers", f"{result.num_speakers:,}" if result.num_speakers else "not told"),
    ]
    rows += [(f"part {part.name}", _amount(part)) for part in result.parts]
    rows += [(f"source {s.source}", f"{_amount(s)}, licence {s.licence}") for s in result.sources[:8]]
    if more := result.sources[8:]:
        rows.append((f"{len(more)} more sources", _amount(_sum(more))))
    for kind, title in ((result.rates, "sample rate"), (result.channels, "channels"), (result.formats, "format")):
        rows += [(f"{title} {name}", _amount(amount)) for name, amount in kind.items()]
    for name, histogram in result.histograms.items():
        if histogram:
            rows.append((f"{TITLES[name].lower()}, {histogram.unit}", _spread(histogram)))
    if not result.decoded:
        rows.append(("not looked at", "silence, clipping, duplicates, files cut short: headers alone were read"))
    return rows


def fault_rows(result: Inspection) -> list[tuple[str, str, str, str]]:
    """(fault, files, the worst by name, what to do) for each fault that was found."""
    rows = []
    for fault in result.faults.values():
        if fault.count:
            worst = [f"{w.id}: {w.seen}" if w.seen else w.id for w in fault.worst[:NAMED]]
            worst += [f"and {fault.count - NAMED:,} more"] if fault.count > NAMED else []
            rows.append((fault.what, f"{fault.count:,}", "; ".join(worst), fault.do))
    return rows


def quarantine_rows(result: Inspection) -> list[tuple[str, str, str, str]]:
    return [(row.stage, row.reason, f"{row.count:,}", ", ".join(row.ids)) for row in result.quarantine]


def draw_histogram(histogram: Histogram) -> Figure:
    """Bars of equal width, one for each pair of edges (even or not), and one at each end for what lies outside."""
    counts, edges = list(histogram.counts), [f"{edge:g}" for edge in histogram.edges]
    filled = [i for i, n in enumerate(counts) if n] or [0]
    first, end = max(0, filled[0] - 1), min(len(counts), filled[-1] + 2)  # empty bars at both ends say nothing
    bars, labels = counts[first:end], edges[first : end + 1]
    if histogram.below:
        bars, labels = [histogram.below, *bars], ["", labels[0] if first == 0 else "…", *labels[1:]]
    if histogram.above:
        bars, labels = [*bars, histogram.above], [*labels[:-1], labels[-1] if end == len(counts) else "…", ""]
    figure, [axis] = new_figure(220, grid="y")
    axis.bar(range(len(bars)), bars, 0.94, align="edge", color=AFTER, alpha=0.75)
    step = -(-len(labels) * max(map(len, labels)) // 56)  # so many letters stand on one line
    axis.set_xticks(*zip(*[(i, label) for i, label in enumerate(labels) if i % step == 0 or label == "…"], strict=True))
    axis.yaxis.set_major_formatter("{x:,.0f}")
    locator: Any = axis.yaxis.get_major_locator()
    locator.set_params(integer=True)
    axis.set(xlabel=histogram.unit)
    axis.set_title("utterances", loc="left", color=INK)
    return figure


def _caption(histogram: Histogram) -> str:
    return f"{histogram.n:,} measured: {_spread(histogram)}."


def _spread(histogram: Histogram) -> str:
    inner = f"{histogram.p05:.3g} to {histogram.p95:.3g}"  # the 5th to the 95th percentile
    return f"median {histogram.p50:.3g}, nine in ten {inner}, from {histogram.min:.3g} to {histogram.max:.3g}"


def _amount(amount: DataAmount) -> str:
    return f"{amount.seconds / 3600:.3f} h in {amount.utterances:,} utterances"


def _sum(amounts: Sequence[DataAmount]) -> DataAmount:
    return DataAmount(sum(own.utterances for own in amounts), sum(own.seconds for own in amounts))
