"""What the headers of a WAV, AIFF, CAF, AU, SPHERE or MP4 say of the samples, against what is there. Reads no sound."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

Order = Literal["little", "big"]
# Mark of a form: its order of bytes, where its chunks begin, and how many bytes tell the length of a chunk.
CHUNKED: dict[bytes, tuple[Order, int, int]] = {
    b"RIFF": ("little", 12, 4),
    b"RIFX": ("big", 12, 4),
    b"RF64": ("little", 12, 4),
    b"FORM": ("big", 12, 4),
    b"caff": ("big", 8, 8),
    b".snd": ("big", 0, 0),
}
SAMPLES = (b"data", b"SSND")
BEHIND = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"junk", b"JUNK", b"fact", b"cue ", b"smpl", b"iXML", b"afsp", b"PEAK")
FMT = {"little": "<HHIIHH", "big": ">HHIIHH"}  # tag, channels, rate, bytes a second, bytes a block, bits
BLOCK_IS_A_SAMPLE = (1, 3, 6, 7, 0xFFFE)  # PCM, float, A-law, mu-law, extensible: not the codecs that pack samples
ONE_BYTE = (6, 7)
FILES = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"caff", b".snd", b"fLaC", b"OggS")  # how another file begins
STRAY = 1024  # bytes behind the samples that may be anything


@dataclass(frozen=True)
class _SampleChunk:
    """Where the samples begin, how many bytes they are said to be, and the fields (place, bytes, what they count from,
    bytes that they count in) that would say that the samples last to an end."""

    begin: int
    length: int
    fields: tuple[tuple[int, int, int, int], ...]


def with_true_length(file: BinaryIO) -> bytes | None:
    """A WAV, AIFF, CAF or AU whose samples go on behind the length that it tells, with their length; else None.

    Recorders that are killed leave 0, or what there was when they last wrote the header. (Lengths that go beyond the
    file's end are the decoder's to see.)
    """
    size, mark = _size(file), file.read(4)
    sound, rest = _behind(file)
    if sound is None or len(rest) < STRAY:
        return None
    order, _, width = CHUNKED[mark]
    names_one = bool(width) and all(32 <= byte < 127 for byte in rest[:4])
    another_chunk = names_one and int.from_bytes(rest[4 : 4 + width], order) <= len(rest) - 4 - width
    if another_chunk or rest[:3] in (b"ID3", b"TAG") or not any(rest):
        return None
    file.seek(0)
    data = bytearray(file.read())
    end = _end(data, sound.begin, order) if width == 4 else size
    for at, num_bytes, start, unit in sound.fields:
        data[at : at + num_bytes] = min((end - start) // unit, (1 << 8 * num_bytes) - 1).to_bytes(num_bytes, order)
    return bytes(data)


def joined_chunked(file: BinaryIO) -> bool:
    """Whether another file stands behind the samples of a WAV, AIFF, CAF or AU."""
    return _behind(file)[1][:4] in FILES


def _behind(file: BinaryIO) -> tuple[_SampleChunk | None, bytes]:
    """Where the samples of such a file are, and what stands behind them."""
    size, mark = _size(file), file.read(4)
    if mark not in CHUNKED:
        return None, b""
    width = CHUNKED[mark][2]
    sound = _in_chunks(file, mark, size) if width else _au(file, size)
    if sound is None:
        return None, b""
    file.seek(min(size, sound.begin + sound.length + (sound.length % 2 if width == 4 else 0)))
    return sound, file.read()


def wav_fault(file: BinaryIO) -> str:
    """Where a WAV contradicts itself about its samples, so that some would be lost; "" where it does not."""
    size, head = _size(file), file.read(12)
    if head[:4] not in CHUNKED or head[8:12] != b"WAVE":
        return ""
    order, fault, sounds = CHUNKED[head[:4]][0], "", 0
    for name, at, length in _chunks(file, head[:4], size):
        sounds += name == b"data" and length > 0
        if name == b"fmt " and length >= 16 and not sounds:
            file.seek(at + 8)
            tag, channels, rate, per_s, block, bits = struct.unpack(FMT[order], file.read(16).ljust(16, b"\0"))
            own = channels * (1 if tag in ONE_BYTE else -(-bits // 8))
            padded = bits == 24 and block == 4 * channels  # which the decoder believes, whatever the bytes a second say
            if tag in BLOCK_IS_A_SAMPLE and block != own and padded == (per_s == rate * own):
                fault = f"says that a sample of {channels} channels of {bits} bits takes {block} bytes"
    return fault or (f"holds {sounds} chunks of samples, where one is expected" if sounds > 1 else "")


def sphere_fault(file: BinaryIO) -> str:
    """Whether a NIST SPHERE file of plain samples holds as many as its header says; "" where it does, or is packed."""
    size, head = _size(file), file.read(1024)
    told = {name: int(value) for name, value in re.findall(rb"^(\w+) -i (\d+)", head, re.MULTILINE)}
    names = (b"sample_count", b"sample_n_bytes", b"channel_count")
    if not head.startswith(b"NIST_1A") or b"shorten" in head or not all(name in told for name in names):
        return ""
    begin = int(head[8:16]) if head[8:16].strip().isdigit() else len(head)
    count, num_bytes, channels = (told[name] for name in names)
    there = (size - begin) // max(1, num_bytes * channels)
    return f"is cut off: {there} of {count} samples are there" if there < count else ""


def joined_mp4(file: BinaryIO) -> bool:
    """Whether files of the MP4 family stand one behind the other, of which only the first would be read."""
    size, at, begun = _size(file), 0, 0
    while at + 8 <= size:
        file.seek(at)
        length, name = int.from_bytes(file.read(4), "big"), file.read(4)
        begun += name == b"ftyp"
        length = int.from_bytes(file.read(8), "big") if length == 1 else length or size
        at += max(8, length)
    return begun > 1


def _size(file: BinaryIO) -> int:
    """Bytes of a file, which then stands at its beginning."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def _chunks(file: BinaryIO, mark: bytes, size: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, where it begins, how many bytes its content is said to be) of each chunk."""
    order, at, width = CHUNKED[mark]
    while at + 4 + width <= size:
        file.seek(at)
        name, length = file.read(4), int.from_bytes(file.read(width), order)
        if not all(32 <= byte < 127 for byte in name):
            return  # no name: what stands here is sound
        yield name, at, length
        at += 4 + width + length + (length % 2 if width == 4 else 0)


