"""Windows of a long recording whose text is known: heard by an ASR, matched to the text, cut at pauses."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from salad.align.silence import PAUSE_S, RATE_HZ
from salad.align.whisper import WINDOW_S, load_whisper
from salad.audio import split_at_quiet, to_seconds
from salad.text.aligner_forms import spoken_pieces
from salad.text.normalise import key
from salad.types import SaladError, Word

PART_S = 60.0  # heard at a time
TARGET_S, LONGEST_S = 12.0, 25.0
MOST_UNWRITTEN = 3  # words heard in a row that the text lacks: fewer are taken for the ASR's mistakes
MOST_UNSPOKEN = 4  # the same for words of the text that were not heard
SNAP_S = 0.4


@dataclass(frozen=True)
class Window:
    """Words `start_word` to `end_word` (excluded) and where they are; `problem` says why they cannot be used."""

    start_word: int
    end_word: int
    start_s: float
    end_s: float
    problem: str = ""


def hear_words(samples: np.ndarray, folder: str | Path) -> list[Word]:
    """What the CTranslate2 Whisper in `folder` hears in float32 [num_samples] at 16 kHz of any length, word by word."""
    model = load_whisper(Path(folder))
    words: list[Word] = []
    offset_s = 0.0
    for part in split_at_quiet(samples, RATE_HZ, PART_S):
        segments, _ = model.transcribe(
            part, language="en", beam_size=1, temperature=0.0, condition_on_previous_text=False, word_timestamps=True
        )
        for segment in segments:
            words += [
                Word(word.word.strip(), offset_s + word.start, offset_s + word.end, word.probability)
                for word in segment.words
            ]
        offset_s += to_seconds(len(part), RATE_HZ)
    return words


def find_windows(samples: np.ndarray, words: Sequence[str], silences_s: np.ndarray, folder: str | Path) -> list[Window]:
    """Windows of at most WINDOW_S that hold all `words` in order, by what the Whisper in `folder` hears."""
    return match_windows(words, hear_words(samples, folder), silences_s, to_seconds(len(samples), RATE_HZ))


def match_windows(
    words: Sequence[str], heard: Sequence[Word], silences_s: np.ndarray, duration_s: float
) -> list[Window]:
    """Windows that hold all `words` in order, cut where the words on both sides were heard, at a pause if there is one.

    A window in which more than a few words were heard in a row that the text lacks, or the other way round, or which
    is too long for want of cuts, says so in `problem`. Raises SaladError where nothing heard is in the text.
    """
    from rapidfuzz.distance import Levenshtein

    written, owners = _pieces(words)
    said, said_by = _pieces([word.text for word in heard])
    last_of_word = [owner != following for owner, following in zip(owners, [*owners[1:], -1], strict=True)]
    cuts: dict[int, tuple[float, float]] = {}  # word -> (time, how long a pause)
    unwritten: list[tuple[float, float, str]] = []
    unspoken: list[tuple[int, int]] = []
    matched = 0
    for op in Levenshtein.opcodes(written, said):
        tag, i, i_end, j, j_end = op.tag, op.src_start, op.src_end, op.dest_start, op.dest_end
        if tag == "equal":
            matched += i_end - i
            for n in range(i, i_end - 1):
                before, after = heard[said_by[j + n - i]], heard[said_by[j + n - i + 1]]
                if last_of_word[n]:
                    cuts[owners[n + 1]] = _at_pause(before, after, silences_s)
            continue
        more = (j_end - j) - (i_end - i)
        if more >= MOST_UNWRITTEN:
            own = heard[said_by[j] : said_by[j_end - 1] + 1]
            unwritten.append((own[0].start_s, own[-1].end_s, " ".join(word.text for word in own)))
        if -more >= MOST_UNSPOKEN:
            unspoken.append((owners[i], owners[i_end - 1] + 1))
    if not matched:
        raise SaladError(
            f"text: none of its {len(words)} words was heard in {duration_s:.1f} s of audio; does the text belong to "
            "the audio? Correct it, or remove the file"
        )
    windows = []
    start_word, start_s = 0, 0.0
    while start_word < len(words):
        end_word, end_s = _next_cut(cuts, start_word, start_s, len(words), duration_s)
        windows.append(Window(start_word, end_word, start_s, end_s, _problem(
            words, start_word, end_word, start_s, end_s, unwritten, unspoken)))  # fmt: skip
        start_word, start_s = end_word, end_s
    return windows


def windows_of(words: Sequence[Word], duration_s: float) -> list[Window]:
    """Windows of words whose times are known, cut in the widest gaps."""
    cuts = {
        n: ((before.end_s + after.start_s) / 2, after.start_s - before.end_s)
        for n, (before, after) in enumerate(itertools.pairwise(words), start=1)
    }
    windows, start_word, start_s = [], 0, 0.0
    while start_word < len(words):
        end_word, end_s = _next_cut(cuts, start_word, start_s, len(words), duration_s)
        windows.append(Window(start_word, end_word, start_s, end_s))
        start_word, start_s = end_word, end_s
    return windows


def _pieces(words: Sequence[str]) -> tuple[list[str], list[int]]:
    pieces = [(key(piece), n) for n, word in enumerate(words) for piece in spoken_pieces(word)]
    return [piece for piece, _ in pieces], [n for _, n in pieces]


def _at_pause(before: Word, after: Word, silences_s: np.ndarray) -> tuple[float, float]:
    """The middle of the longest pause near the boundary of two words and its length; else the boundary and 0."""
    middle_s = (before.end_s + after.start_s) / 2
    low_s, high_s = min(before.end_s, middle_s - SNAP_S / 2), max(after.start_s, middle_s + SNAP_S / 2)
    near = silences_s[(silences_s[:, 1] > low_s) & (silences_s[:, 0] < high_s)]
    near = near[near[:, 1] - near[:, 0] >= PAUSE_S]
    if not len(near):
        return middle_s, 0.0
    longest = near[(near[:, 1] - near[:, 0]).argmax()]
    return float(longest.mean()), float(longest[1] - longest[0])


def _next_cut(
    cuts: dict[int, tuple[float, float]], start_word: int, start_s: float, num_words: int, duration_s: float
) -> tuple[int, float]:
    """The cut after the best pause at about TARGET_S from the last, or the first one beyond where there is none."""
    if duration_s - start_s <= LONGEST_S:
        return num_words, duration_s
    best, beyond = None, None
    for word in range(start_word + 1, num_words):
        if word not in cuts or cuts[word][0] <= start_s:
            continue
        time_s, pause_s = cuts[word]
        if time_s - start_s > LONGEST_S:
            beyond = word, time_s
            break
        value = min(pause_s, 1.0) + 0.5 * min((time_s - start_s) / TARGET_S, 1.0)
        if best is None or value > best[0]:
            best = value, word, time_s
    if best:
        return best[1:]
    return beyond or (num_words, duration_s)


def _problem(
    words: Sequence[str],
    start_word: int,
    end_word: int,
    start_s: float,
    end_s: float,
    unwritten: Sequence[tuple[float, float, str]],
    unspoken: Sequence[tuple[int, int]],
) -> str:
    for from_s, to_s, text in unwritten:
        if to_s > start_s and from_s < end_s:
            return f"words spoken but not written, {from_s:.1f} to {to_s:.1f} s: {text[:200]!r}"
    for first, last in unspoken:
        if last > start_word and first < end_word:
            return f"words written but not heard near {start_s:.1f} s: {' '.join(words[first:last])[:200]!r}"
    if end_s - start_s > WINDOW_S:
        return f"no two words in a row were heard between {start_s:.1f} and {end_s:.1f} s"
    return ""
