"""What becomes of results that no longer fit the recipe: replaced/ of a run."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from salad.engine.shards import MARK
from salad.files import num_bytes, size_of
from salad.pipeline.up_to_date import StageNote, state_of
from salad.progress import console
from salad.types import SaladError

Replaced = Literal["ask", "keep", "remove"]
KEPT_BYTES = 10**10  # of results that no longer fit: so much is kept in replaced/ without asking


def move_to_replaced(folder: Path, target: Path, replaced: Replaced = "ask", *, reuses: bool = False) -> str:
    """A result that no longer fits the recipe moves to `target` in replaced/, the one there goes; says what was done.

    One that was cut short goes itself where the one there is finished: hours of training are not given for minutes.
    replaced: whether a result over 10 GB is kept or removed; nobody having said so, it raises SaladError, for beside
    the new result it would take as much of the disk again. reuses: the stage takes what still fits from its last result
    (as hard links, which take no room): that is removed once the new one is done (`remove_marked`), but at once where
    it would take the place of a finished one that is kept.
    """
    refuse_large([folder], replaced)
    size, older = num_bytes(folder), num_bytes(target)
    removed = size > KEPT_BYTES and replaced == "remove"
    if removed and (not reuses or (_is_done(target) and not (target / MARK).exists())):
        shutil.rmtree(folder)
        return f" ({size_of(size)}) is removed"
    if _is_done(target) and not _is_done(folder):
        shutil.rmtree(folder)
        return f" ({size_of(size)}) was not finished and is removed; replaced/{target.name} holds a finished one"
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    if removed:
        (folder / MARK).touch()  # before it moves: whoever is killed here leaves nothing that stays for good
    else:
        (folder / MARK).unlink(missing_ok=True)
    folder.rename(target)
    if removed:
        return f" ({size_of(size)}) is removed once the new one is done, which takes from it what still fits"
    gone = f", in place of an older one ({size_of(older)})" if older else ""
    return f" ({size_of(size)}) is kept in replaced/{target.name}{gone}"


def take_back(folder: Path, target: Path, replaced: Replaced = "ask") -> str:
    """The result in replaced/ fits the recipe again: it and what lies in `folder` change places; says what was done."""
    refuse_large([folder], replaced)
    aside = target.with_name(f".{target.name}.back")
    target.rename(aside)
    (aside / MARK).unlink(missing_ok=True)
    done = move_to_replaced(folder, target, replaced)
    aside.rename(folder)
    return f"the result of the other recipe{done}"


def remove_marked(target: Path) -> None:
    """Remove a replaced result that was kept only until the new one was done."""
    if (target / MARK).exists():
        size = size_of(num_bytes(target))
        shutil.rmtree(target)
        console.print(
            f"replaced/{target.name}: removed, {size}; what the new result took from it stays", highlight=False
        )


def _is_done(folder: Path) -> bool:
    return (state_of(folder) or StageNote()).done


def refuse_large(folders: Sequence[Path], replaced: Replaced = "ask", *, reused: Collection[Path] = ()) -> None:
    """Raise SaladError where results that no longer fit hold over 10 GB and nobody said what becomes of them.

    reused: those of `folders` whose stage takes from its last result, so that they go late (see `move_to_replaced`).
    """
    sizes = {folder: num_bytes(folder) for folder in folders}
    if replaced == "ask" and (total := sum(sizes.values())) > KEPT_BYTES:
        named = ", ".join(f"{folder} ({size_of(size)})" for folder, size in sizes.items() if size)
        late = ", ".join(folder.name for folder, size in sizes.items() if folder in reused and size > KEPT_BYTES)
        later = f" (of {late} the old result goes only once the new one is done, which takes shards from it)"
        raise SaladError(
            f"run_dir: the results in {named} no longer fit the recipe, and kept in replaced/ beside the new ones they "
            f"take {size_of(total)} of disk: give `salad run` --replaced keep or --replaced remove"
            f"{later if late else ''}, or remove them yourself, or name another run_dir"
        )
