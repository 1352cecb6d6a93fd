"""From an item to what the model takes in: segments of text and speech, then token ids and sounds.

`segments` is the one place that knows how an item looks in each version; `request` the one that tokenises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from salad.evaluation.benchmark_task import Say, Task, render
from salad.evaluation.task_items import TaskItem
from salad.sequence import start_token_id, token_ids
from salad.types import Modality

MAX_SHOTS = 5
Start = Literal["tokenizer", "document"]


@dataclass(frozen=True)
class Segment:
    """A run of the prompt in one modality; `text` is what is read or said, `owner` (task/id) the item that says it."""

    modality: Modality
    text: str
    owner: str = field(default="", compare=False)


@dataclass(frozen=True)
class Sound:
    """A recording as the model takes it: encoder frames [num_frames, frame_dim] of its spans. Equal keys are equal."""

    key: str
    spans: tuple[np.ndarray, ...] = field(compare=False, repr=False)


Unit = int | Sound  # a token id, or a recording


@dataclass(frozen=True)
class Request:
    """What is scored: the log-probability of each option (token ids) after the prefix."""

    prefix: tuple[Unit, ...]
    options: tuple[tuple[int, ...], ...]


def segments(task: Task, item: TaskItem, modality: Modality, shots: Sequence[TaskItem] = ()) -> list[Segment]:
    """The prompt of an item: few-shot examples with their answers, then the item's own template.

    In the text version all of it is one text segment; in the speech version the template's `say` parts are speech.
    """
    parts: list[Segment] = []
    for shot in shots:
        parts += _template(task, shot, modality)
        answer = task.option_delimiter + task.answers(shot)[shot.answer] + task.shot_delimiter
        parts.append(Segment("text", answer))
    return _joined([*parts, *_template(task, item, modality)])


def read_out(prompt: Sequence[Segment], heard: Callable[[Segment], str]) -> list[Segment]:
    """The text version of a spoken prompt, with what was heard in place of what was said: a cascade's prompt."""
    return _joined([Segment("text", heard(s)) if s.modality == "speech" else s for s in prompt])


def _joined(parts: Sequence[Segment]) -> list[Segment]:
    """Without empty parts, and with text that touches text made one; one empty segment where nothing is left."""
    out: list[Segment] = []
    for part in parts:
        if out and part.modality == out[-1].modality == "text":
            out[-1] = Segment("text", out[-1].text + part.text)
        elif part.text:
            out.append(part)
    return out or [Segment("text", "")]


def _template(task: Task, item: TaskItem, modality: Modality) -> list[Segment]:
    parts: list[Segment] = []
    for part in task.prompt:
        if isinstance(part, Say):
            parts.append(Segment(modality, render(part.say, item), f"{task.task}/{item.id}"))
        else:
            parts.append(Segment("text", render(part, item)))
    return parts


def num_shots(
    task: Task, shots: Sequence[TaskItem], item: TaskItem, length: Callable[[Sequence[Segment]], int], context: int
) -> int | None:
    """How many of `shots` fit before the item, at most 5; None where the item alone is longer than `context`.

    `length` gives the positions that segments take. Few-shot examples are counted in the spoken version, so that text
    and speech get the same ones; the longest option counts too.
    """
    longest = max(task.answers(item), key=len)
    option = Segment("text", task.option_delimiter + longest)
    for number in range(min(MAX_SHOTS, len(shots)), -1, -1):
        if length([*segments(task, item, "speech", shots[:number]), option]) <= context:
            return number
    return None


def request(
    tokenizer: Any,
    prompt: Sequence[Segment],
    continuations: Sequence[str],
    *,
    start: Start = "tokenizer",
    sound: Callable[[Segment], Sound] | None = None,
) -> Request:
    """Token ids and sounds of a prompt, and token ids of each continuation (which begins with its delimiter).

    Text before a continuation is tokenised together with it and cut at the length of the text alone; white space at
    its end goes to the continuation (lm-eval's `_encode_pair`), since most tokenizers glue a space to the word after
    it. Text before a sound loses its last spaces for the same reason: a spoken span owns the space before its words.
    What follows a sound gets the tokens that it has behind text. Control tokens written in it are characters.
    `start`: "tokenizer" puts in front what the tokenizer puts there (as lm-eval does), "document" the token that opens
    a document in training.
    """

    def encode(text: str, first: bool = False) -> list[int]:
        special = first and start == "tokenizer"
        return token_ids(tokenizer, text, special=special, after=not first) if text or special else []

    units: list[Unit] = [start_token_id(tokenizer)] if start == "document" else []
    *before, last = prompt
    for index, segment in enumerate(before):
        if segment.modality == "text":
            units += encode(segment.text.rstrip(" "), first=index == 0)
        else:
            units += [*(encode("", first=True) if index == 0 else []), _heard(segment, sound)]
    if last.modality == "text":
        text = last.text.rstrip()
        moved = last.text[len(text) :]
        own: list[Unit] = [*encode(text, first=not before)] if text or not before else []
        options = [encode(text + moved + continuation, first=not before)[len(own) :] for continuation in continuations]
    else:
        own = [*(encode("", first=True) if not before else []), _heard(last, sound)]
        options = [encode(continuation) for continuation in continuations]
    units += own
    if not units:  # something must stand before the first option's first token
        token = tokenizer.bos_token_id
        units = [tokenizer.eos_token_id if token is None else token]
    return Request(tuple(units), tuple(tuple(option) for option in options))


def _heard(segment: Segment, sound: Callable[[Segment], Sound] | None) -> Sound:
    assert sound is not None, "a speech segment, and nothing that gives its sound"
    return sound(segment)
