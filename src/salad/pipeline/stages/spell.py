"""spell: the upper part of ears in two parts, from text alone (ours; skipped where the adapter is the paper's)."""

from __future__ import annotations

from salad.config import Recipe
from salad.pipeline.ears import upper_part
from salad.pipeline.run import Run, Summary

SECTIONS = ("spell",)


def skips(recipe: Recipe) -> str:
    return "" if recipe.model.ears == "symbols" else "model.ears is not symbols"


def run(run: Run) -> Summary:
    if why := skips(run.recipe):
        return {"skipped": why}
    return upper_part(run)
