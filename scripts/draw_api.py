"""Write the table of names in docs/api.md anew, from the first sentence of each one's docstring."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import salad

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
HEAD = "## Names\n"


def table() -> str:
    rows = []
    for name in salad.__all__:
        if name != "__version__":
            first = " ".join((inspect.getdoc(getattr(salad, name)) or "").split("\n\n")[0].split())
            sentence = re.match(r".*?\.(?= [A-Z`]|$)|.*", first)
            rows.append(f"| `salad.{name}` | {(sentence[0] if sentence else first).replace('|', chr(92) + '|')} |")
    return "\n".join(["| name | is |", "|---|---|", *rows, ""])


if __name__ == "__main__":
    before, _ = PAGE.read_text(encoding="utf-8").split(HEAD)
    PAGE.write_text(f"{before}{HEAD}\n{table()}", encoding="utf-8")
