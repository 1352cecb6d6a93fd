"""Frozen speech encoders: waveforms in, frames or codes out. What they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from salad.assets.store import sha256_once
from salad.audio.units import num_frames
from salad.engine.devices import Library
from salad.files import sha256_json
from salad.types import SaladError


@dataclass(frozen=True)
class EncoderShape:
    """What an encoder gives: frames a second, and the width of each."""

    frame_rate_hz: float
    frame_dim: int


class Encoder:
    """Waveform -> frames, frozen.

    Every encoder gives `num_frames(num_samples)` frames, by one rule: as many as cover the sound, at least one. Sound
    that ends within a frame, or is too short for one, is padded with silence to whole frames. A batch gives what its
    members give alone.

    `causal` tells whether frame t depends on sound up to the end of frame t alone. An encoder that is not causal hears
    the words after a span, so spans are cut out of the recording *before* they are encoded (docs/decisions/0002).
    `max_samples`: longer waveforms are refused; None takes any length. `num_codebooks`: codes a frame, 0 for none.
    """

    name: str
    sample_rate_hz: int
    frame_rate_hz: float
    frame_dim: int
    causal: bool
    max_samples: int | None = None
    num_codebooks: int = 0
    revision = 1  # counts the changes of our own code that change frames: kept frames of an older one are stale
    weights: Weights | None = None
    library: Library | None = None  # what computes it on a GPU

    def num_frames(self, num_samples: int) -> int:
        return num_frames(num_samples, self.sample_rate_hz, self.frame_rate_hz)

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """float32 [num_frames(num_samples), frame_dim] for each mono waveform [num_samples] at `sample_rate_hz`.

        Raises SaladError where a waveform is not mono, too long, or holds NaN or infinity.
        """
        return self._encode(self._checked(waveforms))

    def encode_codes(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """uint16 [num_frames(num_samples), num_codebooks] for each waveform, as `encode` takes them."""
        raise self._no_codes()

    def frames_of_codes(self, codes: np.ndarray) -> np.ndarray:
        """float32 [T, frame_dim] of codes [T, num_codebooks]; where there are codes, `encode` gives these frames."""
        raise self._no_codes()

    def fingerprint(self) -> str:
        """sha256 over the class, its settings that change frames, and its weights: the key of whatever keeps frames.

        Where the weights lie and how they are named does not count. Raises SaladError where a file was changed after
        it was loaded: frames of the old weights must not be kept under the new ones' name.
        """
        files = self.weights.hashes() if self.weights is not None else []
        return sha256_json([type(self).__name__, self.revision, self._settings(), files])

    def _settings(self) -> dict[str, int]:
        return {}

    def _encode(self, waves: list[np.ndarray]) -> list[np.ndarray]:
        raise SaladError(f"assets.encoder: {type(self).__name__} has no _encode; write it in the class (see base.py)")

    def _checked(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        out = []
        for i, wave in enumerate(waveforms):
            wave = np.asarray(wave)
            which = f"audio: waveform {i} of {len(waveforms)}"
            if wave.ndim != 1 or not np.issubdtype(wave.dtype, np.floating):
                raise SaladError(
                    f"{which} is {wave.dtype} {list(wave.shape)}, expected mono float samples in [-1, 1]; "
                    "read files with salad.audio.read_audio"
                )
            if not np.isfinite(wave).all():
                raise SaladError(f"{which} holds NaN or infinite samples; re-export the file it comes from")
            if self.max_samples is not None and len(wave) > self.max_samples:
                limit = f"{self.max_samples / self.sample_rate_hz:g} s at most"
                raise SaladError(
                    f"{which} lasts {len(wave) / self.sample_rate_hz:.1f} s; {self.name} takes {limit}: "
                    "cut it first (salad.audio.split_at_quiet)"
                )
            out.append(wave.astype(np.float32, copy=False))
        return out

    def _no_codes(self) -> SaladError:
        return SaladError(f"assets.encoder: {self.name} gives no codes; name one that does, such as kyutai/mimi:codes8")


class Weights:
    """The files of a folder that frames depend on, as they were when this was made (before they are loaded)."""

    PATTERNS = (
        "config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "model.bin",
        "*.safetensors",
        "*.safetensors.index.json",
    )

    def __init__(self, folder: Path) -> None:
        paths = sorted({path for pattern in self.PATTERNS for path in folder.glob(pattern)})
        self._seen = {path.absolute(): _state(path) for path in paths}

    @property
    def paths(self) -> list[Path]:
        return list(self._seen)

    def hashes(self) -> list[tuple[str, str]]:
        """(file name, sha256), by name. Hashed once while size, time and place on the disk stay."""
        for path, state in self._seen.items():
            if not path.exists() or _state(path) != state:
                raise SaladError(f"assets.encoder: {path} was changed after it was loaded; load the encoder again")
        return [(path.name, sha256_once(path, state)) for path, state in self._seen.items()]


def _state(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino
