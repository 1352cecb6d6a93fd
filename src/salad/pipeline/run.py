"""A recipe's stages in order. A finished, unchanged stage is skipped; a changed one reruns, and says why."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from salad import assets
from salad.config import Recipe
from salad.config.paper import departures
from salad.data.readers.detect import check_places
from salad.engine import using
from salad.engine.memory import keep_freed_memory
from salad.engine.precision import Timing, Use, decide, measured
from salad.files import write_json
from salad.pipeline.fingerprints import versions
from salad.pipeline.lock import one_owner
from salad.pipeline.replaced import Replaced, move_to_replaced, refuse_large, remove_marked, take_back
from salad.pipeline.up_to_date import (
    StageNote,
    changed_inputs,
    fitting,
    found_inputs,
    noted_inputs,
    same_elsewhere,
    stage_inputs,
    stage_module,
    state_of,
    why_skipped,
)
from salad.progress import console
from salad.types import SaladError

Summary = Mapping[str, Any]  # what a stage tells of itself, in JSON's own types: counts, hours, names

# in order; the file of a stage declares what it is made from (see `up_to_date`)
STAGES = (
    "assets",
    "corpus",
    "align",
    "warm_start",
    "spell",
    "stage1",
    "cluster",
    "probe",
    "select",
    "synthesize",
    "stage2",
    "rounds",
    "evaluate",
    "report",
)
ROUND = ("probe", "select", "synthesize", "stage2")  # what a further round of buying does again


@dataclass(frozen=True)
class Run:
    """A recipe and the directory its stages read and write.

    round: of buying speech, 1 unless the recipe asks for more. The stages of a later round lie in rounds/NN/.
    """

    recipe: Recipe
    round: int = 1

    @property
    def dir(self) -> Path:
        return self.recipe.run_dir

    @property
    def rounds(self) -> list[Run]:
        """This round and those before it, the first one first."""
        return [replace(self, round=number) for number in range(1, self.round + 1)]

    @property
    def latest(self) -> Run:
        """The last round that is finished."""
        number = 1
        while replace(self, round=number + 1).finished("stage2"):
            number += 1
        return replace(self, round=number)

    def folder(self, stage: str) -> Path:
        if self.round > 1 and stage in ROUND:
            return self.dir / "rounds" / f"{self.round:02d}" / stage
        return self.dir / stage

    def last_result(self, stage: str) -> Path:
        """Where the result of a stage was moved that no longer fits the recipe."""
        return self.dir / "replaced" / self.folder(stage).relative_to(self.dir)

    def uses_bf16(self, use: Use, device: str = "cpu") -> bool:
        """Whether `use` computes in bf16: as the recipe says, or where the run's own timings found it faster.

        They are taken once, by the assets stage, and kept beside its result: a run that goes on elsewhere keeps them.
        """
        return decide(self.recipe.precision, use, device, self.timings)

    def use_threads(self) -> None:
        """Compute with as many threads as the recipe says, and keep freed memory for the next tensor of its size."""
        import torch

        torch.set_num_threads(self.recipe.threads)
        keep_freed_memory()

    def timings(self) -> Mapping[Use, Timing]:
        recipe = self.recipe
        trained = recipe.stage1.llm == "full"
        llm = functools.partial(assets.llm_folder, recipe.assets.llm)
        return measured(llm, recipe.threads, trained=trained, keep=kept_precision(self.dir))

    def finished(self, stage: str) -> bool:
        return self._note(stage).done

    def done(self, stage: str) -> StageNote:
        """stage.json of a finished stage. Raises SaladError where it is not finished."""
        note = self._note(stage)
        if not note.done:
            raise SaladError(f"stage {stage}: not finished in {self.dir}; run `salad run` or that stage first")
        return note

    def _note(self, stage: str) -> StageNote:
        return state_of(self.folder(stage)) or StageNote()


@one_owner
def run_pipeline(
    recipe: Recipe,
    only: str | None = None,
    *,
    until: str | None = None,
    reuse: Sequence[Path] = (),
    replaced: Replaced = "ask",
) -> Path:
    """Run every stage (or the one named `only`, or those up to `until`) that is not finished; returns its directory.

    only: the stages before it must be finished and fit the recipe: its result is stamped with what they are made from.
    reuse: run directories whose finished stages are taken (as hard links) where everything they depend on is the same.
    replaced: what becomes of results over 10 GB that no longer fit the recipe (see `move_to_replaced`).
    Under torchrun the first process decides, writes and shows; the others join it in the stages that train.
    While it runs no other process may run in the same directory; with `wait=True` this one waits its turn (see `lock`).
    """
    _check_asked(only, until, replaced)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # one bar for the whole house, in workers too
    run = Run(recipe)
    first, meet, told = _others()
    stages = (only,) if only else STAGES[: STAGES.index(until or STAGES[-1]) + 1]
    parts, known = told(functools.partial(_check_begin, run, only, reuse)), dict[str, dict[str, str]]()
    if first:
        _write_recipe(run)
    above_ran, ran = "", False
    for above, stage in itertools.pairwise(("", *stages)):
        parts |= known.get(above, {})
        parts, state, last, changed = told(functools.partial(_standing, run, stage, parts, known))
        if changed and not ran and last:
            if first:
                _take_back(run, stage, replaced)
                known[stage] = noted_inputs(stage, run.folder(stage))
            state, changed = last, []
        if state and state.done and not changed and not above_ran:
            if first:
                console.print(f"[dim]{stage}: finished before, unchanged[/]")
                remove_marked(run.last_result(stage))  # the run may have been killed just before it was
            continue
        ran = True
        if state and (changed or above_ran):
            if first and not above_ran:  # what lies below runs again too: asked about now, and not hours later
                _refuse_large(run, stages[stages.index(stage) :], replaced)
            if first:
                why = f"{', '.join(changed)} changed" if changed else f"{above_ran} ran again"
                _move_away(run, stage, why, replaced)
                parts |= stage_inputs(stage, recipe)  # nothing there goes on any more
            meet()
            above_ran = stage
        elif not state:
            above_ran = ""  # nothing below can be finished: it never ran
        if first and not state and (found := same_elsewhere(stage, parts, reuse)):
            _take_from(run, stage, found)
        elif first:
            run_stage(run, stage, parts)
        elif getattr(stage_module(stage), "TOGETHER", False):  # the first process runs the others alone
            _function(stage)(run)
        if first:
            known[stage] = noted_inputs(stage, run.folder(stage))
    meet()
    return run.dir


def _check_asked(only: str | None, until: str | None, replaced: str) -> None:
    """Raise SaladError for a stage, or a fate of large results, that there is not."""
    for name in (only, until):
        if name is not None and name not in STAGES:
            raise SaladError(f"stage: {name!r} is not a stage; expected one of {', '.join(STAGES)}")
    if replaced not in get_args(Replaced):
        raise SaladError(f"--replaced: got {replaced!r}, expected keep or remove")


def _check_begin(run: Run, only: str | None, reuse: Sequence[Path]) -> dict[str, str]:
    """Before models are fetched: that the recipe's places of speech and text are there, and, where one stage is asked
    for, what those before it are made from."""
    if not reuse and only in (None, "assets", "corpus") and not run.finished("corpus"):
        check_places(run.recipe.corpus)
    return check_above(run, only) if only else {}


def _write_recipe(run: Run) -> None:
    """recipe.json: the resolved recipe, and where it departs from the paper."""
    run.dir.mkdir(parents=True, exist_ok=True)
    apart = [asdict(departure) for departure in departures(run.recipe)]
    write_json(run.dir / "recipe.json", {**run.recipe.model_dump(mode="json"), "departures": apart})


def _reused(run: Run, stages: Sequence[str]) -> list[Path]:
    """Folders of those stages that take shards from their last result."""
    return [run.folder(name) for name in stages if getattr(stage_module(name), "REUSES", False)]


def _refuse_large(run: Run, stages: Sequence[str], replaced: Replaced) -> None:
    """Raise SaladError where results of these stages are too large to be replaced unasked."""
    refuse_large([run.folder(name) for name in stages], replaced, reused=_reused(run, stages))


def _take_back(run: Run, stage: str, replaced: Replaced) -> None:
    """Put a stage's last result, which fits the recipe again, in place of the one that does not."""
    done = take_back(run.folder(stage), run.last_result(stage), replaced)
    console.print(f"{stage}: fits again and is taken back from replaced/; {done}", highlight=False)


