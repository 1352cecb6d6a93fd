"""assets: fetch and check every weight that the recipe names."""

from __future__ import annotations

from typing import Any

from salad import assets
from salad.engine.machine import default_device
from salad.engine.precision import summary
from salad.pipeline.run import Run
from salad.pipeline.stages.corpus import voices_needed
from salad.synthesize import assets_of_voice

__all__ = ["run"]


def run(run: Run) -> dict[str, Any]:
    recipe = run.recipe
    voices = voices_needed(recipe) | {*recipe.synthesize.voices.shares, recipe.probe.voice}
    names = {assets.split_setting(name)[0] for name in recipe.assets.model_dump().values()} - set(assets.BUILT_IN)
    if recipe.corpus.prepared in assets.ASSETS:
        names.add(recipe.corpus.prepared)
    for voice in voices:
        names |= set(assets_of_voice(voice))
    revisions = {}
    for name in sorted(names):
        folder = assets.get(name)
        if assets.is_hub_name(name) and (revision := assets.hub_revision(folder)):
            revisions[name] = revision  # a name without one is what the hub calls main on that day
    assets.llm_folder(recipe.assets.llm)
    return {
        "assets": sorted(names),
        **({"revisions": revisions} if revisions else {}),
        "precision": _precision(run),
    }


def _precision(run: Run) -> str:
    """What each use of the LLM computes in."""
    if run.recipe.precision != "auto":
        return run.recipe.precision
    measured = summary(run.timings())
    return measured if default_device() == "cpu" else f"bf16 on the GPU; on the CPU {measured}"
