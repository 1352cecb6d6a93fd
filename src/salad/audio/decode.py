"""Any file of sound -> samples: what it is, whether its header can be trusted, and who reads it."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from salad.audio.chunks import CHUNKED, joined_chunked, joined_mp4, sphere_fault, wav_fault, with_true_length
from salad.audio.containers import (
    CUT_OFF_S,
    CUT_OFF_SHARE,
    LOST,
    check_length,
    check_rate,
    check_size,
    container_of,
    ended,
    no_sound,
    opened,
    read_av,
)
from salad.audio.lengths import (
    DAMAGED_PAGE,
    LOST_PAGE,
    Link,
    flac_is_right,
    id3_bytes,
    joined_flac,
    mp3_frames,
    ogg_links,
)
from salad.audio.units import to_samples
from salad.types import SaladError

BLOCK = 1 << 24  # samples that are read at a time: a header may tell of more than fit in memory
CANCELLED = 0.01  # share of the channels' power that their mix keeps at least, unless they cancel each other out
JOINED = "holds several files one behind the other, of which one would be read"
CUT = re.compile(r"^ *(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)  # libsndfile's notes
# The same of 64-bit WAV: frames that are there and that were told, or bytes of the file that were told and are there.
CUT_LONG = re.compile(r"Calculated frame count (\d+) does not match value from .ds64. chunk of (\d+)")
CUT_W64 = re.compile(r"^riff : (\d+) \(should be (\d+)\)", re.MULTILINE)
STREAMED = 0x7FFF0000  # a file written to a pipe tells a length like this, or more
LOUDEST, OVER_SHARE = 8.0, 0.05  # of full scale: what float samples may reach, and the share of them over it


def resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """float32 [num_samples] at another rate (soxr, high quality)."""
    if from_hz == to_hz:
        return samples
    resampled: np.ndarray = soxr.resample(samples, from_hz, to_hz)
    return resampled.astype(np.float32, copy=False)


class Resampler:
    """A stream, float32 [num_samples] at a time, at another rate: what it gives, joined, is `resample` of the whole.

    It holds some 30 ms back, which `last` brings out; a new stream begins behind it.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self.from_hz, self.to_hz = from_hz, to_hz
        self._stream: soxr.ResampleStream | None = None

    def __call__(self, samples: np.ndarray, *, last: bool = False) -> np.ndarray:
        if self.from_hz == self.to_hz:
            return samples
        stream = self._stream or soxr.ResampleStream(self.from_hz, self.to_hz, 1, dtype="float32")
        self._stream = None if last else stream
        return np.asarray(stream.resample_chunk(samples, last=last), np.float32)


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
        raise SaladError(
            f"audio: channel {channel} of {name} was asked for, but it has {samples.shape[1]} (counted from 0); "
            "correct the channel"
        )
    mono = samples.mean(axis=1) if channel is None and samples.shape[1] > 1 else samples[:, channel or 0]
    if mono.size == 0:
        raise SaladError(f"audio: {name} holds no samples; replace or remove the file")
    if not np.isfinite(mono).all():
        raise SaladError(f"audio: {name} holds NaN or infinite samples; re-export the file")
    check_range(samples, name)
    if channel is None:
        check_mix(samples, mono, name)
    if sample_rate_hz is not None:
        mono, rate = resample(mono, rate, sample_rate_hz), sample_rate_hz
    return np.ascontiguousarray(mono, dtype=np.float32), int(rate)


def check_mix(samples: np.ndarray, mono: np.ndarray, name: str) -> None:
    """Raise SaladError where the channels of samples [num_samples, num_channels] leave next to nothing in `mono`."""
    power = float(np.vdot(samples, samples)) / max(samples.size, 1)
    if samples.shape[1] > 1 and float(np.vdot(mono, mono)) / max(mono.size, 1) < CANCELLED * power:
        raise SaladError(
            f"audio: {name} has {samples.shape[1]} channels that cancel each other out (one is inverted), so that "
            "their mix is silent; export one channel alone"
        )


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
    """How a file is to be read. kind: FFmpeg's name of its format where PyAV reads it; late: a WAV, AIFF or AU whose
    samples go on behind the length that it tells; links: of an Ogg; fault: what it has lost, or contradicts itself in;
    partly: what comes before can be read."""

    kind: str = ""
    late: bool = False
    links: tuple[Link, ...] = ()
    fault: str = ""
    partly: bool = True


