"""The one style of every chart: its colours and letters, and `svg_figure`, which puts a matplotlib figure into a page.

Text stays text, and every colour is a variable of the page's style sheet, so one drawing serves desktop, phone and dark
mode. Equal figures give equal bytes: names follow from a salt, and no date is written. matplotlib is imported where a
chart is drawn.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {  # as page.css has them for a light screen
    "paper": "#fdfdfc", "ink": "#1b1e23", "quiet": "#5d646e", "line": "#dcdfe3", "grid": "#eceef0", "after": "#0063a6",
    "before": "#7b828c", "warm": "#b24a00", "green": "#007a5a", "plum": "#8d3f78",
}  # fmt: skip
PAPER, INK, QUIET, LINE, GRID, AFTER, BEFORE, WARM, GREEN, PLUM = COLOURS.values()
STYLE = {
    "font.size": 12, "axes.titlesize": 11, "axes.labelsize": 11, "xtick.labelsize": 11, "legend.fontsize": 11,
    "text.color": INK, "axes.titlecolor": QUIET, "axes.labelcolor": QUIET, "axes.edgecolor": LINE, "xtick.color": LINE,
    "ytick.color": LINE, "xtick.labelcolor": QUIET, "ytick.labelcolor": INK, "grid.color": GRID, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "ytick.major.size": 0, "figure.facecolor": "none",
    "axes.facecolor": "none", "savefig.facecolor": "none", "legend.frameon": False, "text.parse_math": False,
    "svg.fonttype": "none", "svg.hashsalt": "salad",
}  # fmt: skip
WIDTH = 460  # of every chart, in units of which a letter is 12 high; the page scales it


def svg_figure(
    draw: Callable[[], Figure | None], name: str, caption: str, numbers: Sequence[tuple[str, str]] = ()
) -> Markup | None:
    """The drawing over its caption and, behind that, `numbers` (what, figure); None where there is nothing to draw."""
    import matplotlib

    file = io.StringIO()
    style: Any = STYLE
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # what matplotlib's font lacks, the reader's may have
        drawn = draw()
        if drawn is None:
            return None
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawn.savefig(file, format="svg", metadata=nothing)
    shown = Markup("; ").join(Markup("{} <b>{}</b>").format(*number) for number in numbers)
    told = Markup(' <span class="numbers">{}.</span>').format(shown) if numbers else ""
    label = f"{name}. {caption}"
    return Markup("<figure>{}<figcaption>{}{}</figcaption></figure>").format(
        _inline(file.getvalue(), name, label), caption, told
    )


def _inline(svg: str, name: str, label: str) -> Markup:
    """matplotlib's file as a part of a page: no name twice, nothing of its own outside it, the page's colours."""
    box = re.search(r'viewBox="([^"]+)"', svg)[1]  # type: ignore[index]  # matplotlib always writes one
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<style.*?</style>|<clipPath.*?</clipPath>", "", body, flags=re.DOTALL)
    body = re.sub(r' clip-path="[^"]*"', "", body)
    used, own = set(re.findall(r'href="#(\w+)"', body)), re.sub(r"\W+", "-", name.lower())
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{own}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r"\s*\n\s*", "\n", body).replace('href="#', f'href="#{own}-')
    for variable, colour in COLOURS.items():
        body = body.replace(colour, f"var(--{variable})")
    return Markup('<svg viewBox="{}" role="img" aria-label="{}">{}</svg>').format(box, label, Markup(body))


def new_figure(height: float, rows: int = 1, grid: Any = "x") -> tuple[Figure, list[Axes]]:
    """A figure of WIDTH and `height`, and its plots, one under the other; `grid`: of which axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
    axes = list(figure.subplots(rows, 1, squeeze=False)[:, 0])
    for axis in axes:
        axis.grid(axis=grid)
    return figure, axes
