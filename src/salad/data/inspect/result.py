"""What an inspection of speech data tells, as `salad data inspect --json` writes it; what is noted of an utterance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Looked:
    """One utterance as it was looked at. faults: how bad each is, and what was seen. words is None of a row that could
    not be read, s (seconds) of sound that could not be. Hashes stand for what is counted and not kept."""

    part: str
    id: str
    faults: Mapping[str, tuple[float, str]]
    audio: str = ""
    speaker: str = ""
    score: float | None = None
    source: str = ""
    licence: str = ""
    aligned: bool = False
    words: int | None = None
    id_hash: int = 0
    speaker_hash: int = 0
    s: float | None = None
    rate_hz: int = 0
    channels: int = 0
    format: str = ""
    digest: str = ""
    level_db: float | None = None


@dataclass(frozen=True)
class DataAmount:
    utterances: int
    seconds: float


@dataclass(frozen=True)
class PartAmount(DataAmount):
    """One manifest, or one group of shards or files."""

    name: str
    kind: str


@dataclass(frozen=True)
class SourceAmount(DataAmount):
    source: str
    licence: str


@dataclass(frozen=True)
class SpeakerTime:
    name: str
    seconds: float


@dataclass(frozen=True)
class Histogram:
    """counts: of values between each pair of `edges`; below, above: of those outside; pNN: the NNth percentile."""

    unit: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int
    above: int
    n: int
    mean: float
    min: float
    max: float
    p01: float
    p05: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class FoundItem:
    """An utterance with a fault, by name, and what was seen of it."""

    id: str
    seen: str


@dataclass(frozen=True)
class Fault:
    """One kind of fault or oddity: what it is, what to do, how many utterances have it, and the worst."""

    what: str
    do: str
    count: int
    worst: tuple[FoundItem, ...]


@dataclass(frozen=True)
class SetAside:
    """Rows of quarantine files of like reasons: one of them in full, and some ids."""

    stage: str
    reason: str
    count: int
    example: str
    ids: tuple[str, ...]


@dataclass(frozen=True)
class LengthLimits:
    """Seconds: what is shorter is too short, what is longer too long."""

    min_s: float
    max_s: float


@dataclass(frozen=True)
class Totals:
    """rows: of manifests; utterances: those that could be read; heard: whose sound could be; hours: of that."""

    rows: int
    utterances: int
    heard: int
    hours: float
    words: int
    aligned: int
    num_speakers: int
    speakers: tuple[SpeakerTime, ...]
    sources: tuple[SourceAmount, ...]
    rates: Mapping[str, DataAmount]
    channels: Mapping[str, DataAmount]
    formats: Mapping[str, DataAmount]
    histograms: Mapping[str, Histogram | None]
    faults: Mapping[str, Fault]


@dataclass(frozen=True)
class Inspection(Totals):
    """All of it. decoded: whether the sound was heard, or headers alone were read."""

    place: str
    parts: tuple[PartAmount, ...]
    decoded: bool
    limits: LengthLimits
    quarantine: tuple[SetAside, ...]
