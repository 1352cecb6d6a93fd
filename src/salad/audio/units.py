"""Seconds, samples and frames told in one another: the only place where that is done."""

from __future__ import annotations

import math

import numpy as np

from salad.types import SaladError


def to_samples(seconds: float, sample_rate_hz: int) -> int:
    """Nearest sample to a time in seconds."""
    if not 0 <= seconds < math.inf:
        raise SaladError(f"seconds: got {seconds}, expected a time of 0 or more")
    return round(seconds * sample_rate_hz)


def to_seconds(num_samples: int, sample_rate_hz: int) -> float:
    """Time in seconds of a number of samples; the inverse of `to_samples`."""
    return num_samples / sample_rate_hz


def num_frames(num_samples: int, sample_rate_hz: int, frame_rate_hz: float) -> int:
    """Frames that cover `num_samples` (the last one may be partly filled), at least one."""
    return max(1, int(np.ceil(num_samples * frame_rate_hz / sample_rate_hz - 1e-9)))


def frames_heard(start_sample: int, end_sample: int, sample_rate_hz: int, frame_rate_hz: float) -> tuple[int, int]:
    """The frame of a whole recording in which these samples begin, and behind the last one that ends with them or
    before: of a short stretch that may be the same frame, or the one before. The second is at least 1.
    """
    first, last = (int(sample * frame_rate_hz / sample_rate_hz + 1e-9) for sample in (start_sample, end_sample))
    return first, max(1, last)
