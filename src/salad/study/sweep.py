"""A recipe over a grid of settings: one run directory a cell, finished stages shared, a budget of time kept."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from salad.config import load_recipe
from salad.config.recipe import parse_yaml
from salad.files import read_json, write_json
from salad.measure.results import RunFigures
from salad.pipeline.run import Run, run_pipeline
from salad.progress import console
from salad.records import read_record, to_json
from salad.study.ablation import CellRun
from salad.types import SaladError


@dataclass(frozen=True)
class SweepCell:
    """One point of the grid: its name, which is its folder's, and what it sets over the recipe."""

    name: str
    overrides: tuple[str, ...]
    values: Mapping[str, Any]


def cells_of(vary: Sequence[str]) -> list[SweepCell]:
    """Every combination of `a.b=1,2,3` settings, the last one fastest (so that a cut grid has whole replicates of the
    first). Raises SaladError on what is not of that form.
    """
    axes: list[tuple[str, list[str]]] = []
    for axis in vary:
        key, separator, values = axis.partition("=")
        if not separator or not key or not values.strip():
            raise SaladError(f"--vary {axis!r}: expected a.b=value,value,...")
        axes.append((key.strip(), [value.strip() for value in values.split(",")]))
    if len({key for key, _ in axes}) != len(axes):
        raise SaladError(f"--vary: a key is given twice in {', '.join(key for key, _ in axes)}; name its values once")
    cells = []
    for chosen in itertools.product(*(values for _, values in axes)):
        overrides = tuple(f"{key}={value}" for (key, _), value in zip(axes, chosen, strict=True))
        parsed = {key: parse_yaml(value) for (key, _), value in zip(axes, chosen, strict=True)}
        cells.append(SweepCell(",".join(overrides).replace("/", "_") or "base", overrides, parsed))
    return cells


def seconds_of(budget: str) -> float:
    """Seconds of `90s`, `20m` or `3h`. Raises SaladError on anything else."""
    try:
        value = float(budget[:-1]) * {"s": 1, "m": 60, "h": 3600}[budget[-1:]]
    except (KeyError, ValueError):
        raise SaladError(f"budget: got {budget!r}, expected a number and s, m or h, such as 20m") from None
    if not value > 0:
        raise SaladError(f"budget: got {budget!r}, expected more than no time")
    return value


def run_cells(
    recipe: Path,
    cells: Sequence[SweepCell],
    folder: Path,
    *,
    overrides: Sequence[str] = (),
    budget_s: float | None = None,
    reuse: Sequence[Path] = (),
) -> list[CellRun]:
    """Run each cell up to `evaluate`, in order; returns and keeps in folder/cells.json one row a cell.

    A cell takes the stages that another cell (or a run of `reuse`) has finished from the same inputs. A cell that is
    not begun because the longest cell so far would not fit what is left of `budget_s` is named as dropped. Finished
    cells are not run again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start_s, longest_s = time.monotonic(), 0.0
    checked = [load_recipe(recipe, [*overrides, *cell.overrides, f"run_dir={folder / cell.name}"]) for cell in cells]
    rows: list[CellRun] = []
    for number, (cell, settings) in enumerate(zip(cells, checked, strict=True), 1):
        figures = settings.run_dir / "evaluate" / "figures.json"
        finished = Run(settings).finished("evaluate")
        left_s = None if budget_s is None else budget_s - (time.monotonic() - start_s)
        row = CellRun(cell.name, dict(cell.values), str(settings.run_dir), "done")
        if left_s is not None and not finished and longest_s > left_s:
            rows.append(replace(row, status="dropped", reason=f"{left_s:.0f} s of the budget are left"))
            console.print(f"[yellow]{cell.name}: dropped, {left_s:.0f} s of the budget are left[/]")
            continue
        console.print(f"[bold]cell {number} of {len(cells)}: {cell.name}[/]", highlight=False)
        began_s = time.monotonic()
        others = [*reuse, *(other.run_dir for other in checked if other.run_dir != settings.run_dir)]
        run_pipeline(settings, until="evaluate", reuse=others)
        longest_s = max(longest_s, time.monotonic() - began_s)
        rows.append(replace(row, seconds=_own_seconds(settings.run_dir), figures=read_record(RunFigures, figures)))
        write_json(folder / "cells.json", to_json(rows))
    write_json(folder / "cells.json", to_json(rows))
    return rows


def _own_seconds(run_dir: Path) -> dict[str, float]:
    return {path.parent.name: read_json(path)["seconds"] for path in sorted(run_dir.glob("*/stage.json"))}
