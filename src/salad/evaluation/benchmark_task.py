"""A multiple-choice task: one declarative YAML file, and its items from a local file or the hub.

The file names the source, maps a row of it to {id, context, choices, answer}, and holds the one template that both the
text and the spoken version are made from. Rows that already have those fields are taken as they are.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from jinja2 import StrictUndefined, TemplateError, Undefined
from jinja2.sandbox import SandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from salad.config.recipe import parse_yaml
from salad.evaluation.rows import hub_rows, read_rows
from salad.evaluation.task_items import FIELDS, LETTERS, TaskItem, counts_from_one, item_of, never_the_first, numbered
from salad.files import JsonObject
from salad.types import SaladError

FOLDER = Path(__file__).parent / "tasks"
DATA_SUFFIXES = (".jsonl", ".json", ".parquet")
Metric = Literal["acc", "acc_norm", "acc_bytes", "acc_token"]
Counting = Literal["auto", "zero-based", "one-based"]


@dataclass(frozen=True)
class Loaded:
    """Items in the order of the file, the rows that were left out: {id, reason}, what a user should be told, and from
    where answers count."""

    items: tuple[TaskItem, ...]
    skipped: tuple[dict[str, str], ...]
    notes: tuple[str, ...] = ()
    counting: Literal["zero-based", "one-based"] = "zero-based"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Source(_Part):
    """Where the rows are: a data set on the hub, or local files (relative to the task's file)."""

    hub: str = ""
    config: str = "default"
    split: str = "test"
    fewshot_split: str = ""
    path: str = ""
    fewshot_path: str = ""
    licence: str = ""


class Say(_Part):
    """A part of the prompt that the spoken version speaks."""

    say: str


class Task(_Part):
    """A task file. `fields`: jinja2 expressions over a row of the source; `prompt`: jinja2 templates over an item.

    A part of `prompt` is text in both versions, or `{say: ...}`: read in the text version, heard in the spoken one.
    `options`: the choices themselves follow the prompt, or their letters. `metric` is the task's headline figure.
    `counting` (in a file: answers): whether an answer that is a number counts the choices from 0 or from 1; auto: from
    1 where the whole file says so.
    """

    task: str
    description: str = ""
    version: str = "1"
    source: Source = Source()
    fields: dict[Literal["id", "context", "choices", "answer"], str] = {}
    prompt: tuple[Say | str, ...] = Field((Say(say="{{ context }}"),), min_length=1)
    options: Literal["choices", "letters"] = "choices"
    option_delimiter: str = " "
    shot_delimiter: str = "\n\n"
    metric: Metric = "acc_norm"
    counting: Counting = Field("auto", alias="answers", exclude=True)
    folder: Path = Field(Path(), exclude=True)

    def answers(self, item: TaskItem) -> tuple[str, ...]:
        """What is scored for each choice, without the delimiter before it."""
        return item.choices if self.options == "choices" else tuple(LETTERS[: len(item.choices)])


def task_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find_task(spec: str) -> tuple[Task, Path | None]:
    """The task that `spec` names, and the local file of its items where it names one.

    `arc_easy`; `arc_easy=mine.jsonl` (that task's template over your file); `mine.jsonl` (the plain template: the
    context, then a choice); `mine.yaml` (your own task file). The path of a file may hold a "=".
    """
    name, _, given = (spec, "", "") if os.path.isfile(spec) else spec.partition("=")
    data = Path(given) if given else None
    if name in task_names():
        return _read(FOLDER / f"{name}.yaml"), data
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return _read(path), data
    if path.suffix in DATA_SUFFIXES and path.is_file() and data is None:
        return Task(task=re.sub(r"[^\w-]+", "_", path.stem)), path
    raise SaladError(
        f"tasks: got {spec!r}, expected one of {', '.join(task_names())}, NAME=FILE, or the path of a "
        f"{', '.join(DATA_SUFFIXES)} file of items or of a .yaml task file; correct the name or the path"
    )


def task_files(specs: Sequence[str], data_dir: Path | None) -> list[Path]:
    """The files of items that `specs` name, and those in `data_dir` of tasks that are named alone; those that exist."""
    found = [find_task(spec) for spec in specs]
    paths = [path for _, path in found if path is not None]
    if data_dir is not None:
        stems = [f"{task.task}{end}" for task, path in found if path is None for end in ("", "_fewshot")]
        paths += [data_dir / f"{stem}{suffix}" for stem in stems for suffix in DATA_SUFFIXES]
    return [path for path in paths if path.is_file()]


def load_items(
    task: Task,
    path: Path | None = None,
    *,
    data_dir: Path | None = None,
    hub: bool = False,
    fewshot: bool = False,
    counting: Counting = "auto",
) -> Loaded | None:
    """The task's items, or its few-shot items; None where it has no few-shot split here.

    Looked for in `path`, in the task's own path, as NAME.jsonl (.json, .parquet) in `data_dir`, then, only if `hub`, on
    the hub. `counting`: see `items_of`. Raises SaladError where nothing is found, no row has an answer, or two have one
    id.
    """
    own = task.source.fewshot_path if fewshot else task.source.path
    stem = f"{task.task}_fewshot" if fewshot else task.task
    places = [path] if path else [task.folder / own] if own else []
    if data_dir is not None and not places:
        places = [data_dir / f"{stem}{suffix}" for suffix in DATA_SUFFIXES if (data_dir / f"{stem}{suffix}").is_file()]
    if places:
        return items_of(task, read_rows(places[0]), str(places[0]), counting=counting)
    split = task.source.fewshot_split if fewshot else task.source.split
    if hub and task.source.hub and split:
        rows = hub_rows(task.source.hub, task.source.config, split)
        return items_of(task, rows, f"{task.source.hub} {task.source.config} {split}", counting=counting)
    if fewshot:
        return None
    raise SaladError(
        f"tasks: {task.task} has no items here; give a file ({task.task}=FILE.jsonl), a folder with "
        f"{stem}.jsonl (--data), or allow its download from {task.source.hub or 'the hub'} (--hub)"
    )


def items_of(
    task: Task, rows: Sequence[JsonObject], where: str, *, some: bool = True, counting: Counting = "auto"
) -> Loaded:
    """Check and map rows. One that cannot be used is skipped with a reason; all may be, unless `some` are wanted.

    counting: how answers count where neither the task nor the file says so.
    """
    if not rows:
        raise SaladError(f"tasks: {where} holds no rows; expected one JSON object a line with {', '.join(FIELDS)}")
    mapped = [_map(task, row, index) for index, row in enumerate(rows)]
    if all("problem" in row for row in mapped):
        raise SaladError(f"tasks: no row of {where} can be read; the first one: {mapped[0]['problem']}")
    if all(row["answer"] is None for row in mapped):
        wanted = "answer" if _is_plain(task, rows[0]) else task.fields.get("answer", "answer")
        raise SaladError(
            f"tasks: no row of {where} has an answer; expected in each the index of the right choice (0 for the first)"
            f" as {wanted}, but the first row's fields are {', '.join(rows[0])}"
        )
    counts = Counter(row["id"] for row in mapped)
    twice = [key for key, number in counts.items() if number > 1]
    if twice:
        shown = ", ".join(map(repr, twice[:3]))
        raise SaladError(f"tasks: {where} has {len(twice)} ids more than once ({shown}); give each row its own id")
    first, notes = _first(mapped, where, _told(task, rows, counting))
    items, skipped = [], []
    digits = any(isinstance(row["answer"], str) for row, _ in numbered(mapped))
    for row in mapped:
        item = row.get("problem") or _too_many(task, row) or item_of(row, first, digits)
        if isinstance(item, str):
            skipped.append({"id": row["id"], "reason": item})
        else:
            items.append(item)
    if some and not items:
        raise SaladError(f"tasks: no row of {where} can be used; the first one: {skipped[0]['reason']}")
    if alike := [item.id for item in items if len(item.right) > 1]:
        notes.append(
            f"{where}: in {len(alike)} items the right choice stands there more than once, and each of them counts "
            f"as right ({', '.join(alike[:3])}{' ...' if len(alike) > 3 else ''})"
        )
    return Loaded(tuple(items), tuple(skipped), tuple(notes), "one-based" if first else "zero-based")


def _is_plain(task: Task, row: JsonObject) -> bool:
    """Whether a row is taken as it is, without the task's fields."""
    return not task.fields or ("context" in row and isinstance(row.get("choices"), (list, tuple)))


def _told(task: Task, rows: Sequence[JsonObject], before: Counting) -> Counting:
    """From where answers count, as far as it is said: what a task of ours says is of its fields, not of plain rows.

    before: how the task's other rows count.
    """
    plain = task.folder == FOLDER and all(_is_plain(task, row) for row in rows)
    told = "auto" if plain else task.counting
    return before if told == "auto" else told


def _first(mapped: Sequence[JsonObject], where: str, counting: Counting) -> tuple[int, list[str]]:
    """The number of the first choice, 0 or 1, and what a user should be told of it."""
    if counting != "auto":
        return int(counting == "one-based"), []
    if counts_from_one(mapped):
        return 1, [
            f"{where}: answers are taken to count from 1, for none is 0 and the highest is the number of choices; "
            'say so in a task file (answers: one-based), or "answers: zero-based" if they count from 0'
        ]
    if never_the_first(mapped):
        return 0, [
            f"{where}: no answer is 0, so the first choice is never right; if answers count from 1, say so in a task "
            "file (answers: one-based)"
        ]
    if beyond := sum(number == len(row["choices"]) for row, number in numbered(mapped)):
        return 0, [
            f"{where}: {beyond} answers are the number of choices, as where they count from 1, and are left out; one "
            "is 0: correct them, for the file may be of two kinds"
        ]
    return 0, []


def _map(task: Task, row: JsonObject, index: int) -> JsonObject:
    """{id, context, choices, answer} of a row, any of them None where the row lacks it; or {problem} beside them."""
    out: JsonObject = dict.fromkeys(FIELDS)
    if _is_plain(task, row):
        missing = [name for name in ("context", "choices") if name not in row]
        if missing:
            expected = f"only {', '.join(row)}; expected {', '.join(FIELDS)} and an id"
            problem = f"row {index + 1} has no field {missing[0]!r}, {expected}"
            return {**out, "id": _id(row.get("id"), index), "problem": problem}
        out |= {name: row.get(name) for name in FIELDS}
        return {**out, "id": _id(row.get("id"), index)}
    for name, expression in task.fields.items():
        try:
            value = _expression(expression)(**row)
            out[name] = None if isinstance(value, Undefined) else value
        except (TemplateError, ValueError, TypeError, LookupError) as error:
            if name != "answer":
                told = f"{error}; its fields are {', '.join(row)}"
                problem = f"{task.task}: field {name} ({expression}) cannot be read from row {index + 1}: {told}"
                empty = dict.fromkeys(FIELDS)
                return {**empty, "id": _id(out.get("id"), index), "problem": problem}
    return {**out, "id": _id(out.get("id"), index)}


def _id(given: Any, index: int) -> str:
    return str(index if given is None else given)


def _too_many(task: Task, row: JsonObject) -> str | None:
    """Why a task that scores letters cannot take a row, if so."""
    number = len(row["choices"]) if isinstance(row["choices"], (list, tuple)) else 0
    if task.options == "choices" or number <= len(LETTERS):
        return None
    return f"choices: got {number}, expected at most {len(LETTERS)}, for the letter of the choice is scored"


def _read(path: Path) -> Task:
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"got {'nothing' if values is None else f'{values!r:.60}'}; {_needed()}")
        return Task(**values, folder=path.parent)
    except ValidationError as error:
        raise SaladError(f"tasks: {path} is no task file: {_wrong(error)}; {_needed()}") from None
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise SaladError(f"tasks: {path} is no task file: {error}") from error


