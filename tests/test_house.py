"""The house: which room may import which, and that its map is true."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import salad

SOURCE = Path(salad.__file__).parent
# Each room may import those before it (docs/architecture.md).
ORDER = (
    "types", "audio", "files", "progress", "config", "assets", "engine", "text", "data", "align", "synthesize",
    "sequence", "objective", "model", "measure", "select", "training", "evaluation", "report", "pipeline", "study",
    "cli",
)  # fmt: skip
# Arrows that run up, and why; an entry that is no longer needed fails.
UPWARD: dict[tuple[str, str], str] = {}


def arrows() -> dict[tuple[str, str], set[str]]:
    """(room, room that it imports) -> files; lazy imports and import_module with a name of ours included."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts == ("__init__",):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in _imported(node):
                room = name.split(".")[1]
                if room != parts[0]:
                    found[parts[0], room].add("/".join(parts))
    return found


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom) and node.module == "salad":
        return [f"salad.{alias.name}" for alias in node.names if (SOURCE / alias.name).exists() or
                (SOURCE / f"{alias.name}.py").exists()]  # fmt: skip
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("salad."):
        return [node.module or ""]
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.startswith("salad.")]
    if isinstance(node, ast.Constant | ast.JoinedStr):
        return []
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        return _named(node.args[0])
    return []


def _named(argument: ast.expr) -> list[str]:
    first = argument.values[0] if isinstance(argument, ast.JoinedStr) and argument.values else argument
    text = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""
    return [text] if text.startswith("salad.") else []


def test_every_room_has_a_place():
    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__"} == set(ORDER)


def test_no_arrow_runs_up():
    up = {pair: files for pair, files in arrows().items() if ORDER.index(pair[1]) > ORDER.index(pair[0])}
    new = {pair: files for pair, files in up.items() if pair not in UPWARD}
    assert not new, f"an import runs upward: {new}; move what is shared down"
    assert not set(UPWARD) - set(up), "an exception that is no longer needed"


def test_the_map_names_every_file():
    text = (SOURCE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    missing = [
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
        and str(path.relative_to(SOURCE)) not in text  # a file at the top
        and f"  {path.relative_to(SOURCE / path.relative_to(SOURCE).parts[0])} " not in text
    ]
    assert not missing, f"docs/architecture.md does not name {missing}; run scripts/draw_house.py"
