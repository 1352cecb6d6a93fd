"""assets: fetch and check every weight that the recipe names."""

from __future__ import annotations

from typing import Any

from salad import assets
from salad.pipeline import Run
from salad.stages.corpus import voices_needed
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
    for name in sorted(names):
        assets.get(name)
    assets.llm_folder(recipe.assets.llm)
    return {"assets": sorted(names)}
