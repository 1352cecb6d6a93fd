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


class Silence:
    """What an encoder makes of digital silence, in place of the spans of recordings.

    A span is cut out of SILENCE_S of it, a longer one out of as much as it needs, so that its frames depend on no other
    span. `salad eval --control silence` has the recognisers hear silence too: samples, as long as each recording.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._frames: dict[int, np.ndarray] = {}  # by seconds

    def like(self, spans: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As many frames [num_frames, dim] of silence as each of `spans` has."""
        return [_frames([self._lasting(len(span))], 0, len(span)) for span in spans]

    def _lasting(self, number: int) -> np.ndarray:
        """At least `number` frames, as far as the encoder goes."""
        seconds = max(SILENCE_S, int(np.ceil((number + 1) / self._encoder.frame_rate_hz)))
        if seconds not in self._frames:
            samples = seconds * self._encoder.sample_rate_hz
            zeros = np.zeros(min(samples, self._encoder.max_samples or samples), np.float32)
            self._frames[seconds] = self._encoder.encode([zeros])[0]
        return self._frames[seconds]
