"""A canvas for SVG, and what every chart needs on it: widths of text, round ticks, scales and an x axis.

Colours come from the page's style sheet by class, so that light and dark need one drawing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from markupsafe import Markup

__all__ = ["Svg", "bold_width", "scale", "shorten", "text_width", "ticks", "x_axis"]


class Svg:
    """A drawing in pixels; every text and attribute is escaped."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height, self.parts = width, height, []

    def add(self, tag: str, text: str = "", title: str = "", **attributes: Any) -> None:
        pairs = Markup("").join(
            Markup(' {}="{}"').format(key.rstrip("_"), f"{value:.1f}" if isinstance(value, float) else value)
            for key, value in attributes.items()
        )
        title = Markup("<title>{}</title>").format(title) if title else ""
        self.parts.append(Markup("<{0}{1}>{2}{3}</{0}>").format(tag, pairs, title, text))

    def line(self, x1: float, y1: float, x2: float, y2: float, class_: str) -> None:
        self.add("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)

    def text(self, x: float, y: float, text: str, class_: str = "", anchor: str = "start", title: str = "") -> None:
        style = {"class_": class_} if class_ else {}
        self.add("text", text, title, x=float(x), y=float(y), **style, **{"text-anchor": anchor})

    def dot(self, x: float, y: float, class_: str, r: float = 5, title: str = "") -> None:
        self.add("circle", "", title, cx=float(x), cy=float(y), r=float(r), class_=class_)

    def whisker(self, low: float, high: float, y: float) -> None:
        self.line(low, y, high, y, "whisker")
        for x in (low, high):
            self.line(x, y - 4, x, y + 4, "whisker")

    def markup(self, label: str, class_: str) -> Markup:
        return Markup(
            '<svg class="{}" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}" style="max-width:{:.0f}px">{}</svg>'
        ).format(class_, self.width, self.height, label, self.width * 1.15, Markup("").join(self.parts))


def text_width(text: str) -> float:
    """Pixels, roughly, of 12.5 px letters."""
    return 6.8 * len(text)


def bold_width(text: str) -> float:
    return 1.14 * text_width(text)


def shorten(text: str, pixels: float) -> str:
    most = max(3, int(pixels / 6.8))
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers (1, 2, 5 times a power of ten) inside [low, high], at most `most`."""
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if (high - low) / (step * factor) <= most - 1 or factor == 20)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def x_axis(
    svg: Svg, x: Callable[[float], float], low: float, high: float, y: float, top: float, unit: str, show: Any = None
) -> None:
    """Grid lines from `top` to `y`, tick labels under them and the axis title under those."""
    most = max(3, int((x(high) - x(low)) / 55))
    for tick in ticks(low, high, most):
        svg.line(x(tick), top, x(tick), y, "grid")
        svg.text(x(tick), y + 16, show(tick) if show else f"{tick:g}", "tick", "middle")
    svg.text((x(low) + x(high)) / 2, y + 34, unit, "axis", "middle")
