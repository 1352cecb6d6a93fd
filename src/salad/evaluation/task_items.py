"""Items of a multiple-choice task: what a row must hold to be one, and which choice its answer names."""

from __future__ import annotations

import math
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from salad.data.readers.rows import utf8
from salad.files import JsonObject

FIELDS = ("context", "choices", "answer")
LETTERS = string.ascii_uppercase
FEW = 3  # answers from which it is told that none of them is 0


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


def numbered(rows: Sequence[JsonObject]) -> list[tuple[JsonObject, int]]:
    """Rows whose answer is a number, as a number or as a text that no choice has, and that number."""
    listed = [row for row in rows if isinstance(row["choices"], (list, tuple))]
    found = [(row, _number(row["answer"], [as_read(_text(choice)) for choice in row["choices"]])) for row in listed]
    return [(row, number) for row, number in found if number is not None]


def counts_from_one(rows: Sequence[JsonObject]) -> bool:
    """Whether the answers of a whole file are numbers of choices from 1: none is 0, and more of them are choices so."""
    numbers = [(number, len(row["choices"])) for row, number in numbered(rows)]
    if len(numbers) < 2 or any(number == 0 for number, _ in numbers):
        return False
    return sum(1 <= number <= most for number, most in numbers) > sum(number < most for number, most in numbers)


def never_the_first(rows: Sequence[JsonObject]) -> bool:
    """Whether so many answers are numbers, and none of them 0, that they may count from 1 all the same."""
    numbers = [number for _, number in numbered(rows)]
    return len(numbers) >= FEW and 0 not in numbers


def item_of(row: JsonObject, first: int = 0, digits: bool = False) -> TaskItem | str:
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
    if isinstance(answer, bool):
        return _true_or_false(answer, texts)
    told = as_read(_text(answer)) if isinstance(answer, str) or _is_number(answer) else None
    read = [as_read(text) for text in texts]
    named = read.index(told) if told in read else None
    number = int(answer) if digits and _is_digits(answer) else _number(answer, read)
    place = _letter(answer) if number is None else number - first
    if named is not None:
        if place is not None and 0 <= place < len(texts) and read[place] != read[named]:
            what, instead = ("letter", "number") if number is None else ("number", "letter")
            example = f"{first} is the first" if number is None else "A is the first"
            return (
                f"answer: got {answer!r}, which is a choice and a choice's {what} too; write the answer as the "
                f"{instead} of its choice ({example})"
            )
        place = named
    if place is None or not 0 <= place < len(texts):
        last, letter = len(texts) - 1 + first, LETTERS[: len(texts)][-1]
        return (
            f"answer: got {answer!r:.60}, expected the number of one of {len(texts)} choices, {first} to {last}, its "
            f"letter, A to {letter}, or its text"
        )
    return place


def _true_or_false(answer: bool, texts: Sequence[str]) -> int | str:
    """The index of the yes or the no that true or false names, or why it names none."""
    read = [as_read(text).lower() for text in texts]
    if sorted(read) not in (["no", "yes"], ["false", "true"]):
        return (
            f"answer: got {str(answer).lower()}, which names a choice only where the two are yes and no, or true and "
            "false; write the number of the choice, its letter or its text"
        )
    return read.index(("yes" if answer else "no") if "yes" in read else str(answer).lower())


def _letter(answer: Any) -> int | None:
    """The index of the choice that an answer names by its letter."""
    letter = answer.strip(" ().:").upper() if isinstance(answer, str) else ""
    return LETTERS.index(letter) if len(letter) == 1 and letter in LETTERS else None


def _number(answer: Any, read: Sequence[str]) -> int | None:
    """The number that an answer is, if it is one and no choice's text. read: choices `as_read`."""
    if isinstance(answer, str):
        return int(answer) if as_read(_text(answer)) not in read and _is_digits(answer) else None
    return int(answer) if _is_number(answer) and answer == int(answer) else None


def _is_digits(value: Any) -> bool:
    return isinstance(value, str) and value.strip().isdecimal() and len(value) < 10


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def _text(choice: Any) -> str:
    """A choice as it is read: a number of a table is a text as well."""
    return unicodedata.normalize("NFC", choice) if isinstance(choice, str) else str(choice)
