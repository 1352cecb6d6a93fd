"""A multiple-choice task: one declarative YAML file, and its items from a local file or the hub.

The file names the source, maps a row of it to {id, context, choices, answer}, and holds the one template that both the
text and the spoken version are made from. Rows that already have those fields are taken as they are.
"""

from __future__ import annotations

import math
import os
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from jinja2 import StrictUndefined, TemplateError, Undefined
from jinja2.sandbox import SandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field

from salad.config.recipe import parse_yaml
from salad.data.readers.rows import utf8
from salad.evaluation.rows import hub_rows, read_rows
from salad.files import JsonObject
from salad.types import SaladError

FOLDER = Path(__file__).parent / "tasks"
FIELDS = ("context", "choices", "answer")
LETTERS = string.ascii_uppercase
FEW = 3  # answers from which it is told that none of them is 0
DATA_SUFFIXES = (".jsonl", ".json", ".parquet")
Metric = Literal["acc", "acc_norm", "acc_bytes", "acc_token"]


@dataclass(frozen=True)
class TaskItem:
    """One question: `choices[answer]` is right."""

    id: str
    context: str
    choices: tuple[str, ...]
    answer: int

    @property
    def right(self) -> tuple[int, ...]:
        """Every choice with the right one's text: where one is written twice, both are right."""
        return tuple(i for i, c in enumerate(self.choices) if as_read(c) == as_read(self.choices[self.answer]))


def as_read(choice: str) -> str:
    """What of a choice tells it from others: its words, whatever spaces stand between them."""
    return " ".join(choice.split())


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
    counting: Literal["auto", "zero-based", "one-based"] = Field("auto", alias="answers", exclude=True)
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
    task: Task, path: Path | None = None, *, data_dir: Path | None = None, hub: bool = False, fewshot: bool = False
) -> Loaded | None:
    """The task's items, or its few-shot items; None where it has no few-shot split here.

    Looked for in `path`, in the task's own path, as NAME.jsonl (.json, .parquet) in `data_dir`, then, only if `hub`, on
    the hub. Raises SaladError where nothing is found, no row has an answer, or two have one id.
    """
    own = task.source.fewshot_path if fewshot else task.source.path
    stem = f"{task.task}_fewshot" if fewshot else task.task
    places = [path] if path else [task.folder / own] if own else []
    if data_dir is not None and not places:
        places = [data_dir / f"{stem}{suffix}" for suffix in DATA_SUFFIXES if (data_dir / f"{stem}{suffix}").is_file()]
    if places:
        return items_of(task, read_rows(places[0]), str(places[0]))
    split = task.source.fewshot_split if fewshot else task.source.split
    if hub and task.source.hub and split:
        rows = hub_rows(task.source.hub, task.source.config, split)
        return items_of(task, rows, f"{task.source.hub} {task.source.config} {split}")
    if fewshot:
        return None
    raise SaladError(
        f"tasks: {task.task} has no items here; give a file ({task.task}=FILE.jsonl), a folder with "
        f"{stem}.jsonl (--data), or allow its download from {task.source.hub or 'the hub'} (--hub)"
    )


def items_of(task: Task, rows: Sequence[JsonObject], where: str, *, some: bool = True) -> Loaded:
    """Check and map rows. One that cannot be used is skipped with a reason; all may be, unless `some` are wanted."""
    if not rows:
        raise SaladError(f"tasks: {where} holds no rows; expected one JSON object a line with {', '.join(FIELDS)}")
    mapped = [_map(task, row, index, where) for index, row in enumerate(rows)]
    if all(row["answer"] is None for row in mapped):
        raise SaladError(
            f"tasks: no row of {where} has an answer; expected in each the index of the right choice (0 for the first)"
        )
    counts = Counter(row["id"] for row in mapped)
    twice = [key for key, number in counts.items() if number > 1]
    if twice:
        shown = ", ".join(map(repr, twice[:3]))
        raise SaladError(f"tasks: {where} has {len(twice)} ids more than once ({shown}); give each row its own id")
    notes = []
    first = 1 if task.counting == "one-based" else 0
    if task.counting == "auto" and _counts_from_one(mapped):
        first = 1
        notes.append(
            f"{where}: answers are taken to count from 1, for none is 0 and the highest is the number of choices; "
            'say so in a task file (answers: one-based), or "answers: zero-based" if they count from 0'
        )
    elif task.counting == "auto" and _never_the_first(mapped):
        notes.append(
            f"{where}: no answer is 0, so the first choice is never right; if answers count from 1, say so in a task "
            "file (answers: one-based)"
        )
    elif (
        task.counting == "auto"
        and not first
        and (beyond := sum(number == len(row["choices"]) for row, number in _numbered(mapped)))
    ):
        notes.append(
            f"{where}: {beyond} answers are the number of choices, as where they count from 1, and are left out; one "
            "is 0: correct them, for the file may be of two kinds"
        )
    items, skipped = [], []
    digits = any(isinstance(row["answer"], str) for row, _ in _numbered(mapped))
    for row in mapped:
        item = _too_many(task, row) or _item(row, first, digits)
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


