"""Figures of one cell of a grid: M of its documents and of its controls, what was heard, and which items were right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from salad.measure.divergence import DocumentKL
from salad.measure.results import Interval, Recall, Share
from salad.records import null
from salad.study.cells import Cell


@dataclass(frozen=True)
class DocumentSum:
    """Summed KL in nats over the `count` scored tokens of one document in one voice."""

    id: str
    domain: str
    kl: float
    count: int
    speaker: str = ""


Sums = tuple[DocumentSum, ...]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is measured of a trained cell.

    documents: of the voice that was trained on; unseen: of others; natural: of people; other, blind: of the first
    voice, another's recording or silence heard in their place. text_right, speech_right: "1" for each item that was
    answered rightly, reading and hearing; the first of the items that are read are those that are heard.
    speech_accuracy, silence_accuracy, other_accuracy, margin (log P of the right option less the best other's), margin
    over silence: of these. recall: of words said in the trained voice, by how often the cell had heard them.
    """

    misalignment: float
    misalignment_se: float
    documents: Sums
    unseen: Sums
    natural: Sums
    other: Sums
    blind: Sums
    heard: Share | None
    forgetting: float
    forgetting_se: float
    speech_accuracy: Interval
    silence_accuracy: Interval
    other_accuracy: Interval
    text_accuracy: Interval
    margin: Interval
    margin_over_silence: Interval
    speech_right: str
    text_right: str
    items: int
    wer: Interval | None = null()
    wer_unseen: Interval | None = null()
    wer_natural: Interval | None = null()
    phone_error: Interval | None = null()
    recall: tuple[Recall, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CellFigures(Measured):
    """cell.json. key: fingerprint of what the figures depend on; hours, utterances: of speech; train_seconds: of the
    stage; warm_start_seconds: of what cells of one share and seed have in common; seconds: of the rest; before: M of
    the warm start that it began from, () where cold; bought: words of each domain that was bought; machine: what it
    ran on."""

    key: str = ""
    hours: float = 0.0
    utterances: int = 0
    steps: int = 0
    positions: float = 0.0
    train_seconds: float = 0.0
    warm_start_seconds: float = 0.0
    seconds: float = 0.0
    before: Sums = ()
    bought: Mapping[str, int] | None = null()
    machine: str = ""


@dataclass(frozen=True, kw_only=True)
class DroppedCell(Cell):
    """A line of results.jsonl of a cell that was not run, and why."""

    cell: str
    status: str = "dropped"
    reason: str


@dataclass(frozen=True, kw_only=True)
class DoneCell(Cell, CellFigures):
    """A line of results.jsonl of a finished cell."""

    cell: str
    status: str = "done"

    @property
    def stage_seconds(self) -> float:
        """Seconds of all training that is the cell's own."""
        return self.train_seconds + self.warm_start_seconds


GridRow = DoneCell | DroppedCell


@dataclass(frozen=True)
class BaseFigures:
    """What every cell is held against: the text LLM, the cascade, and M of the deaf, document by document.

    text_right: as a cell's, over all items, of which the first `heard_items` are heard as well; groups: the document
    that each item is of, or its own id. narrow_domains: of the narrow speech. spell_seconds: of the shared upper part.
    """

    key: str
    text_right: str
    groups: tuple[str, ...]
    heard_items: int
    text_accuracy: Interval
    cascade_accuracy: Interval
    chance: float
    deaf: Sums
    cascade: Sums
    narrow_domains: tuple[str, ...] = ()
    narrow_hours: float = 0.0
    spell_seconds: float = 0.0
    seconds: float = 0.0
    items_of: tuple[str, ...] = ()


def sums(rows: Sequence[DocumentKL]) -> Sums:
    """Without documents that are spoken as a whole, of which no token is scored."""
    return tuple(DocumentSum(r.id, r.domain, r.kl, r.count, r.speaker) for r in rows if r.count)


def rows_of(own: Sequence[DocumentSum]) -> list[DocumentKL]:
    """The rows as the measuring functions take them."""
    return [DocumentKL(d.id, d.domain, d.speaker, d.kl, d.count) for d in own]


def mean(own: Sequence[DocumentSum]) -> float:
    """Nats per token over all tokens of these documents."""
    return sum(d.kl for d in own) / max(1, sum(d.count for d in own))
