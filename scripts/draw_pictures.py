"""Draw docs/pictures anew: the pipeline, the ears, interleaving, what is heard; each for light and for dark pages."""

from __future__ import annotations

from html import escape
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
PARTS = ("ink", "soft", "text", "sound", "frozen", "line")
THEMES = {
    "light": dict(zip(PARTS, "#1f2933 #6b7785 #e8edf2 #b9e3dc #f3e3c3 #8693a1".split(), strict=True)),
    "dark": dict(zip(PARTS, "#e6edf3 #9aa7b4 #2b3542 #1d5a52 #5a4a24 #73808d".split(), strict=True)),
}
# M of docs/results.md, the newest demo: (voice, silence, heard, cascade)
HEARD = (
    ("Piper joe, trained on", 1.09, 0.44, 0.11),
    ("af_heart, never heard", 1.09, 0.38, 0.04),
    ("jf_tebukuro, never heard", 1.18, 0.53, 0.10),
)


class Canvas:
    """One SVG in one theme; lengths are in its own units."""

    def __init__(self, width: int, height: int, title: str, theme: str) -> None:
        self.colours, self.parts = THEMES[theme], []
        self.head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'font-family="Helvetica, Arial, sans-serif"><title>{escape(title)}</title>'
        )

    def box(self, x: float, y: float, width: float, height: float, fill: str, *lines: str) -> None:
        colour = self.colours[fill]
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{colour}"/>')
        first = y + height / 2 + 5 - 9 * (len(lines) - 1)
        for row, line in enumerate(lines):
            self.words(x + width / 2, first + 18 * row, line, bold=row == 0 < len(lines) - 1, soft=row > 0)

    def words(
        self, x: float, y: float, text: str, *, bold: bool = False, soft: bool = False, anchor: str = "middle"
    ) -> None:
        colour, weight = self.colours["soft" if soft else "ink"], ' font-weight="bold"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{13 if soft else 15}"{weight} '
            f'fill="{colour}">{escape(text)}</text>'
        )

    def arrow(self, x1: float, y1: float, x2: float, y2: float, *, dashed: bool = False) -> None:
        line, dash = self.colours["line"], ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(f'<path d="M{x1:g} {y1:g} L{x2:g} {y2:g}" stroke="{line}" stroke-width="2"{dash}/>')
        back = 8 if x2 > x1 else -8
        tip = f"{x2:g},{y2:g} {x2 - back:g},{y2 - 5:g} {x2 - back:g},{y2 + 5:g}"
        if x1 == x2:
            back = 8 if y2 > y1 else -8
            tip = f"{x2:g},{y2:g} {x2 - 5:g},{y2 - back:g} {x2 + 5:g},{y2 - back:g}"
        self.parts.append(f'<polygon points="{tip}" fill="{line}"/>')

    def svg(self) -> str:
        return "\n".join([self.head, *self.parts, "</svg>", ""])


def pipeline(theme: str) -> str:
    c = Canvas(860, 250, "A recording goes through encoder and ears into the LLM; the original LLM teaches it", theme)
    c.words(60, 40, "a recording", soft=True)
    c.parts.append(
        f'<path d="M20 80 q10 -30 20 0 t20 0 t20 0 t20 0" fill="none" stroke="{c.colours["ink"]}" stroke-width="3"/>'
    )
    for x, width, fill, lines in (
        (150, 150, "frozen", ("speech encoder", "frozen")),
        (350, 150, "sound", ("ears", "trained")),
        (550, 150, "text", ("LLM", "frozen or trained")),
    ):
        c.box(x, 50, width, 60, fill, *lines)
    for x1, x2 in ((108, 146), (300, 346), (500, 546), (700, 746)):
        c.arrow(x1, 80, x2, 80)
    c.words(800, 75, "the next word,", soft=True)
    c.words(800, 93, "as it expects it", soft=True)
    c.words(75, 200, "the same, as text", soft=True)
    c.arrow(140, 195, 546, 195)
    c.box(550, 165, 150, 60, "frozen", "teacher", "the LLM as it was")
    c.arrow(700, 195, 746, 195)
    c.words(800, 190, "the next word,", soft=True)
    c.words(800, 208, "as it should be", soft=True)
    c.arrow(800, 170, 800, 104, dashed=True)
    c.words(790, 143, "distillation", anchor="end")
    return c.svg()


def ears(theme: str) -> str:
    c = Canvas(860, 190, "Ears in two parts: frames become phones, phones become tokens", theme)
    for x, fill, lines in (
        (20, "frozen", ("frames", "50 a second")),
        (200, "sound", ("lower part", "learns from speech")),
        (400, "text", ("phones", "DH AH | K AE T")),
        (580, "sound", ("upper part", "learns from text")),
    ):
        c.box(x, 40, 150 if x != 20 else 130, 60, fill, *lines)
    for x1, x2 in ((150, 196), (350, 396), (550, 576), (730, 766)):
        c.arrow(x1, 70, x2, 70)
    c.words(810, 66, "tokens", bold=True)
    c.words(810, 84, "the cat", soft=True)
    c.words(275, 140, "about 60 phones, shared by all words:", soft=True)
    c.words(275, 158, "an hour of speech is much", soft=True)
    c.words(655, 140, "spelling needs no sound:", soft=True)
    c.words(655, 158, "a word need not be heard to be known", soft=True)
    return c.svg()


def interleaving(theme: str) -> str:
    c = Canvas(860, 210, "A document whose spans alternate between text and speech", theme)
    spans = (
        ("text", "The train to the coast", 180),
        ("sound", "leaves at eight, but", 190),
        ("text", "on Sundays it stops at", 190),
        ("sound", "every village", 150),
    )
    x = 100.0
    c.words(50, 75, "student")
    c.words(50, 155, "teacher")
    c.box(100, 130, 740, 40, "text", "The train to the coast leaves at eight, but on Sundays it stops at every village")
    for fill, text, width in spans:
        c.box(x, 50, width, 40, fill, text)
        x += width + 10
    c.words(185, 38, "read: 10 to 30 words", soft=True)
    c.words(385, 38, "heard: 5 to 15 words", soft=True)
    for x in (575, 620, 665):
        c.arrow(x, 126, x, 94, dashed=True)
    c.words(430, 197, "what the two expect is compared where the next word is text", soft=True)
    return c.svg()


def hearing(theme: str) -> str:
    c = Canvas(860, 260, "M of silence, of the ears, and of the cascade, in three voices", theme)
    c.words(20, 28, "M in nats per token, 2026-11-27: shorter is better", anchor="start", bold=True)
    for row, (voice, *values) in enumerate(HEARD):
        y = 50 + 68 * row
        c.words(200, y + 30, voice, anchor="end", soft=True)
        for place, (what, fill, value) in enumerate(
            zip(("silence", "heard", "cascade"), ("text", "sound", "frozen"), values, strict=True)
        ):
            c.box(215, y + 19 * place, 480 * value, 16, fill)
            c.words(222 + 480 * value, y + 19 * place + 13, f"{value:.2f} {what}", anchor="start", soft=True)
    return c.svg()


PICTURES = {"pipeline": pipeline, "ears": ears, "interleaving": interleaving, "hearing": hearing}


def drawn() -> dict[str, str]:
    """Name of each file in docs/pictures, and what is in it."""
    return {f"{name}-{theme}.svg": draw(theme) for name, draw in PICTURES.items() for theme in THEMES}


if __name__ == "__main__":
    for file, svg in drawn().items():
        (FOLDER / file).write_text(svg, encoding="utf-8")
