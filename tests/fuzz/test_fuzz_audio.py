"""Headers of sound by chance: a file is read with all of its samples, or refused with a sentence; never a part of it.

`make fuzz` draws 2,000 of each kind (SALAD_FUZZ), `make test` a few.
"""

from __future__ import annotations

import io
import os
import struct
from functools import cache
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from salad.audio import read_audio
from salad.audio.decode import tells_its_length
from salad.audio.encode import _sum_page
from salad.types import SaladError

pytest.importorskip("av")

EXAMPLES = int(os.environ.get("SALAD_FUZZ", "20"))
RATE_HZ, SECONDS = 16_000, 1.5
NUM_SAMPLES = round(RATE_HZ * SECONDS)
LOST_S = 0.1  # what a file may end before its header says, as `read_audio` has it, and what a lossy codec pads
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# A number that a header should not hold; halves, doubles and ends of ranges are what writers get wrong.
FALSE = st.one_of(
    st.sampled_from(["0", "1", "half", "double", "all ones", "high bit", "one more", "one less"]),
    st.integers(0, 2**32 - 1),
)
CUT = st.floats(0.0, 0.999)
FLIPS = st.lists(st.tuples(st.floats(0.0, 0.999), st.integers(1, 255)), min_size=1, max_size=3)


@cache
def sound(kind: str, subtype: str | None = None, channels: int = 1) -> bytes:
    """1.5 s of noise that swells, so that no part of it is like another."""
    x = np.random.default_rng(0).normal(0, 0.1, (NUM_SAMPLES, channels)) * np.linspace(0.1, 1.0, NUM_SAMPLES)[:, None]
    file = io.BytesIO()
    soundfile.write(file, x.astype(np.float32), RATE_HZ, format=kind, subtype=subtype)
    return file.getvalue()


