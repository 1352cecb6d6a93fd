"""What happens to speech on its way: noise, rooms, codecs, speed, telephones; the same every time, by seed."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable

import numpy as np
import soundfile
from scipy.signal import butter, fftconvolve, sosfiltfilt

from salad.audio import resample, to_samples
from salad.types import SaladError

__all__ = ["CONDITIONS", "REVISION", "check_noise", "condition", "disturbed"]

REVISION = 1  # counts the changes of this file that change samples: what was scored before is scored again
Change = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
CODECS = {"opus": ("OGG", "OPUS", 1.0), "mp3": ("MP3", "MPEG_LAYER_III", 0.99)}  # libsndfile's; about 12 and 16 kbit/s
CODEC_HZ = 16_000
TELEPHONE_HZ, TELEPHONE_BAND_HZ = 8_000, (300, 3_400)
CONDITIONS = "white[:SNR_DB], reverb[:RT60_S], codec[:opus|mp3], speed:FACTOR, telephone, or several joined by +"


def condition(name: str) -> str:
    """The condition as it is written in full, such as "white:10+telephone" or "reverb:0.5" for "reverb".

    Raises SaladError for one that is not known, or a number out of its range.
    """
    return "+".join(f"{kind}:{value}" if value else kind for kind, value, _ in map(_parse, name.split("+")))


def check_noise(names: Iterable[str]) -> None:
    """Refuse conditions that are not known, and those that move the times of words (speed)."""
    for name in map(condition, names):
        if "speed" in name:
            raise SaladError(f"evaluate.noise: {name!r} moves the times of words; leave out speed")


def disturbed(samples: np.ndarray, rate_hz: int, name: str, seed: int | tuple[int, ...]) -> np.ndarray:
    """float32 samples under a condition; "white:10+telephone" adds noise and then takes the line.

    Only `speed` changes their number. `seed`: of the noise; equal seeds give equal samples.
    """
    rng = np.random.default_rng(seed)
    for part in name.split("+"):
        samples = _parse(part)[2](samples, rate_hz, rng)
    return np.ascontiguousarray(samples, dtype=np.float32)


def _parse(name: str) -> tuple[str, str, Change]:
    kind, _, given = name.partition(":")
    if kind == "white":
        db = _number(name, given or "10", -30, 80)
        return kind, f"{db:g}", lambda x, hz, rng: _white(x, db, rng)
    if kind == "reverb":
        seconds = _number(name, given or "0.5", 0.05, 5)
        return kind, f"{seconds:g}", lambda x, hz, rng: _reverb(x, hz, seconds, rng)
    if kind == "codec" and (given or "opus") in CODECS:
        codec = given or "opus"
        return kind, codec, lambda x, hz, rng: _codec(x, hz, codec)
    if kind == "speed" and given:
        factor = _number(name, given, 0.5, 2)
        return kind, f"{factor:g}", lambda x, hz, rng: _speed(x, hz, factor)
    if kind == "telephone" and not given:
        return kind, "", lambda x, hz, rng: _telephone(x, hz)
    raise SaladError(f"noise: got {name!r}, expected {CONDITIONS}")


def _number(name: str, given: str, low: float, high: float) -> float:
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise SaladError(f"noise: got {name!r}, expected a number from {low:g} to {high:g} after the colon")
    return value


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
    container, subtype, level = CODECS[codec]
    sent, file = resample(samples.astype(np.float32), rate_hz, CODEC_HZ), io.BytesIO()
    loudest = max(1.0, float(np.abs(sent).max()))
    soundfile.write(file, sent / loudest, CODEC_HZ, format=container, subtype=subtype, compression_level=level)
    back, _ = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32")
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