def _wrong(error: ValidationError) -> str:
    """What pydantic found, in one line: what is unknown together, the rest one by one."""
    found = [(".".join(map(str, problem["loc"])), problem) for problem in error.errors()]
    unknown = [name for name, problem in found if problem["type"] == "extra_forbidden"]
    missing = [name for name, problem in found if problem["type"] == "missing"]
    told = [f"{name} is missing" for name in missing]
    told += [f"{name}: {p['msg']}, got {p['input']!r:.60}" for name, p in found if name not in (*unknown, *missing)]
    return "; ".join([f"unknown: {', '.join(unknown)}", *told] if unknown else told)


def _needed() -> str:
    fields = [field.alias or name for name, field in Task.model_fields.items() if name not in ("task", "folder")]
    return (
        f"expected `task: NAME`, and of {', '.join(fields)} what differs from the default (lm-eval's files are of "
        f"another form); write it as {FOLDER / 'arc_easy.yaml'} is written"
    )


@cache
def _environment() -> SandboxedEnvironment:
    """jinja2 in its sandbox: a task file may come from somebody else."""
    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["wikihow"] = _wikihow
    environment.globals["letters"] = LETTERS
    return environment


@cache
def _expression(source: str) -> Any:
    return _environment().compile_expression(source, undefined_to_none=False)


def render(template: str, item: TaskItem) -> str:
    """A part of a prompt for one item."""
    try:
        return _environment().from_string(template).render(context=item.context, choices=item.choices)
    except TemplateError as error:
        raise SaladError(f"tasks: the template {template!r} cannot be filled for item {item.id}: {error}") from error


def _wikihow(text: str) -> str:
    """HellaSwag's clean-up of bracketed headings, as its authors and lm-eval do it."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")
