"""Frozen speech encoders: waveforms in, frames out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from salad import assets
from salad.types import SaladError

__all__ = ["Encoder", "LogMel", "Shape", "WhisperCT2", "load_encoder", "shape_of"]


@dataclass(frozen=True)
class Shape:
    """What an encoder gives: frames a second, and the width of each."""

    frame_rate_hz: float
    frame_dim: int


# Encoders whose shape is known before their files are here.
SHAPES = {
    "log-mel": Shape(100.0, 80),
    "whisper-tiny.en": Shape(50.0, 384),
    "kyutai/mimi": Shape(12.5, 512),
}


def shape_of(name: str) -> Shape:
    """Shape of a known encoder. Raises SaladError for others: load them to see."""
    if name not in SHAPES:
        raise SaladError(f"assets.encoder: the shape of {name!r} is not known; expected one of {', '.join(SHAPES)}")
    return SHAPES[name]


class Encoder:
    """Waveform -> frames. `encode` gives for each float32 waveform at `sample_rate_hz` float32 [T, frame_dim].

    `causal` tells whether frame t depends on sound up to t alone. An encoder that is not causal hears the
    words after a span, so spans are cut out of the recording *before* they are encoded (docs/decisions).
    """

    name: str
    sample_rate_hz: int
    frame_rate_hz: float
    frame_dim: int
    causal: bool

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        raise SaladError(f"encoder {type(self).__name__} does not encode")


class LogMel(Encoder):
    """Log-mel filter bank, 100 Hz x 80: no weights; for tests, and the floor under every real encoder."""

    name, sample_rate_hz, frame_rate_hz, frame_dim, causal = "log-mel", 16_000, 100.0, 80, False

    def __init__(self) -> None:
        from transformers.audio_utils import mel_filter_bank, window_function

        self._filters = mel_filter_bank(201, 80, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
        self._window = window_function(400, "hann")

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        from transformers.audio_utils import spectrogram

        out = []
        for wave in waveforms:
            mel = spectrogram(
                np.pad(wave, (0, max(0, 400 - len(wave)))),
                self._window,
                frame_length=400,
                hop_length=160,
                power=2.0,
                mel_filters=self._filters,
                log_mel="log10",
            )
            out.append(np.ascontiguousarray(mel.T, dtype=np.float32) / 4.0 + 1.0)
        return out


class WhisperCT2(Encoder):
    """Whisper's encoder from its CTranslate2 file, 50 Hz; each waveform at its own length (no 30 s padding).

    One by one, so a batch equals its members exactly. Waveforms over 30 s are refused by name of the limit.
    """

    sample_rate_hz, frame_rate_hz, causal = 16_000, 50.0, False
    max_samples = 30 * 16_000

    def __init__(self, folder: Path, name: str, threads: int = 1) -> None:
        from faster_whisper import WhisperModel

        self.name = name
        self._whisper: Any = WhisperModel(
            str(folder), device="cpu", compute_type="float32", cpu_threads=threads, local_files_only=True
        )
        self.frame_dim = self.encode([np.zeros(1600, np.float32)])[0].shape[1]

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        out = []
        for wave in waveforms:
            if len(wave) > self.max_samples:
                raise SaladError(f"audio: a span of {len(wave) / 16_000:.1f} s; Whisper takes 30 s at most")
            mel = self._whisper.feature_extractor(wave)
            num = max(2, -(-len(wave) // 160))
            num += num % 2  # the second convolution halves the rate
            mel = mel[:, :num] if mel.shape[1] >= num else np.pad(mel, ((0, 0), (0, num - mel.shape[1])), mode="edge")
            out.append(np.array(self._whisper.encode(np.ascontiguousarray(mel)), dtype=np.float32)[0])
        return out


def load_encoder(name: str, threads: int = 1) -> Encoder:
    """Encoder by asset name or local folder; "log-mel" needs no files."""
    if name == LogMel.name:
        return LogMel()
    folder = assets.get(name)
    if (folder / "model.bin").exists() and (folder / "vocabulary.txt").exists():
        return WhisperCT2(folder, name, threads)
    raise SaladError(
        f"assets.encoder: {name!r} holds no encoder we know; expected a CTranslate2 Whisper folder or 'log-mel'"
    )
