"""Tables of Markdown: what a cell holds stays in its cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def row(cells: Iterable[object]) -> str:
    """One line of a table; a | in a cell is written so that it parts none, and a line break as a space."""
    return f"| {' | '.join(_cell(str(cell)) for cell in cells)} |"


def table(header: Sequence[object], rows: Iterable[Iterable[object]]) -> list[str]:
    """The lines of a table."""
    return [row(header), row(["---"] * len(header)), *map(row, rows)]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
