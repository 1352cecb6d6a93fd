"""One cell of a grid, trained: ears on the cell's own share of the speech, then the paper's objective alone.

Seeds differ in the weights that the lower part begins from, in which share of the speech is heard, in what is bought,
and in the order of everything. They share the upper part of the ears as the base spelled it from text, which has heard
no speech; each cell goes on with its own copy.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salad.config import Recipe
from salad.files import read_json, read_jsonl, write_json
from salad.model.freeze import freeze
from salad.pipeline.distillation import train_stage
from salad.pipeline.ears import lower_part_again, upper_part_again
from salad.pipeline.ears_data import load_noise, simulated_task, spell_documents
from salad.pipeline.run import Run
from salad.pipeline.speechlm import build_model, load_symbols, load_tokenizer, speech_source, text_source
from salad.pipeline.stages.corpus import load_documents
from salad.pipeline.stages.warm_start import train_ctc
from salad.sequence import Frames
from salad.sequence.spelling import spell
from salad.study.cell_data import CellData
from salad.study.cells import Cell
from salad.study.locks import alone
from salad.training.checkpoint import last_checkpoint, latest_checkpoint
from salad.training.loop import Schedule, train
from salad.training.tasks import Source
from salad.types import Utterance

SINGLE = {  # the demo's adapter before its ears had two parts
    "ears": "single", "prior": 0.0, "adapter_layers": 2, "adapter_width": 576, "adapter_mlp": 1536,
    "adapter_heads": 9, "adapter_kv_heads": 3, "stride": 4,
}  # fmt: skip
UPPER_SHARE, UPPER_LR = 0.25, 7e-4  # steps of the upper part on speech and text, to those of the lower part
BY_WORD = 0.15  # of the lower part's steps, in which each word is heard in its own time
LOG_MEL_STEPS = 2.0  # of a lower part that has to learn what an encoder brings along, to those of one behind an encoder
# Steps of the single adapter that take about the seconds of all of ours, our share of the spelling from text included.
SINGLE_STEPS = (1.8, 1.8)  # of its CTC: these times the lower part's, one of them however small the share
COLD_STEPS = 0.4  # of the paper's form: beside the stage's own steps, so many times the lower part's
Spoken = Sequence[tuple[str, Sequence[Utterance], Frames]]


@dataclass(frozen=True)
class Warm:
    """What a cell's stage begins from: weights, None where it is cold; seconds it took; their folder."""

    weights: Path | None
    seconds: float
    folder: Path | None


@dataclass(frozen=True)
class Trained:
    """A finished cell: its last checkpoint, and what its training was. seconds: of the stage alone."""

    checkpoint: Path
    steps: int
    positions: float
    seconds: float
    hours: float
    utterances: Sequence[Utterance]


def run_of(data: CellData, cell: Cell) -> Run:
    """The base as the cell's stage reads it: its model, its stage, its steps."""
    base = data.behind(cell.ears)
    return Run(recipe_of(data.recipe, cell, base.recipe))


