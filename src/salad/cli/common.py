"""What the commands share: their options, plain errors, tables."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from salad import api

USER_ERROR = 2
INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file, such as recipes/demo.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Set one key of the recipe; may be given again.")
]
EngineKind = Annotated[
    str | None,
    typer.Option("--engine", metavar="KIND", help="local or ray: who runs the data jobs; the files are equal."),
]
SavedModel = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A saved model's folder, such as RUN/stage2/model, or ears by name.")
]
AlignedCorpus = Annotated[
    Path, typer.Option("--corpus", metavar="PATH", help="Utterances with word times: ours, Lhotse's, or a folder.")
]
Teacher = Annotated[
    str | None, typer.Option("--teacher", metavar="LLM", help="The text LLM it came from; default: its run's.")
]
Precision = Annotated[
    str, typer.Option("--precision", help="fp32, bf16 (logits stay in float32), or auto: bf16 if it is faster here.")
]
Device = Annotated[str, typer.Option("--device", help="Such as cpu or cuda.")]
EncodeWorkers = Annotated[int, typer.Option("--workers", min=1, help="Single-thread processes that encode.")]
Trusted = Annotated[
    bool, typer.Option("--trusted", help="Let manifests name files outside their own folder: you know who wrote them.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error was raised.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait while another process has the directory.")]
Replaced = Annotated[
    str,
    typer.Option(
        "--replaced", metavar="keep|remove", help="Results over 10 GB that no longer fit: keep or remove them."
    ),
]


def run_recipe(
    recipe: Path, overrides: list[str] | None, only: str | None = None, *, wait: bool = False, replaced: str = "ask"
) -> None:
    more = ({"wait": True} if wait else {}) | ({"replaced": replaced} if replaced != "ask" else {})
    api.run(recipe, overrides or (), only=only, **more)


def names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(",") if name.strip())


@contextmanager
def plain_errors(debug: bool) -> Iterator[None]:
    """A user's error is one red message and exit code 2; Ctrl-C is 130. A bug keeps its traceback."""
    from salad.types import SaladError

    try:
        yield
    except SaladError as error:
        if debug:
            raise
        typer.secho(f"Error: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(USER_ERROR) from None
    except KeyboardInterrupt:
        if debug:
            raise
        again = shlex.join(["salad", *sys.argv[1:]])
        typer.secho(f"\nInterrupted. The same command resumes: {again}", fg=typer.colors.YELLOW, err=True)
        raise typer.Exit(INTERRUPTED) from None


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
