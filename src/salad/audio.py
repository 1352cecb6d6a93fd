"""Decode, resample, write; and the only arithmetic between seconds, samples and frames."""

from __future__ import annotations

import io
import itertools
import os
import re
from pathlib import Path

import numpy as np
import soundfile
import soxr

from salad.types import SaladError

__all__ = [
    "frames_told",
    "num_frames",
    "read_audio",
    "resample",
    "split_at_quiet",
    "to_samples",
    "to_seconds",
    "write_flac",
    "write_opus",
]

CUT_OFF_S, CUT_OFF_SHARE = 0.1, 0.05  # a decoder may end a little before the header says; more is a file cut off
LEAST_RATE_HZ = 4000  # speech at less cannot be understood; a damaged header tells such rates
CANCELLED = 0.01  # share of the channels' power that their mix keeps at least, unless they cancel each other out
CUT = re.compile(r"^ *(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)  # libsndfile's notes
STREAMED = 0x7FFFFF00  # a file written to a pipe tells a length like this
OGG_TAIL = 1 << 16  # more bytes than a page can have
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
    ending: wav, flac, mp3, ogg and opus by soundfile; m4a, webm, wma, amr and aac by PyAV where it is installed. Only
    the part from `offset_s` that lasts `duration_s` is read (None: to the end); `channel` takes one channel, else all
    are averaged. Raises SaladError where the audio cannot be decoded, is empty or cut off, holds NaN or infinity, has
    channels that cancel each other out or a rate no speech has, or where the part lasts more than `max_s` (found before
    it is decoded).
    """
    name = name or (f"{len(source)} bytes" if isinstance(source, bytes) else str(source))
    name = name.encode("utf-8", "backslashreplace").decode()  # a file's name need not be UTF-8; what we say of it must
    head = _head(source, name)
    if head[:4] == b"OggS" and duration_s is None:
        _check_ogg_end(source, name)
    read = _read_av if _container(head) else _read_soundfile
    samples, rate = read(source, name, offset_s, duration_s, max_s)
    if channel is not None and not 0 <= channel < samples.shape[1]:
        raise SaladError(f"audio: {name} has {samples.shape[1]} channels, but channel {channel} (from 0) was asked for")
    mono = samples.mean(axis=1) if channel is None else samples[:, channel]
    if mono.size == 0:
        raise SaladError(f"audio: {name} holds no samples; replace or remove the file")
    if not np.isfinite(mono).all():
        raise SaladError(f"audio: {name} holds NaN or infinite samples; re-export the file")
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


def _check_ogg_end(source: str | Path | bytes, name: str) -> None:
    """Raise SaladError where the last page is not whole (RFC 3533, section 6): decoders end there without a word."""
    if isinstance(source, bytes):
        tail = source[-OGG_TAIL:]
    else:
        with open(source, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - OGG_TAIL))
            tail = file.read()
    at = tail.rfind(b"OggS")
    if at < 0:
        return
    segments = tail[at + 27 : at + 27 + tail[at + 26]] if len(tail) > at + 26 else b""
    if len(tail) <= at + 26 or len(tail) < at + 27 + tail[at + 26] + sum(segments):
        raise SaladError(f"audio: {name} is cut off in the middle of a page; copy it again")


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
    source: str | Path | bytes, name: str, offset_s: float, duration_s: float | None, max_s: float | None
) -> tuple[np.ndarray, int]:
    """The same through PyAV, from the start of the file on."""
    try:
        import av
    except ImportError:
        raise SaladError(
            f"audio: {name} is m4a, webm, wma, amr or aac, which needs PyAV; pip install av, or convert it"
        ) from None
    parts: list[np.ndarray] = []
    try:
        with open(source, "rb") if not isinstance(source, bytes) else io.BytesIO(source) as file:
            container = av.open(file, format=_container(_head(source, name)))
            if not container.streams.audio:
                raise SaladError(f"audio: {name} holds no audio stream; replace or remove the file")
            rate = int(container.streams.audio[0].rate)
            _check_rate(name, rate)
            start = to_samples(offset_s, rate)
            end = None if duration_s is None else start + max(1, to_samples(duration_s, rate))
            whole_s = container.duration / av.time_base if container.duration else 0.0
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


def write_flac(path: str | Path, samples: np.ndarray, sample_rate_hz: int) -> None:
    """16-bit FLAC, written aside and renamed. A full disk raises OSError."""
    _write(Path(path), samples, sample_rate_hz, "FLAC", "PCM_16")


def write_opus(path: str | Path, samples: np.ndarray, sample_rate_hz: int) -> None:
    """Ogg Opus (8, 12, 16, 24 or 48 kHz), written aside and renamed; same samples, same bytes."""
    _write(Path(path), samples, sample_rate_hz, "OGG", "OPUS")


def _write(path: Path, samples: np.ndarray, sample_rate_hz: int, container: str, codec: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = io.BytesIO()  # libsndfile does not tell a full disk from another error; Python's own write does
    soundfile.write(encoded, np.clip(samples, -1.0, 1.0), sample_rate_hz, format=container, subtype=codec)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = encoded.getvalue()
    aside.write_bytes(_with_serial_zero(data) if container == "OGG" else data)
    aside.replace(path)


def _with_serial_zero(ogg: bytes) -> bytes:
    """libsndfile numbers an Ogg stream at random; number 0 makes equal streams equal files (RFC 3533, section 6)."""
    pages, at = bytearray(ogg), 0
    while at < len(pages):
        num_segments = pages[at + 26]
        end = at + 27 + num_segments + sum(pages[at + 27 : at + 27 + num_segments])
        pages[at + 14 : at + 18] = pages[at + 22 : at + 26] = bytes(4)
        check = 0
        for byte in pages[at:end]:
            check = (check << 8 & 0xFFFFFFFF) ^ _OGG_CRC[check >> 24 ^ byte]
        pages[at + 22 : at + 26] = check.to_bytes(4, "little")
        at = end
    return bytes(pages)


def _crc_of(byte: int) -> int:
    check = byte << 24
    for _ in range(8):
        check = (check << 1) ^ (0x104C11DB7 if check & 0x80000000 else 0)
    return check


_OGG_CRC = [_crc_of(byte) for byte in range(256)]


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
