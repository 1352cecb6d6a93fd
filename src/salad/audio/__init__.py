"""Decode, resample, write; and the only arithmetic between seconds, samples and frames."""

from salad.audio.decode import (
    Resampler,
    check_range,
    frames_told,
    read_audio,
    resample,
    split_at_quiet,
    tells_its_length,
)
from salad.audio.encode import write_flac, write_opus
from salad.audio.times import frames_heard, num_frames, to_samples, to_seconds

__all__ = [
    "Resampler",
    "check_range",
    "frames_heard",
    "frames_told",
    "num_frames",
    "read_audio",
    "resample",
    "split_at_quiet",
    "tells_its_length",
    "to_samples",
    "to_seconds",
    "write_flac",
    "write_opus",
]
