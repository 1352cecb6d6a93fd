"""Whisper's encoder through CTranslate2: the embedded default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from salad.engine.local import keep_torch_threads
from salad.model.encoders.base import Encoder, Weights


class WhisperCT2(Encoder):
    """Whisper's encoder from its CTranslate2 file, 50 Hz; each waveform at its own length (no 30 s padding).

    One by one, so a batch equals its members exactly. Waveforms over 30 s are refused by name of the limit.
    """

    sample_rate_hz, frame_rate_hz, causal = 16_000, 50.0, False
    max_samples = 30 * 16_000
    library = "ctranslate2"

    def __init__(self, folder: Path, name: str, threads: int = 1, device: str = "cpu") -> None:
        import ctranslate2
        from faster_whisper.feature_extractor import FeatureExtractor

        self.name = name
        self.weights = Weights(folder)
        kind, _, index = device.partition(":")
        with keep_torch_threads():
            self._whisper: Any = ctranslate2.models.Whisper(
                str(folder), device=kind, device_index=int(index or 0), compute_type="float32", intra_threads=threads
            )
        self._mel = FeatureExtractor(feature_size=self._whisper.n_mels)
        self.frame_dim = self.encode([np.zeros(1600, np.float32)])[0].shape[1]

    def _encode(self, waves: list[np.ndarray]) -> list[np.ndarray]:
        import ctranslate2

        out = []
        for wave in waves:
            mel = self._mel(wave)
            num = 2 * self.num_frames(len(wave))  # the second convolution halves the rate
            mel = mel[:, :num] if mel.shape[1] >= num else np.pad(mel, ((0, 0), (0, num - mel.shape[1])), mode="edge")
            features = ctranslate2.StorageView.from_array(np.ascontiguousarray(mel[None]))
            out.append(np.array(self._whisper.encode(features, to_cpu=True), dtype=np.float32)[0])
        return out
