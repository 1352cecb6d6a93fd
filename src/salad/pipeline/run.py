"""A recipe's stages in order. A finished, unchanged stage is skipped; a changed one reruns, and says why."""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from salad import assets
from salad.config import Recipe
from salad.config.paper import departures
from salad.data.readers.detect import check_places
from salad.engine import using
from salad.engine.memory import keep_freed_memory
from salad.engine.precision import Timing, Use, decide, measured
from salad.files import write_json
from salad.pipeline.fingerprints import of_section, versions
from salad.pipeline.lock import one_owner
from salad.pipeline.replaced import (
    Replaced,
    StageNote,
    move_to_replaced,
    refuse_large,
    remove_marked,
    state_of,
    take_back,
)
from salad.progress import console
from salad.types import SaladError

Summary = Mapping[str, Any]  # what a stage tells of itself, in JSON's own types: counts, hours, names

# in order; the file of a stage declares what it is made from (see `_inputs`)
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
MEASURED, RECORDINGS = "measured precision", "your recordings"
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

    only: the stages before it must be finished and fit the recipe, for its result is stamped with what they are made
    from.
    reuse: run directories whose finished stages are taken (as hard links) where everything they depend on is the same.
    replaced: what becomes of results over 10 GB that no longer fit the recipe (see `move_to_replaced`).
    Under torchrun the first process decides, writes and shows; the others join it in the stages that train.
    While it runs no other process may run in the same directory; with `wait=True` this one waits its turn (see `lock`).
    """
    for name in (only, until):
        if name is not None and name not in STAGES:
            raise SaladError(f"stage: {name!r} is not a stage; expected one of {', '.join(STAGES)}")
    if replaced not in get_args(Replaced):
        raise SaladError(f"--replaced: got {replaced!r}, expected keep or remove")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # one bar for the whole house, in workers too
    run = Run(recipe)
    first, meet, told = _others()

    def check() -> dict[str, str]:
        if not reuse and only in (None, "assets", "corpus") and not run.finished("corpus"):
            check_places(recipe.corpus)  # before models are fetched
        return check_above(run, only) if only else {}

    parts, known = told(check), dict[str, dict[str, str]]()
    if first:
        run.dir.mkdir(parents=True, exist_ok=True)
        apart = [asdict(departure) for departure in departures(recipe)]
        write_json(run.dir / "recipe.json", {**recipe.model_dump(mode="json"), "departures": apart})
    above_ran, ran = "", False
    for above, stage in itertools.pairwise(("", only) if only else ("", *STAGES)):
        parts |= known.get(above, {})
        parts, state, last, changed = told(functools.partial(_standing, run, stage, parts, known))
        if changed and not ran and last:
            if first:
                done = take_back(run.folder(stage), run.last_result(stage), replaced)
                known[stage] = _noted(stage, run.folder(stage))
                console.print(f"{stage}: fits again and is taken back from replaced/; {done}", highlight=False)
            state, changed = last, []
        if state and state.done and not changed and not above_ran:
            if first:
                console.print(f"[dim]{stage}: finished before, unchanged[/]")
                remove_marked(run.last_result(stage))  # the run may have been killed just before it was
            if stage in (only, until):
                break
            continue
        ran = True
        if state and (changed or above_ran):
            why = f"{', '.join(changed)} changed" if changed else f"{above_ran} ran again"
            if first and not above_ran:  # what lies below runs again too: asked about now, and not hours later
                below = STAGES[STAGES.index(stage) : STAGES.index(only or until or STAGES[-1]) + 1]
                reused = [run.folder(name) for name in below if getattr(_module(name), "REUSES", False)]
                refuse_large([run.folder(name) for name in below], replaced, reused=reused)
            if first:
                reuses = getattr(_module(stage), "REUSES", False)
                done = move_to_replaced(run.folder(stage), run.last_result(stage), replaced, reuses=reuses)
                parts |= _inputs(stage, recipe)  # nothing there goes on any more
                console.print(f"{stage}: runs again, because {why}; its last result{done}", highlight=False)
            meet()
            above_ran = stage
        elif not state:
            above_ran = ""  # nothing below can be finished: it never ran
        if first and not state and (found := _same_elsewhere(stage, parts, reuse)):
            shutil.rmtree(run.folder(stage), ignore_errors=True)  # what a stage run before it left there is no result
            shutil.copytree(found, run.folder(stage), copy_function=os.link)
            console.print(f"[dim]{stage}: taken from {found.parent}[/]")
        elif first:
            run_stage(run, stage, parts)
        elif getattr(_module(stage), "TOGETHER", False):  # the first process runs the others alone
            _function(stage)(run)
        if first:
            known[stage] = _noted(stage, run.folder(stage))
        if stage in (only, until):
            break
    meet()
    return run.dir


def _standing(
    run: Run, stage: str, parts: dict[str, str], known: dict[str, dict[str, str]]
) -> tuple[dict[str, str], StageNote | None, StageNote | None, list[str]]:
    """How a stage stands: what it is made from, its note, that of its last result where it fits, and what changed.

    parts: of the stages above. known: takes what its result was found to be made from, for those below.
    """
    state, parts = state_of(run.folder(stage)), parts | _inputs(stage, run.recipe)
    known[stage] = _found(stage, run.folder(stage)) if state and state.done else {}
    changed = _changed(state.inputs, parts | known[stage]) if state else []
    return parts, state, _fitting(stage, run.last_result(stage), parts) if changed else None, changed


def check_above(run: Run, stage: str) -> dict[str, str]:
    """Fingerprints of what the stages before this one are made from. Raises SaladError where one of them is not
    finished, or no longer fits the recipe: what is made from it would be stamped with what it was not made from.

    `assets` need not have run: `salad prepare` fetches what it needs by itself.
    """
    parts, recipe = dict[str, str](), run.recipe
    for before in STAGES[: STAGES.index(stage)]:
        parts |= _inputs(before, recipe) | _found(before, run.folder(before))
        if before == "assets" or _skips(before, recipe):
            continue
        note = state_of(run.folder(before)) or StageNote()
        mend = f"run `salad stage {before} RECIPE` first, or `salad run RECIPE`, which runs all that is missing"
        if note.done and (changed := _changed(note.inputs, parts)):
            why = f"no longer fits the recipe ({', '.join(changed)} changed)"
            raise SaladError(f"stage {stage}: {before} in {run.dir} {why}; {mend}")
        if not note.done:
            raise SaladError(f"stage {stage}: {before} is not finished in {run.dir}; {mend}")
    return parts


def _skips(stage: str, recipe: Recipe) -> str:
    """Why the recipe leaves a stage out, as its file declares with `skips(recipe)`; "" where it does not."""
    module = _module(stage)
    return module.skips(recipe) if hasattr(module, "skips") else ""


def _same_elsewhere(stage: str, parts: dict[str, str], runs: Sequence[Path]) -> Path | None:
    """The finished folder of this stage in another run, made from the same inputs."""
    return next((other / stage for other in runs if _fitting(stage, other / stage, parts)), None)


def _fitting(stage: str, folder: Path, parts: dict[str, str]) -> StageNote | None:
    """The note of a finished result in `folder` that was made from `parts`, and from what it found as it is now."""
    state = state_of(folder)
    if state is None or not state.done:
        return None
    inputs, found = state.inputs or {}, _noted(stage, folder)
    if {**parts, **found} != inputs:  # known without a look at every file of a corpus
        return None
    return state if not found or parts | _found(stage, folder) == inputs else None


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


def _module(stage: str) -> ModuleType:
    """The file of a stage: SECTIONS, `inputs`, SPENT, REUSES, TOGETHER and `run`. It comes late, being large."""
    return importlib.import_module(f"salad.pipeline.stages.{stage}")


def _function(stage: str) -> Callable[[Run], Summary]:
    run: Callable[[Run], Summary] = _module(stage).run
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
    done = {"inputs": parts | _found(stage, folder, read=True), "status": "done", "seconds": round(seconds, 2)}
    write_json(folder / "stage.json", {**header, **done, "summary": summary})
    for pattern in getattr(_module(stage), "SPENT", ()):
        for path in folder.glob(pattern):
            path.unlink()
    remove_marked(run.last_result(stage))
    shown = ", ".join(f"{key} {_short(value)}" for key, value in summary.items() if not isinstance(value, (dict, list)))
    console.print(f"{stage}: {seconds:.0f} s; {shown}", highlight=False)


def _inputs(stage: str, recipe: Recipe) -> dict[str, str]:
    """Fingerprints of what the stage depends on beyond the stages above it, as its file declares them.

    SECTIONS: names of the recipe's sections, or of settings at its top, that change what the stage makes.
    inputs(recipe), where there is one: fingerprints of anything else, such as files, by the names that a user is told.
    """
    module = _module(stage)
    parts = {name: of_section(recipe, name) for name in module.SECTIONS}
    return parts | (module.inputs(recipe) if hasattr(module, "inputs") else {})


def _found(stage: str, folder: Path, *, read: bool = False) -> dict[str, str]:
    """Fingerprints of what the result in `folder` was made from that only its stage could tell, once it had read.

    FOUND of its file: by the names that a user is told, a file in the folder, what makes a fingerprint of all that it
    names as that is now, and as it was when the stage began to read. read: that of then.
    """
    own = getattr(_module(stage), "FOUND", {})
    there = {name: (folder / file, now, then) for name, (file, now, then) in own.items() if (folder / file).exists()}
    told = {name: (then if read else now)(path) for name, (path, now, then) in there.items()}
    return {name: value for name, value in told.items() if value}


def _noted(stage: str, folder: Path) -> dict[str, str]:
    """The same, as the note of the result in `folder` has it."""
    inputs = (state_of(folder) or StageNote()).inputs or {}
    return {name: inputs[name] for name in getattr(_module(stage), "FOUND", {}) if name in inputs}


def kept_precision(run_dir: Path) -> Path:
    """Where the run's own timings of precision lie, once they were taken."""
    return run_dir / "assets" / "precision.json"


def _changed(before: dict[str, str] | None, now: dict[str, str]) -> list[str]:
    before = before or {}
    for name in (MEASURED, RECORDINGS):
        if name not in before:  # made before that was known: a run that goes on is not made anew for it
            now = {key: value for key, value in now.items() if key != name}
    return sorted(key for key in {*before, *now} if before.get(key) != now.get(key))


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
