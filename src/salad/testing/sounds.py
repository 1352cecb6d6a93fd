"""Noise in files of any kind, and the part of a chat message that carries one."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import soundfile

RATE_HZ = 16_000


def noise_file(seconds: float = 1.0, kind: str = "WAV", seed: int = 0) -> bytes:
    """The bytes of a recording; kind: libsndfile's name of its format."""
    file = io.BytesIO()
    samples = 0.1 * np.random.default_rng(seed).normal(size=int(seconds * RATE_HZ))
    soundfile.write(file, samples.astype(np.float32), RATE_HZ, format=kind)
    return file.getvalue()


def audio_part(data: bytes, name: str = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": name}}
