"""What is trained on shares no text with what is measured: held-out documents, and the items of `select.evaluation`."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from salad.config import Recipe
from salad.engine import pick
from salad.evaluation.benchmark_task import find_task, load_items, task_files
from salad.pipeline.fingerprints import fingerprint, of_content
from salad.progress import console
from salad.select.screen import Screen
from salad.types import Document

LEAST = 8  # words: a shorter text that was held out is anybody's
Item = TypeVar("Item")


def measured_on(recipe: Recipe) -> str:
    """A fingerprint of how texts are screened, and of the tasks whose items they are screened against."""
    settings = recipe.select
    files = task_files(settings.evaluation, recipe.evaluate.task_data)
    return fingerprint([settings.overlap_words, settings.evaluation, of_content(files)])


def evaluation_texts(recipe: Recipe, heldout: Iterable[Document]) -> list[tuple[str, str]]:
    """(name, text) of each held-out document, and of each item of `select.evaluation` with its right choice."""
    texts = [(f"held-out document {document.id}", document.text) for document in heldout]
    for task, path in map(find_task, recipe.select.evaluation):
        loaded = load_items(task, path, data_dir=recipe.evaluate.task_data, hub=recipe.evaluate.task_hub)
        rows = loaded.items if loaded else ()
        texts += [(f"item {item.id} of {task.task}", f"{item.context} {item.choices[item.answer]}") for item in rows]
    return texts


def screen_of(recipe: Recipe, heldout: Iterable[Document]) -> Screen:
    """The screen that all text and all speech pass before anything is trained on them."""
    return Screen(evaluation_texts(recipe, heldout), recipe.select.overlap_words, least=LEAST)


def reason_of(screen: Screen, text: str) -> str:
    """Why a text may not be trained on; "" where it may."""
    found = screen.overlap(text)
    return f"text: shares {screen.n} words in a row with {found}, which is measured on" if found else ""


def without_leaks(
    screen: Screen, items: Sequence[Item], what: str, of: Callable[[Item], Any] = lambda item: item
) -> tuple[Sequence[Item], list[dict[str, str]]]:
    """Texts that may be trained on, and the rest as rows {id, reason} of a quarantine; how many they are is printed.

    of: gives what has an `id` and a `text`. A recording of a held-out text by another reader is among the rest. What
    reads its items when they are asked for goes on doing so.
    """
    numbers, aside = array("q"), list[dict[str, str]]()
    for number, item in enumerate(items):
        if why := reason_of(screen, of(item).text):
            aside.append({"id": of(item).id, "reason": why})
        else:
            numbers.append(number)
    if aside:
        console.print(
            f"{what}: {len(aside)} of {len(items)} share {screen.n} words in a row with what is measured on, and are "
            "set aside; quarantine.jsonl names them",
            highlight=False,
        )
    return pick(items, numbers), aside
