"""Write the map of rooms and files in docs/architecture.md anew, from the first sentence of every file's docstring."""

from __future__ import annotations

import ast
from pathlib import Path

HOUSE = Path(__file__).parents[1]
SOURCE, PAGE = HOUSE / "src" / "salad", HOUSE / "docs" / "architecture.md"
ORDER = (
    "types config files audio records markdown progress locks assets engine text data align synthesize sequence "
    "objective model measure select training evaluation testing report pipeline study serve api cli"
).split()  # as in tests/test_house.py
FENCE = "```\n"


def first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def lines() -> list[str]:
    out = []
    for room in ORDER:
        if not (SOURCE / room).exists() and not (SOURCE / f"{room}.py").exists():
            continue  # not built yet
        if (file := SOURCE / f"{room}.py").exists():
            out.append(f"{room + '.py':<32} {first_line(file)}")
            continue
        folder = SOURCE / room
        out.append(f"{room + '/':<32} {first_line(folder / '__init__.py')}")
        files = [p.relative_to(folder) for p in folder.rglob("*.py") if p.name not in ("__init__.py", "__main__.py")]
        for name in sorted(files, key=lambda name: (len(name.parts), str(name))):
            out.append(f"  {name!s:<30} {first_line(folder / name)}")
    return out


def main() -> None:
    before, _, after = PAGE.read_text(encoding="utf-8").partition(FENCE)
    _, _, after = after.partition(FENCE)
    PAGE.write_text(before + FENCE + "\n".join(lines()) + "\n" + FENCE + after, encoding="utf-8")


if __name__ == "__main__":
    main()