def tells_its_length(source: str | Path | bytes) -> bool:
    """Whether soundfile reads all of a file; what else is there, `read_audio` alone knows how to read."""
    name = "its bytes" if isinstance(source, bytes) else str(source)
    bare = _untagged(source, name)
    layout = _layout(bare, name)
    return bare is source and not (layout.kind or layout.late or layout.fault or len(layout.links) > 1)


def _untagged(source: str | Path | bytes, name: str) -> str | Path | bytes:
    """A file as it is; the bytes behind an ID3 tag where they begin a kind that bears none (MP3 and FLAC may)."""
    if _head(source, name)[:3] != b"ID3":
        return source
    with opened(source) as file:
        tag = id3_bytes(file)
        file.seek(tag)
        mark = file.read(4)
        return mark + file.read() if mark in (*CHUNKED, b"OggS", b"NIST") else source


def _layout(source: str | Path | bytes, name: str) -> _Layout:
    head = _head(source, name)
    if kind := container_of(head):
        with opened(source) as file:
            return _Layout(kind, fault=JOINED if kind == "mp4" and joined_mp4(file) else "", partly=False)
    if isinstance(source, bytes):
        return _layout_of(source, head)
    state = os.stat(source)
    return _layout_of_file(source, head, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)
def _layout_of_file(path: str | Path, head: bytes, num_bytes: int, changed_ns: int) -> _Layout:
    """The layout of a long recording that is read piece by piece; it is looked at once."""
    return _layout_of(path, head)


def _layout_of(source: str | Path | bytes, head: bytes) -> _Layout:
    with opened(source) as file:
        if head[:4] == b"OggS":
            links, fault = ogg_links(file)
            kind = "" if links[0].ends or len(links) > 1 else "ogg"
            # Decoders leave a page out that is damaged or lost: what follows would be heard too early.
            return _Layout(kind, links=tuple(links), fault=fault, partly=fault not in (DAMAGED_PAGE, LOST_PAGE))
        tag = id3_bytes(file)
        file.seek(tag)
        if file.read(4) == b"fLaC":
            fault = JOINED if joined_flac(file, tag) else ""
            return _Layout("" if flac_is_right(file, tag) else "flac", fault=fault, partly=False)
        if head[:4] in CHUNKED:
            fault = JOINED if joined_chunked(file) else wav_fault(file)
            return _Layout(late=not fault and with_true_length(file) is not None, fault=fault, partly=False)
        if head[:4] == b"NIST":
            return _Layout(fault=sphere_fault(file))
        if head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0"):
            try:
                with soundfile.SoundFile(_as_soundfile_wants(source)) as sound:
                    frames = sound.frames
            except LOST:
                return _Layout()  # the reader says so
            file.seek(0)
            found = mp3_frames(file.read())
            joined = found.joined and found.samples > 0
            return _Layout("" if found.are(frames) else "mp3", fault=JOINED if joined else "", partly=False)
    return _Layout()


