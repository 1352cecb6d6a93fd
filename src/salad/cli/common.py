"""What the commands share: their options, how they are registered, tables."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

from salad import api
from salad.cli.exits import plain_errors

BEGIN, MAKE, MEASURE, LOOK = "Begin here", "Make a model", "Measure and compare", "Look at what is there"  # of --help

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file, such as recipes/demo.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Set one key of the recipe. It may be given several times."),
]
EngineKind = Annotated[
    Literal["local", "ray"] | None,
    typer.Option("--engine", metavar="KIND", help="Who runs the data jobs: local or ray. The files are the same."),
]
SavedModel = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A saved model's or a run's folder, the name of ears, or OWNER/NAME."),
]
AlignedCorpus = Annotated[
    Path,
    typer.Option(
        "--corpus",
        metavar="PATH",
        help="Utterances with word times: a manifest of ours, Lhotse cuts, or a folder that holds one.",
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        "--teacher", metavar="LLM", help="The text LLM that the model came from. Default: the one that its run names."
    ),
]
Precision = Annotated[
    str, typer.Option("--precision", help="fp32, bf16 (logits stay in float32), or auto: bf16 if it is faster here.")
]
Device = Annotated[str, typer.Option("--device", help="Where to compute: cpu or cuda.")]
EncodeWorkers = Annotated[int, typer.Option("--workers", min=1, help="Processes that encode, one thread each.")]
Trusted = Annotated[
    bool,
    typer.Option(
        "--trusted",
        help="Allow manifests to name files outside their own folder. Use it only if you know who wrote them.",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error was raised.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait while another process has the directory.")]
Replaced = Annotated[
    str,
    typer.Option("--replaced", metavar="keep|remove", help="What to do with results over 10 GB that no longer fit."),
]


class Command(TyperCommand):
    """A command of ours."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _plain_flags(super().get_params(ctx))


class Group(TyperGroup):
    """`salad`, and its commands that have commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _plain_flags(super().get_params(ctx))


def _plain_flags(params: list[Any]) -> list[Any]:
    """Help shows a flag as a flag, and not as something that takes a <bool>."""
    for param in params:
        if getattr(param, "is_flag", False) and param.metavar is None:
            param.metavar = ""
    return params


def command(app: typer.Typer, example: str, panel: str | None = None, name: str | None = None) -> Callable[..., Any]:
    """`app.command()` of a command that has `--debug` and `plain_errors`; its help ends with an example, a line that
    begins with salad."""
    register = app.command(name, cls=Command, epilog=f"Example: {example}", rich_help_panel=panel)

    def taken(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def plain(*, debug: bool, **options: Any) -> None:
            with plain_errors(debug):
                function(**options)

        own, shown = inspect.signature(function, eval_str=True), inspect.Parameter.KEYWORD_ONLY
        debug = inspect.Parameter("debug", shown, default=False, annotation=Debug)
        whole = own.replace(parameters=[*own.parameters.values(), debug])
        plain.__signature__ = whole  # type: ignore[attr-defined]  # inspect reads it, typeshed does not know it
        plain.__annotations__ = {**function.__annotations__, "debug": Debug}
        return register(plain)

    return taken


def run_recipe(
    recipe: Path, overrides: list[str] | None, only: str | None = None, *, wait: bool = False, replaced: str = "ask"
) -> None:
    more = ({"wait": True} if wait else {}) | ({"replaced": replaced} if replaced != "ask" else {})
    api.run(recipe, overrides or (), only=only, **more)


def names(listed: str) -> tuple[str, ...]:
    """Parted at commas; where that is a file, a path (or NAME=path) that holds commas is one name."""
    parts, found = listed.split(","), []
    while parts:
        sizes = range(len(parts), 1, -1)
        size = next((n for n in sizes if _is_file(",".join(parts[:n]).strip())), 1)
        found.append(",".join(parts[:size]).strip())
        parts = parts[size:]
    return tuple(filter(None, found))


def _is_file(name: str) -> bool:
    own, _, path = name.partition("=")
    return os.path.isfile(name) or ("," not in own and os.path.isfile(path))


def print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A drawn table for a person; tab-separated lines for a pipe, which has no width."""
    if not sys.stdout.isatty():
        typer.echo("\n".join("\t".join(row) for row in (header, *rows)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header)
    for row in rows:
        table.add_row(*map(Text, row))  # an id such as [a] is not markup
    Console().print(table)
