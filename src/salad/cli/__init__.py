"""The `salad` command. Heavy libraries are imported inside the commands, so that `--help` is quick."""

from __future__ import annotations

import os

import typer

from salad.cli import data, measure, run, serve

__all__ = ["app", "main"]

app = typer.Typer(
    help="Give a text LLM ears without making it dumber (arXiv 2510.13632).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for part in (run, measure, data, serve):
    app.add_typer(part.app)
app.add_typer(measure.analyze_app, name="analyze")
app.add_typer(data.assets_app, name="assets")
app.add_typer(data.data_app, name="data")


def main() -> None:
    """Entry point of the `salad` command."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # one bar for the whole house, in workers too
    from salad.engine.machine import flush_subnormals

    flush_subnormals()  # before numpy and torch start their threads, which inherit it
    app()
