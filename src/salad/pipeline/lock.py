"""One owner a run directory: a second process is refused, with a word on who has it, or waits."""

from __future__ import annotations

import functools
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from salad.config import Recipe
from salad.files import read_json, writable_folder, write_json
from salad.locks import held
from salad.progress import console
from salad.types import SaladError

LOCK, OWNER = ".owner.lock", ".owner.json"


def one_owner(pipeline: Callable[..., Path]) -> Callable[..., Path]:
    """Let a function of a recipe hold the recipe's run directory while it runs; with `wait=True` it waits its turn.

    The processes of one launch (torchrun) are one owner: the first of them holds it for all.
    """

    @functools.wraps(pipeline)
    def alone(recipe: Recipe, *arguments: Any, wait: bool = False, **more: Any) -> Path:
        if os.environ.get("RANK", "0") != "0":
            return pipeline(recipe, *arguments, **more)
        with owned(recipe.run_dir, wait=wait):
            return pipeline(recipe, *arguments, **more)

    return alone


@contextmanager
def owned(folder: Path, *, wait: bool = False, field: str = "run_dir") -> Iterator[None]:
    """Hold `folder` against other processes. The system frees it when this process ends, however it ends.

    Raises SaladError where nothing can be written to it or it cannot be locked, and one that names the process that has
    it, unless `wait`, which waits until it is done. On a disk that knows no locks, this says so and goes on. field: the
    setting or option that named the folder, for messages.
    """
    writable_folder(folder, field)
    with ExitStack() as stack:
        try:
            lock = held(folder / LOCK, wait=wait, waiting=lambda: f"{folder} is in use by {_owner(folder)}; waiting")
            got = stack.enter_context(lock)
        except OSError as error:
            raise SaladError(
                f"{field}: {folder} cannot be locked ({error}); let {LOCK} in it be a file that can be written to, "
                f"remove it once nothing uses the directory, or give another {field}"
            ) from None
        if got == "taken":
            raise SaladError(
                f"{field}: {folder} is in use by {_owner(folder)}; two runs in one directory would spoil each other: "
                f"let it finish or stop it, give --wait to go on after it, or another {field}"
            )
        if got == "no locks":
            console.print(
                f"[yellow]{field}: the disk of {folder} has no locks; start no second run[/]", highlight=False
            )
            yield
            return
        try:
            since = time.strftime("%Y-%m-%d %H:%M:%S %z")
            command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:300]
            write_json(
                folder / OWNER, {"pid": os.getpid(), "host": platform.node(), "since": since, "command": command}
            )
            yield
        finally:
            (folder / OWNER).unlink(missing_ok=True)


def _owner(folder: Path) -> str:
    try:
        found = read_json(folder / OWNER)
        return f"process {found['pid']} on {found['host']} since {found['since']} ({found['command']})"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just begun, or just ended
        return "another process"
