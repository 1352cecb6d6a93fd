"""reproduce: the paper's grid in small. A base run makes the data; each cell trains ears and LoRA on it, is measured.

A cell is one training: which speech and how much of it, alpha, and which ears. Cells share text, speech and frames, the
text LLM's figures, and the upper part of the ears that the base spelled from text alone; `cell_training` says what
seeds differ in. A cell that does not fit what is left of the budget is named as dropped, not cut short. A cell whose
row lies in a file of kept rows, under an equal key, is not run again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import salad
from salad.config import Recipe
from salad.engine.machine import machine
from salad.evaluation.benchmark_task import task_files
from salad.files import read_json, read_jsonl, sha256_file, sha256_json, write_json, write_jsonl
from salad.pipeline.replaced import move_to_replaced
from salad.pipeline.stages.align import load_aligned
from salad.progress import console
from salad.records import from_json, read_record, to_json
from salad.study.cell_data import CellData
from salad.study.cell_figures import BaseFigures, CellFigures, DoneCell, DroppedCell, GridRow, Sums, mean
from salad.study.cell_training import UPPER_SHARE, recipe_of, train_cell, warm_folder, warmed
from salad.study.cells import MAIN, Cell, Times, grid
from salad.study.grid_page import write_reproduction
from salad.study.locks import alone
from salad.study.measuring import Measuring
from salad.study.verdicts import Finding

VERSION = 1  # of how cells are trained and measured: another one makes kept rows void
NOTHING = "none"  # for `only`
STEPS = (0.9, 1.1, 3.5, 80.0)  # lower, upper, stage, measuring a document a domain (2026-11-27, one thread)
PAGE_S = 45.0  # kept for the start of Python and for the page
NO_FIGURE = {  # sections and settings that change no figure of a cell, or only its seconds
    "": ("run_dir", "threads", "engine", "precision", "stage2", "rounds", "probe", "select", "cluster"),
    "stage1": ("keep", "checkpoint_every", "probe_every", "probe_documents", "spike_factor"),
    "evaluate": ("only", "stages", "stage_documents", "oracle_documents", "noise", "noise_documents", "tasks",
                 "task_data", "task_hub", "num_fewshot"),
}  # fmt: skip


def reproduce(
    recipe: Recipe, *, budget_s: float, seeds: int = 3, only: Sequence[str] = (), rows: Path | None = None
) -> list[Finding]:
    """Run the grid within the budget and write the page; returns the findings. rows: a results.jsonl of kept cells."""
    recipe.run_dir.mkdir(parents=True, exist_ok=True)
    found = Grid(recipe, rows)
    table = found.run(budget_s=budget_s, seeds=seeds, only=only)
    made_on = f"{machine_name()}; {recipe.threads} threads, seed {recipe.seed}, salad {salad.__version__}"
    return write_reproduction(table, found.base_figures(), recipe.run_dir, made_on)


def machine_name() -> str:
    return ", ".join(f"{key} {value}" for key, value in machine().items() if value is not None)


class Grid:
    """Cells of a recipe, those that lie on the disk or were kept elsewhere, and those that are still to be run."""

    def __init__(self, recipe: Recipe, kept: Path | None = None) -> None:
        self.recipe, self.data = recipe, CellData(recipe)
        self.kept: dict[str, DoneCell] = {}
        self.kept_base: BaseFigures | None = None
        if kept is not None:
            done = [row for row in read_jsonl(kept) if row.get("status") == "done"]
            for number, row in enumerate(done, 1):
                one = from_json(DoneCell, row, f"{kept} object {number}")
                self.kept[one.cell] = one
            if (beside := kept.parent / "shared.json").exists():
                self.kept_base = read_record(BaseFigures, beside)
        self._measuring: dict[str, Measuring] = {}
        self._base: BaseFigures | None = None

    def run(self, *, budget_s: float, seeds: int, only: Sequence[str] = ()) -> list[GridRow]:
        """Run as many cells as fit; rows of all, also in results.jsonl. The same call goes on where it stopped:
        finished cells do not count against the budget.

        only: begin no cells but those whose names begin with one of these; "none": make what they all train on, and
        what they are held against, and begin none.
        """
        start_s = time.monotonic()
        cells, times, reasons = grid(seeds), Times(), dict[str, str]()
        if NOTHING in only:
            self.base_figures()
            for cell in cells:
                self.data.speech_of(cell)
                self.data.natural(cell.ears)
        for cell in cells:
            if (known := self.figures(cell)) is not None:
                times.note(cell, known.seconds, known.warm_start_seconds)
        told = False
        for cell in cells:
            if self.figures(cell) is not None:
                continue
            if only and not cell.name.startswith(tuple(only)):
                reasons[cell.name] = f"not among {', '.join(only)}"
                continue
            left_s = budget_s - PAGE_S - (time.monotonic() - start_s)
            if left_s <= 0:
                reasons[cell.name] = "no time was left"
                continue
            if not told:
                self.base_figures()
                console.print(f"base: ready after {time.monotonic() - start_s:.0f} s; the cells begin", highlight=False)
                told, left_s = True, budget_s - PAGE_S - (time.monotonic() - start_s)
                times.guess_s = self._guess_s()
            warms = self.must_warm(cell)
            expected_s = times.expect_s(cell, warms) + self.data.must_make_s(cell)
            if expected_s > left_s:
                reasons[cell.name] = f"needs {expected_s:.0f} s, {max(0.0, left_s):.0f} left"
                continue
            with alone(self.recipe.run_dir, cell.name, wait=False) as mine:
                if not mine or self.figures(cell) is not None:
                    reasons[cell.name] = "another process was running it"
                    continue
                found = self.cell(cell)
                times.note(cell, found.seconds, found.warm_start_seconds if warms else 0.0)
            console.print(
                f"{cell.name}: M {found.misalignment:.3f} (before {mean(found.before):.3f}, deaf "
                f"{mean(self.base_figures().deaf):.3f}), F {found.forgetting:.4f}, speech "
                f"{found.speech_accuracy.value:.2f}, silence {found.silence_accuracy.value:.2f}; "
                f"{found.seconds:.0f} s", highlight=False,
            )  # fmt: skip
            self._write(cells, reasons)
        rows = self._write(cells, reasons)  # also those that another process has finished meanwhile
        if dropped := sum(isinstance(row, DroppedCell) for row in rows):
            console.print(
                f"[yellow]{dropped} of {len(rows)} cells were not run; the page names each with the reason[/]"
            )
        return rows

    def _guess_s(self) -> float:
        """About what a first cell takes here, by what the last steps of the base's spelling took, for what else runs
        changes: STEPS of these for a step of each part, and for measuring."""
        log = read_jsonl(self.data.base.folder("spell") / "metrics.jsonl")[-20:]
        spelled_s = (log[-1]["seconds"] - log[0]["seconds"]) / max(1, len(log) - 1)
        lower, upper, stage, measuring = STEPS
        trained = self.recipe.warm_start.steps * (lower + UPPER_SHARE * upper) + self.recipe.stage1.steps * stage
        effort = Cell("narrow", 1.0, MAIN).effort
        return float(spelled_s * (effort * trained + self.recipe.evaluate.documents * measuring))

    def base_figures(self) -> BaseFigures:
        """What every cell is held against: kept, on the disk, or measured now."""
        if self._base is None:
            path, key = self.recipe.run_dir / "shared.json", self.base_key()
            if self.kept_base is not None and self.kept_base.key == key:
                self._base = self.kept_base
                write_json(path, to_json(self._base))
            else:
                began_s, base = time.monotonic(), self.data.base
                with alone(self.recipe.run_dir, "shared"):
                    if not (path.exists() and read_json(path).get("key") == key):
                        measuring = self.measuring(Cell("narrow", 1.0, MAIN))
                        spell_s = base.done("spell").seconds
                        found = measuring.base_figures(key, load_aligned(base, "speech"), spell_s)
                        took = {"seconds": time.monotonic() - began_s}
                        write_json(path, {**to_json(found), **took})
                    self._base = read_record(BaseFigures, path)
        return self._base

    def measuring(self, cell: Cell) -> Measuring:
        if cell.ears not in self._measuring:
            self._measuring[cell.ears] = Measuring(self.data, cell)
        return self._measuring[cell.ears]

    def cell(self, cell: Cell) -> CellFigures:
        """Train and measure one cell, and keep its cell.json."""
        folder, base = self.begin(cell), self.base_figures()
        self.data.base.use_threads()
        self.data.speech_of(cell)  # what it is the first to need is not a part of what it takes
        warm = warmed(self.data, cell, self.warm_key(cell))
        began_s = time.monotonic()
        trained = train_cell(self.data, cell, folder, warm)
        measuring = self.measuring(cell)
        everything = cell.alpha == 1 and cell.share == MAIN and not cell.buys and cell.ears == "symbols"
        found = measuring.cell(trained.checkpoint, trained.utterances, base, everything)
        figures = CellFigures(
            **vars(found),
            key=self.key(cell),
            hours=trained.hours,
            utterances=len(trained.utterances),
            steps=trained.steps,
            positions=trained.positions,
            train_seconds=trained.seconds,
            warm_start_seconds=warm.seconds,
            before=self._before(cell, warm.weights),
            bought=self.data.domains(cell) if cell.buys else None,
            machine=machine_name(),
            seconds=time.monotonic() - began_s,
        )
        write_json(folder / "cell.json", to_json(figures))
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)  # a grid of many cells keeps figures, not weights
        return figures

    def _before(self, cell: Cell, weights: Path | None) -> Sums:
        """M of the cell's warm start: what the cell's own stage begins from; () if cold."""
        if weights is None:
            return ()
        note = warm_folder(self.data, cell) / "before.json"
        key = sha256_json([self.warm_key(cell), self.base_key()])[:16]
        if not (note.exists() and read_json(note)["key"] == key):
            write_json(note, to_json({"key": key, "documents": self.measuring(cell).before(weights)}))
        return from_json(Sums, read_json(note)["documents"], note)

    def figures(self, cell: Cell) -> CellFigures | None:
        """What the cell found with these settings and data, here or as it was kept; None where it was not run."""
        path, key = self.folder(cell) / "cell.json", self.key(cell)
        if path.exists() and read_json(path).get("key") == key:
            return read_record(CellFigures, path)
        known = self.kept.get(cell.name)
        return known if known is not None and known.key == key else None

    def rows(self, cells: Sequence[Cell], reasons: Mapping[str, str]) -> list[GridRow]:
        """What each cell found, or why it was not run; whoever ran it."""
        rows: list[GridRow] = []
        for cell in cells:
            found = self.figures(cell)
            if found is None:
                rows.append(DroppedCell(**vars(cell), cell=cell.name, reason=reasons.get(cell.name, "not begun yet")))
            elif isinstance(found, DoneCell):
                rows.append(found)
            else:
                rows.append(DoneCell(**vars(found), **vars(cell), cell=cell.name))
        return rows

    def _write(self, cells: Sequence[Cell], reasons: Mapping[str, str]) -> list[GridRow]:
        rows = self.rows(cells, reasons)
        write_jsonl(self.recipe.run_dir / "results.jsonl", map(to_json, rows))
        return rows

    def folder(self, cell: Cell) -> Path:
        return self.recipe.run_dir / "cells" / cell.name

    def must_warm(self, cell: Cell) -> bool:
        """Whether the cell's warm start is still to be trained."""
        note = warm_folder(self.data, cell) / "warm.json"
        return cell.warm and not (note.exists() and read_json(note)["key"] == self.warm_key(cell))

    def begin(self, cell: Cell) -> Path:
        """The cell's folder. What other settings or data left there, finished or not, is kept in replaced/."""
        folder, key = self.folder(cell), self.key(cell)
        note = folder / "key.json"
        if folder.exists() and not (note.exists() and read_json(note)["key"] == key):
            move_to_replaced(folder, self.recipe.run_dir / "replaced" / cell.name)
        write_json(note, {"key": key})
        return folder

    def key(self, cell: Cell) -> str:
        """Fingerprint of all that a cell's figures depend on. No path of this machine is in it, and no setting that has
        its default: a recipe that learns a new setting keeps its cells."""
        names = ("synthesize",) if cell.kind == "broad" else ("probe", "select", "cluster", "synthesize")
        every = self.recipe.model_dump(mode="json", exclude_defaults=True)
        bought = {name: every.get(name) for name in names} if cell.buys or cell.kind == "broad" else {}
        return sha256_json([VERSION, _named(cell), self._of(cell), bought])[:16]

    def warm_key(self, cell: Cell) -> str:
        """The key of a warm start, which knows nothing of alpha, of the stage, or of what is bought beside."""
        values = self._of(cell)
        for name in ("stage1", "evaluate"):
            values.pop(name, None)
        return sha256_json([VERSION, cell.kind, cell.share, cell.seed, cell.ears, values])[:16]

    def base_key(self) -> str:
        """The key of what all cells are held against, the items of tasks among it."""
        values, settings = self._of(Cell("narrow", 1.0, MAIN)), self.recipe.evaluate
        files = [sha256_file(path) for path in task_files(settings.tasks, settings.task_data)]
        about = {name: values.get(name) for name in ("seed", "assets", "corpus", "sequence", "evaluate")}
        return sha256_json([VERSION, about, list(settings.tasks), files])[:16]

    def _of(self, cell: Cell) -> dict[str, Any]:
        """The sections of a cell's recipe that figures depend on, without what has its default."""
        recipe = recipe_of(self.recipe, cell, self.recipe)
        values: dict[str, Any] = recipe.model_dump(mode="json", exclude_defaults=True)
        for section, names in NO_FIGURE.items():
            for name in names:
                (values.get(section, {}) if section else values).pop(name, None)
        values.pop("synthesize", None)
        return {name: value for name, value in values.items() if value != {}}


def _named(cell: Cell) -> dict[str, str | float]:
    """What a cell is, without what is so by default."""
    plain = vars(Cell(cell.speech, cell.alpha, cell.share))
    always = ("speech", "alpha", "share")
    return {name: value for name, value in vars(cell).items() if name in always or value != plain[name]}
