"""Decode, resample, write; and the only arithmetic between seconds, samples and frames."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

from salad.types import SaladError

__all__ = [
    "num_frames",
    "read_audio",
    "resample",
    "split_at_quiet",
    "to_samples",
    "to_seconds",
    "write_flac",
    "write_opus",
]


def to_samples(seconds: float, sample_rate_hz: int) -> int:
    """Nearest sample to a time in seconds."""
    if seconds < 0:
        raise SaladError(f"seconds: got {seconds}, expected a time of 0 or more")
    return round(seconds * sample_rate_hz)


def to_seconds(num_samples: int, sample_rate_hz: int) -> float:
    """Time in seconds of a number of samples; the inverse of `to_samples`."""
    return num_samples / sample_rate_hz


def num_frames(num_samples: int, sample_rate_hz: int, frame_rate_hz: float) -> int:
    """Frames that cover `num_samples` (the last one may be partly filled), at least one."""
    return max(1, int(np.ceil(num_samples * frame_rate_hz / sample_rate_hz - 1e-9)))


def resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """float32 [num_samples] at another rate (soxr, high quality)."""
    if from_hz == to_hz:
        return samples
    return soxr.resample(samples, from_hz, to_hz).astype(np.float32, copy=False)


def read_audio(path: str | Path, sample_rate_hz: int | None = None) -> tuple[np.ndarray, int]:
    """Mono float32 samples in [-1, 1] and their rate in Hz (resampled to `sample_rate_hz` if given).

    Raises SaladError where the file cannot be decoded, is empty, or holds NaN or infinity.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise SaladError(f"audio: {path} cannot be decoded ({error}); replace or remove the file") from error
    mono = samples.mean(axis=1)
    if mono.size == 0:
        raise SaladError(f"audio: {path} holds no samples; replace or remove the file")
    if not np.isfinite(mono).all():
        raise SaladError(f"audio: {path} holds NaN or infinite samples; re-export the file")
    if sample_rate_hz is not None:
        mono, rate = resample(mono, rate, sample_rate_hz), sample_rate_hz
    return np.ascontiguousarray(mono, dtype=np.float32), int(rate)


def write_flac(path: str | Path, samples: np.ndarray, sample_rate_hz: int) -> None:
    """16-bit FLAC, written aside and renamed."""
    _write(Path(path), samples, sample_rate_hz, "FLAC", "PCM_16")


def write_opus(path: str | Path, samples: np.ndarray, sample_rate_hz: int) -> None:
    """Ogg Opus (8, 12, 16, 24 or 48 kHz), written aside and renamed; same samples, same bytes."""
    _write(Path(path), samples, sample_rate_hz, "OGG", "OPUS")


def _write(path: Path, samples: np.ndarray, sample_rate_hz: int, container: str, codec: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    soundfile.write(aside, np.clip(samples, -1.0, 1.0), sample_rate_hz, format=container, subtype=codec)
    if container == "OGG":
        aside.write_bytes(_with_serial_zero(aside.read_bytes()))
    aside.replace(path)


def _with_serial_zero(ogg: bytes) -> bytes:
    """libsndfile numbers an Ogg stream at random; number 0 makes equal streams equal files (RFC 3533, section 6)."""
    pages, at = bytearray(ogg), 0
    while at < len(pages):
        num_segments = pages[at + 26]
        end = at + 27 + num_segments + sum(pages[at + 27 : at + 27 + num_segments])
        pages[at + 14 : at + 18] = pages[at + 22 : at + 26] = bytes(4)
        check = 0
        for byte in pages[at:end]:
            check = (check << 8 & 0xFFFFFFFF) ^ _OGG_CRC[check >> 24 ^ byte]
        pages[at + 22 : at + 26] = check.to_bytes(4, "little")
        at = end
    return bytes(pages)


def _crc_of(byte: int) -> int:
    check = byte << 24
    for _ in range(8):
        check = (check << 1) ^ (0x104C11DB7 if check & 0x80000000 else 0)
    return check


_OGG_CRC = [_crc_of(byte) for byte in range(256)]


def split_at_quiet(samples: np.ndarray, sample_rate_hz: int, max_s: float) -> list[np.ndarray]:
    """Cut a waveform into parts of at most `max_s` seconds, each cut at the quietest moment of the last half of a part.

    The parts joined are the waveform. Long recordings reach the adapter in spans as long as those it was trained on.
    """
    parts, limit = [], to_samples(max_s, sample_rate_hz)
    hop = max(1, sample_rate_hz // 50)
    while len(samples) > limit:
        half = samples[limit // 2 : limit]
        energy = np.square(half[: len(half) // hop * hop]).reshape(-1, hop).mean(axis=1)
        at = limit // 2 + int(energy.argmin()) * hop + hop // 2
        parts.append(samples[:at])
        samples = samples[at:]
    return [*parts, samples]