def _move_away(run: Run, stage: str, why: str, replaced: Replaced) -> None:
    """Move a result away that no longer fits, and say why its stage runs again."""
    reuses = bool(_reused(run, [stage]))
    done = move_to_replaced(run.folder(stage), run.last_result(stage), replaced, reuses=reuses)
    console.print(f"{stage}: runs again, because {why}; its last result{done}", highlight=False)


def _take_from(run: Run, stage: str, found: Path) -> None:
    """Link a stage's result that another run directory holds."""
    shutil.rmtree(run.folder(stage), ignore_errors=True)  # what a stage run before it left there is no result
    shutil.copytree(found, run.folder(stage), copy_function=os.link)
    console.print(f"[dim]{stage}: taken from {found.parent}[/]")


def _standing(
    run: Run, stage: str, parts: dict[str, str], known: dict[str, dict[str, str]]
) -> tuple[dict[str, str], StageNote | None, StageNote | None, list[str]]:
    """How a stage stands: what it is made from, its note, that of its last result where it fits, and what changed.

    parts: of the stages above. known: takes what its result was found to be made from, for those below.
    """
    state, parts = state_of(run.folder(stage)), parts | stage_inputs(stage, run.recipe)
    known[stage] = found_inputs(stage, run.folder(stage)) if state and state.done else {}
    changed = changed_inputs(state.inputs, parts | known[stage]) if state else []
    return parts, state, fitting(stage, run.last_result(stage), parts) if changed else None, changed


def check_above(run: Run, stage: str) -> dict[str, str]:
    """Fingerprints of what the stages before this one are made from. Raises SaladError where one of them is not
    finished, or no longer fits the recipe: what is made from it would be stamped with what it was not made from.

    `assets` need not have run: `salad prepare` fetches what it needs by itself.
    """
    parts, recipe = dict[str, str](), run.recipe
    for before in STAGES[: STAGES.index(stage)]:
        parts |= stage_inputs(before, recipe) | found_inputs(before, run.folder(before))
        if before == "assets" or why_skipped(before, recipe):
            continue
        note = state_of(run.folder(before)) or StageNote()
        mend = f"run `salad stage {before} RECIPE` first, or `salad run RECIPE`, which runs all that is missing"
        if note.done and (changed := changed_inputs(note.inputs, parts)):
            why = f"no longer fits the recipe ({', '.join(changed)} changed)"
            raise SaladError(f"stage {stage}: {before} in {run.dir} {why}; {mend}")
        if not note.done:
            raise SaladError(f"stage {stage}: {before} is not finished in {run.dir}; {mend}")
    return parts


def _others() -> tuple[bool, Callable[[], None], Callable[[Callable[[], Any]], Any]]:
    """Whether this process is the first, how to wait for the others, and how all take what the first one alone finds.

    Alone unless torchrun started more. The others read no file to decide: they may see another state of a shared disk,
    and a corpus that only one machine has. What the first one raises as SaladError is raised in all.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True, lambda: None, lambda find: find()
    from salad.training.distributed import ProcessGroup

    world = ProcessGroup.join()

    def told(find: Callable[[], Any]) -> Any:
        found = None
        try:
            found = find() if world.is_first else None
        except SaladError as error:
            found = error
        world.barrier()  # which waits for days, where a gather waits for minutes
        found = world.gather(found)[0]
        if isinstance(found, SaladError):
            raise found
        return found

    return world.is_first, world.barrier, told


def _function(stage: str) -> Callable[[Run], Summary]:
    run: Callable[[Run], Summary] = stage_module(stage).run
    return run


def run_stage(run: Run, stage: str, parts: dict[str, str]) -> None:
    """Run one stage and keep its stage.json; `parts` are the fingerprints of what it is made from.

    SPENT of its file: patterns of files that only a resumed stage reads. They go once it is finished.
    """
    folder = run.folder(stage)
    before = state_of(folder)
    seconds = before.seconds if before else 0.0
    header = {"stage": stage, "inputs": parts, "seed": run.recipe.seed, "versions": versions()}
    write_json(folder / "stage.json", {**header, "status": "running", "seconds": seconds})
    console.rule(f"[bold]{stage}[/]", align="left")
    start_s = time.monotonic()
    try:
        engine, spare = run.recipe.engine, (folder, run.last_result(stage))
        with using(engine.kind, engine.tries, engine.device, spare):
            summary = _function(stage)(run)
    except BaseException:
        spent = seconds + time.monotonic() - start_s
        write_json(folder / "stage.json", {**header, "status": "running", "seconds": spent})
        raise
    seconds += time.monotonic() - start_s
    done = {"inputs": parts | found_inputs(stage, folder, read=True), "status": "done", "seconds": round(seconds, 2)}
    write_json(folder / "stage.json", {**header, **done, "summary": summary})
    for pattern in getattr(stage_module(stage), "SPENT", ()):
        for path in folder.glob(pattern):
            path.unlink()
    remove_marked(run.last_result(stage))
    shown = ", ".join(f"{key} {_short(value)}" for key, value in summary.items() if not isinstance(value, (dict, list)))
    console.print(f"{stage}: {seconds:.0f} s; {shown}", highlight=False)


def kept_precision(run_dir: Path) -> Path:
    """Where the run's own timings of precision lie, once they were taken."""
    return run_dir / "assets" / "precision.json"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
