"""spell: the upper part of ears in two parts, from text alone (ours; skipped where the adapter is the paper's)."""

from __future__ import annotations

from salad.pipeline.ears import upper_part
from salad.pipeline.run import Run, Summary, skips

SECTIONS = ("spell",)


def run(run: Run) -> Summary:
    if why := skips(run.recipe, "spell"):
        return {"skipped": why}
    return upper_part(run)
