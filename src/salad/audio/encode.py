"""Samples -> FLAC and Opus files, whole or absent, with equal bytes every time."""

from __future__ import annotations

import hashlib
import io
import zlib
from pathlib import Path

import numpy as np
import soundfile

from salad.files import whole_file

LATE = 1 << 40  # samples: 265 days at 48 kHz


def write_flac(path: str | Path, samples: np.ndarray, sample_rate_hz: int) -> None:
    """16-bit FLAC, written aside and renamed. A full disk raises OSError."""
    _write(Path(path), samples, sample_rate_hz, "FLAC", "PCM_16")


def copy_flac(source: str | Path, path: str | Path, samples: np.ndarray, sample_rate_hz: int) -> bool:
    """Write `samples`, float32 [num_samples], out of a file that is a FLAC of them already: mono, 16 bits, this rate.

    It is not encoded again, and nothing but its stream information and its frames is taken (RFC 9639, section 8).
    False, and nothing is written, where `source` is any other file; that it holds these samples its own hash proves.
    """
    told = (sample_rate_hz << 44 | 15 << 36 | len(samples)).to_bytes(8, "big")  # one channel, 16 bits
    with open(source, "rb") as file:
        head = file.read(42)
        if head[:5] not in (b"fLaC\0", b"fLaC\x80") or head[5:8] != b"\0\0\x22" or head[18:26] != told:
            return False
        if hashlib.md5(of_16_bits(samples).tobytes()).digest() != head[26:42]:
            return False
        data = head + file.read()
    at, last = 42, data[4] >> 7
    while not last:
        last, at = data[at] >> 7, at + 4 + int.from_bytes(data[at + 1 : at + 4], "big")
    with whole_file(path) as out:
        out.write(b"fLaC\x80" + data[5:42] + data[at:])
    return True


def write_opus(path: str | Path, samples: np.ndarray, sample_rate_hz: int) -> None:
    """Ogg Opus (8, 12, 16, 24 or 48 kHz), written aside and renamed; same samples, same bytes."""
    _write(Path(path), samples, sample_rate_hz, "OGG", "OPUS")


def _write(path: Path, samples: np.ndarray, sample_rate_hz: int, container: str, codec: str) -> None:
    encoded = io.BytesIO()  # libsndfile does not tell a full disk from another error; Python's own write does
    ready = of_16_bits(samples) if codec == "PCM_16" else np.clip(samples, -1.0, 1.0)
    soundfile.write(encoded, ready, sample_rate_hz, format=container, subtype=codec)
    data = encoded.getvalue()
    with whole_file(path) as file:
        file.write(_with_serial_zero(data) if container == "OGG" else data)


def of_16_bits(samples: np.ndarray) -> np.ndarray:
    """int16 of samples in [-1, 1] as libsndfile makes them of floats, in less time; what is beyond is clipped."""
    scaled = np.rint(np.asarray(samples, np.float32) * np.float32(32768))
    whole: np.ndarray = np.clip(scaled, -32768, 32767).astype("<i2")
    return whole


def _with_serial_zero(ogg: bytes) -> bytes:
    """libsndfile numbers an Ogg stream at random; number 0 makes equal streams equal files (RFC 3533, section 6)."""
    pages, at = bytearray(ogg), 0
    while at < len(pages):
        num_segments = pages[at + 26]
        end = at + 27 + num_segments + sum(pages[at + 27 : at + 27 + num_segments])
        pages[at + 14 : at + 18] = bytes(4)
        _sum_page(pages, at, end)
        at = end
    return bytes(pages)


def _sum_page(pages: bytearray, at: int, end: int) -> None:
    """Write the checksum of the page from `at` to `end`."""
    pages[at + 22 : at + 26] = page_sum(bytes(pages[at:end])).to_bytes(4, "little")


def with_a_late_end(ogg: bytes) -> bytes:
    """An Ogg whose last page tells no position, or a wrong one, with one behind all sound, so that none is cut off."""
    pages, at = bytearray(ogg), ogg.rfind(b"OggS")
    end = at + 27 + pages[at + 26] + sum(pages[at + 27 : at + 27 + pages[at + 26]])
    pages[at + 6 : at + 14] = LATE.to_bytes(8, "little")
    _sum_page(pages, at, end)
    return bytes(pages)


def page_sum(page: bytes) -> int:
    """The checksum that an Ogg page should have: CRC-32 with the bits of all bytes in the other order (RFC 3533)."""
    own = page[:22] + bytes(4) + page[26:]
    check = zlib.crc32(own.translate(_OTHER_WAY), 0xFFFFFFFF) ^ 0xFFFFFFFF  # from 0, and not inverted
    return int(f"{check:032b}"[::-1], 2)


_OTHER_WAY = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
