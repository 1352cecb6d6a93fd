"""How a command ends: on an error of the user, on Ctrl-C, on SIGTERM in training; exit codes and what is said."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

USER_ERROR = 2
STOPPED = 75  # EX_TEMPFAIL: SIGTERM ended the training, and the same command goes on
INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended


@contextmanager
def plain_errors(debug: bool) -> Iterator[None]:
    """A user's error is one red message and exit code 2, a training that SIGTERM stopped 75; Ctrl-C is 130. A bug keeps
    its traceback."""
    from salad.types import SaladError, Stopped

    try:
        yield
    except SaladError as error:
        if debug:
            raise
        typer.secho(f"Error: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(STOPPED if isinstance(error, Stopped) else USER_ERROR) from None
    except KeyboardInterrupt:
        if debug:
            raise
        again = shlex.join(["salad", *sys.argv[1:]])
        typer.secho(f"\nInterrupted. The same command resumes: {again}", fg=typer.colors.YELLOW, err=True)
        raise typer.Exit(INTERRUPTED) from None
