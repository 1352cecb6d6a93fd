"""Noise in files of any kind, and the part of a chat message that carries one."""

from __future__ import annotations

import base64

import numpy as np

from salad.testing.corpora import RATE_HZ, encoded


def noise_file(seconds: float = 1.0, kind: str = "WAV", seed: int = 0) -> bytes:
    """The bytes of a recording; kind: libsndfile's name of its format."""
    samples = 0.1 * np.random.default_rng(seed).normal(size=int(seconds * RATE_HZ))
    return encoded(samples.astype(np.float32), kind=kind)


def audio_part(data: bytes, name: str = "wav") -> dict[str, str | dict[str, str]]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": name}}
