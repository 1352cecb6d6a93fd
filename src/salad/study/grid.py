"""reproduce: the paper's grid in small. A base run makes the data; each cell trains from the warm start, is measured.

A cell is one training: alpha, how much speech, whether it is narrow, broad, or narrow with a little that was bought.
Cells share text, speech, frames and the teacher's states. One that does not fit what is left of the budget is named as
dropped, not cut short.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

import salad
from salad.config import Recipe, Stage
from salad.engine.machine import machine
from salad.files import read_json, read_jsonl, sha256_json, write_json, write_jsonl
from salad.measure.divergence import deaf_ears, divergence, forgetting, speech_ears, summary
from salad.pipeline.choices import answer, items_of
from salad.pipeline.distillation import train_stage
from salad.pipeline.heldout import HeldoutEvaluator
from salad.pipeline.run import STAGES, Run, move_to_replaced, run_pipeline
from salad.pipeline.speech_jobs import transcribe
from salad.pipeline.speechlm import load_tokenizer, speech_source, text_source
from salad.pipeline.stages.align import load_aligned, load_frames
from salad.pipeline.stages.corpus import load_documents
from salad.pipeline.stages.synthesize import load_bought, load_bought_frames
from salad.pipeline.stages.warm_start import train_ctc
from salad.progress import console
from salad.records import from_json, read_record, to_json
from salad.select.cluster_rows import coincidence
from salad.sequence import Frames
from salad.study.ablation import bought_more
from salad.study.cell_figures import (
    BaseFigures,
    CellFigures,
    DocumentSum,
    DoneCell,
    DroppedCell,
    GridRow,
    LivePoint,
    Measured,
    Shared,
    accuracy_of,
    by_document,
    document_sum,
    is_seen,
    measured,
)
from salad.study.cells import Cell, Times, grid
from salad.study.grid_page import write_reproduction
from salad.study.verdicts import Finding
from salad.training.checkpoint import last_checkpoint, load_weights
from salad.training.tasks import Source
from salad.types import Utterance

PAGE_S = 45.0  # kept for the start of Python and for the page


def reproduce(recipe: Recipe, *, budget_s: float, seeds: int = 3, only: Sequence[str] = ()) -> list[Finding]:
    """Run the grid within the budget and write the page; returns the findings."""
    rows, shared = run_grid(recipe, budget_s=budget_s, seeds=seeds, only=only)
    made_on = ", ".join(f"{key} {value}" for key, value in machine().items() if value is not None)
    made_on += f"; {recipe.threads} threads, seed {recipe.seed}, salad {salad.__version__}"
    return write_reproduction(rows, shared, recipe.run_dir, made_on)


def run_grid(
    recipe: Recipe, *, budget_s: float, seeds: int = 3, only: Sequence[str] = ()
) -> tuple[list[GridRow], Shared]:
    """Run the base and as many cells as fit; returns the cells' rows (also in results.jsonl) and what was shared.

    only: begin no cells but those whose names begin with one of these. The same call goes on where it stopped: finished
    cells are kept, and do not count against the budget.
    """
    start_s = time.monotonic()
    # The base needs a Stage I for the probe alone; the cells train their own from the warm start.
    short = recipe.stage1.model_copy(update={"steps": max(4, recipe.stage1.steps // 5)})
    base = Run(recipe.model_copy(update={"run_dir": recipe.run_dir / "base", "stage1": short}))
    with _alone(recipe.run_dir, "base"):
        run_pipeline(base.recipe, until="synthesize")
        active = _buy(base, "active", recipe.select.gamma)
        uniform = _buy(base, "uniform", 0.0)
        base.use_threads()
        measure = _Measure(base, recipe.stage1, {"active": active, "uniform": uniform})
        shared = Shared(measure.base_figures(), _shared_seconds(base, active, uniform))
        write_json(recipe.run_dir / "shared.json", to_json(shared))
    same = f"active and uniform: two purchases coincide in {shared.base.coincide:.0%} of seconds"
    console.print(f"base: ready after {time.monotonic() - start_s:.0f} s; {same}; the cells begin", highlight=False)
    cells, times, reasons = grid(seeds), Times(), dict[str, str]()
    for cell in cells:
        if measure.finished(cell):
            found = read_record(CellFigures, measure.folder(cell) / "cell.json")
            times.note(cell, found.seconds, found.warm_start_seconds)
    for cell in cells:
        if measure.finished(cell):
            continue
        if only and not cell.name.startswith(tuple(only)):
            reasons[cell.name] = f"not among {', '.join(only)}"
            continue
        left_s = budget_s - PAGE_S - (time.monotonic() - start_s)
        warms = measure.must_warm(cell)
        expected_s = times.expect_s(cell, warms)
        if expected_s > left_s:
            reasons[cell.name] = f"needs {expected_s:.0f} s, {max(0.0, left_s):.0f} left"
            continue
        with _alone(recipe.run_dir, cell.name, wait=False) as mine:
            if not mine or measure.finished(cell):
                reasons[cell.name] = "another process was running it"
                continue
            began_s = time.monotonic()
            found = measure.cell(cell, measure.begin(cell))
            measure.before(cell)  # a part of what a cell takes
            write_json(measure.folder(cell) / "cell.json", to_json(found))
            warm_s = found.warm_start_seconds if warms else 0.0
            times.note(cell, time.monotonic() - began_s - warm_s, warm_s)
        console.print(
            f"{cell.name}: M {found.misalignment:.3f}, F {found.forgetting:.4f}, "
            f"speech {found.speech_accuracy.value:.2f}; {found.seconds:.0f} s", highlight=False,
        )  # fmt: skip
        write_jsonl(recipe.run_dir / "results.jsonl", map(to_json, measure.rows(cells, reasons)))
    rows = measure.rows(cells, reasons)  # also those that another process has finished meanwhile
    write_jsonl(recipe.run_dir / "results.jsonl", map(to_json, rows))
    dropped = [row.cell for row in rows if isinstance(row, DroppedCell)]
    if dropped:
        console.print(
            f"[yellow]{len(dropped)} of {len(rows)} cells were not run; the page names each with the reason[/]"
        )
    return rows, shared


@contextlib.contextmanager
def _alone(run_dir: Path, name: str, wait: bool = True) -> Iterator[bool]:
    """Hold a part of the run against other processes; False where another one has it and we do not wait."""
    (run_dir / "locks").mkdir(parents=True, exist_ok=True)
    lock = FileLock(run_dir / "locks" / f"{name}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not wait:
            yield False
            return
        console.print(f"{name}: another process has it; waiting", highlight=False)
        lock.acquire()
    try:
        yield True
    finally:
        lock.release()


def _buy(base: Run, name: str, gamma: float) -> Run:
    """Another purchase from the same probe, by M as it was measured, without what the probe spoke, which arms share."""
    recipe = base.recipe
    budget = recipe.select.budget_share / 4  # a little beside the narrow speech; the base buys as much as that has
    alone = {"draw": "clusters", "rule": "raw", "keep_probed": False, "gamma": gamma, "budget_share": budget}
    chosen = recipe.select.model_copy(update=alone)
    run = Run(recipe.model_copy(update={"run_dir": recipe.run_dir.parent / name, "select": chosen}))
    run_pipeline(run.recipe, until="synthesize", reuse=[recipe.run_dir])
    return run


def _shared_seconds(base: Run, *purchases: Run) -> float:
    """Seconds of all stages that the cells share, whenever they were run."""
    until = list(STAGES)[: list(STAGES).index("synthesize") + 1]
    own = [(base, stage) for stage in until] + [(run, s) for run in purchases for s in ("select", "synthesize")]
    return sum(run.done(stage).seconds for run, stage in own)


class _Measure:
    """Trains and measures cells; everything that they share is loaded once."""

    def __init__(self, base: Run, stage: Stage, bought: dict[str, Run]) -> None:
        self.base, self.stage, self.bought = base, stage, bought
        self.settings: dict[tuple[Any, ...], HeldoutEvaluator] = {}
        self.tokenizer = load_tokenizer(base)
        heldout = load_aligned(base, "heldout")
        self.heard = transcribe(base, base.dir / "transcripts", heldout, "transcribe held-out")

    def evaluator(self, cell: Cell) -> HeldoutEvaluator:
        key = (cell.warm, cell.rate, cell.stride)
        if key not in self.settings:
            self.settings[key] = HeldoutEvaluator(self.recipe_of(cell))
        return self.settings[key]

    def recipe_of(self, cell: Cell) -> Run:
        recipe, stage = self.base.recipe, self.stage
        steps = max(2, round(stage.steps * cell.work))
        changes = {
            "alpha": cell.alpha, "steps": steps, "warmup_steps": min(stage.warmup_steps, steps // 2),
            "checkpoint_every": steps, "probe_every": max(1, stage.steps // 8),
        }  # fmt: skip
        if not cell.warm:  # the adapter begins from noise, as the warm start's does, and so at its rate
            changes |= {"ctc_weight": 0.0, "lr_adapter": recipe.warm_start.lr}
        model = recipe.model.model_copy(update={"rate": cell.rate, "stride": cell.stride})
        update = {"stage1": stage.model_copy(update=changes), "model": model}
        if not cell.warm:
            update["warm_start"] = recipe.warm_start.model_copy(update={"enabled": False})
        return Run(recipe.model_copy(update=update))

    def warmed(self, cell: Cell) -> tuple[Path, float]:
        """Weights after a CTC warm start on the cell's own share of narrow or broad speech, and its seconds.

        Cells that differ in alpha alone, and those that buy a little beside all of the narrow speech, share it.
        """
        kind, folder = _warm_kind(cell), self.warm_folder(cell)
        note = folder / "warm.json"
        with _alone(self.base.dir.parent, f"warm-{folder.name}"):
            if not self.must_warm(cell):
                return last_checkpoint(folder), read_json(note)["seconds"]
            if folder.exists():
                shutil.rmtree(folder)
            start_s = time.monotonic()
            run, own = self.recipe_of(cell), self.share_of(kind, cell)
            settings = run.recipe.warm_start
            steps = max(10, round(settings.steps * cell.share))
            changes = {
                "steps": steps,
                "checkpoint_every": steps,
                "warmup_steps": min(settings.warmup_steps, steps // 2),
            }
            train_ctc(run, *own, folder, settings.model_copy(update=changes), cell.seed)
            write_json(note, {"key": self.warm_key(cell), "seconds": time.monotonic() - start_s})
        return last_checkpoint(folder), read_json(note)["seconds"]

    def before(self, cell: Cell) -> tuple[DocumentSum, ...]:
        """M of the cell's warm start, document by document: what the cell's own training begins from; () if cold."""
        if not cell.warm:
            return ()
        note, key = self._before(cell)
        if not _holds(note, key):
            evaluator, (weights, _) = self.evaluator(cell), self.warmed(cell)
            load_weights(weights, evaluator.base)  # not the student, whose LLM may hold another cell's LoRA
            with evaluator.reading():
                rows = divergence(evaluator.base, evaluator.teacher, evaluator.examples, speech_ears(evaluator.base))
            documents = [document_sum(r) for r in rows if is_seen(r.speaker)]
            write_json(note, to_json({"key": key, "documents": documents}))
        return from_json(tuple[DocumentSum, ...], read_json(note)["documents"], note)

    def _before(self, cell: Cell) -> tuple[Path, str]:
        key = self._key(replace(cell, speech=_warm_kind(cell), alpha=1.0), [self.base], {"stage1", "stage2"})
        return self.warm_folder(cell) / f"before-{cell.rate}.json", key

    def rows(self, cells: Sequence[Cell], reasons: Mapping[str, str]) -> list[GridRow]:
        """What each cell found, or why it was not run; from what lies on the disk, whoever left it there."""
        rows: list[GridRow] = []
        for cell in cells:
            folder = self.folder(cell)
            if not self.finished(cell):
                why = reasons.get(cell.name, "not begun yet")
                rows.append(DroppedCell(**vars(cell), cell=cell.name, run_dir=str(folder), reason=why))
                continue
            known = cell.warm and _holds(*self._before(cell))
            documents = self.before(cell) if known else ()  # read, never measured here
            found = read_record(CellFigures, folder / "cell.json")
            named = {**vars(cell), "cell": cell.name, "run_dir": str(folder)}
            rows.append(DoneCell(**vars(found), **named, before=documents))
        return rows

    def folder(self, cell: Cell) -> Path:
        return self.base.dir.parent / "cells" / cell.name

    def warm_folder(self, cell: Cell) -> Path:
        name = f"{_warm_kind(cell)}-share{cell.share:g}-seed{cell.seed}-stride{cell.stride}"
        return self.base.dir.parent / "warm" / name

    def must_warm(self, cell: Cell) -> bool:
        """Whether the cell's warm start is still to be trained."""
        return cell.warm and not _holds(self.warm_folder(cell) / "warm.json", self.warm_key(cell))

    def finished(self, cell: Cell) -> bool:
        """Whether the cell was run, with these settings on these data."""
        return _holds(self.folder(cell) / "cell.json", self.key(cell))

    def begin(self, cell: Cell) -> Path:
        """The cell's folder. What other settings or data left there, finished or not, is kept in replaced/."""
        folder, key = self.folder(cell), self.key(cell)
        if folder.exists() and not _holds(folder / "key.json", key):
            move_to_replaced(folder, self.base.dir.parent / "replaced" / cell.name)
        write_json(folder / "key.json", {"key": key})
        return folder

    def key(self, cell: Cell) -> str:
        """Fingerprint of all that a cell's figures depend on: its recipe, and what the shared data were made from."""
        return self._key(cell, [self.base, *([self.bought[cell.speech]] if cell.speech in self.bought else [])])

    def warm_key(self, cell: Cell) -> str:
        """The same of a warm start, which knows nothing of alpha, of what is bought beside, or of the text rate."""
        plain = replace(cell, speech=_warm_kind(cell), alpha=1.0, rate="text")
        return self._key(plain, [self.base], {"stage1", "stage2", "evaluate"})

    def _key(self, cell: Cell, runs: Sequence[Run], without: Collection[str] = ()) -> str:
        excluded = {"run_dir", "threads", "engine", *without}
        values = self.recipe_of(cell).recipe.model_dump(mode="json", exclude=excluded)
        return sha256_json([values, [run.done("synthesize").inputs for run in runs]])[:16]

    def spoken(self, cell: Cell) -> list[tuple[str, Sequence[Utterance], Frames]]:
        """The cell's recordings: a share of the narrow or of the broad speech; or all narrow speech and a purchase."""
        if cell.speech not in self.bought:
            return [(cell.speech, *self.share_of(cell.speech, cell))]
        return [("narrow", *self.share_of("narrow", cell)), ("bought", *_bought(self.bought[cell.speech]))]

    def share_of(self, kind: str, cell: Cell) -> tuple[Sequence[Utterance], Frames]:
        """The cell's share of the narrow or of the broad speech, drawn by its seed."""
        if kind == "narrow":
            utterances: Sequence[Utterance] = load_aligned(self.base, "speech")
            frames = load_frames(self.base, "speech", utterances)
        else:
            utterances, frames = _bought(self.base)
        order = np.random.default_rng([self.base.recipe.seed, cell.seed]).permutation(len(utterances))
        kept = order[: max(4, round(cell.share * len(utterances)))]
        return [utterances[i] for i in sorted(kept)], frames

    def cell(self, cell: Cell, folder: Path) -> CellFigures:
        began_s = time.monotonic()
        weights, warm_s = self.warmed(cell) if cell.warm else (None, 0.0)
        run, spoken = self.recipe_of(cell), self.spoken(cell)
        settings = run.recipe.stage1

        def sources(tokenizer: Any) -> list[Source]:
            share, layouts = (1 - settings.text_share) / len(spoken), run.recipe.sequence.layouts
            speech = [speech_source(run, tokenizer, n, share, own, frames, layouts) for n, own, frames in spoken]
            return [*speech, text_source(run, tokenizer, settings.text_share, load_documents(run, "web"))]

        pairs = [(own, frames) for _, own, frames in spoken]
        train_stage(run, "stage1", settings, sources, lambda: pairs, weights=weights, folder=folder, seed=cell.seed)
        log = folder / "metrics.jsonl"
        curve = read_jsonl(log)
        figures = self.figures(cell, last_checkpoint(folder))
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)  # a grid of many cells keeps figures, not weights
        return CellFigures(
            **vars(figures),
            key=self.key(cell),
            hours=sum(u.duration_s for _, own, _ in spoken for u in own) / 3600,
            utterances=sum(len(own) for _, own, _ in spoken),
            steps=settings.steps,
            positions=curve[-1]["positions"],
            curve=from_json(tuple[LivePoint, ...], [r for r in curve if "misalignment" in r], log),
            train_seconds=curve[-1]["seconds"],
            warm_start_seconds=warm_s,
            seconds=time.monotonic() - began_s,
        )

    def figures(self, cell: Cell, checkpoint: Path) -> Measured:
        evaluator = self.evaluator(cell)
        with evaluator.reading():
            model = evaluator.load(checkpoint)
            m = divergence(model, evaluator.reader(), evaluator.examples, speech_ears(model))
            f = [] if evaluator.frozen else forgetting(model, evaluator.teacher, evaluator.texts)
            items = items_of(evaluator)
            systems = ("speech_adapted", "text_base" if evaluator.frozen else "text_adapted")
            answers = answer(evaluator, items, self.heard, systems)
        return measured(m, f, answers["speech_adapted"], answers["text_adapted"], items)

    def base_figures(self) -> BaseFigures:
        """What every cell is held against: the text LLM, the cascade, M of the deaf, and of the warm start alone."""
        evaluator = self.evaluator(Cell("narrow", 1.0, 1.0))
        recipe = self.base.recipe
        with evaluator.reading():
            items = items_of(evaluator)
            answers = answer(evaluator, items, self.heard, ("text_base", "cascade"))
            deaf = divergence(evaluator.base, evaluator.teacher, evaluator.examples, deaf_ears(evaluator.base))
            model = evaluator.load(last_checkpoint(self.base.folder("warm_start")))
            warm = divergence(model, evaluator.reader(), evaluator.examples, speech_ears(model))
        active, uniform = ([self.bought[name].dir] for name in ("active", "uniform"))
        return BaseFigures(
            text_accuracy=accuracy_of(answers["text_base"], items),
            cascade_accuracy=accuracy_of(answers["cascade"], items),
            chance=float(np.mean([1 / len(i.options) for i in items])),
            text_by_document=by_document(answers["text_base"], items),
            items=len(items),
            deaf=summary([r for r in deaf if is_seen(r.speaker)]).all,
            warm_start=summary([r for r in warm if is_seen(r.speaker)]).all,
            warm_start_seconds=self.base.done("warm_start").seconds,
            narrow_domains=tuple(sorted({u.domain for u in load_aligned(self.base, "speech")})),
            coincide=coincidence(*map(load_bought, self.bought.values())),
            active_domains=tuple(sorted(bought_more(active, uniform))),
            uniform_domains=tuple(sorted(bought_more(uniform, active))),
            written_at=recipe.corpus.temperature if recipe.corpus.speech_documents else None,
        )


def _holds(path: Path, key: str) -> bool:
    return path.exists() and bool(read_json(path).get("key") == key)


def _warm_kind(cell: Cell) -> str:
    return "broad" if cell.speech == "broad" else "narrow"


def _bought(purchase: Run) -> tuple[Sequence[Utterance], Frames]:
    bought = load_bought(purchase)
    return bought, load_bought_frames(purchase, bought)
