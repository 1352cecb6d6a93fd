"""assets: fetch and check every weight that the recipe names."""

from __future__ import annotations

from salad import assets
from salad.config import Recipe
from salad.engine.machine import default_device
from salad.engine.precision import summary
from salad.pipeline.corpus_needs import voices_needed
from salad.pipeline.run import Run, Summary
from salad.synthesize.voices import assets_of_voice

SECTIONS = ("assets", "seed", "precision", "threads")


def inputs(recipe: Recipe) -> dict[str, str]:
    """The files of every weight that the recipe names itself."""
    return {f"asset {name}": assets.fingerprint(name)[:16] for name in sorted(_named(recipe))}


def run(run: Run) -> Summary:
    recipe = run.recipe
    voices = voices_needed(recipe) | {*recipe.synthesize.voices.shares, recipe.probe.voice}
    names = _named(recipe)
    if recipe.corpus.prepared in assets.ASSETS:
        names.add(recipe.corpus.prepared)
    for voice in voices:
        names |= set(assets_of_voice(voice))
    revisions = {}
    for name in sorted(names):
        folder = assets.get(name)
        if assets.is_hub_name(name) and (revision := assets.hub_revision(folder)):
            revisions[name] = revision  # a name without one is what the hub calls main on that day
    _check_llm(recipe)
    return {"assets": sorted(names), **({"revisions": revisions} if revisions else {}), "precision": _precision(run)}


def _check_llm(recipe: Recipe) -> None:
    """Raises SaladError for an LLM that training would refuse: here it has cost minutes, behind the corpus hours."""
    from salad.model.check import check_folder

    check_folder(assets.llm_folder(recipe.assets.llm)).require(recipe.assets.llm)


def _named(recipe: Recipe) -> set[str]:
    """The assets of the recipe's `assets` section, but for those that come without files."""
    return {assets.split_setting(name)[0] for name in recipe.assets.model_dump().values()} - set(assets.BUILT_IN)


def _precision(run: Run) -> str:
    """What each use of the LLM computes in."""
    if run.recipe.precision != "auto":
        return run.recipe.precision
    measured = summary(run.timings())
    return measured if default_device() == "cpu" else f"bf16 on the GPU; on the CPU {measured}"