def false(value: int, told: Any, num_bytes: int) -> int:
    """The false number that takes the place of `value` in a field of so many bytes."""
    most = 256**num_bytes - 1
    named = {"0": 0, "1": 1, "half": value // 2, "double": 2 * value, "all ones": most, "one more": value + 1,
             "one less": value - 1, "high bit": value | (most + 1) // 2}  # fmt: skip
    return (named[told] if isinstance(told, str) else told) % (most + 1)


def with_field(data: bytes, at: int, num_bytes: int, order: str, told: Any) -> bytes:
    value = int.from_bytes(data[at : at + num_bytes], order)
    return data[:at] + false(value, told, num_bytes).to_bytes(num_bytes, order) + data[at + num_bytes :]


def flipped(data: bytes, flips: list[tuple[float, int]], start: int, end: int) -> bytes:
    out = bytearray(data)
    for place, mask in flips:
        out[start + int(place * (min(end, len(out)) - start))] ^= mask
    return bytes(out)


def length_of(data: bytes) -> int | None:
    """Samples that were read; None where it is refused with a sentence."""
    try:
        tells_its_length(data)
        samples, _ = read_audio(data)
    except SaladError as error:
        sentence = str(error)
    else:
        assert samples.dtype == np.float32 and samples.ndim == 1 and len(samples) and np.isfinite(samples).all()
        return len(samples)
    assert sentence.startswith("audio: ") and len(sentence) > 20, sentence
    return None


def check(data: bytes, lossy: bool = False) -> None:
    """All samples, or a refusal; what a decoder adds to lossy sound is not looked at."""
    __tracebackhide__ = True
    found = length_of(data)
    assert found is None or found >= NUM_SAMPLES - LOST_S * RATE_HZ, f"{found} of {NUM_SAMPLES} samples, and no word"
    if not lossy:
        assert found is None or found <= NUM_SAMPLES + LOST_S * RATE_HZ, f"{found} of {NUM_SAMPLES} samples"


class Made(bytes):
    """A file, which a failing test shows by its length."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


# WAV, AIFF, AU: chunks


@st.composite
def wavs(draw: Any) -> bytes:
    """A WAV whose chunks stand in any order, with others between them, and with one false field."""
    subtype, channels = draw(st.sampled_from(["PCM_16", "PCM_24", "FLOAT", "PCM_U8", "ULAW"])), draw(st.integers(1, 2))
    data = sound("WAV", subtype, channels)
    chunks, at = {}, 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        chunks[name] = data[at : at + 8 + size]
        at += 8 + size
    fmt, samples = chunks[b"fmt "], chunks[b"data"]
    others = [b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf60.16.100\0",
              b"junk\5\0\0\0\1\2\3\4\5\0", b"bext" + struct.pack("<I", 600) + bytes(600)]  # fmt: skip
    damage = draw(st.sampled_from(["none", "size", "riff", "fmt", "order", "no fmt", "twice"]))
    told = draw(FALSE)
    if damage == "size":
        samples = with_field(samples, 4, 4, "little", told)
    if damage == "fmt":
        at, width = draw(st.sampled_from([(8, 2), (10, 2), (16, 4), (20, 2), (22, 2)]))
        fmt = with_field(fmt, at, width, "little", told)
    body = [*draw(st.lists(st.sampled_from(others), max_size=2)), fmt]
    body += [*draw(st.lists(st.sampled_from(others), max_size=2)), samples]
    body += [samples] * (damage == "twice") + draw(st.lists(st.sampled_from(others), max_size=2))
    if damage == "order":
        body = draw(st.permutations(body))
    if damage == "no fmt":
        body.remove(fmt)
    whole = b"".join(part + b"\0" * (len(part) % 2) for part in body)
    made = b"RIFF" + struct.pack("<I", len(whole) + 4) + b"WAVE" + whole
    note(f"{damage}, {told}, {[(part[:4], len(part)) for part in body]}, fmt {fmt!r}")
    return Made(with_field(made, 4, 4, "little", told) if damage == "riff" else made)


@fuzz
@given(data=wavs())
def test_wav(data):
    check(data)


@fuzz
@given(kind=st.sampled_from(["AIFF", "AU", "RF64", "WAVEX"]), field=st.integers(0, 2), told=FALSE)
def test_lengths_of_its_cousins(kind, field, told):
    """AIFF (size of the samples, number of frames, of the form), AU, WAV of 64 bits, extensible WAV."""
    data = sound(kind, "PCM_16")
    order = "little" if kind in ("RF64", "WAVEX") else "big"
    at = {"AIFF": [data.find(b"SSND") + 4, data.find(b"COMM") + 10, 4], "AU": [8, 8, 8],
          "RF64": [data.find(b"ds64") + 16, data.find(b"ds64") + 24, data.find(b"ds64") + 8],
          "WAVEX": [data.find(b"data") + 4, 4, data.find(b"data") + 4]}[kind][field]  # fmt: skip
    check(with_field(data, at, 8 if kind == "RF64" else 4, order, told))


# FLAC


@fuzz
@given(
    told=FALSE,
    field=st.sampled_from([(8, 2), (10, 2), (12, 3), (15, 3), (22, 4), (26, 16)]),  # blocks, frames, samples, MD5
    comment=st.booleans(),
    tag=st.booleans(),
    cut=st.one_of(st.none(), CUT),
)
def test_flac(told, field, comment, tag, cut):
    data = with_field(sound("FLAC", "PCM_16"), *field, "big", told)
    if comment:  # an empty block of padding that says it is the last, as none other does
        data = data[:42] + bytes([1, 0, 0, 0]) + data[42:]
    data = (b"ID3\4\0\0\0\0\0\x0a" + bytes(10)) * tag + data
    if cut is None:
        check(data)
        return
    data = data[: int(cut * len(data))]
    if field == (22, 4):  # how many samples there were, nobody knows any more
        length_of(data)
    else:
        check(data)


# Ogg


def pages(data: bytes) -> list[bytes]:
    parts, at = [], 0
    while at < len(data):
        lengths = data[at + 27 : at + 27 + data[at + 26]]
        end = at + 27 + len(lengths) + sum(lengths)
        parts.append(data[at:end])
        at = end
    return parts


def summed(page: bytes) -> bytes:
    own = bytearray(page)
    _sum_page(own, 0, len(own))
    return bytes(own)


@fuzz
@given(
    subtype=st.sampled_from(["VORBIS", "OPUS"]),
    damage=st.sampled_from(["position", "number", "stream", "kind", "sum", "lost", "cut", "swap"]),
    place=CUT,
    told=FALSE,
)
def test_ogg(subtype, damage, place, told):
    own = pages(sound("OGG", subtype))
    n = int(place * len(own))
    if damage == "lost" and n + 1 < len(own):
        own = own[:n] + own[n + 1 :]
    elif damage == "swap":
        own[n], own[n - 1] = own[n - 1], own[n]
    elif damage in ("cut", "lost"):  # between two pages nobody can tell
        whole = b"".join(own)
        whole = whole[: int(place * len(whole)) if damage == "cut" else -len(own[-1])]
        length_of(whole) if any(len(b"".join(own[:k])) == len(whole) for k in range(len(own))) else check(whole, True)
        return
    else:
        at, width = {"position": (6, 8), "number": (18, 4), "stream": (14, 4), "kind": (5, 1), "sum": (22, 4)}[damage]
        page, last = with_field(own[n], at, width, "little", told), own[-1]
        own[n] = page if damage == "sum" else summed(page)
        if damage == "position" and page[6:14][::-1] <= last[6:14][::-1]:  # streams may begin late and end early
            length_of(b"".join(own))
            return
    check(b"".join(own), lossy=True)


# MP3


@fuzz
@given(
    damage=st.sampled_from(["frames", "bytes", "flags", "no first frame", "tag", "before", "cut", "behind"]),
    told=FALSE,
    place=CUT,
)
def test_mp3(damage, told, place):
    data = sound("MP3", "MPEG_LAYER_III")
    at = max(data.find(b"Xing"), data.find(b"Info"))
    assert at > 0
    if damage == "frames":
        data = with_field(data, at + 8, 4, "big", told)
    elif damage == "bytes":
        data = with_field(data, at + 12, 4, "big", told)
    elif damage == "flags":
        data = with_field(data, at + 4, 4, "big", told)
    elif damage == "no first frame":
        first = data.rfind(b"\xff", 0, at)
        data = data[data.find(data[first : first + 2], first + 4) :]
    elif damage == "tag":  # what it covers is no sound, as far as anybody can tell
        length_of(with_field(b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + data, 6, 4, "big", told))
        return
    elif damage == "before":
        data = bytes(int(place * 5000)) + data
    elif damage == "behind":
        data += b"TAG" + bytes(125)
    elif damage == "cut":
        data = data[: int(place * len(data))]
    check(data, lossy=True)


# Anything


@fuzz
@given(
    kind=st.sampled_from([("WAV", "PCM_16"), ("WAV", "IMA_ADPCM"), ("AIFF", "PCM_16"), ("AU", "PCM_16"),
                          ("CAF", "PCM_16"), ("W64", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
                          ("MP3", "MPEG_LAYER_III")]),
    flips=FLIPS,
    cut=st.one_of(st.just(1.0), CUT),
)  # fmt: skip
def test_any_bytes_of_a_header_flipped(kind, flips, cut):
    """What the file was nobody can tell any more; it is read as something, or refused with a sentence."""
    data = flipped(sound(*kind), flips, 0, 200)
    length_of(data[: int(cut * len(data))])
