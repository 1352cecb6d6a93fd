"""What is heard in place of a document's own recording: another's, as long and in the same voice, or silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from salad.model.encoders.base import Encoder

SILENCE_S = 20  # Whisper's frames of silence depend on how long it lasts


@dataclass(frozen=True)
class Spoken:
    """Frames [num_frames, dim] of the spoken spans of one document in one voice. document: the same for all voices."""

    document: str
    domain: str
    speaker: str
    spans: tuple[np.ndarray, ...] = field(repr=False)


def others_frames(spoken: Sequence[Spoken]) -> list[list[np.ndarray] | None]:
    """For each of `spoken` as many frames [num_frames, dim] a span, of another document's recording; None without one.

    The other is of another domain and the same speaker, where there is one; of these the one whose spans have the most
    similar lengths. A span is cut, or goes on with the other's next ones. No document gets its own text, in no voice.
    """
    return [_replaced(own, spoken) for own in spoken]


def _replaced(own: Spoken, spoken: Sequence[Spoken]) -> list[np.ndarray] | None:
    others = [o for o in spoken if o.document != own.document and any(len(span) for span in o.spans)]
    for wanted in ("speaker", "domain"):
        same = wanted == "speaker"
        closer = [o for o in others if (getattr(o, wanted) == getattr(own, wanted)) == same]
        others = closer or others
    if not others:
        return None
    other = min(others, key=lambda o: (_distance(own, o), o.document, o.speaker))
    return [_frames(other.spans, k, len(span)) for k, span in enumerate(own.spans)]


def _distance(own: Spoken, other: Spoken) -> int:
    return sum(abs(len(span) - len(other.spans[k % len(other.spans)])) for k, span in enumerate(own.spans))


def _frames(spans: Sequence[np.ndarray], at: int, number: int) -> np.ndarray:
    """The first `number` frames from span `at` on, round and round."""
    parts, length = [spans[at % len(spans)]], len(spans[at % len(spans)])
    while length < number:
        at += 1
        parts.append(spans[at % len(spans)])
        length += len(parts[-1])
    return np.concatenate(parts)[:number]


def silence(encoder: Encoder, number: int = 1) -> np.ndarray:
    """Frames of SILENCE_S of digital silence, longer where `number` are wanted, as far as `encoder` goes."""
    seconds = max(SILENCE_S, int(np.ceil((number + 1) / encoder.frame_rate_hz)))
    samples = seconds * encoder.sample_rate_hz
    return encoder.encode([np.zeros(min(samples, encoder.max_samples or samples), np.float32)])[0]
