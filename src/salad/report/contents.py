"""What report.json holds of a run: its figures, and what they came from. None: not there in this run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from salad.config.paper import Departure
from salad.data.quarantine import Quarantined
from salad.measure.results import PurchaseRow, RunFigures
from salad.records import null


@dataclass(frozen=True)
class CurvePoint:
    """One step of a training as its log has it; misalignment, forgetting: of the live probe, where it was asked."""

    step: int | None = null()
    loss: float | None = null()
    misalignment: float | None = null()
    forgetting: float | None = null()
    seconds: float | None = null()
    positions: int | float | None = null()
    token_accuracy: float | None = None


@dataclass(frozen=True)
class PurchaseEvidence:
    """What the purchase rests on: the probe's decision, p, reliability, documents and seconds of speech; and the share
    that the selection is expected to have in common with one by the true M(c)."""

    decision: str | None = null()
    p: float | None = null()
    reliability: float | None = null()
    documents: int | None = null()
    seconds: float | None = null()
    overlap: float | None = null()


@dataclass(frozen=True)
class SpeechHours:
    """Hours of speech: that Stage I trained on, bought, held out, and not aligned."""

    stage1: float | None = null()
    bought: float | None = null()
    heldout: float | None = null()
    quarantined: float | None = null()


@dataclass(frozen=True)
class Decoded:
    """What the ears of the warm start heard of one span, beside what was said."""

    reference: str = ""
    decoded: str = ""


@dataclass(frozen=True)
class Report(RunFigures):
    """report.json. curves: by stage; tokens: positions trained on, by stage; seconds: of every stage, and `total`."""

    name: str | None = null()
    version: str | None = null()
    simulated: bool | None = null()
    seed: int | None = null()
    recipe: Mapping[str, Any] | None = null()
    departures: tuple[Departure, ...] | None = null()
    curves: Mapping[str, tuple[CurvePoint, ...] | None] | None = null()
    selection: tuple[PurchaseRow, ...] | None = null()
    evidence: PurchaseEvidence | None = null()
    speech_hours: SpeechHours | None = null()
    quarantine: tuple[Quarantined, ...] | None = null()
    tokens: Mapping[str, int | float | None] | None = null()
    seconds: Mapping[str, float | None] | None = null()
    ctc_samples: tuple[Decoded, ...] | None = null()
    machine: Mapping[str, object] | None = null()
