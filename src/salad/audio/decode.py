"""Any file of sound -> samples; seconds, samples and frames told in one another."""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from salad.audio.encode import with_a_late_end
from salad.audio.lengths import Link, flac_is_right, mended_wav, mp3_is_right, ogg_links
from salad.types import SaladError

__all__ = [
    "check_range",
    "frames_told",
    "num_frames",
    "read_audio",
    "resample",
    "split_at_quiet",
    "tells_its_length",
    "to_samples",
    "to_seconds",
]

CUT_OFF_S, CUT_OFF_SHARE = 0.1, 0.05  # a decoder may end a little before the header says; more is a file cut off
LEAST_RATE_HZ = 4000  # speech at less cannot be understood; a damaged header tells such rates
CANCELLED = 0.01  # share of the channels' power that their mix keeps at least, unless they cancel each other out
CUT = re.compile(r"^ *(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)  # libsndfile's notes
STREAMED = 0x7FFF0000  # a file written to a pipe tells a length like this, or more
LOUDEST, OVER_SHARE = 8.0, 0.05  # of full scale: what float samples may reach, and the share of them over it
KNOW_THEIR_LENGTH = ("mp4", "matroska", "asf")
CONTAINERS = {b"\x1aE\xdf\xa3": "matroska", b"\x30\x26\xb2\x75": "asf", b"#!AMR": "amr"}


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


def read_audio(
    source: str | Path | bytes,
    sample_rate_hz: int | None = None,
    *,
    offset_s: float = 0.0,
    duration_s: float | None = None,
    channel: int | None = None,
    max_s: float | None = None,
    name: str = "",
) -> tuple[np.ndarray, int]:
    """Mono float32 samples in [-1, 1] and their rate in Hz (resampled to `sample_rate_hz` if given).

    source: a path, or a file's bytes (then `name` names it in errors). What the bytes are decides, not the name's
    ending: wav, flac, mp3, ogg and opus by soundfile; m4a, webm, wma, amr and aac by PyAV where it is installed, and so
    are files whose header does not know how long they are, or is wrong. Ogg streams one behind the other are read as
    one. Only the part from `offset_s` that lasts `duration_s` is read (None: to the end); `channel` takes one channel,
    else all are averaged. Raises SaladError where the audio cannot be decoded, is empty or cut off, holds NaN, infinity
    or integers as floats, has channels that cancel each other out or a rate no speech has, or where the part lasts more
    than `max_s` (found before it is decoded, where the header tells).
    """
    name = name or (f"{len(source)} bytes" if isinstance(source, bytes) else str(source))
    name = name.encode("utf-8", "backslashreplace").decode()  # a file's name need not be UTF-8; what we say of it must
    samples, rate = _read(source, name, offset_s, duration_s, max_s)
    if channel is not None and not 0 <= channel < samples.shape[1]:
        raise SaladError(f"audio: {name} has {samples.shape[1]} channels, but channel {channel} (from 0) was asked for")
    mono = samples.mean(axis=1) if channel is None else samples[:, channel]
    if mono.size == 0:
        raise SaladError(f"audio: {name} holds no samples; replace or remove the file")
    if not np.isfinite(mono).all():
        raise SaladError(f"audio: {name} holds NaN or infinite samples; re-export the file")
    check_range(samples, name)
    if channel is None and samples.shape[1] > 1:
        power = float(np.vdot(samples, samples)) / samples.size
        if float(np.vdot(mono, mono)) / mono.size < CANCELLED * power:
            raise SaladError(
                f"audio: {name} has {samples.shape[1]} channels that cancel each other out (one is inverted), so that "
                "their mix is silent; export one channel alone"
            )
    if sample_rate_hz is not None:
        mono, rate = resample(mono, rate, sample_rate_hz), sample_rate_hz
    return np.ascontiguousarray(mono, dtype=np.float32), int(rate)


def check_range(samples: np.ndarray, name: str) -> None:
    """Raise SaladError where samples [num_samples, num_channels] are integers written as floats, or all but that.

    A float file may go a little over full scale; what is far over it, or over it all the time, would be clipped.
    """
    peak = max(float(samples.max(initial=0.0)), -float(samples.min(initial=0.0)))
    if peak <= 1.0:
        return
    over = float((np.abs(samples) > 1.0).any(axis=1).mean())
    if peak > LOUDEST or over > OVER_SHARE:
        bits = next((bits for bits in (8, 16, 24, 32) if peak <= 2 ** (bits - 1)), 64)
        raise SaladError(
            f"audio: {name} has samples of up to {peak:.6g}, {100 * over:.0f} % of them beyond the full scale of 1; are"
            f" they integers of {bits} bits written as floats? Divide them by {2 ** (bits - 1)} (or by their peak) and "
            "export the file again"
        )


@dataclass(frozen=True)
class _Layout:
    """How a file is to be read. kind: FFmpeg's name of its format where PyAV reads it; late: a WAV whose samples go on
    behind the length that it tells; links: of an Ogg; cut: in the middle of its last page."""

    kind: str = ""
    late: bool = False
    links: tuple[Link, ...] = ()
    cut: bool = False


def tells_its_length(source: str | Path | bytes) -> bool:
    """Whether soundfile reads all of a file; what else is there, `read_audio` alone knows how to read."""
    layout = _layout(source, "its bytes" if isinstance(source, bytes) else str(source))
    return not (layout.kind or layout.late or len(layout.links) > 1)


def _layout(source: str | Path | bytes, name: str) -> _Layout:
    head = _head(source, name)
    if kind := _container(head):
        return _Layout(kind)
    if isinstance(source, bytes):
        return _layout_of(source, head)
    state = os.stat(source)
    return _layout_of_file(source, head, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)
def _layout_of_file(path: str | Path, head: bytes, num_bytes: int, changed_ns: int) -> _Layout:
    """Of a long recording that is read piece by piece, once."""
    return _layout_of(path, head)


def _layout_of(source: str | Path | bytes, head: bytes) -> _Layout:
    with _opened(source) as file:
        if head[:4] == b"OggS":
            links, cut = ogg_links(file)
            return _Layout("" if links[0].ends or len(links) > 1 else "ogg", links=tuple(links), cut=cut)
        if head[:4] == b"fLaC":
            return _Layout("" if flac_is_right(file) else "flac")
        if head[:4] == b"RIFF":
            return _Layout(late=mended_wav(file) is not None)
        if head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0"):
            try:
                with soundfile.SoundFile(_as_soundfile_wants(source)) as sound:
                    frames = sound.frames
            except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError):
                return _Layout()  # the reader says so
            return _Layout("" if mp3_is_right(file.read(), frames) else "mp3")
    return _Layout()


