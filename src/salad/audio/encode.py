"""Samples -> FLAC and Opus files, whole or absent, with equal bytes every time."""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path

import numpy as np
import soundfile

LATE = 1 << 40  # samples: 265 days at 48 kHz


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
