"""rounds: probe again, buy again, train on, until the rounds are done or an hour of speech buys too little."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from salad.files import read_jsonl, write_json
from salad.pipeline.run import ROUND, Run, Summary, run_stage
from salad.progress import console
from salad.types import SaladError

SECTIONS = ("rounds",)


def run(run: Run) -> Summary:
    """Rounds 2 and on; nothing where the recipe has one. Each stage of a round is skipped once it is finished."""
    settings, rows = run.recipe.rounds, [_gain(run)]
    if settings.number > 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SaladError("rounds.number: further rounds run in one process; start them without torchrun")
    for number in range(2, settings.number + 1):
        if rows[-1].gain_per_hour < settings.price:
            console.print(
                f"rounds: M fell by {rows[-1].gain_per_hour:.3f} for an hour bought, under rounds.price "
                f"{settings.price}; no further round"
            )
            break
        this = replace(run, round=number)
        for stage in ROUND:
            if not this.finished(stage):
                run_stage(this, stage, {"round": str(number)})
        rows.append(_gain(this))
    write_json(run.folder("rounds") / "rounds.json", [asdict(row) for row in rows])
    return {"rounds": len(rows), "hours": sum(row.hours for row in rows), "gain_per_hour": rows[-1].gain_per_hour}


@dataclass(frozen=True)
class Gain:
    """What a round bought and what it brought: live M before and after on the same held-out documents."""

    round: int
    hours: float
    misalignment_before: float
    misalignment: float
    gain_per_hour: float


def _gain(run: Run) -> Gain:
    hours = run.done("synthesize").summary["hours"]
    before = replace(run, round=run.round - 1).folder("stage2") if run.round > 1 else run.folder("stage1")
    first, last = (_last_m(folder) for folder in (before, run.folder("stage2")))
    return Gain(run.round, hours, first, last, (first - last) / hours)


def _last_m(folder: Path) -> float:
    rows = [row["misalignment"] for row in read_jsonl(folder / "metrics.jsonl") if "misalignment" in row]
    return float(rows[-1])