def recipe_of(recipe: Recipe, cell: Cell, base: Recipe) -> Recipe:
    """The recipe of a cell, out of the grid's and of the base that it reads."""
    stage, warm, model = recipe.stage1, recipe.warm_start, base.model
    steps = max(2, round(stage.steps * cell.effort))
    changes: dict[str, Any] = {"alpha": cell.alpha}
    if cell.ears in ("single", "cold"):
        model = model.model_copy(update=SINGLE | ({"rate": "fixed"} if cell.ears == "cold" else {}))
        changes |= {"optimizer": "adamw", "spell_weight": 0.0, "ctc_steps": 0}
    if cell.ears == "cold":  # its adapter begins from noise, and so at a warm start's rate
        steps = max(2, round(stage.steps * cell.effort + COLD_STEPS * warm.steps))
        changes |= {"ctc_weight": 0.0, "lr_adapter": 1e-3}
        warm = warm.model_copy(update={"enabled": False})
    changes |= {
        "steps": steps, "warmup_steps": min(stage.warmup_steps, steps // 2), "checkpoint_every": steps,
        "probe_every": steps, "probe_documents": 1,
    }  # fmt: skip
    update = {
        "stage1": stage.model_copy(update=changes),
        "model": model,
        "warm_start": warm,
        "evaluate": recipe.evaluate,
    }
    return base.model_copy(update=update)


def warmed(data: CellData, cell: Cell, key: str) -> Warm:
    """The cell's ears before its stage, trained here unless they lie there under this key.

    Cells that differ in alpha alone, and those that buy a little beside the same share of narrow speech, share them.
    """
    if not cell.warm:
        return Warm(None, 0.0, None)
    folder = warm_folder(data, cell)
    note = folder / "warm.json"
    with alone(data.recipe.run_dir, f"warm-{folder.name}"):
        if not (note.exists() and read_json(note)["key"] == key):
            if folder.exists():
                shutil.rmtree(folder)
            start_s = time.monotonic()
            weights = (_single if cell.ears == "single" else _two_parts)(data, cell, folder)
            seconds = time.monotonic() - start_s
            write_json(note, {"key": key, "seconds": seconds, "weights": str(weights.relative_to(folder))})
        found = read_json(note)
    return Warm(folder / found["weights"], found["seconds"], folder)


def warm_folder(data: CellData, cell: Cell) -> Path:
    return data.recipe.run_dir / "warm" / f"{cell.kind}-share{cell.share:g}-seed{cell.seed}-{cell.ears}"


def _two_parts(data: CellData, cell: Cell, folder: Path) -> Path:
    """A lower part from noise by CTC, then the shared upper part on what this one hears, and on text."""
    base, recipe = data.behind(cell.ears), data.recipe
    tokenizer, spoken = load_tokenizer(base), [data.share_of(cell)]
    model = build_model(base, seed=recipe.seed + cell.seed)
    spelled = build_model(data.base, latest_checkpoint(data.base.folder("spell")))  # whose lower part is a stub
    model.symbol_ears.upper.load_state_dict(spelled.symbol_ears.upper.state_dict())
    freeze(model, "frozen", bf16=base.uses_bf16("train"))
    run = Run(base.recipe.model_copy(update={"warm_start": recipe.warm_start}))
    steps = max(4, round(recipe.warm_start.steps * cell.effort * (LOG_MEL_STEPS if cell.ears == "log-mel" else 1)))
    heard = lower_part_again(run, model, tokenizer, spoken, steps, folder / "lower", None, cell.seed, BY_WORD)
    steps = max(2, round(UPPER_SHARE * recipe.warm_start.steps * cell.effort))
    return upper_part_again(run, model, tokenizer, spoken, steps, UPPER_LR, folder / "upper", heard, cell.seed)


def _single(data: CellData, cell: Cell, folder: Path) -> Path:
    """One adapter by CTC onto the LLM's tokens."""
    data.write_vocabulary()
    run, (utterances, frames) = run_of(data, cell), data.share_of(cell)
    grows, always = SINGLE_STEPS
    steps = max(4, round(data.recipe.warm_start.steps * (grows * cell.effort + always)))
    changes = {"steps": steps, "checkpoint_every": steps, "warmup_steps": min(20, steps // 2), "lr": 1e-3,
               "optimizer": "adamw"}  # fmt: skip
    train_ctc(run, utterances, frames, folder, data.recipe.warm_start.model_copy(update=changes), cell.seed)
    return last_checkpoint(folder)


def train_cell(data: CellData, cell: Cell, folder: Path, warm: Warm) -> Trained:
    """The cell's stage from its warm start: KL, likelihood, or both, on its speech and on text, and nothing beside."""
    run, spoken = run_of(data, cell), data.speech_of(cell)
    settings = run.recipe.stage1
    utterances = [u for _, own, _ in spoken for u in own]
    hours = sum(u.duration_s for u in utterances) / 3600

    def sources(tokenizer: Any) -> list[Source]:
        share, layouts = (1 - settings.text_share) / len(spoken), run.recipe.sequence.layouts
        speech = [speech_source(run, tokenizer, name, share, own, frames, layouts) for name, own, frames in spoken]
        return [*speech, text_source(run, tokenizer, settings.text_share, load_documents(run, "web"))]

    pairs = [(own, frames) for _, own, frames in spoken]
    if cell.speech == "simulated":
        assert warm.weights is not None
        _train_simulated(data, cell, folder, warm.weights)
    else:
        train_stage(
            run, "stage1", settings, sources, lambda: pairs, weights=warm.weights, folder=folder, seed=cell.seed
        )
    last = read_jsonl(folder / "metrics.jsonl")[-1]
    return Trained(last_checkpoint(folder), settings.steps, last["positions"], last["seconds"], hours, utterances)


def _train_simulated(data: CellData, cell: Cell, folder: Path, weights: Path) -> None:
    """The stage on texts whose spoken words are symbols with made-up mistakes, as many positions a step as spoken."""
    base, seed = run_of(data, cell), cell.seed
    settings = base.recipe.stage1
    bf16, tokenizer, symbols = base.uses_bf16("train"), load_tokenizer(base), load_symbols(base)
    model, teacher = build_model(base, weights, lora=True), build_model(base)
    freeze(model, "lora", bf16=bf16)
    freeze(teacher, "frozen", bf16=bf16)
    documents, _ = spell_documents(base)
    texts = {d.id: spell(tokenizer, d.text, symbols) for d in documents}
    asked = {"kl_steps": settings.steps, "kl_positions": settings.positions}
    task = simulated_task(
        model, tokenizer, documents, texts, load_noise(base.folder("spell")),
        base.recipe.spell.model_copy(update=asked), base.recipe.sequence, seed, alpha=cell.alpha, base=teacher,
    )  # fmt: skip
    rates = {"adapter": settings.lr_adapter, "llm": settings.lr_llm}
    train(model, task, Schedule.of(settings, rates, probe_every=0), folder, title="simulated documents", bf16=bf16)
