"""How a voice says one document: its speed, its pitch and its noise, the same for the same document, voice and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Required, TypedDict, cast

from salad.config import Variation
from salad.files import draw64
from salad.types import SaladError

STEADY = Variation()  # every document alike


class Changes(TypedDict, total=False):
    """Fields of `Delivery` that are not as by default."""

    speed: float
    pitch: float
    noise: float
    seed: int


class SpokenItem(Changes, total=False):
    """What the job that speaks is given of a document; `audio` is flac where it is not told."""

    document: Required[dict[str, str]]
    voice: Required[str]
    licence: Required[str]
    simulated: Required[bool]
    audio: str


@dataclass(frozen=True)
class Delivery:
    """How to speak.

    speed: 1.1 a tenth faster. pitch: 1.1 a tenth higher, formants too, at the same speed. noise: share of the voice's
    own, where it has a generator to seed (Piper); 0 none. seed: of that noise. Raises SaladError where one is out of
    range.
    """

    speed: float = 1.0
    pitch: float = 1.0
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("speed", "pitch"):
            if not 0.25 <= getattr(self, name) <= 4:
                raise SaladError(f"{name}: got {getattr(self, name)}, expected a factor from 0.25 to 4")
        if not 0 <= self.noise <= 1:
            raise SaladError(f"noise: got {self.noise}, expected 0 (none) to 1 (the voice's own)")

    @staticmethod
    def of(item: SpokenItem) -> Delivery:
        """Build a delivery from those of its fields that `item` holds; the rest are as by default."""
        speed, pitch = item.get("speed", 1.0), item.get("pitch", 1.0)
        return Delivery(speed, pitch, item.get("noise", 0.0), item.get("seed", 0))

    def changes(self) -> Changes:
        """The fields that are not as by default; the inverse of `of`."""
        own = ((field, getattr(self, field.name)) for field in fields(self))
        return cast(Changes, {field.name: value for field, value in own if value != field.default})

    @property
    def voice_speed(self) -> float:
        """How fast the voice itself must speak: a higher pitch is sound played faster, which it makes up for."""
        return self.speed / self.pitch

    def rate_hz(self, voice_hz: int) -> int:
        """The rate at which the voice's samples, made at `voice_hz`, are to be read: that is what moves the pitch."""
        return round(voice_hz * self.pitch)

    def retimed(self, times: Sequence[tuple[float, float]], voice_hz: int) -> list[tuple[float, float]]:
        """Starts and ends in seconds that the voice told, at the rate at which its samples are read."""
        slower = voice_hz / self.rate_hz(voice_hz)
        return [(start_s * slower, end_s * slower) for start_s, end_s in times]


NEUTRAL = Delivery()


def delivery_of(document_id: str, voice: str, seed: int, variation: Variation) -> Delivery:
    """Drawn from a hash of (seed, document, voice): the order of documents does not matter."""
    return Delivery(
        speed=speed_of(document_id, voice, seed, variation.speed_jitter),
        pitch=pitch_of(document_id, voice, seed, variation.pitch_jitter),
        noise=variation.noise,
        seed=number_of(seed, document_id, voice, "noise") if variation.noise else 0,
    )


def speed_of(document_id: str, voice: str, seed: int, jitter: float) -> float:
    """Between 1 - jitter and 1 + jitter, the same for the same document, voice and seed."""
    share = number_of(seed, document_id, voice, "speed") / 2**64
    return round(1 + jitter * (2 * share - 1), 4)


def pitch_of(document_id: str, voice: str, seed: int, jitter: float) -> float:
    """Between 1 / (1 + jitter) and 1 + jitter, log-uniform, so that up and down are alike."""
    share = number_of(seed, document_id, voice, "pitch") / 2**64
    return float(round((1 + jitter) ** (2 * share - 1), 4))


def number_of(*parts: object) -> int:
    """64 bits out of a hash of the parts."""
    return draw64("\n".join(map(str, parts)))
