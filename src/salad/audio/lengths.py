"""What a file's frames and pages tell of its length, where its header does not know or is wrong. Reads no sound."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import BinaryIO

from salad.audio.encode import page_sum

# How a WAV, FLAC or Ogg begins: no bytes of packed sound look like that.
ANOTHER = re.compile(rb"RIFF....WAVE|fLaC[\x00\x80]\x00\x00\x22|OggS\x00\x02\x00{8}", re.DOTALL)
LONGEST_MARK = 13  # bytes of it, less one
TAIL = 1 << 16  # bytes: more than a FLAC frame has, but for blocks that nobody writes
CUT_PAGE = "is cut off in the middle of a page"
DAMAGED_PAGE = "has a damaged page, which decoders leave out"
ANOTHER_FILE = "holds a file of another kind behind its own sound"
LOST_PAGE = "has lost some of its pages"
MOST_FRAMES = 1 << 40  # of a month at any rate: what a decoder makes of a first frame that tells of none
MP3_SLACK = 4  # frames: an encoder's delay and padding, and the frame that tells the length
JOINED_FRAMES = 8  # of another rate, one behind the other: no bytes of sound look like that
FLAC_BLOCKS = {1: 192, **{n: 576 << (n - 2) for n in range(2, 6)}, **{n: 256 << (n - 8) for n in range(8, 16)}}
# kbit/s by code; of layer III and II of MPEG 1, and of both of MPEG 2 and 2.5
MPEG_1_III = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
MPEG_1_II = (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)
MPEG_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
MPEG_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # by version


@dataclass(frozen=True)
class Link:
    """One stream of an Ogg file: its first and last + 1 byte, and whether its last page says where the sound ends."""

    start: int
    end: int
    ends: bool


def ogg_links(file: BinaryIO) -> tuple[list[Link], str]:
    """The streams that follow each other in an Ogg file (RFC 3533), and what is wrong with its pages ("": nothing).

    Decoders end at the first stream's end, or at the last page that tells a position, without a word.
    """
    size = file.seek(0, os.SEEK_END)
    links: list[Link] = []
    pages: dict[bytes, int] = {}  # of the streams that run side by side: number -> that of its last page
    at, start, opened, last, highest = 0, 0, False, 0, 0
    while at < size:
        file.seek(at)
        head = file.read(27 + 255)
        if ANOTHER.match(head) and head[:4] != b"OggS":
            return [*links, Link(start, at, True)], ANOTHER_FILE
        if head[:4] != b"OggS"[: len(head)]:  # damaged, or a tag at the end: to the next page
            found = _find(file, b"OggS", at + 1)
            if found < 0:
                break
            at = found
            continue
        lengths = head[27 : 27 + head[26]] if len(head) > 26 else b""
        end = at + 27 + len(lengths) + sum(lengths)
        if len(head) < 27 or len(lengths) < head[26] or end > size:
            return [*links, Link(start, at, True)], CUT_PAGE
        file.seek(at)
        if page_sum(file.read(end - at)) != int.from_bytes(head[22:26], "little"):
            return [*links, Link(start, at, True)], DAMAGED_PAGE
        begins = bool(head[5] & 2)
        if begins and opened:
            links.append(Link(start, at, 0 < last == highest))
            start, opened, last, highest, pages = at, False, 0, 0, {}
        stream, page = head[14:18], int.from_bytes(head[18:22], "little")
        if not begins and page > pages.get(stream, -1) + 1:
            return [*links, Link(start, at, True)], LOST_PAGE
        pages[stream] = page
        if not begins:
            opened, last = True, int.from_bytes(head[6:14], "little", signed=True)
            highest = max(highest, last)
        at = end
    return [*links, Link(start, size, 0 < last == highest)], ""


def _find(file: BinaryIO, what: bytes, at: int) -> int:
    file.seek(at)
    held, begin = b"", at
    while block := file.read(1 << 20):
        found = (held + block).find(what)
        if found >= 0:
            return begin - len(held) + found
        begin, held = begin + len(block), block[-len(what) + 1 :]
    return -1


def id3_bytes(file: BinaryIO) -> int:
    """Bytes of the ID3 tag that a file begins with; 0 where there is none."""
    file.seek(0)
    return _id3(file.read(10))


def _id3(head: bytes) -> int:
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    size = sum((byte & 0x7F) << 7 * (3 - n) for n, byte in enumerate(head[6:10]))
    return 10 + size + (10 if head[5] & 0x10 else 0)


def joined_flac(file: BinaryIO, start: int) -> bool:
    """Whether another file stands behind the FLAC that begins at `start`."""
    at, last = start + 4, False
    while not last:  # a description may hold the head of the WAV that it was made from
        file.seek(at)
        head = file.read(4)
        if len(head) < 4:
            return False
        at, last = at + 4 + int.from_bytes(head[1:], "big"), bool(head[0] & 0x80)
    file.seek(at)
    held = b""
    while block := file.read(1 << 20):
        if ANOTHER.search(held + block):
            return True
        held = block[-LONGEST_MARK:]
    return False


def flac_is_right(file: BinaryIO, start: int = 0) -> bool:
    """Whether STREAMINFO knows how many samples a FLAC holds, and no frame lies beyond them (RFC 9639).

    start: where the FLAC begins, behind a tag.
    """
    file.seek(start)
    head = file.read(42)
    if len(head) < 42 or head[:4] != b"fLaC" or head[4] & 0x7F:
        return True  # another layout: the decoder will tell
    block = int.from_bytes(head[10:12], "big")
    total = int.from_bytes(head[21:26], "big") & 0xFFFFFFFFF
    size = file.seek(0, os.SEEK_END)
    file.seek(max(start + 42, size - TAIL))
    return bool(total) and _last_flac_sample(file.read(), block) <= total


def _last_flac_sample(tail: bytes, block: int) -> int:
    """Last + 1 sample of the last frame whose header is found."""
    at = len(tail)
    while (at := tail.rfind(b"\xff", 0, at)) >= 0:
        if tail[at + 1 : at + 2] in (b"\xf8", b"\xf9") and (end := _flac_frame_end(tail[at : at + 16], block)):
            return end
    return 0


def _flac_frame_end(head: bytes, block: int) -> int:
    """Last + 1 sample of the frame that these bytes begin, or 0 where they begin none."""
    if len(head) < 6 or not head[2] >> 4 or head[3] & 1:
        return 0
    lead, number, at = head[4], head[4], 5
    if lead & 0x80:  # coded as UTF-8 does, with up to seven bytes
        more = 8 - (lead ^ 0xFF).bit_length() - 1
        if not 1 <= more <= 6:
            return 0
        number = lead & (0x3F >> more)
        for byte in head[5 : 5 + more]:
            number = number << 6 | byte & 0x3F
        at += more
    kind = head[2] >> 4
    extra = {6: 1, 7: 2}.get(kind, 0)
    samples = FLAC_BLOCKS.get(kind) or int.from_bytes(head[at : at + extra], "big") + 1
    at += extra + {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if len(head) <= at or _crc8(head[:at]) != head[at]:
        return 0
    return (number if head[1] & 1 else number * block) + samples


def _crc8(data: bytes) -> int:
    check = 0
    for byte in data:
        check ^= byte
        for _ in range(8):
            check = (check << 1 ^ (0x07 if check & 0x80 else 0)) & 0xFF
    return check


@dataclass(frozen=True)
class Mp3Frames:
    """Samples of all frames, and of one; told: the first one tells how many there are (Xing, Info or VBRI); joined:
    frames of another rate or a file of another kind follow, such as of files joined with cat."""

    samples: int = 0
    of_one: int = 0
    told: bool = False
    joined: bool = False

    def are(self, frames: int) -> bool:
        """Whether they are the `frames` (samples of a channel) that a decoder takes from the first frame.

        Where the first frame tells a length and less is there, the file is cut off, and the decoder will find that.
        """
        if frames > MOST_FRAMES:
            return False
        slack = MP3_SLACK * self.of_one
        return not self.samples or (self.samples <= frames + slack and (self.told or frames <= self.samples + slack))


def mp3_frames(data: bytes) -> Mp3Frames:
    """The frames of an MP3; none where it is of another kind."""
    at, samples, told, in_step, rate, of_one = _id3(data[:10]), 0, False, False, 0, 0
    joined, end = False, 0
    while 0 <= at < len(data) - 4:
        frame = _mp3_frame(data, at)
        other = rate and frame is not None and frame[2] != rate
        joined = joined or (bool(other) and _mp3_run(data, at, JOINED_FRAMES))
        if frame is None or other or not (in_step or _mp3_frame(data, at + frame[0])):
            in_step, at = False, data.find(b"\xff", at + 1)
            continue
        if not samples:
            told = any(mark in data[at : at + min(frame[0], 64)] for mark in (b"Xing", b"Info", b"VBRI"))
        samples, of_one, rate, in_step = samples + frame[1], frame[1], frame[2], True
        at += frame[0]
        end = at
    return Mp3Frames(samples, of_one, told, joined or ANOTHER.search(data, end) is not None)


def _mp3_run(data: bytes, at: int, number: int) -> bool:
    """Whether so many frames of one rate follow each other."""
    first = _mp3_frame(data, at)
    for _ in range(number):
        frame = _mp3_frame(data, at)
        if frame is None or first is None or frame[2] != first[2]:
            return False
        at += frame[0]
    return True


def _mp3_frame(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Bytes, samples and rate of the frame of MPEG layer II or III that begins at `at`."""
    head = data[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer, code, rate = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer not in (1, 2) or not 0 < code < 15 or rate == 3:
        return None
    first = version == 3
    bitrate = (MPEG_1_III if layer == 1 else MPEG_1_II)[code] if first else MPEG_2[code]
    samples = 1152 if first or layer == 2 else 576
    hz = MPEG_RATES[version][rate]
    return samples // 8 * bitrate * 1000 // hz + (head[2] >> 1 & 1), samples, hz
