"""Log-mel filter bank: an encoder without weights."""

from __future__ import annotations

import numpy as np

from salad.model.encoders.base import Encoder


class LogMel(Encoder):
    """Log-mel filter bank, 100 Hz x 80: no weights; for tests, and the floor under every real encoder.

    Frames are centred on their first sample, so each hears 12.5 ms of what follows; the last may lie in padding.
    """

    name, sample_rate_hz, frame_rate_hz, frame_dim, causal = "log-mel", 16_000, 100.0, 80, False

    def __init__(self) -> None:
        from transformers.audio_utils import mel_filter_bank, window_function

        self._filters = mel_filter_bank(201, 80, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
        self._window = window_function(400, "hann")

    def _encode(self, waves: list[np.ndarray]) -> list[np.ndarray]:
        from transformers.audio_utils import spectrogram

        out = []
        for wave in waves:
            mel = spectrogram(
                np.pad(wave, (0, max(0, 400 - len(wave)))),
                self._window,
                frame_length=400,
                hop_length=160,
                power=2.0,
                mel_filters=self._filters,
                log_mel="log10",
            )[:, : self.num_frames(len(wave))]
            out.append(np.ascontiguousarray(mel.T, dtype=np.float32) / 4.0 + 1.0)
        return out
