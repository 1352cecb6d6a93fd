"""spell: the upper part of ears in two parts, from text alone (ours; skipped where the adapter is the paper's)."""

from __future__ import annotations

from salad.pipeline.ears import upper_part
from salad.pipeline.run import Run, Summary

SECTIONS = ("spell",)


def run(run: Run) -> Summary:
    if run.recipe.model.ears != "symbols":
        return {"skipped": "model.ears is not symbols"}
    return upper_part(run)