def _read(
    source: str | Path | bytes, name: str, offset_s: float, duration_s: float | None, max_s: float | None
) -> tuple[np.ndarray, int]:
    """float32 [num_samples, num_channels] and the rate in Hz, by whoever knows where the sound ends."""
    source = _untagged(source, name)
    layout = _layout(source, name)
    if layout.fault and not (layout.partly and duration_s is not None):
        raise SaladError(f"audio: {name} {layout.fault}; copy it again, or export it again")
    if len(layout.links) > 1:
        return _read_links(source, name, offset_s, duration_s, max_s, layout.links)
    if layout.kind:
        return read_av(source, name, offset_s, duration_s, max_s, layout.kind)
    if layout.late:
        with opened(source) as file:
            source = with_true_length(file) or source
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
    most_s = max_s if duration_s is None else None
    for number, link in enumerate(links, start=1):
        with opened(source) as file:
            file.seek(link.start)
            data = file.read(link.end - link.start)
        own = f"{name} (stream {number} of {len(links)})"
        if link.ends:
            samples, hz = _read_soundfile(data, own, 0.0, None, most_s, before_s=seconds - offset_s)
        else:
            samples, hz = read_av(data, own, 0.0, None, most_s, "ogg", before_s=seconds - offset_s)
        rate = rate or hz
        check_size(name, sum(p.size for p in parts) + samples.size * rate // hz, most_s)
        if parts and samples.shape[1] != parts[0].shape[1]:
            raise SaladError(
                f"audio: {name} holds streams of {parts[0].shape[1]} and of {samples.shape[1]} channels one behind the "
                "other; give each as a file of its own"
            )
        parts.append(np.stack([resample(c, hz, rate) for c in samples.T], axis=1) if hz != rate else samples)
        seconds += len(parts[-1]) / rate
        check_length(name, seconds - offset_s, most_s)
    whole = np.concatenate(parts)
    start = to_samples(offset_s, rate)
    if start and start >= len(whole):
        raise ended(name, len(whole) / rate, offset_s)
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


def frames_told(file: soundfile.SoundFile) -> int:
    """Frames that the header tells of; more than `file.frames` where a WAV, AIFF or AU is cut off.

    libsndfile mends such a header and only notes it in `extra_info`.
    """
    frames = int(file.frames)
    if long := CUT_LONG.search(file.extra_info):
        return max(frames, int(long[2]))
    found = CUT.search(file.extra_info) or CUT_W64.search(file.extra_info)
    if found is None or int(found[1]) >= STREAMED or not int(found[2]):
        return frames
    return max(frames, frames * int(found[1]) // int(found[2]))


def _as_soundfile_wants(source: str | Path | bytes) -> io.BytesIO | str | bytes:
    """A name that is not UTF-8 as its bytes; soundfile takes any other as a string."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    return os.fsencode(source) if re.search("[\ud800-\udfff]", str(source)) else str(source)


def _read_soundfile(
    source: str | Path | bytes,
    name: str,
    offset_s: float,
    duration_s: float | None,
    max_s: float | None,
    *,
    before_s: float = 0.0,
) -> tuple[np.ndarray, int]:
    """float32 [num_samples, num_channels] and the rate in Hz. before_s: as for `read_av`."""
    try:
        with soundfile.SoundFile(_as_soundfile_wants(source)) as file:
            rate, frames, told = file.samplerate, file.frames, frames_told(file)
            check_rate(name, rate)
            start = to_samples(offset_s, rate)
            if start and start >= file.frames:
                raise ended(name, file.frames / rate, offset_s)
            left = told - start
            wanted = left if duration_s is None else min(left, max(1, to_samples(duration_s, rate)))
            check_length(name, before_s + wanted / rate, max_s)
            check_size(name, wanted * file.channels, max_s)
            if start and file.seekable():
                file.seek(start)
            elif start:  # GSM and its like, which are read from their beginning on
                _read_blocks(file, start)
            samples = _read_blocks(file, wanted)
    except SaladError:
        raise
    except LOST as error:
        why = getattr(error, "error_string", str(error)).rstrip(" .:") or "the decoder lost its way"
        instead = no_sound(_head(source, name)) or "is it cut off? Replace or remove the file"
        raise SaladError(f"audio: {name} cannot be decoded ({why}): {instead}") from error
    slack_s = CUT_OFF_S if told > frames else max(CUT_OFF_S, CUT_OFF_SHARE * wanted / rate)
    if (wanted - len(samples)) / rate > slack_s:
        raise SaladError(
            f"audio: {name} is cut off: {len(samples) / rate:.2f} s of {wanted / rate:.2f} s can be read; copy it again"
        )
    return samples, rate


def _read_blocks(file: soundfile.SoundFile, wanted: int) -> np.ndarray:
    """float32 [at most `wanted`, num_channels], to where the sound ends; memory is taken for what is there alone."""
    parts, left = [], wanted
    while left > 0 and len(block := file.read(min(left, BLOCK), dtype="float32", always_2d=True)):
        parts.append(block)
        left -= len(block)
    return parts[0] if len(parts) == 1 else np.concatenate(parts or [np.zeros((0, file.channels), np.float32)])


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