def _au(file: BinaryIO, size: int) -> _SampleChunk:
    begin, length = struct.unpack(">II", file.read(8).ljust(8, b"\0"))
    return _SampleChunk(begin, length, ((8, 4, begin, 1),))


def _in_chunks(file: BinaryIO, mark: bytes, size: int) -> _SampleChunk | None:
    """None where there are no samples."""
    order, _, width = CHUNKED[mark]
    long, frames = 0, (0, 1)  # where a 64-bit WAV tells its sizes; where an AIFF tells its frames, and their bytes
    for name, at, length in _chunks(file, mark, size):
        begin = at + 4 + width
        file.seek(begin)
        content = file.read(16)
        if name == b"ds64":
            long, told = begin, int.from_bytes(content[8:16], order)
        elif name == b"COMM":
            block = int.from_bytes(content[:2], order) * -(-int.from_bytes(content[6:8], order) // 8)
            frames = (begin + 2, max(1, block))
        elif name in SAMPLES and long:
            return _SampleChunk(begin, told, ((long, 8, 8, 1), (long + 8, 8, begin, 1)))
        elif name in SAMPLES:
            own = [(at + 4, width, begin, 1)] + ([(4, 4, 8, 1)] if width == 4 else [])
            counted = [(frames[0], 4, begin + 8, frames[1])] if frames[0] else []
            return _SampleChunk(begin, length if length < 1 << 63 else 0, (*own, *counted))  # -1: to the end
    return None


def _end(data: bytearray, begin: int, order: Order) -> int:
    """Where the samples end, if chunks of other kinds stand behind them to the end of the file."""
    end = len(data)
    while True:
        for name in BEHIND:
            at = data.rfind(name, begin, end)
            length = int.from_bytes(data[at + 4 : at + 8], order) if at >= 0 else 0
            if at >= 0 and at + 8 + length + length % 2 == end:
                end = at
                break
        else:
            return end
