"""The house: which room may import which, and that its map is true."""

from __future__ import annotations

import ast
import graphlib
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import salad

SOURCE = Path(salad.__file__).parent
# Each room may import those before it (docs/architecture.md).
ORDER = (
    "types", "config", "files", "audio", "records", "markdown", "progress", "locks", "assets", "engine", "text", "data",
    "align", "synthesize", "sequence", "objective", "model", "measure", "select", "training", "evaluation", "testing",
    "report", "pipeline", "study", "serve", "api", "cli",
)  # fmt: skip
NOT_BUILT: set[str] = set()
# (room, room that it imports) -> why no move of a file mends it. An entry that is no longer needed fails.
UPWARD: dict[tuple[str, str], str] = {}


def arrows() -> dict[tuple[str, str], set[str]]:
    """(room, room that it imports) -> files; lazy imports and import_module with a name of ours included."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts == ("__init__",):
            continue
        for name in imported(path.read_text(encoding="utf-8")):
            room = name.split(".")[1]
            if room != parts[0]:
                found[parts[0], room].add("/".join(parts))
    return found


def imported(source: str) -> set[str]:
    """Modules of ours that a file imports anywhere in it, as far as their names are written there."""
    return {name for node in ast.walk(ast.parse(source)) for name in _imported(node)}


def _imported(node: ast.AST) -> Iterable[str]:
    if isinstance(node, ast.ImportFrom):
        assert not node.level, "a relative import; write salad.ROOM in full"
        if node.module == "salad":
            return [f"salad.{alias.name}" for alias in node.names if alias.name in ORDER]
        return [node.module] if node.module and node.module.startswith("salad.") else []
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.startswith("salad.")]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        return [name for argument in node.args[:1] if (name := _beginning(argument)).startswith("salad.")]
    return []


def _beginning(argument: ast.expr) -> str:
    """A constant string, or what an f-string begins with."""
    first = argument.values[0] if isinstance(argument, ast.JoinedStr) and argument.values else argument
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def circle(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Rooms that import each other in a ring, if any do."""
    below: dict[str, set[str]] = defaultdict(set)
    for room, other in pairs:
        below[room].add(other)
    try:
        graphlib.TopologicalSorter(below).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def upward(pairs: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    return {(room, other) for room, other in pairs if ORDER.index(other) > ORDER.index(room)}


def test_every_room_has_a_place():
    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__"} == set(ORDER) - NOT_BUILT


def test_no_circle_of_rooms():
    assert not circle(arrows())


def test_no_arrow_runs_up():
    found = arrows()
    up = upward(found)
    new = {pair: found[pair] for pair in up - set(UPWARD)}
    assert not new, f"an import runs upward: {new}; move what is shared down"
    assert not set(UPWARD) - up, "an exception that is no longer needed"


def test_imports_are_found_wherever_they_stand():
    source = """
import salad.audio
from salad import __version__, assets
from salad.types import SaladError
def lazy(stage):
    from salad.cli.exits import plain_errors
    importlib.import_module(f"salad.pipeline.stages.{stage}")
    importlib.import_module("salad.study.grid")
    importlib.import_module(stage), importlib.import_module("torch"), importlib.import_module(f"{stage}.x")
"""
    names = {"salad.audio", "salad.assets", "salad.types", "salad.cli.exits", "salad.pipeline.stages."}
    assert imported(source) == {*names, "salad.study.grid"}
    assert circle([("data", "text"), ("text", "align"), ("align", "data")]) and not circle([("data", "text")])
    assert upward([("text", "data"), ("data", "text")]) == {("text", "data")}


def defined(module: str) -> set[str]:
    """Names at the top of a module of ours, and the modules beside it where it is a folder; empty where it is none."""
    path = SOURCE.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.exists():
        return set()
    beside = {own.stem for own in path.iterdir()} if path.is_dir() else set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    bound = [node for node in ast.walk(tree) if isinstance(node, ast.alias | ast.FunctionDef | ast.ClassDef | ast.Name)]
    return beside | {
        node.id if isinstance(node, ast.Name) else (getattr(node, "asname", None) or node.name) for node in bound
    }


def not_there(source: str) -> list[str]:
    """What a file imports from modules of ours that they do not define."""
    wanted = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom) and node.module]
    return [
        f"{node.module}.{alias.name}"
        for node in wanted
        if node.module.startswith("salad.")
        for alias in node.names
        if alias.name not in defined(node.module)
    ]


def test_what_stands_outside_the_house_finds_what_it_imports():
    top = SOURCE.parents[1]
    found = {
        str(path.relative_to(top)): missing
        for room in ("benchmarks", "scripts", "examples")
        for path in top.joinpath(room).rglob("*.py")
        if (missing := not_there(path.read_text(encoding="utf-8")))
    }
    assert not found
    gone = "from salad.types import SaladError, Gone\nfrom salad.gone import it\nfrom salad.assets import store\n"
    assert not_there(gone) == ["salad.types.Gone", "salad.gone.it"]


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


def takes_a_run(source: str) -> list[str]:
    """Parameters that are annotated as a run, whatever they are called."""
    arguments = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.arg) and node.annotation]
    return [a.arg for a in arguments if re.search(r"\bRun\b", ast.unparse(a.annotation))]


def test_no_file_is_long_and_no_room_takes_a_run():
    """A room takes values; what digs in a run directory stands in the pipeline."""
    for path in SOURCE.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert source.count("\n") <= 400, path
        if path.relative_to(SOURCE).parts[0] != "pipeline":
            assert not takes_a_run(source), path
    assert takes_a_run("def f(base: Run | None, *, of: list[Run]): ...") == ["base", "of"]
    assert not takes_a_run("def f(base: RunNote) -> Run: ...")


def test_stages_are_short_and_no_file_of_the_pipeline_is_long():
    """A stage reads the run directory, calls the rooms and writes it; what computes stands in a room."""
    length = {path: len(path.read_text(encoding="utf-8").split("\n")) - 1 for path in SOURCE.rglob("pipeline/**/*.py")}
    stages = {path.name: lines for path, lines in length.items() if path.parent.name == "stages"}
    assert sum(stages.values()) < 1400 and max(length.values()) <= 400
    assert max(stages.values()) <= 100
