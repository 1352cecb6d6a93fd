"""Samples -> FLAC and Opus files, whole or absent, with equal bytes every time."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import soundfile

__all__ = ["with_a_late_end", "write_flac", "write_opus"]

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
    pages[at + 22 : at + 26] = bytes(4)
    check = 0
    for byte in pages[at:end]:
        check = (check << 8 & 0xFFFFFFFF) ^ _OGG_CRC[check >> 24 ^ byte]
    pages[at + 22 : at + 26] = check.to_bytes(4, "little")


def with_a_late_end(ogg: bytes) -> bytes:
    """An Ogg whose last page tells no position, or a wrong one, with one behind all sound, so that none is cut off."""
    pages, at = bytearray(ogg), ogg.rfind(b"OggS")
    end = at + 27 + pages[at + 26] + sum(pages[at + 27 : at + 27 + pages[at + 26]])
    pages[at + 6 : at + 14] = LATE.to_bytes(8, "little")
    _sum_page(pages, at, end)
    return bytes(pages)


def _crc_of(byte: int) -> int:
    check = byte << 24
    for _ in range(8):
        check = (check << 1) ^ (0x104C11DB7 if check & 0x80000000 else 0)
    return check


_OGG_CRC = [_crc_of(byte) for byte in range(256)]
