"""What PyAV reads: containers that libsndfile does not know, and files whose header is wrong about their length."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from salad.audio.encode import with_a_late_end
from salad.audio.lengths import id3_bytes
from salad.audio.units import to_samples
from salad.types import SaladError

CUT_OFF_S, CUT_OFF_SHARE = 0.1, 0.005  # a decoder may end a little before the header says; more is a file cut off
LEAST_RATE_HZ, MOST_RATE_HZ = 4000, 768_000  # speech at less cannot be understood; a damaged header tells such rates
MOST_PER_S = 384_000  # samples of all channels together, a second of the longest that may be given: 192 kHz in stereo
LONGEST_S = 1e7  # no recording lasts four months; a damaged header tells such lengths
# What decoders raise on bytes that are none of theirs, beside their own errors.
LOST = (OSError, RuntimeError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, MemoryError)
KNOW_THEIR_LENGTH = ("mp4", "matroska", "asf", "flac")
CONTAINERS = {b"\x1aE\xdf\xa3": "matroska", b"\x30\x26\xb2\x75": "asf", b"#!AMR": "amr"}

NO_SOUND = {  # first bytes of what lies in the place of recordings -> what it is
    b"version https:/": "it is a pointer of Git LFS; run `git lfs pull` where the dataset was cloned",
    b"<!doctype html": "it is a web page; download the recording again",
    b"<html": "it is a web page; download the recording again",
    b"\x1f\x8b": "it is gzipped; gunzip it",
    b"pk\x03\x04": "it is zipped; unzip it",
    b"{": "it is JSON; give the recording that it tells of",
}


def opened(source: str | Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


def container_of(head: bytes) -> str:
    """FFmpeg's name of a container that libsndfile does not read. Named, so that no playlist is opened as audio."""
    if head[4:8] == b"ftyp":
        return "mp4"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # ADTS; an MP3 has a layer there
        return "aac"
    return next((name for mark, name in CONTAINERS.items() if head.startswith(mark)), "")


def read_av(
    source: str | Path | bytes,
    name: str,
    offset_s: float,
    duration_s: float | None,
    max_s: float | None,
    kind: str,
    *,
    before_s: float = 0.0,
) -> tuple[np.ndarray, int]:
    """float32 [num_samples, num_channels] and the rate in Hz, to where the sound ends, whatever the header tells.

    kind: FFmpeg's name of the format; before_s: what was read of the same recording, which `max_s` counts too. Raises
    as `read_audio` does.
    """
    try:
        import av
    except ImportError:
        raise SaladError(
            f"audio: {name} is m4a, webm, wma, amr or aac, or does not tell how long it is ({kind}), which needs PyAV; "
            "pip install av, or convert it"
        ) from None
    parts: list[np.ndarray] = []
    try:
        if kind in ("ogg", "flac"):
            with opened(source) as file:
                file.seek(id3_bytes(file))
                source = with_a_late_end(file.read()) if kind == "ogg" else file.read()
        with opened(source) as file:
            container = av.open(file, "r", format=kind, metadata_errors="replace")
            if not container.streams.audio:
                raise SaladError(f"audio: {name} holds no audio stream; replace or remove the file")
            rate = int(container.streams.audio[0].rate or 0)
            check_rate(name, rate)
            start = to_samples(offset_s, rate)
            end = None if duration_s is None else start + max(1, to_samples(duration_s, rate))
            whole_s = _told_s(container) if kind in KNOW_THEIR_LENGTH else 0.0
            check_length(name, before_s + (whole_s - offset_s if duration_s is None else duration_s), max_s)
            to_float = av.AudioResampler(format="flt", rate=rate)  # one plane: of eight PyAV reads beyond the last
            at, kept = 0, 0
            for frame in itertools.chain(container.decode(audio=0), [None]):
                if parts and frame is not None and frame.layout.nb_channels != parts[0].shape[1]:
                    raise SaladError(
                        f"audio: {name} changes from {parts[0].shape[1]} to {frame.layout.nb_channels} channels at "
                        f"{at / rate:.2f} s; give each part as a file of its own"
                    )
                for piece in to_float.resample(frame):
                    if not piece.samples:
                        continue
                    block = piece.to_ndarray().reshape(piece.samples, -1)  # [num_samples, num_channels]
                    parts.append(block[max(0, start - at) : None if end is None else max(0, end - at)])
                    at, kept = at + len(block), kept + parts[-1].size
                check_size(name, kept, max_s)
                if end is not None and at >= end:
                    break
                if end is None and max_s is not None and before_s + (at - start) / rate > max_s + CUT_OFF_S:
                    raise SaladError(
                        f"audio: {name} lasts more than {max_s:g} s, expected at most that; cut it, each part with its "
                        "text"
                    )
            if start and start >= at:
                raise ended(name, at / rate, offset_s)
            if end is None and at / rate < whole_s - CUT_OFF_S - 2 * CUT_OFF_SHARE * whole_s:
                raise SaladError(
                    f"audio: {name} is cut off: {at / rate:.2f} s of {whole_s:.2f} s can be read; copy it again"
                )
    except SaladError:
        raise
    except (av.FFmpegError, *LOST) as error:
        raise SaladError(f"audio: {name} cannot be decoded ({error}); replace or remove the file") from error
    return np.concatenate(parts or [np.zeros((0, 1), np.float32)]), rate


def no_sound(head: bytes) -> str:
    """What a file is that is plainly no recording, by its first bytes, with the cure; "" for all else."""
    for mark, told in NO_SOUND.items():
        if head.lstrip().lower().startswith(mark):
            return told
    return ""


def ended(name: str, seconds: float, offset_s: float) -> SaladError:
    return SaladError(
        f"audio: {name} ends at {seconds:.2f} s, before {offset_s:.2f} s where it is to be read from; correct the "
        "offset, or copy the file again"
    )


def _told_s(container: Any) -> float:
    """Seconds that a container says its first audio stream lasts; 0 where it does not say."""
    import av

    stream = container.streams.audio[0]
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration and len(container.streams) == 1 else 0.0


def check_rate(name: str, rate_hz: int) -> None:
    if not LEAST_RATE_HZ <= rate_hz <= MOST_RATE_HZ:
        raise SaladError(
            f"audio: {name} says a rate of {rate_hz} Hz, expected at least {LEAST_RATE_HZ} and at most "
            f"{MOST_RATE_HZ}; is its header damaged? Export it again"
        )


def check_length(name: str, seconds: float, max_s: float | None) -> None:
    if seconds > LONGEST_S:
        raise SaladError(f"audio: {name} says that it lasts {seconds:.3g} s; is its header damaged? Export it again")
    if max_s is not None and seconds > max_s:
        raise SaladError(
            f"audio: {name} lasts {seconds:.1f} s, expected at most {max_s:g} s; cut it, each part with its text"
        )


def check_size(name: str, num_samples: int, max_s: float | None) -> None:
    """num_samples: of all channels together. So many that no speech has them would fill the memory."""
    if max_s is not None and num_samples > MOST_PER_S * max_s:
        raise SaladError(
            f"audio: {name} holds {num_samples} samples in all its channels, expected at most {MOST_PER_S * max_s:.0f} "
            f"within {max_s:g} s; export it as mono at 48 kHz or less"
        )
