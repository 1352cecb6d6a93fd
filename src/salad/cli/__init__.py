"""The `salad` command. Heavy libraries are imported inside the commands, so that `--help` is quick."""

from __future__ import annotations

import os

import typer

from salad.cli import data, measure, run, serve
from salad.cli.common import LOOK, MEASURE, Group

__all__ = ["app", "main"]

FIRST = """SALAD gives a text LLM ears. Three commands to begin with:

  salad chat --audio question.wav    ears that were trained before answer your recording
  salad serve                        the same in a browser, with a microphone
  salad run recipes/demo.yaml        train ears yourself: about 31 minutes on two cores

`salad --help` lists all commands; `salad COMMAND --help` explains one."""

app = typer.Typer(
    cls=Group,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for part in (run, measure, data, serve):
    app.add_typer(part.app)
app.add_typer(measure.analyze_app, name="analyze", rich_help_panel=MEASURE)
app.add_typer(data.assets_app, name="assets", rich_help_panel=LOOK)
app.add_typer(data.data_app, name="data", rich_help_panel=LOOK)


@app.callback(invoke_without_command=True)
def first(context: typer.Context) -> None:
    """Give a text LLM ears without making it dumber (arXiv 2510.13632)."""
    if context.invoked_subcommand is None:
        typer.echo(FIRST)


def main() -> None:
    """Entry point of the `salad` command."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # one bar for the whole house, in workers too
    from salad.engine.machine import flush_subnormals

    flush_subnormals()  # before numpy and torch start their threads, which inherit it
    app()
