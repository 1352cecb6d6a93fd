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

from salad.audio import read_audio, to_samples, to_seconds
from salad.audio.decode import check_range, frames_told, tells_its_length
from salad.audio.encode import of_16_bits
from salad.types import SaladError

BLOCK = 1 << 17  # samples
FULL_SCALE = 0.999
OTHERS = {".m4a", ".mp4", ".webm", ".aac", ".wma"}
SLACK_S = 0.05  # a lossy file's header may count the encoder's padding
SILENT_DB, CANCEL_DB, CLIPPED_SHARE = -60.0, 20.0, 0.001


@dataclass(frozen=True)
class AudioStats:
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


def measure_audio(
    source: str | Path | bytes,
    start_s: float = 0.0,
    duration_s: float | None = None,
    decode: bool = True,
    name: str = "",
) -> AudioStats:
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
            return _measure_other(source, start_s, duration_s, str(path))
        try:  # os.fsencode: names that are not UTF-8 too
            opened = soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else os.fsencode(source))
        except soundfile.LibsndfileError:
            if isinstance(source, bytes):
                return _measure_other(source, start_s, duration_s, name)
            raise
        with opened as file:
            rate, start = file.samplerate, to_samples(start_s, file.samplerate)
            declared = max(0, file.frames - start)
            if duration_s is not None:
                declared = to_samples(duration_s, rate)
            else:
                declared = max(declared, frames_told(file) - start)
            if file.frames - start <= 0:
                raise SaladError(f"audio: {path} holds no samples" + (f" after {start_s} s" if start_s else ""))
            if not decode:
                have = min(declared, file.frames - start)
                return AudioStats(to_seconds(declared, rate), rate, file.channels, file.format,
                             missing_s=to_seconds(declared - have, rate))  # fmt: skip
            if start:
                file.seek(start)
            return _measure(path, file, declared)
    except SaladError:
        raise
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise SaladError(f"audio: {path} cannot be decoded ({error})") from error


def spoilt(stats: AudioStats) -> Iterator[tuple[str, tuple[float, str]]]:
    """Why a recording cannot be heard well: the fault's name (`summary.FAULTS`), how bad it is, and what was seen."""
    if stats.missing_s:
        yield "truncated", (stats.missing_s, f"{stats.missing_s:.2f} s of its length are not there")
    if stats.level_db < SILENT_DB:
        yield "silent", (-stats.level_db, f"{stats.level_db:.0f} dB over {stats.duration_s:.1f} s")
    elif stats.level_db - stats.mixed_db > CANCEL_DB:
        drop = stats.level_db - stats.mixed_db
        yield "cancels", (drop, f"{stats.channels} channels, mixed {drop:.0f} dB quieter")
    if stats.clipped > CLIPPED_SHARE:
        yield "clipped", (stats.clipped, f"{100 * stats.clipped:.2f} % of samples at full scale")


def _measure_other(source: str | Path | bytes, start_s: float, duration_s: float | None, name: str) -> AudioStats:
    """What libsndfile does not know, or not whole: in memory, by whatever `salad.audio` reads it with."""
    samples, rate = read_audio(source, offset_s=start_s, duration_s=duration_s, name=name)
    power = _db(float(np.square(samples, dtype=np.float64).mean()))
    kind = "OTHER" if isinstance(source, bytes) else Path(source).suffix[1:].upper()
    return AudioStats(
        to_seconds(len(samples), rate),
        rate,
        1,
        kind,
        power,
        power,
        digest=blake2b(of_16_bits(samples).tobytes(), digest_size=8).hexdigest(),
    )


def _measure(path: str | Path, file: soundfile.SoundFile, declared: int) -> AudioStats:
    digest = blake2b(digest_size=8)
    num_heard, energy, mixed, clipped = 0, 0.0, 0.0, 0
    for block in _blocks(file, declared):
        if not np.isfinite(block).all():
            raise SaladError(f"audio: {path} holds NaN or infinite samples")
        mono = block.mean(axis=1)
        num_heard += len(block)
        energy += float(np.square(block, dtype=np.float64).mean(axis=1).sum())
        mixed += float(np.square(mono, dtype=np.float64).sum())
        high = np.abs(block)
        if high.max() > 8 * FULL_SCALE:
            check_range(block, str(path))  # as `read_audio` does, which would refuse it
        if high.max() >= FULL_SCALE:
            full = high >= FULL_SCALE
            flat = full & (np.diff(block, axis=0, prepend=np.nan) == 0)
            clipped += int((flat | (high > 1.0)).any(axis=1).sum())
        digest.update(of_16_bits(mono).tobytes())
    if num_heard == 0:
        raise SaladError(f"audio: {path} holds no samples that can be decoded")
    missing_s = to_seconds(declared - num_heard, file.samplerate)
    return AudioStats(
        duration_s=to_seconds(num_heard, file.samplerate),
        sample_rate_hz=file.samplerate,
        channels=file.channels,
        format=file.format,
        level_db=_db(energy / num_heard),
        mixed_db=_db(mixed / num_heard),
        clipped=clipped / num_heard,
        digest=digest.hexdigest(),
        missing_s=missing_s if missing_s > SLACK_S else 0.0,
    )


def _blocks(file: soundfile.SoundFile, declared: int) -> Iterator[np.ndarray]:
    """float32 [at most BLOCK, channels] until `declared` samples or the end; a file cut short ends early."""
    size = max(1, BLOCK // file.channels)
    while declared > 0:
        block = file.read(min(size, declared), dtype="float32", always_2d=True)
        if not len(block):
            return
        declared -= len(block)
        yield block


def _db(power: float) -> float:
    return 10 * math.log10(power) if power > 1e-20 else -200.0
