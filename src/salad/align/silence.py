"""Pauses in speech, and word boundaries that agree with them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from salad.audio import to_samples, to_seconds
from salad.types import Word

RATE_HZ = 16_000
HOP_S = 0.01
SILENCE_DB = -35.0  # below the speech level
NOISE_DB, NOISY_DB = 12.0, -25.0
RUMBLE_HZ = 150.0
FILTER_HOPS = 10_000
CLICK_S, BREATH_S, LONE_S = 0.05, 0.1, 0.25
SILENCE_S = 0.06
PAUSE_S = 0.15  # a silence this long is never inside a word; a shorter one may be the closure of a p, t or k
EDGE_S = 0.03
WELL_S = 0.1
MIN_WORD_S = 0.02
COMPOUND = re.compile(r"\w[—–/….,:-]+\w|\d\d")  # said as several words, so a pause may lie inside
PUNCTUATION = re.compile(r"[,;:.!?…—–)\"”’-]$")

# How strongly a silence is drawn to a boundary, on the scale of seconds between the two.
PAUSE_GAIN, CLOSURE_GAIN, PUNCTUATION_GAIN = 0.6, 0.03, 0.3


def find_silences(samples: np.ndarray) -> np.ndarray:
    """float64 [num_silences, 2]: start and end in seconds of the quiet runs in 16 kHz samples.

    Quiet: SILENCE_S or longer, SILENCE_DB below the speech level (95th percentile of the energy over RUMBLE_HZ); in a
    recording with a noise floor, within NOISE_DB of that floor, so long as this is NOISY_DB below the speech level. A
    click of at most CLICK_S does not end a silence, nor does one of BREATH_S between silences of LONE_S or more.
    """
    from scipy.signal import butter, sosfilt

    hop = to_samples(HOP_S, RATE_HZ)
    sections = butter(4, RUMBLE_HZ, "highpass", fs=RATE_HZ, output="sos")
    state, parts = np.zeros((len(sections), 2)), []
    for start in range(0, len(samples), FILTER_HOPS * hop):  # an hour in float64 would be half a gigabyte
        heard, state = sosfilt(sections, samples[start : start + FILTER_HOPS * hop], zi=state)
        parts.append((np.pad(heard, (0, -len(heard) % hop)).reshape(-1, hop) ** 2).mean(axis=1))
    power = np.concatenate(parts)
    speech, floor = np.percentile(power, 95), np.percentile(power, 5)
    noise = min(floor * 10 ** (NOISE_DB / 10), speech * 10 ** (NOISY_DB / 10))
    quiet = power < max(speech * 10 ** (SILENCE_DB / 10), noise)
    edges = np.flatnonzero(np.diff(quiet.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    edges = edges[np.diff(edges)[:, 0] >= round(SILENCE_S / HOP_S)]
    silences: list[list[float]] = []
    for start_s, end_s in edges * HOP_S:
        if silences:
            lone = min(silences[-1][1] - silences[-1][0], end_s - start_s) >= LONE_S - 1e-9
            if start_s - silences[-1][1] <= (BREATH_S if lone else CLICK_S) + 1e-9:
                silences[-1][1] = end_s
                continue
        silences.append([start_s, end_s])
    return np.asarray(np.minimum(np.array(silences).reshape(-1, 2), to_seconds(len(samples), RATE_HZ)))


def place_words(
    words: Sequence[str], bounds_s: np.ndarray, silences_s: np.ndarray, low_s: float, high_s: float
) -> list[Word]:
    """Words of one sentence inside [low_s, high_s], none in a pause.

    bounds_s: float64 [num_words + 1], where each word is thought to start, and the end of the last. Silence at the
    sentence's edges is cut off; pauses within part it into phrases, whose edges are then known.
    """
    for start_s, end_s in silences_s:
        if start_s <= low_s + EDGE_S and low_s < end_s < high_s - MIN_WORD_S:
            low_s = float(end_s)
        if end_s >= high_s - EDGE_S and low_s + MIN_WORD_S < start_s < high_s:
            high_s = float(start_s)
    inside = silences_s[(silences_s[:, 0] > low_s) & (silences_s[:, 1] < high_s)]
    inside = inside[[not _within_compound(words, bounds_s, silence) for silence in inside]]
    cuts = match_silences(words, bounds_s[1:-1], inside)
    placed: list[Word] = []
    for (first, phrase_low_s), (last, phrase_high_s) in zip(
        [(0, low_s), *((k, end_s) for k, _, end_s in cuts)],
        [*((k, start_s) for k, start_s, _ in cuts), (len(words), high_s)],
        strict=True,
    ):
        phrase_s = bounds_s[first : last + 1].copy()
        if first > 0:
            phrase_s[0] = phrase_low_s
        if last < len(words):
            phrase_s[-1] = phrase_high_s
        starts_s, ends_s = clamp(phrase_s, phrase_low_s, phrase_high_s)
        placed += map(Word, words[first:last], starts_s.tolist(), ends_s.tolist())
    return placed


def match_silences(
    words: Sequence[str], bounds_s: np.ndarray, silences_s: np.ndarray
) -> list[tuple[int, float, float]]:
    """(k, start_s, end_s): the silence between words k - 1 and k, for the boundaries that get one.

    bounds_s: float64 [num_words - 1]. Order is kept and every boundary gets at most one. Among all such matchings, the
    one with the highest sum of gain - distance: long silences are placed over short ones, and rather after punctuation.
    """
    num_silences, num_bounds = len(silences_s), len(bounds_s)
    if not num_silences or not num_bounds:
        return []
    lengths_s = silences_s[:, 1] - silences_s[:, 0]
    gain = np.where(lengths_s >= PAUSE_S, PAUSE_GAIN + lengths_s, CLOSURE_GAIN)[:, None]
    gain = gain + PUNCTUATION_GAIN * np.array([bool(PUNCTUATION.search(word)) for word in words[:-1]])
    distance_s = np.maximum(silences_s[:, :1] - bounds_s, 0) + np.maximum(bounds_s - silences_s[:, 1:], 0)
    value = gain - distance_s  # [num_silences, num_bounds]
    best = np.zeros((num_silences + 1, num_bounds + 1))  # best[i, k]: from the first i silences and k boundaries
    for i in range(num_silences):
        for k in range(num_bounds):
            best[i + 1, k + 1] = max(best[i, k + 1], best[i + 1, k], best[i, k] + value[i, k])
    cuts, i, k = [], num_silences, num_bounds
    while i and k:
        if best[i, k] == best[i - 1, k]:
            i -= 1
        elif best[i, k] == best[i, k - 1]:
            k -= 1
        else:
            i, k = i - 1, k - 1
            cuts.append((k + 1, float(silences_s[i, 0]), float(silences_s[i, 1])))
    return cuts[::-1]


def _within_compound(words: Sequence[str], bounds_s: np.ndarray, silence_s: np.ndarray) -> bool:
    """Whether a silence lies well inside a word such as "1,200" or "well—no", where it parts no words."""
    word = int(np.searchsorted(bounds_s, silence_s[0])) - 1
    inside = (
        0 <= word < len(words) and bounds_s[word] + WELL_S < silence_s[0] and silence_s[1] + WELL_S < bounds_s[word + 1]
    )
    return inside and bool(COMPOUND.search(words[word]))


def clamp(bounds_s: np.ndarray, low_s: float, high_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of words within [low_s, high_s]: in order, each lasts at least MIN_WORD_S and ends where the next
    starts. bounds_s: float64 [num_words + 1].

    (Less than MIN_WORD_S only where the interval is too short to give as much to every word.)
    """
    num_words = len(bounds_s) - 1
    least_s = min(MIN_WORD_S, (high_s - low_s) / num_words)
    steps_s = least_s * np.arange(num_words + 1)
    # On the scale where each word has given up its least length, "in order and apart" is "does not decrease".
    room_s = max(low_s, high_s - steps_s[-1])
    bounds = np.maximum.accumulate(np.clip(bounds_s - steps_s, low_s, room_s)) + steps_s
    return bounds[:-1], np.minimum(bounds[1:], high_s)