def _opened(source: str | Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


def _read(
    source: str | Path | bytes, name: str, offset_s: float, duration_s: float | None, max_s: float | None
) -> tuple[np.ndarray, int]:
    """float32 [num_samples, num_channels] and the rate in Hz, by whoever knows where the sound ends."""
    layout = _layout(source, name)
    if layout.cut and duration_s is None:
        raise SaladError(f"audio: {name} is cut off in the middle of a page; copy it again")
    if len(layout.links) > 1:
        return _read_links(source, name, offset_s, duration_s, max_s, layout.links)
    if layout.kind:
        return _read_av(source, name, offset_s, duration_s, max_s, layout.kind)
    if layout.late:
        with _opened(source) as file:
            source = mended_wav(file) or source
    return _read_soundfile(source, name, offset_s, duration_s, max_s)


def _read_links(
    source: str | Path | bytes,
    name: str,
    offset_s: float,
    duration_s: float | None,
    max_s: float | None,
    links: Sequence[Link],
) -> tuple[np.ndarray, int]:
    """Ogg streams one behind the other, such as files joined with cat, as one, at the rate of the first."""
    parts: list[np.ndarray] = []
    rate, seconds = 0, 0.0
    for number, link in enumerate(links, start=1):
        with _opened(source) as file:
            file.seek(link.start)
            data = file.read(link.end - link.start)
        own = f"{name} (stream {number} of {len(links)})"
        if link.ends:
            samples, hz = _read_soundfile(data, own, 0.0, None, None)
        else:
            samples, hz = _read_av(data, own, 0.0, None, None, "ogg")
        rate = rate or hz
        if parts and samples.shape[1] != parts[0].shape[1]:
            raise SaladError(
                f"audio: {name} holds streams of {parts[0].shape[1]} and of {samples.shape[1]} channels one behind the "
                "other; give each as a file of its own"
            )
        parts.append(np.stack([resample(c, hz, rate) for c in samples.T], axis=1) if hz != rate else samples)
        seconds += len(parts[-1]) / rate
        _check_length(name, (seconds - offset_s) if duration_s is None else 0.0, max_s)
    whole = np.concatenate(parts)
    start = to_samples(offset_s, rate)
    if start and start >= len(whole):
        raise SaladError(f"audio: {name} ends at {len(whole) / rate:.2f} s, before {offset_s:.2f} s")
    end = None if duration_s is None else start + max(1, to_samples(duration_s, rate))
    return whole[start:end], rate


def _head(source: str | Path | bytes, name: str) -> bytes:
    if isinstance(source, bytes):
        return source[:16]
    try:
        with open(source, "rb") as file:
            return file.read(16)
    except OSError as error:
        raise SaladError(f"audio: {name} cannot be opened ({error.strerror}); check the path") from None


def _container(head: bytes) -> str:
    """FFmpeg's name of a container that libsndfile does not read. Named, so that no playlist is opened as audio."""
    if head[4:8] == b"ftyp":
        return "mp4"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # ADTS; an MP3 has a layer there
        return "aac"
    return next((name for mark, name in CONTAINERS.items() if head.startswith(mark)), "")


def frames_told(file: soundfile.SoundFile) -> int:
    """Frames that the header tells of; more than `file.frames` where a WAV, AIFF or AU is cut off.

    libsndfile mends such a header and only notes it in `extra_info`.
    """
    found = CUT.search(file.extra_info)
    if found is None or int(found[1]) >= STREAMED or not int(found[2]):
        return file.frames
    return max(file.frames, file.frames * int(found[1]) // int(found[2]))


def _as_soundfile_wants(source: str | Path | bytes) -> io.BytesIO | str | bytes:
    """A name that is not UTF-8 as its bytes; soundfile takes any other as a string."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    return os.fsencode(source) if re.search("[\ud800-\udfff]", str(source)) else str(source)


def _read_soundfile(
    source: str | Path | bytes, name: str, offset_s: float, duration_s: float | None, max_s: float | None
) -> tuple[np.ndarray, int]:
    """float32 [num_samples, num_channels] and the rate in Hz."""
    try:
        with soundfile.SoundFile(_as_soundfile_wants(source)) as file:
            rate, frames, told = file.samplerate, file.frames, frames_told(file)
            _check_rate(name, rate)
            start = to_samples(offset_s, rate)
            if start and start >= file.frames:
                raise SaladError(f"audio: {name} ends at {file.frames / rate:.2f} s, before {offset_s:.2f} s")
            left = told - start
            wanted = left if duration_s is None else min(left, max(1, to_samples(duration_s, rate)))
            _check_length(name, wanted / rate, max_s)
            file.seek(start)
            samples = file.read(wanted, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError) as error:
        why = str(error).rstrip(" .:") or "the decoder lost its way"
        raise SaladError(
            f"audio: {name} cannot be decoded ({why}): is it cut off? Replace or remove the file"
        ) from error
    slack_s = CUT_OFF_S if told > frames else max(CUT_OFF_S, CUT_OFF_SHARE * wanted / rate)
    if (wanted - len(samples)) / rate > slack_s:
        raise SaladError(
            f"audio: {name} is cut off: {len(samples) / rate:.2f} s of {wanted / rate:.2f} s can be read; copy it again"
        )
    return samples, rate


def _read_av(
    source: str | Path | bytes, name: str, offset_s: float, duration_s: float | None, max_s: float | None, kind: str
) -> tuple[np.ndarray, int]:
    """The same through PyAV, from the start of the file on, to where the sound ends, whatever the header tells."""
    try:
        import av
    except ImportError:
        raise SaladError(
            f"audio: {name} is m4a, webm, wma, amr or aac, or does not tell how long it is ({kind}), which needs PyAV; "
            "pip install av, or convert it"
        ) from None
    parts: list[np.ndarray] = []
    try:
        if kind == "ogg":
            with _opened(source) as file:
                source = with_a_late_end(file.read())
        with _opened(source) as file:
            container = av.open(file, format=kind)
            if not container.streams.audio:
                raise SaladError(f"audio: {name} holds no audio stream; replace or remove the file")
            rate = int(container.streams.audio[0].rate)
            _check_rate(name, rate)
            start = to_samples(offset_s, rate)
            end = None if duration_s is None else start + max(1, to_samples(duration_s, rate))
            told = container.duration if kind in KNOW_THEIR_LENGTH else 0
            whole_s = told / av.time_base if told else 0.0
            _check_length(name, whole_s - offset_s if duration_s is None else duration_s, max_s)
            to_float = av.AudioResampler(format="fltp", rate=rate)
            at = 0
            for frame in itertools.chain(container.decode(audio=0), [None]):
                for piece in to_float.resample(frame):
                    block = piece.to_ndarray().T  # [num_samples, num_channels]
                    parts.append(block[max(0, start - at) : None if end is None else max(0, end - at)])
                    at += len(block)
                if end is not None and at >= end:
                    break
                if end is None and max_s is not None and (at - start) / rate > max_s + CUT_OFF_S:
                    raise SaladError(
                        f"audio: {name} lasts more than {max_s:g} s, expected at most that; cut it, each part with its "
                        "text"
                    )
    except (av.FFmpegError, OSError) as error:
        raise SaladError(f"audio: {name} cannot be decoded ({error}); replace or remove the file") from error
    return np.concatenate(parts or [np.zeros((0, 1), np.float32)]), rate


def _check_rate(name: str, rate_hz: int) -> None:
    if rate_hz < LEAST_RATE_HZ:
        raise SaladError(
            f"audio: {name} says a rate of {rate_hz} Hz, expected at least {LEAST_RATE_HZ}; is its header damaged? "
            "Export it again"
        )


def _check_length(name: str, seconds: float, max_s: float | None) -> None:
    if max_s is not None and seconds > max_s:
        raise SaladError(
            f"audio: {name} lasts {seconds:.1f} s, expected at most {max_s:g} s; cut it, each part with its text"
        )


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
