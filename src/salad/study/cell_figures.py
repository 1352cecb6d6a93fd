"""Figures of one cell of a grid: M of its documents, and accuracy of its items, document by document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from salad.evaluation.next_sentence import NextSentenceItem
from salad.measure.divergence import DocumentKL, summary
from salad.measure.results import Interval
from salad.measure.statistics import accuracy
from salad.records import null
from salad.study.cells import Cell
from salad.types import Result


@dataclass(frozen=True)
class DocumentSum:
    """Summed KL in nats over the `count` scored tokens of one document in a voice that was trained on."""

    id: str
    domain: str
    kl: float
    count: int


@dataclass(frozen=True)
class DocumentItems:
    """Multiple-choice items of one document, and how many of them were answered rightly."""

    id: str
    correct: int
    count: int


@dataclass(frozen=True)
class LivePoint:
    """M on a few documents at one step of a training, `seconds` after its start."""

    step: int
    seconds: float
    positions: int | float
    misalignment: float


@dataclass(frozen=True)
class Measured:
    """What is measured of a trained cell; F is 0 where the LLM is frozen."""

    misalignment: float
    misalignment_se: float
    by_domain: Mapping[str, float]
    documents: tuple[DocumentSum, ...]
    forgetting: float
    forgetting_se: float
    speech_accuracy: Interval
    text_accuracy: Interval
    text_by_document: tuple[DocumentItems, ...]
    items: int


@dataclass(frozen=True)
class CellFigures(Measured):
    """cell.json. key: fingerprint of what the figures depend on; hours, utterances: of speech; train_seconds: of all
    processes that had a part in it."""

    key: str
    hours: float
    utterances: int
    steps: int
    positions: int | float
    curve: tuple[LivePoint, ...]
    train_seconds: float
    warm_start_seconds: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class DroppedCell(Cell):
    """A line of results.jsonl of a cell that was not run, and why."""

    cell: str
    run_dir: str
    status: str = "dropped"
    reason: str


@dataclass(frozen=True, kw_only=True)
class DoneCell(Cell, CellFigures):
    """A line of results.jsonl of a finished cell. before: M of the warm start that it began from, () where cold."""

    cell: str
    run_dir: str
    status: str = "done"
    before: tuple[DocumentSum, ...]


GridRow = DoneCell | DroppedCell


@dataclass(frozen=True)
class BaseFigures:
    """What every cell is held against: the text LLM, the cascade, M of the deaf, and of the warm start alone.

    active_domains, uniform_domains: those of which the one purchase holds a larger share than the other. written_at:
    the temperature at which the LLM wrote the text; None where it did not.
    """

    text_accuracy: Interval
    cascade_accuracy: Interval
    chance: float
    text_by_document: tuple[DocumentItems, ...]
    items: int
    deaf: float
    warm_start: float
    warm_start_seconds: float = 0.0
    narrow_domains: tuple[str, ...] = ()
    coincide: float = 0.0
    active_domains: tuple[str, ...] = ()
    uniform_domains: tuple[str, ...] = ()
    written_at: float | None = null()


@dataclass(frozen=True)
class Shared:
    """shared.json: of all cells."""

    base: BaseFigures
    base_seconds: float


def document_sum(r: DocumentKL) -> DocumentSum:
    return DocumentSum(r.id, r.domain, r.kl, r.count)


def is_seen(speaker: str) -> bool:
    return not speaker.endswith("(unseen)")


def by_document(results: Sequence[Result], items: Sequence[NextSentenceItem]) -> tuple[DocumentItems, ...]:
    """Items and right answers of each document."""
    tables: dict[str, DocumentItems] = {}
    for result, item in zip(results, items, strict=True):
        own = tables.get(item.document_id, DocumentItems(item.document_id, 0, 0))
        tables[own.id] = replace(own, correct=own.correct + int(result.correct), count=own.count + 1)
    return tuple(tables.values())


def measured(
    m: Sequence[DocumentKL],
    f: Sequence[DocumentKL],
    speech: Sequence[Result],
    text: Sequence[Result],
    items: Sequence[NextSentenceItem],
) -> Measured:
    """Figures out of M and F document by document (no F: nothing is forgotten), and what was answered hearing and
    reading."""
    heard = [r for r in m if is_seen(r.speaker)]
    seen, forgot = summary(heard), summary(f) if f else None
    return Measured(
        misalignment=seen.all,
        misalignment_se=seen.se,
        by_domain={key: value for key, value in (seen.by_domain or {}).items() if value is not None},
        documents=tuple(map(document_sum, heard)),
        forgetting=forgot.all if forgot else 0.0,
        forgetting_se=forgot.se if forgot else 0.0,
        speech_accuracy=accuracy_of(speech, items),
        text_accuracy=accuracy_of(text, items),
        text_by_document=by_document(text, items),
        items=len(items),
    )


def accuracy_of(results: Sequence[Result], items: Sequence[NextSentenceItem]) -> Interval:
    found = accuracy(results, [item.document_id for item in items])
    return Interval(found.value, found.low, found.high)
