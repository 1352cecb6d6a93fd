"""The nouns of the house: frozen dataclasses that every room shares. Imports nothing of ours."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

Modality = Literal["text", "speech"]


class SaladError(ValueError):
    """A problem the user can mend: says the field, the value it got, and how to fix it."""


class Stopped(SaladError):
    """The work was asked to stop (SIGTERM) and kept what it had: the same command goes on from there."""


@dataclass(frozen=True)
class Word:
    """One word in time. `score`: how sure its aligner was, in [0, 1]; nan where nobody says."""

    text: str
    start_s: float
    end_s: float
    score: float = math.nan


@dataclass(frozen=True)
class Document:
    """Text to learn or probe on. `domain` is "" where nobody knows it."""

    id: str
    text: str
    source: str
    domain: str = ""

    @property
    def words(self) -> list[str]:
        return self.text.split()


@dataclass(frozen=True)
class Utterance:
    """One recording of known text.

    `words` is empty until aligned; then it holds one `Word` for each whitespace word of `text`.
    `score` is the alignment's mean token probability in [0, 1] (nan until aligned).
    """

    id: str
    text: str
    audio: str
    sample_rate_hz: int
    num_samples: int
    words: tuple[Word, ...] = ()
    speaker: str = ""
    source: str = ""
    licence: str = ""
    document_id: str = ""
    domain: str = ""
    score: float = float("nan")

    @property
    def duration_s(self) -> float:
        return self.num_samples / self.sample_rate_hz

    def aligned(self, words: tuple[Word, ...], score: float) -> Utterance:
        return replace(self, words=words, score=score)


@dataclass(frozen=True)
class Span:
    """Words `start_word` (included) to `end_word` (excluded) of a document, in one modality."""

    modality: Modality
    start_word: int
    end_word: int

    @property
    def num_words(self) -> int:
        return self.end_word - self.start_word


@dataclass(frozen=True)
class Pairs:
    """Where student and teacher predict the same next token.

    student_pos, teacher_pos, target_ids: int64 [N]. The token after `student_pos[n]` in the student's
    sequence and after `teacher_pos[n]` in the teacher's is the same text token, `target_ids[n]`.
    """

    student_pos: np.ndarray
    teacher_pos: np.ndarray
    target_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.target_ids)


@dataclass(frozen=True)
class Example:
    """One interleaved document, ready for the model.

    token_ids: int64 [T], the whole document's tokens. The teacher reads `[start_id, *token_ids]`.
    spans: alternating runs of words; token_bounds[k] = (first, last + 1) token of span k.
    speech_frames: one float array [num_frames, frame_dim] for each speech span, in order.
    """

    id: str
    spans: tuple[Span, ...]
    token_ids: np.ndarray
    token_bounds: tuple[tuple[int, int], ...]
    start_id: int
    speech_frames: tuple[np.ndarray, ...] = field(default=(), repr=False)
    domain: str = ""
    speaker: str = ""

    @property
    def speech_tokens(self) -> list[np.ndarray]:
        """Token ids spoken in each speech span, in order."""
        return [
            self.token_ids[a:b]
            for s, (a, b) in zip(self.spans, self.token_bounds, strict=True)
            if s.modality == "speech"
        ]


@dataclass(frozen=True)
class Cluster:
    """A domain of D_web. What the probe finds is nan until then; quota_s is seconds of speech to buy.

    misalignment = voice + difficulty + domain, nats per token (salad.select.explain); nll is the model's own, of the
    same tokens, hearing; foreign is the share of its documents whose domain the training speech does not have.
    """

    id: int
    centroid: np.ndarray = field(repr=False)
    size: int = 0
    misalignment: float = float("nan")
    misalignment_se: float = float("nan")
    cer: float = float("nan")
    voice: float = float("nan")
    difficulty: float = float("nan")
    domain: float = float("nan")
    domain_se: float = float("nan")
    nll: float = float("nan")
    foreign: float = float("nan")
    documents: int = 0
    quota_s: float = 0.0
    top_words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """One multiple-choice item scored. scores: one length-normalised log-probability (nats) per option."""

    id: str
    answer: int
    scores: tuple[float, ...]

    @property
    def prediction(self) -> int:
        return max(range(len(self.scores)), key=self.scores.__getitem__)

    @property
    def correct(self) -> bool:
        return self.prediction == self.answer


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; n: what it was taken over (words, items or documents, as its maker says)."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Gap(Estimate):
    """Text accuracy minus speech accuracy on the same items, with its paired-bootstrap 95 % interval."""


def first_line_of(error: BaseException) -> str:
    """The first line of a library's error, which may be as long as a page."""
    return str(error).strip().split("\n", 1)[0][:160]
