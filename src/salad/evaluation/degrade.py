"""What happens to speech on its way: noise, rooms, codecs, speed, telephones; the same every time, by seed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.signal import butter, fftconvolve, sosfiltfilt

from salad.audio import resample, to_samples
from salad.config.conditions import CODECS, parse_condition

REVISION = 1  # counts the changes of this file that change samples: what was scored before is scored again
Change = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
CODEC_HZ = 16_000
TELEPHONE_HZ, TELEPHONE_BAND_HZ = 8_000, (300, 3_400)


def disturbed(samples: np.ndarray, rate_hz: int, name: str, seed: int | tuple[int, ...]) -> np.ndarray:
    """float32 samples under a condition; "white:10+telephone" adds noise and then takes the line.

    Only `speed` changes their number. `seed`: of the noise; equal seeds give equal samples.
    """
    rng = np.random.default_rng(seed)
    for part in name.split("+"):
        samples = _change(part)(samples, rate_hz, rng)
    return np.ascontiguousarray(samples, dtype=np.float32)


def _change(part: str) -> Change:
    kind, value = parse_condition(part)
    if kind == "white":
        return lambda x, hz, rng: _white(x, float(value), rng)
    if kind == "reverb":
        return lambda x, hz, rng: _reverb(x, hz, float(value), rng)
    if kind == "codec":
        return lambda x, hz, rng: _codec(x, hz, str(value))
    if kind == "speed":
        return lambda x, hz, rng: _speed(x, hz, float(value))
    return lambda x, hz, rng: _telephone(x, hz)


def _white(samples: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """White Gaussian noise at a signal-to-noise ratio over the whole recording, pauses too."""
    noise = rng.standard_normal(len(samples))
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return samples + noise * math.sqrt(power / 10 ** (snr_db / 10) / float(np.mean(noise**2)))


def _reverb(samples: np.ndarray, rate_hz: int, rt60_s: float, rng: np.random.Generator) -> np.ndarray:
    """Polack's model of a room (1988): the direct sound, and behind it noise that falls by 60 dB in `rt60_s`.

    Direct and reverberant energy are equal, as at the critical distance. Length and level stay.
    """
    times_s = np.arange(to_samples(rt60_s, rate_hz)) / rate_hz
    tail = rng.standard_normal(len(times_s)) * 10 ** (-3 * times_s / rt60_s)
    tail[0] = 0.0
    tail /= np.linalg.norm(tail)
    tail[0] = 1.0
    return _as_loud(fftconvolve(samples, tail)[: len(samples)], samples)


def _codec(samples: np.ndarray, rate_hz: int, codec: str) -> np.ndarray:
    """There and back through a codec at its lowest rate."""
    from lhotse.augmentation import Compress

    sent = resample(samples.astype(np.float32), rate_hz, CODEC_HZ)
    loudest = max(1.0, float(np.abs(sent).max()))
    (back,) = Compress(codec, CODECS[codec])(sent[None] / loudest, CODEC_HZ)
    return _cut(resample(back * loudest, CODEC_HZ, rate_hz), len(samples))


def _speed(samples: np.ndarray, rate_hz: int, factor: float) -> np.ndarray:
    """Played faster, pitch and all, as sox's `speed` and Kaldi's perturbation do."""
    return resample(samples.astype(np.float32), round(rate_hz * factor), rate_hz)


def _telephone(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """300 to 3400 Hz of an 8 kHz line."""
    line = resample(samples.astype(np.float32), rate_hz, TELEPHONE_HZ)
    band = butter(4, TELEPHONE_BAND_HZ, "bandpass", fs=TELEPHONE_HZ, output="sos")
    line = sosfiltfilt(band, line, padlen=min(len(line) - 1, 27)).astype(np.float32)
    return _cut(resample(line, TELEPHONE_HZ, rate_hz), len(samples))


def _as_loud(samples: np.ndarray, reference: np.ndarray) -> np.ndarray:
    loud = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    return samples * (float(np.sqrt(np.mean(np.square(reference, dtype=np.float64)))) / loud) if loud else samples


def _cut(samples: np.ndarray, num_samples: int) -> np.ndarray:
    return np.pad(samples[:num_samples], (0, max(0, num_samples - len(samples))))
