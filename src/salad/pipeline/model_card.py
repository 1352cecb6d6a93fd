"""The README of a saved model: what it is made of, what it was trained on and under which licences, and its figures."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from salad import __version__, markdown
from salad.assets import ASSETS
from salad.config.paper import departures
from salad.data.card import DataCard, card_lines, is_non_commercial
from salad.files import read_jsonl, write_text
from salad.measure.format import with_interval
from salad.measure.results import Interval, RunFigures, TaskAccuracies
from salad.pipeline.run import Run
from salad.records import read_record

PAPER = "https://arxiv.org/abs/2510.13632"
SYSTEMS = {
    "text_base": "read, before",
    "text_adapted": "read",
    "speech_adapted": "heard",
    "blind": "silence heard",
    "other": "another's heard",
    "cascade": "cascade",
}


def write_model_card(run: Run) -> None:
    """stage2/model/README.md, from the data card and whatever figures there are by now; written again by `report`."""
    recipe, folder = run.recipe, run.folder("stage2") / "model"
    card = read_record(DataCard, run.folder("corpus") / "data_card.json")
    head = {
        "library_name": "transformers",
        "base_model": recipe.assets.llm,
        "pipeline_tag": "audio-text-to-text",
        "license": "cc-by-nc-4.0" if card.non_commercial else "other",
        "tags": ["speech", "salad"],
    }
    parts = [("text LLM", recipe.assets.llm), ("speech encoder (frozen, not inside)", recipe.assets.encoder)]
    lines = ["---", yaml.safe_dump(head, sort_keys=False).rstrip(), "---", "", f"# {run.dir.name}", ""]
    lines += [
        f"A text LLM that listens, adapted by SALAD ([the paper]({PAPER}); this is an independent implementation, "
        f"salad {__version__}). Audio goes through the encoder and an adapter into the LLM.",
        "",
        *markdown.table(("part", "name", "licence"), [(part, name, licence_of(name)) for part, name in parts]),
        "",
        "## Trained on",
        "",
        *card_lines(card),
        *_bought(run),
        "",
        "## Figures",
        "",
        *_figures(run),
        "",
        "## Where it departs from the paper",
        "",
        *markdown.table(
            ("setting", "paper", "here", "what for"), [(d.setting, d.paper, d.ours, d.why) for d in departures(recipe)]
        ),
        "",
        f"Seed {recipe.seed}; the resolved recipe is recipe.json of the run directory.",
        "",
    ]
    write_text(folder / "README.md", "\n".join(lines))


def licence_of(name: str) -> str:
    """The licence of a part by its name, as far as we know it."""
    licence = ASSETS[name].licence if name in ASSETS else "see its own page"
    return f"{licence} (not commercial)" if is_non_commercial(licence) else licence


def _bought(run: Run) -> list[str]:
    summary = run.done("synthesize").summary if run.finished("synthesize") else {}
    if "hours" not in summary:
        return []
    voices = ", ".join(sorted(run.recipe.synthesize.voices.shares))
    return ["", f"Stage II: {summary['hours']:.2f} h of synthetic speech of the broad text, spoken by {voices}."]


def _figures(run: Run) -> list[str]:
    """The evaluation where it was made; else the last live measurement of the training."""
    path = run.folder("evaluate") / "figures.json"
    if path.exists():
        return _measured(read_record(RunFigures, path))
    metrics = run.folder("stage2") / "metrics.jsonl"
    rows = [row for row in (read_jsonl(metrics) if metrics.exists() else []) if row.get("misalignment") is not None]
    if not rows:
        return ["Not measured yet."]
    last = rows[-1]
    return [
        f"Live measurement at step {last['step']} on a few held-out documents: M {last['misalignment']:.3f}, "
        f"F {last['forgetting']:.3f} nats per token."
    ]


def _measured(figures: RunFigures) -> list[str]:
    """A table of what the evaluation holds; a recipe may have asked for a part of it."""
    names = {"stage2": "misalignment M", "deaf": "M without hearing", "blind": "M hearing silence"}
    names |= {"other": "M hearing another's recording", "cascade": "M of a cascade (ASR, then the LLM)"}
    found = [(name, (figures.misalignment or {}).get(key)) for key, name in names.items()]
    found.append(("forgetting F", (figures.forgetting or {}).get("stage2")))
    rows = [(name, mean.all) for name, mean in found if mean is not None and mean.all is not None]
    cells = [(f"{name}, nats per token", f"{m:.3f}") for name, m in rows]
    table = markdown.table(("figure", "value"), [*cells, *_heard(figures)])
    tasks = figures.accuracy.tasks if figures.accuracy else None
    return [*table, *_accuracies(tasks)] if tasks else table


def _heard(figures: RunFigures) -> list[tuple[str, str]]:
    """The share that was heard, by its formula, and the word error rate of each voice; in per cent."""
    lines = []
    if share := figures.heard:
        lines.append((f"heard, {share.formula}, %", _percent(share)))
    for row in figures.voices or ():
        if row.wer:
            lines.append((f"word error rate, {row.voice}, %", _percent(row.wer)))
    return lines


def _accuracies(tasks: Sequence[TaskAccuracies]) -> list[str]:
    """Multiple choice, task by task, in per cent with 95 % intervals; the gap is what was read before minus heard."""
    columns = {key: name for key, name in SYSTEMS.items() if any(getattr(task, key) is not None for task in tasks)}
    told = "the gap in points, what the base LLM reads minus what is heard"
    rows = []
    for task in tasks:
        chance = "" if task.chance is None else f"{100 * task.chance:.0f}"
        cells = [_percent(getattr(task, key)) for key in (*columns, "gap")]
        rows.append((task.task, task.n, chance, *cells))
    table = markdown.table(("task", "items", "chance", *columns.values(), "gap"), rows)
    return ["", f"Multiple choice, in per cent [95 % interval]; {told}:", "", *table]


def _percent(row: Interval | None) -> str:
    return with_interval(row, ".0f", scale=100)
