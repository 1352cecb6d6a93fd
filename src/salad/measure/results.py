"""What is measured of a run, as figures.json and report.json hold it. None: it was not measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from salad.records import null
from salad.types import Estimate


@dataclass(frozen=True)
class Interval:
    """An `Estimate` as files hold it: what was not measured, or is of one document alone, is None."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @classmethod
    def of(cls, found: Estimate) -> Interval:
        """The value, its 95 % bounds and what it is counted over."""
        return cls(found.value, found.low, found.high, found.n)


@dataclass(frozen=True)
class McNemar:
    """Items that one of two got right alone, and the test's exact two-sided p."""

    only_first: int
    only_second: int
    p: float


@dataclass(frozen=True)
class PairedGap(Interval):
    """A difference on the same items: by the length normalisation `metric` where that is one of several, with McNemar's
    test and the smallest gap that it would have found with probability 0.8."""

    metric: str | None = None
    mcnemar: McNemar | None = None
    minimum_detectable: float | None = None


@dataclass(frozen=True)
class Share(Interval):
    """`heard`: see `salad.measure.divergence.heard`; reference: whose M is M_ref; formula: the one that it is by."""

    reference: str | None = None
    formula: str | None = None


@dataclass(frozen=True)
class MeanKL:
    """M or F in nats per token: mean over tokens, standard error over documents.

    stage2: M of Stage II on the documents that this M of an earlier stage is of, where these are fewer.
    """

    all: float | None = None
    se: float | None = None
    n_documents: int | None = None
    n_tokens: int | None = None
    by_domain: Mapping[str, float | None] | None = None
    by_voice: Mapping[str, float | None] | None = None
    stage2: MeanKL | None = None
    note: str | None = None


@dataclass(frozen=True)
class MeasuredKL(MeanKL):
    """M of rows of which there is one or more: its mean and its standard error (nan for one document) are there."""

    all: float
    se: float
    n_documents: int
    n_tokens: int


@dataclass(frozen=True)
class Recall(Interval):
    """Share of the spoken words of one class of exposure that was found; n: words said."""

    exposure: str = ""


@dataclass(frozen=True)
class MarkedSpan:
    """A span to look at: each word said and whether it was found, each word heard and whether it was said."""

    document: str
    domain: str
    speaker: str
    said: tuple[tuple[str, bool], ...]
    heard: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Withheld:
    """Words that the corpus keeps out of all that is heard or read, and those of them that are there all the same."""

    words: int | None = None
    heard_or_read: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hearing:
    """What was heard word by word; word_recall: of voices `trained` on and `unseen`, a row a class of exposure."""

    word_recall: Mapping[str, tuple[Recall, ...] | None] | None = None
    withheld: Withheld | None = null()
    spans: tuple[MarkedSpan, ...] | None = None


@dataclass(frozen=True)
class VoiceFigures:
    """One voice: M of the model and of the controls, what was heard, and error rates of words and of phones."""

    voice: str | None = None
    unseen: bool = False
    stage2: MeanKL | None = None
    blind: MeanKL | None = None
    other: MeanKL | None = None
    deaf: MeanKL | None = None
    cascade: MeanKL | None = None
    heard: Share | None = null()
    wer: Interval | None = null()
    strict_wer: Interval | None = null()
    phone_error: Interval | None = null()


@dataclass(frozen=True)
class NoiseFigures:
    """What the recordings give under one condition: M, errors of the model's ears, and of the cascade's recogniser."""

    condition: str | None = None
    documents: int | None = None
    misalignment: float | None = null()
    wer: Interval | None = null()
    phone_error: Interval | None = null()
    cascade_wer: Interval | None = null()


@dataclass(frozen=True)
class SystemAccuracies:
    """Multiple choice: what each system gets right of the same items, and text_base minus speech_adapted.

    chance: of who guesses; margin: log P(right) - log P(best other) of who hears, and over the controls.
    """

    text_base: Interval | None = None
    text_adapted: Interval | None = None
    speech_adapted: Interval | None = None
    blind: Interval | None = None
    other: Interval | None = None
    cascade: Interval | None = None
    chance: float | None = None
    n: int | None = None
    gap: Interval | None = None
    margin: Mapping[str, Interval | None] | None = None


@dataclass(frozen=True)
class TaskAccuracies(SystemAccuracies):
    """Accuracies on one set of items, or on `all items`, whose gap has the length normalisation `metric`."""

    task: str | None = None
    metric: str | None = None


@dataclass(frozen=True)
class Accuracies(SystemAccuracies):
    """Accuracies on the next sentences, and task by task."""

    tasks: tuple[TaskAccuracies, ...] | None = None


@dataclass(frozen=True)
class ErrorRates:
    """Errors of a recogniser's transcripts, as shares of the characters and words that were said."""

    cer: float | None = None
    wer: float | None = None


@dataclass(frozen=True)
class PurchaseRow:
    """One cluster of texts: what is known of it, its share of the budget, and what was bought.

    weight: share of all quotas; bought_s: seconds of speech that can be used; domains: documents of each.
    """

    cluster: int | None = null()
    size: int | None = null()
    misalignment: float | None = null()
    misalignment_se: float | None = null()
    cer: float | None = null()
    quota_s: float | None = null()
    top_words: tuple[str, ...] | None = null()
    dropped: bool | None = null()
    reason: str | None = null()
    weight: float | None = null()
    bought_s: float | None = null()
    bought_documents: int | None = null()
    domains: Mapping[str, int | None] | None = null()


@dataclass(frozen=True)
class ClipSegment:
    """Words of a clip, in one modality."""

    modality: str
    text: str


@dataclass(frozen=True)
class Clip:
    """Something to listen to: its file, its words as they are read and heard, and what is written on after it."""

    title: str | None = None
    domain: str | None = None
    voice: str | None = None
    audio: str | None = None
    segments: tuple[ClipSegment, ...] | None = None
    base_continuation: str | None = None
    speech_continuation: str | None = None
    cascade_transcript: str | None = None


@dataclass(frozen=True)
class RunFigures:
    """figures.json of a run's `evaluate`.

    misalignment, forgetting: by stage and control. heard_by_stage, heard_by_domain: shares. over: M of a control less M
    of the model, paired; change: M of Stage II less M of an earlier stage, paired. oracle: M with true symbols in place
    of heard ones. left_out: what was not measured.
    """

    misalignment: Mapping[str, MeanKL | None] | None = null()
    forgetting: Mapping[str, MeanKL | None] | None = null()
    heard: Share | None = null()
    heard_by_stage: Mapping[str, Share | None] | None = null()
    heard_by_domain: Mapping[str, Share | None] | None = null()
    over: Mapping[str, Interval | None] | None = null()
    change: Mapping[str, Interval | None] | None = null()
    voices: tuple[VoiceFigures, ...] | None = null()
    hearing: Hearing | None = null()
    noise: tuple[NoiseFigures, ...] | None = null()
    oracle: Mapping[str, MeanKL | None] | None = null()
    accuracy: Accuracies | None = null()
    asr: ErrorRates | None = null()
    left_out: tuple[str, ...] | None = null()
