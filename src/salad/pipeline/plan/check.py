"""A card's forecast against runs that were made on its machine: by how much each stage differs from what it took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from salad.config import load_recipe
from salad.files import read_json
from salad.pipeline.plan.card import Card
from salad.pipeline.plan.forecast import Forecast
from salad.pipeline.run import STAGES
from salad.types import SaladError

TELLING_S = 10.0  # a shorter stage is compared, but does not count as the one that is furthest off


def check(card: Card, folder: Path, devices: int = 1, speech_hours: float | None = None) -> dict[str, Any]:
    """{run, stages: {name: [seconds foretold, seconds it took]}} of a run's directory; its own recipe.json is read.

    Raises SaladError where it is no run's directory, or no stage of it is finished.
    """
    if not (folder / "recipe.json").is_file():
        raise SaladError(f"--against: {folder} is no run's directory (no recipe.json); give one such as runs/demo")
    foretold = {stage.name: stage.seconds.value for stage in _forecast(card, folder, devices, speech_hours).stages}
    stages = {}
    for name in STAGES:
        path = folder / name / "stage.json"
        state = read_json(path) if path.is_file() else {}
        if state.get("status") == "done":
            stages[name] = [round(foretold[name], 2), state["seconds"]]
    if not stages:
        raise SaladError(f"--against: no stage of {folder} is finished; give a run that is")
    return {"run": folder.name, "stages": stages}


def _forecast(card: Card, folder: Path, devices: int, speech_hours: float | None) -> Forecast:
    return Forecast(load_recipe(folder / "recipe.json"), card, devices, speech_hours)


def difference(foretold: float, took: float) -> str:
    """Such as +12 %: the forecast is so much above what it took."""
    return f"{100 * (foretold / took - 1):+.0f} %" if took else "-"


def rows(found: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    """(run, stage, forecast, took, difference) for a table."""
    for name, (foretold, took) in found["stages"].items():
        yield found["run"], name, f"{foretold:,.0f} s", f"{took:,.0f} s", difference(foretold, took)


def sentence(found: Mapping[str, Any]) -> str:
    """One sentence: the whole run, and the stage that is furthest off."""
    foretold, took = (sum(pair[i] for pair in found["stages"].values()) for i in (0, 1))
    long = {name: pair for name, pair in found["stages"].items() if pair[1] >= TELLING_S}
    text = f"the forecast of {found['run']} is {foretold:,.0f} s, it took {took:,.0f} s ({difference(foretold, took)})"
    if not long:
        return text
    worst = max(long, key=lambda name: abs(long[name][0] / long[name][1] - 1))
    return f"{text}; of the stages over {TELLING_S:g} s {worst} is furthest off ({difference(*long[worst])})"
