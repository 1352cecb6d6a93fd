"""`salad eval`: multiple-choice tasks by the text base, and by the adapted model; infer first, then score.

Inference writes raw log-probabilities (samples_*.jsonl) and a plan (eval.json); scoring reads those alone. Samples that
are there already, made from the same model, items and prompts, are not made again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from salad import assets
from salad.engine.memory import keep_freed_memory
from salad.evaluation.benchmark_task import Task, find_task, load_items
from salad.evaluation.prompt import MAX_SHOTS, Request, Segment, Sound, Start, num_shots, read_out, request, segments
from salad.evaluation.recordings import everything_spoken
from salad.evaluation.results import comparisons, results_of, results_table, sample_row
from salad.evaluation.sample import Plan, PlannedSystem, PlannedTask, Sample, SpokenInputs
from salad.evaluation.score import score
from salad.evaluation.scorer_model import Reader, load_reader
from salad.evaluation.spoken_results import clean_systems, spoken_figures, spoken_tables
from salad.evaluation.task_items import TaskItem
from salad.files import LONGEST_NAME, sha256_json, writable_folder, write_json, write_jsonl, write_text
from salad.measure.statistics import DRAWS_OF_ITEMS
from salad.model import SaladForConditionalGeneration
from salad.progress import console, progress
from salad.records import read_record, read_records, to_json
from salad.sequence import token_ids
from salad.types import Modality, SaladError

if TYPE_CHECKING:
    from salad.evaluation.spoken_benchmark import SpeechInput

GROUP = 256  # spoken requests whose frames are held at a time
SLOW_WORD_S = 0.4  # 150 words a minute, slower than most read, where no recording says how long


@dataclass(frozen=True)
class BenchmarkOptions:
    """What decides prompts and intervals. `context`: positions that a prompt and its longest option may take."""

    num_fewshot: int = 0
    limit: int | None = None
    context: int = 2048
    resamples: int = DRAWS_OF_ITEMS
    seed: int = 0


@dataclass(frozen=True)
class System:
    """A column of the table: a model that takes items in one modality.

    `sound` gives the recording of a speech segment, and `seconds` how long it lasts; `transcript` makes a cascade of
    it: what an ASR heard is read in place of a sound. `inputs` says, for the fingerprint, what else shapes what it
    hears (voice, noise, ASR).
    """

    name: str
    reader: Reader
    modality: Modality = "text"
    sound: Callable[[Segment], Sound] | None = None
    inputs: SpokenInputs | str | None = None
    seconds: Callable[[Segment], float] | None = None
    transcript: Callable[[Segment], str] | None = None

    def described(self, fingerprint: str) -> PlannedSystem:
        reader = self.reader
        precision = "bf16" if reader.bf16 else "fp32"
        return PlannedSystem(reader.name, fingerprint, self.modality, reader.start, precision, self.inputs)


@dataclass(frozen=True)
class Prepared:
    """A task whose items, few-shot examples and numbers of shots are settled, the same for every system."""

    task: Task
    items: tuple[TaskItem, ...]
    shots: tuple[TaskItem, ...]
    num_shots: tuple[int, ...]
    num_rows: int
    skipped: tuple[dict[str, str], ...]
    notes: tuple[str, ...] = ()

    @property
    def described(self) -> PlannedTask:
        return PlannedTask(
            config=self.task.model_dump(mode="json"),
            num_rows=self.num_rows,
            skipped=self.skipped,
            items=sha256_json([asdict(item) for item in self.items]),
            shots=sha256_json([[asdict(item) for item in self.shots], self.num_shots]),
            notes=self.notes or None,
        )


def run_eval(
    model: str,
    specs: Sequence[str],
    out: Path,
    settings: BenchmarkOptions,
    speech: SpeechInput | None = None,
    *,
    base: str | None = None,
    data_dir: Path | None = None,
    hub: bool = False,
    start: Any = None,
    bf16: bool = False,
    device: str = "cpu",
    infer_only: bool = False,
    reads: bool = True,
) -> str:
    """Infer and score; returns the table, or "" with `infer_only`.

    speech: adds columns for each voice and its cascade; what nobody can say is skipped. reads: whether the adapted
    model reads the items, too; needless where its LLM is the text base's.
    """
    from salad.evaluation.spoken_benchmark import with_speech

    speech = speech and speech.checked()
    tasks = prepare(specs, settings, data_dir, hub, everything_spoken if speech and speech.form == "all" else None)
    writable_folder(out, "--out")
    systems = systems_of(model, base, start=start, bf16=bf16, device=device)
    if speech:
        systems, tasks = with_speech(model, systems, tasks, speech, settings.seed, device, reads)
    infer(systems, tasks, out, settings)
    return "" if infer_only else score_samples(out)


def prepare(
    specs: Sequence[str],
    settings: BenchmarkOptions,
    data_dir: Path | None = None,
    hub: bool = False,
    change: Callable[[Task], Task] | None = None,
) -> list[Prepared]:
    """Items and few-shot examples of each task; `change` gives it another form."""
    tasks = [(change(task) if change else task, data_dir, hub, path) for task, path in map(find_task, specs)]
    names = [task.task for task, *_ in tasks]
    if len(set(names)) < len(names):
        raise SaladError(f"tasks: got {', '.join(names)}, expected each name once; rename the file of one")
    for name in names:
        if re.search(r"[/\\\0]", name) or len(name.encode()) > LONGEST_NAME:
            raise SaladError(
                f"tasks: the name {name[:60]!r} becomes a part of the samples' file name; expected one of at most "
                f"{LONGEST_NAME} bytes without / and \\: rename the file, or correct `task:` in the task file"
            )
    return [_load(*each, settings) for each in tasks]


def systems_of(
    model: str, base: str | None, *, start: Any = None, bf16: bool = False, device: str = "cpu"
) -> list[System]:
    """The text base, and the adapted model where MODEL is one; both open a prompt alike."""
    reader = load_reader(model, start=start, bf16=bf16, device=device)
    if base is None and not reader.hears:
        return [System("text_base", reader)]
    recipe = None if base else assets.recipe_behind(model)
    base = recipe["assets"]["llm"] if recipe else base
    out = []
    if base is not None:
        out.append(System("text_base", load_reader(base, start=reader.start, bf16=bf16, device=device)))
    return [*out, System("text_adapted", reader)]


def _load(task: Task, data_dir: Path | None, hub: bool, path: Path | None, settings: BenchmarkOptions) -> Prepared:
    """Items and few-shot examples; without a split of their own the first items are the examples, and not scored."""
    found = load_items(task, path, data_dir=data_dir, hub=hub)
    assert found is not None
    items, skipped, notes = found.items, list(found.skipped), list(found.notes)
    shots: tuple[TaskItem, ...] = ()
    wanted = min(settings.num_fewshot, MAX_SHOTS)
    if wanted:
        counting = found.counting  # the examples are too few to tell from where their answers count
        own = load_items(task, data_dir=data_dir, hub=hub and path is None, fewshot=True, counting=counting)
        shots = (own.items if own else items)[:wanted]
        if own is None:
            if len(items) <= wanted:
                raise SaladError(
                    f"--num-fewshot (evaluate.num_fewshot): got {wanted}, but {task.task} has {len(items)} items that "
                    f"can be used and no examples of its own: its first {wanted} would be the examples, and none is "
                    f"left to score; give {len(items) - 1} or less, more items, or {task.task}_fewshot.jsonl in the "
                    "folder of --data (evaluate.task_data)"
                )
            skipped += [{"id": item.id, "reason": "used as a few-shot example"} for item in shots]
            items = items[wanted:]
        else:
            notes += own.notes
        if len(shots) < wanted:
            notes.append(f"{task.task}: --num-fewshot {wanted}, but there are {len(shots)} examples; all are used")
    for note in notes:
        console.print(f"[yellow]{escape(note)}[/]", highlight=False)
    num_rows = len(found.items) + len(found.skipped)
    return Prepared(task, items[: settings.limit], shots, (), num_rows, tuple(skipped), tuple(notes))


def _fit(prepared: Prepared, systems: Sequence[System], settings: BenchmarkOptions) -> Prepared:
    """Give each item as many few-shot examples as fit its spoken version; set aside what fits with none."""
    length = _longest_length(systems)
    context, window = settings.context, min(system.reader.window for system in systems)
    limit, cure = f"context of {context} positions", "raise --context"
    if window < context:
        context, limit, cure = window, f"{window} positions that the LLM reads", "take shorter items, or another LLM"
    kept, numbers, skipped = [], [], list(prepared.skipped)
    for item in prepared.items:
        number = num_shots(prepared.task, prepared.shots, item, length, context)
        if number is None:
            skipped.append({"id": item.id, "reason": f"longer than the {limit}"})
        else:
            kept.append(item)
            numbers.append(number)
    if not kept:
        raise SaladError(f"context: no item of {prepared.task.task} fits the {limit}; {cure}")
    return replace(prepared, items=tuple(kept), num_shots=tuple(numbers), skipped=tuple(skipped))


def _longest_length(systems: Sequence[System]) -> Callable[[Sequence[Segment]], int]:
    """Positions of segments in the system that takes most, with all frames kept; text is counted once a tokenizer.

    Where nothing is heard, a spoken word counts 0.4 s all the same: text alone gets the examples that speech would.
    """
    readers = {id(system.reader): system for system in reversed(systems)}.values()  # one of each for text
    counts: dict[tuple[int, str], int] = {}
    recorded = any(system.seconds for system in systems)

    def tokens(reader: Reader, text: str) -> int:
        key = (id(reader), text)
        if key not in counts:
            counts[key] = len(token_ids(reader.tokenizer, text))
        return counts[key]

    def positions(system: System, segment: Segment) -> int:
        model, text = system.reader.model, segment.text
        read = recorded and system.seconds is None
        if segment.modality == "text" or read or not isinstance(model, SaladForConditionalGeneration):
            heard = system.transcript if segment.modality == "speech" else None
            return tokens(system.reader, heard(segment) if heard else text)
        seconds = system.seconds(segment) if system.seconds else len(text.split()) * SLOW_WORD_S
        spoken = int(seconds * model.config.frame_rate_hz / model.config.stride) + 1
        number = tokens(system.reader, text)
        return number if model.config.rate == "text" else max(number, spoken)

    def length(own: Sequence[Segment]) -> int:
        text = {id(s.reader): sum(positions(s, part) for part in own if part.modality == "text") for s in readers}
        speech = [part for part in own if part.modality == "speech"]
        return max(1 + text[id(s.reader)] + sum(positions(s, part) for part in speech) for s in systems)

    return length


def infer(
    systems: Sequence[System],
    tasks: Sequence[Prepared],
    out: Path,
    settings: BenchmarkOptions,
) -> None:
    """Write samples of every system and task, eval.json that names them, and quarantine.jsonl of what was skipped."""
    keep_freed_memory()
    tasks = [_fit(prepared, systems, settings) for prepared in tasks]
    planned: dict[str, PlannedSystem] = {}
    quarantined = [
        {"stage": "eval", "id": f"{prepared.task.task}/{row['id']}", "reason": row["reason"]}
        for prepared in tasks
        for row in prepared.skipped
    ]
    with progress("multiple choice", len(systems) * sum(len(p.items) for p in tasks)) as bar:
        for system in systems:
            described = system.described(assets.fingerprint(system.reader.name))
            files = {}
            for prepared in tasks:
                name = prepared.task.task
                key = sha256_json(to_json([described, prepared.described]))[:12]
                path = out / system.name / f"samples_{name}_{key}.jsonl"
                if path.is_file():
                    bar.advance(len(prepared.items))
                else:
                    write_jsonl(path, map(to_json, _samples(system, prepared, bar.advance)))
                files[name] = path.name
            planned[system.name] = replace(described, samples=files)
    if quarantined:
        write_jsonl(out / "quarantine.jsonl", quarantined)
    else:
        (out / "quarantine.jsonl").unlink(missing_ok=True)
    known = {prepared.task.task: prepared.described for prepared in tasks}
    write_json(out / "eval.json", {"settings": asdict(settings), **to_json({"tasks": known, "systems": planned})})


def _samples(system: System, prepared: Prepared, advance: Callable[[int], None]) -> list[Sample]:
    """One row for each item, in order; items with equally many examples are scored together and share them."""
    task, rows, wide = prepared.task, dict[int, Sample](), len(prepared.items)
    modality = "speech" if system.transcript else system.modality
    for number in sorted(set(prepared.num_shots)):
        same = [i for i, n in enumerate(prepared.num_shots) if n == number]
        step = GROUP if system.sound else wide
        for own in (same[at : at + step] for at in range(0, len(same), step)):
            said = [segments(task, prepared.items[i], modality, prepared.shots[:number]) for i in own]
            prompts = [read_out(prompt, system.transcript) for prompt in said] if system.transcript else said
            requests = [
                task_request(
                    system.reader.tokenizer, task, prepared.items[i], prompt, system.reader.start, system.sound
                )
                for i, prompt in zip(own, prompts, strict=True)
            ]
            scores = score(system.reader, requests, advance=advance)
            for i, spoken, prompt, options in zip(own, said, prompts, scores, strict=True):
                said_of = [segment for segment in spoken if segment.modality == "speech"]
                transcript = {}
                if system.transcript:
                    transcript = {"said": [s.text for s in said_of], "heard": [system.transcript(s) for s in said_of]}
                rows[i] = sample_row(i, task, prepared.items[i], prompt, options, num_shots=number, **transcript)
    return [rows[i] for i in range(len(prepared.items))]


def task_request(
    tokenizer: Any,
    task: Task,
    item: TaskItem,
    prompt: Sequence[Segment],
    start: Start,
    sound: Callable[[Segment], Sound] | None = None,
) -> Request:
    """One item as a model is asked it. Raises SaladError where an option has no token of its own."""
    answers = [task.option_delimiter + answer for answer in task.answers(item)]
    made = request(tokenizer, prompt, answers, start=start, sound=sound)
    empty = [answer for answer, ids in zip(task.answers(item), made.options, strict=True) if not ids]
    if empty:
        raise SaladError(f"{task.task}: option {empty[0]!r} of item {item.id} has no token of its own; change it")
    return made


def load_samples(out: Path) -> tuple[Plan, dict[str, dict[str, list[Sample]]]]:
    """What inference wrote in `out`: its plan, and rows by system and task. Raises SaladError where some is missing,
    or is of another layout."""
    if not (out / "eval.json").is_file():
        raise SaladError(f"samples: {out} holds no eval.json; run `salad eval MODEL --tasks ... --out {out}` first")
    plan = read_record(Plan, out / "eval.json")
    samples: dict[str, dict[str, list[Sample]]] = {}
    for name, system in plan.systems.items():
        samples[name] = {}
        for task, file in (system.samples or {}).items():
            if not (out / name / file).is_file():
                raise SaladError(f"samples: {out / name / file} is missing; run `salad eval` again")
            samples[name][task] = read_records(Sample, out / name / file)
    return plan, samples


def score_samples(out: Path) -> str:
    """Read what inference wrote in `out`; write results, figures and the table (Markdown, LaTeX). Needs no model."""
    plan, samples = load_samples(out)
    for name, system in plan.systems.items():
        key = sha256_json(to_json([system, plan.tasks]))[:12]
        write_json(out / name / f"results_{key}.json", results_of(system, plan.tasks, samples[name]))
    metrics = {task: described.metric for task, described in plan.tasks.items()}
    drawn = plan.settings.resamples, plan.settings.seed
    figures = comparisons(samples, metrics, *drawn)
    skipped = {task: len(described.skipped) for task, described in plan.tasks.items()}
    write_json(out / "figures.json", {**figures.json(), "skipped": skipped})
    shown = clean_systems(plan.systems)
    table = results_table(figures, shown)
    write_text(out / "table.tex", results_table(figures, shown, latex=True))
    if spoken := spoken_figures(plan.systems, samples, metrics, *drawn):
        write_json(out / "speech.json", to_json(spoken))
        table += spoken_tables(spoken)
    else:
        (out / "speech.json").unlink(missing_ok=True)  # of what was evaluated here before
    table += _not_scored(plan.tasks)
    write_text(out / "table.md", table)
    return table


def _not_scored(tasks: Mapping[str, PlannedTask]) -> str:
    """A line for each task whose rows were not all scored: an evaluation does not shrink without a word."""
    return "".join(
        f"\n{name}: {len(skipped)} of {task.num_rows} rows are not scored, the first of them {skipped[0]['id']!r} "
        f"({skipped[0]['reason']}); quarantine.jsonl names them all.\n"
        for name, task in tasks.items()
        if (skipped := task.skipped)
    )