def _map(task: Task, row: JsonObject, index: int, where: str) -> JsonObject:
    """{id, context, choices, answer} of a row, any of them None where the row lacks it."""
    ours = "context" in row and isinstance(row.get("choices"), (list, tuple))
    out = dict.fromkeys(FIELDS)
    if ours or not task.fields:
        missing = [name for name in ("context", "choices") if name not in row]
        if missing:
            raise SaladError(
                f"tasks: row {index + 1} of {where} has no field {missing[0]!r}, only {', '.join(row)}; "
                f"expected {', '.join(FIELDS)} and an id"
            )
        out |= {name: row.get(name) for name in FIELDS}
        return {**out, "id": _id(row.get("id"), index)}
    for name, expression in task.fields.items():
        try:
            value = _expression(expression)(**row)
            out[name] = None if isinstance(value, Undefined) else value
        except (TemplateError, ValueError, TypeError, LookupError) as error:
            if name != "answer":
                raise SaladError(
                    f"tasks: {task.task}: field {name} ({expression}) cannot be read from row {index + 1} of {where}: "
                    f"{error}; its fields are {', '.join(row)}"
                ) from error
    return {**out, "id": _id(out.get("id"), index)}


def _id(given: Any, index: int) -> str:
    return str(index if given is None else given)


def _too_many(task: Task, row: JsonObject) -> str | None:
    """Why a task that scores letters cannot take a row, if so."""
    number = len(row["choices"]) if isinstance(row["choices"], (list, tuple)) else 0
    if task.options == "choices" or number <= len(LETTERS):
        return None
    return f"choices: got {number}, expected at most {len(LETTERS)}, for the letter of the choice is scored"


def _numbered(rows: Sequence[JsonObject]) -> list[tuple[JsonObject, int]]:
    """Rows whose answer is a number, as a number or as a text that no choice has, and that number."""
    listed = [row for row in rows if isinstance(row["choices"], (list, tuple))]
    found = [(row, _number(row["answer"], [_text(choice) for choice in row["choices"]])) for row in listed]
    return [(row, number) for row, number in found if number is not None]


def _counts_from_one(rows: Sequence[JsonObject]) -> bool:
    """Whether the answers of a whole file are numbers of choices from 1: none is 0, and more of them are choices so."""
    numbers = [(number, len(row["choices"])) for row, number in _numbered(rows)]
    if len(numbers) < 2 or any(number == 0 for number, _ in numbers):
        return False
    return sum(1 <= number <= most for number, most in numbers) > sum(number < most for number, most in numbers)


def _never_the_first(rows: Sequence[JsonObject]) -> bool:
    """Whether so many answers are numbers, and none of them 0, that they may count from 1 all the same."""
    numbers = [number for _, number in _numbered(rows)]
    return len(numbers) >= FEW and 0 not in numbers


def _item(row: JsonObject, first: int = 0, digits: bool = False) -> TaskItem | str:
    """The item, or why it is none. first: the number of the first choice, 0 or 1; digits: the file writes such numbers
    as texts."""
    context, choices, answer = (row[name] for name in FIELDS)
    if not isinstance(context, str):
        return f"context: got {context!r:.60}, expected a text"
    if not context.strip():
        return "the context is empty"
    if not isinstance(choices, (list, tuple)) or len(choices) < 2:
        return f"choices: got {choices!r}, expected a list of two or more"
    for number, choice in enumerate(choices, start=1):
        if choice is None or (isinstance(choice, str) and not choice.strip()):
            return f"choices: number {number} is empty"
        if not isinstance(choice, str) and not _is_number(choice):
            return f"choices: number {number} is {choice!r:.60}, expected a text or a number"
    texts = [_text(choice) for choice in choices]
    if (held := "".join([context, *texts])) != utf8(held):
        return "context or choices hold half of a letter (a lone surrogate), which no tokenizer reads; write it whole"
    index = _place(answer, texts, first, digits)
    if isinstance(index, str):
        return index
    return TaskItem(row["id"], unicodedata.normalize("NFC", context), tuple(texts), index)


def _place(answer: Any, texts: Sequence[str], first: int, digits: bool) -> int | str:
    """The index of the choice that an answer names, or why it names none."""
    told = _text(answer) if isinstance(answer, str) or _is_number(answer) else None
    named = texts.index(told) if told in texts else None
    number = int(answer) if digits and _is_digits(answer) else _number(answer, texts)
    place = _letter(answer) if number is None else number - first
    if named is not None:
        if place is not None and 0 <= place < len(texts) and texts[place] != texts[named]:
            what, instead = ("letter", "number") if number is None else ("number", "letter")
            example = f"{first} is the first" if number is None else "A is the first"
            return (
                f"answer: got {answer!r}, which is a choice and a choice's {what} too; write the answer as the "
                f"{instead} of its choice ({example})"
            )
        place = named
    if place is None or not 0 <= place < len(texts):
        last = len(texts) - 1 + first
        return f"answer: got {answer!r:.60}, expected the number of one of {len(texts)} choices, {first} to {last}"
    return place


def _letter(answer: Any) -> int | None:
    """The index of the choice that an answer names by its letter."""
    letter = answer.strip(" ().:").upper() if isinstance(answer, str) else ""
    return LETTERS.index(letter) if len(letter) == 1 and letter in LETTERS else None


def _number(answer: Any, choices: Sequence[str]) -> int | None:
    """The number that an answer is, if it is one and no choice's text."""
    if isinstance(answer, str):
        return int(answer) if answer not in choices and _is_digits(answer) else None
    return int(answer) if _is_number(answer) and answer == int(answer) else None


def _is_digits(value: Any) -> bool:
    return isinstance(value, str) and value.strip().isdecimal() and len(value) < 10


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def _text(choice: Any) -> str:
    """A choice as it is read: a number of a table is a text as well."""
    return unicodedata.normalize("NFC", choice) if isinstance(choice, str) else str(choice)


def _read(path: Path) -> Task:
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
        return Task(**values, folder=path.parent)
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise SaladError(f"tasks: {path} is no task file: {error}") from error


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
