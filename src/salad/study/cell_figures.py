"""Figures of one cell: M of its documents, and accuracy of its items, document by document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from salad.evaluation.next_sentence import NextSentenceItem
from salad.measure.divergence import DocumentKL
from salad.measure.statistics import accuracy
from salad.types import Result


def document_row(r: DocumentKL) -> dict[str, Any]:
    return {"id": r.id, "domain": r.domain, "kl": r.kl, "count": r.count}


def is_seen(speaker: str) -> bool:
    return not speaker.endswith("(unseen)")


def by_document(results: Sequence[Result], items: Sequence[NextSentenceItem]) -> list[dict[str, Any]]:
    """Items and right answers of each document."""
    tables: dict[str, dict[str, Any]] = {}
    for result, item in zip(results, items, strict=True):
        own = tables.setdefault(item.document_id, {"id": item.document_id, "correct": 0, "count": 0})
        own["correct"] += int(result.correct)
        own["count"] += 1
    return list(tables.values())


def accuracy_of(results: Sequence[Result], items: Sequence[NextSentenceItem]) -> dict[str, float]:
    return accuracy(results, [item.document_id for item in items])
