"""Decode, resample, write; and the only arithmetic between seconds, samples and frames."""

from salad.audio.decode import read_audio, resample, split_at_quiet
from salad.audio.encode import copy_flac, write_flac, write_opus
from salad.audio.units import to_samples, to_seconds

__all__ = [
    "copy_flac",
    "read_audio",
    "resample",
    "split_at_quiet",
    "to_samples",
    "to_seconds",
    "write_flac",
    "write_opus",
]
