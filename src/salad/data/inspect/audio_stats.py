"""One recording, heard block by block: its length, level, clipping and a hash of its sound, in bounded memory."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import soundfile

from salad.audio import check_range, frames_told, read_audio, tells_its_length, to_samples, to_seconds
from salad.types import SaladError

__all__ = ["Heard", "hear"]

BLOCK = 1 << 17  # samples
FULL_SCALE = 0.999
OTHERS = {".m4a", ".mp4", ".webm", ".aac", ".wma"}
SLACK_S = 0.05  # a lossy file's header may count the encoder's padding


@dataclass(frozen=True)
class Heard:
    """level_db, mixed_db: of all channels and of their mono mix, dB under full scale, -200 for digital silence.

    clipped is the share of samples held flat at full scale or above it; digest hashes the mono mix at 16 bits, so a
    WAV and a FLAC of one recording share it. Without decoding, those four are nan, nan, nan and "".
    missing_s: how much less sound was there than the header told.
    """

    duration_s: float
    sample_rate_hz: int
    channels: int
    format: str
    level_db: float = math.nan
    mixed_db: float = math.nan
    clipped: float = math.nan
    digest: str = ""
    missing_s: float = 0.0


def hear(
    source: str | Path | bytes,
    start_s: float = 0.0,
    duration_s: float | None = None,
    decode: bool = True,
    name: str = "",
) -> Heard:
    """Measure a recording, or the part of it from `start_s`; `decode=False` reads the header alone.

    source: a path, or a file's bytes (then `name` names it in errors).

    Raises SaladError where the file is missing, cannot be decoded, holds no samples, NaN or infinity.
    """
    path = name if isinstance(source, bytes) else source
    try:
        if not isinstance(source, bytes) and not Path(source).is_file():
            raise SaladError(f"audio: {path} is missing")
        known = isinstance(source, bytes) or Path(source).suffix.lower() not in OTHERS
        if not known or not tells_its_length(source):
            return _hear_other(source, start_s, duration_s, str(path))
        try:  # os.fsencode: names that are not UTF-8 too
            opened = soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else os.fsencode(source))
        except soundfile.LibsndfileError:
            if isinstance(source, bytes):
                return _hear_other(source, start_s, duration_s, name)
            raise
        with opened as file:
            rate, start = file.samplerate, to_samples(start_s, file.samplerate)
            told = max(0, file.frames - start)
            if duration_s is not None:
                told = to_samples(duration_s, rate)
            else:
                told = max(told, frames_told(file) - start)
            if file.frames - start <= 0:
                raise SaladError(f"audio: {path} holds no samples" + (f" after {start_s} s" if start_s else ""))
            if not decode:
                have = min(told, file.frames - start)
                return Heard(to_seconds(told, rate), rate, file.channels, file.format,
                             missing_s=to_seconds(told - have, rate))  # fmt: skip
            if start:
                file.seek(start)
            return _measure(path, file, told)
    except SaladError:
        raise
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise SaladError(f"audio: {path} cannot be decoded ({error})") from error


def _hear_other(source: str | Path | bytes, start_s: float, duration_s: float | None, name: str) -> Heard:
    """What libsndfile does not know, or not whole: in memory, by whatever `salad.audio` reads it with."""
    samples, rate = read_audio(source, offset_s=start_s, duration_s=duration_s, name=name)
    power = _db(float(np.square(samples, dtype=np.float64).mean()))
    kind = "OTHER" if isinstance(source, bytes) else Path(source).suffix[1:].upper()
    return Heard(
        to_seconds(len(samples), rate),
        rate,
        1,
        kind,
        power,
        power,
        digest=blake2b(_as_16_bits(samples), digest_size=8).hexdigest(),
    )


def _measure(path: str | Path, file: soundfile.SoundFile, told: int) -> Heard:
    digest = blake2b(digest_size=8)
    heard, energy, mixed, clipped = 0, 0.0, 0.0, 0
    for block in _blocks(file, told):
        if not np.isfinite(block).all():
            raise SaladError(f"audio: {path} holds NaN or infinite samples")
        mono = block.mean(axis=1)
        heard += len(block)
        energy += float(np.square(block, dtype=np.float64).mean(axis=1).sum())
        mixed += float(np.square(mono, dtype=np.float64).sum())
        high = np.abs(block)
        if high.max() > 8 * FULL_SCALE:
            check_range(block, str(path))  # as `read_audio` does, which would refuse it
        if high.max() >= FULL_SCALE:
            full = high >= FULL_SCALE
            flat = full & (np.diff(block, axis=0, prepend=np.nan) == 0)
            clipped += int((flat | (high > 1.0)).any(axis=1).sum())
        digest.update(_as_16_bits(mono))
    if heard == 0:
        raise SaladError(f"audio: {path} holds no samples that can be decoded")
    missing_s = to_seconds(told - heard, file.samplerate)
    return Heard(
        duration_s=to_seconds(heard, file.samplerate),
        sample_rate_hz=file.samplerate,
        channels=file.channels,
        format=file.format,
        level_db=_db(energy / heard),
        mixed_db=_db(mixed / heard),
        clipped=clipped / heard,
        digest=digest.hexdigest(),
        missing_s=missing_s if missing_s > SLACK_S else 0.0,
    )


def _as_16_bits(mono: np.ndarray) -> bytes:
    return np.clip(np.rint(mono * 32768.0), -32768, 32767).astype("<i2").tobytes()


def _blocks(file: soundfile.SoundFile, told: int) -> Iterator[np.ndarray]:
    """float32 [at most BLOCK, channels] until `told` samples or the end; a file cut short ends early."""
    size = max(1, BLOCK // file.channels)
    while told > 0:
        block = file.read(min(size, told), dtype="float32", always_2d=True)
        if not len(block):
            return
        told -= len(block)
        yield block


def _db(power: float) -> float:
    return 10 * math.log10(power) if power > 1e-20 else -200.0
