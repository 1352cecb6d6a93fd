"""Whether a stage is up to date: its stage.json, what it is made from, and whether a finished result still fits."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from salad.config import Recipe
from salad.files import JsonObject
from salad.pipeline.fingerprints import of_section
from salad.records import read_record

MEASURED, RECORDINGS = "measured precision", "your recordings"


@dataclass(frozen=True)
class StageNote:
    """stage.json: what a stage was made from (fingerprints, seed, versions), whether it is done, how long it took."""

    stage: str = ""
    inputs: dict[str, str] | None = None
    seed: int | None = None
    versions: dict[str, str] | None = None
    status: str = ""
    seconds: float = 0.0
    summary: JsonObject = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.status == "done"


def state_of(folder: Path) -> StageNote | None:
    """The note of a stage's folder; None where it never ran."""
    path = folder / "stage.json"
    return read_record(StageNote, path) if path.exists() else None


def stage_module(stage: str) -> ModuleType:
    """The file of a stage: SECTIONS, `inputs`, SPENT, REUSES, TOGETHER and `run`. It comes late, being large."""
    return importlib.import_module(f"salad.pipeline.stages.{stage}")


def stage_inputs(stage: str, recipe: Recipe) -> dict[str, str]:
    """Fingerprints of what the stage depends on beyond the stages above it, as its file declares them.

    SECTIONS: names of the recipe's sections, or of settings at its top, that change what the stage makes.
    inputs(recipe), where there is one: fingerprints of anything else, such as files, by the names that a user is told.
    """
    module = stage_module(stage)
    parts = {name: of_section(recipe, name) for name in module.SECTIONS}
    return parts | (module.inputs(recipe) if hasattr(module, "inputs") else {})


def found_inputs(stage: str, folder: Path, *, read: bool = False) -> dict[str, str]:
    """Fingerprints of what the result in `folder` was made from that only its stage could tell, once it had read.

    FOUND of its file: by the names that a user is told, a file in the folder, what makes a fingerprint of all that it
    names as that is now, and as it was when the stage began to read. read: that of then.
    """
    own = getattr(stage_module(stage), "FOUND", {})
    there = {name: (folder / file, now, then) for name, (file, now, then) in own.items() if (folder / file).exists()}
    told = {name: (then if read else now)(path) for name, (path, now, then) in there.items()}
    return {name: value for name, value in told.items() if value}


def noted_inputs(stage: str, folder: Path) -> dict[str, str]:
    """What `found_inputs` gives, as the note of the result in `folder` has it."""
    inputs = (state_of(folder) or StageNote()).inputs or {}
    return {name: inputs[name] for name in getattr(stage_module(stage), "FOUND", {}) if name in inputs}


def same_elsewhere(stage: str, parts: dict[str, str], runs: Sequence[Path]) -> Path | None:
    """The finished folder of this stage in another run, made from the same inputs."""
    return next((other / stage for other in runs if fitting(stage, other / stage, parts)), None)


def fitting(stage: str, folder: Path, parts: dict[str, str]) -> StageNote | None:
    """The note of a finished result in `folder` that was made from `parts`, and from what it found as it is now."""
    state = state_of(folder)
    if state is None or not state.done:
        return None
    inputs, found = state.inputs or {}, noted_inputs(stage, folder)
    if {**parts, **found} != inputs:  # known without a look at every file of a corpus
        return None
    return state if not found or parts | found_inputs(stage, folder) == inputs else None


def changed_inputs(before: dict[str, str] | None, now: dict[str, str]) -> list[str]:
    before = before or {}
    for name in (MEASURED, RECORDINGS):
        if name not in before:  # made before that was known: a run that goes on is not made anew for it
            now = {key: value for key, value in now.items() if key != name}
    return sorted(key for key in {*before, *now} if before.get(key) != now.get(key))


def why_skipped(stage: str, recipe: Recipe) -> str:
    """Why the recipe leaves a stage out, as its file declares with `skips(recipe)`; "" where it does not."""
    module = stage_module(stage)
    return module.skips(recipe) if hasattr(module, "skips") else ""
