"""Align utterances with whichever method the recipe names; what is not fit for use is kept aside with its reason."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from salad.align import whisper
from salad.align.anchors import Window, find_windows, windows_of
from salad.align.imported_times import given_words
from salad.align.silence import MIN_WORD_S, RATE_HZ, find_silences
from salad.audio import read_audio, to_samples, to_seconds, write_flac
from salad.data.manifest import Sentence, utterance_from_dict, write_utterances
from salad.engine import Shard
from salad.files import file_name, write_jsonl
from salad.text.aligner_forms import spoken_pieces
from salad.types import SaladError, Utterance, Word

Method = Literal["whisper", "ctc", "given"]

RATE_LIMITS = (0.3, 8.0)  # words per second
LONGEST_WORD_S, LETTER_S = 1.5, 0.12  # sound that a word can fill, and more for each letter
EDGE_SOUND_S = 1.5  # sound before the first word or after the last that may be breath or noise
SQUEEZED_SHARE, SQUEEZED_RUN = 0.1, 3  # words of the least length: their share, and those in a row (speech: 0.04, 1)
# Words in a row that nothing is heard of, or that have no sound beside such a word (868 utterances of five voices: 2
# at most, 246 of them: 1).
UNHEARD_SCORE, UNHEARD_RUN = 0.1, 3
# A word of letters that an aligner does not know has no score: unheard where it lasts no longer than this, or than the
# frame that each of its letters takes at least.
UNKNOWN_S, UNKNOWN_LETTER_S = 0.06, MIN_WORD_S


class Aligner(Protocol):
    any_length: bool  # whether it needs no windows

    def align(
        self, samples: np.ndarray, words: Sequence[str], sentences: Sequence[Sentence] | None
    ) -> tuple[tuple[Word, ...], float]: ...


def align_utterances(
    shard: Shard,
    folder: Path,
    *,
    asset: str,
    min_score: float,
    method: Method = "whisper",
    model: str | None = None,
    times: Path | None = None,
    listen: bool = False,
) -> None:
    """Align each item (utterance as dict, its sentences or None); for `run_shards`.

    asset: the Whisper that listens, and aligns where `model` does not say otherwise; what our own voices spoke comes
    with sentence times and without word times, and is aligned by it even if others' times are `given`.
    Writes utterances.jsonl (aligned; audio relative to `folder`) and quarantine.jsonl ({id, reason}): audio that cannot
    be read, no words, a score under `min_score`, a speed that nobody speaks at, words spoken but not written, words
    written but not spoken (squeezed into the least length). A long
    recording of which only parts can be used becomes several utterances (id-part-000 ...), each with its audio.
    """
    kept: list[Utterance] = []
    failed: list[dict[str, str]] = []
    for row, sentences in shard.items:
        try:
            utterance = utterance_from_dict(row)
            if method == "given" and sentences is None:
                kept.append(_with_given_times(utterance, times))
                continue
            aligner = load_ctc(model or "") if method == "ctc" else whisper.load_aligner(model or asset)
            parts, reasons = align_utterance(aligner, utterance, sentences, folder, asset=asset, min_score=min_score,
                                             listen=listen)  # fmt: skip
            kept += parts
            failed += [{"id": utterance.id, "reason": reason} for reason in reasons]
        except Exception as error:  # one bad recording must not end a job of many hours; the reason is kept
            failed.append(
                {"id": row.get("id", ""), "reason": str(error) if isinstance(error, SaladError) else repr(error)}
            )
    write_utterances(folder / "utterances.jsonl", kept)
    write_jsonl(folder / "quarantine.jsonl", failed)


def align_utterance(
    aligner: Aligner,
    utterance: Utterance,
    sentences: Sequence[Sentence] | None,
    folder: Path,
    *,
    asset: str,
    min_score: float,
    listen: bool = False,
) -> tuple[list[Utterance], list[str]]:
    """The utterance with its words in time; or its usable parts, and why the others are not.

    Without sentence times, what is longer than Whisper's window (or `listen`) is heard by `asset` first. Raises
    SaladError where nothing is fit for use.
    """
    words = utterance.text.split()
    if not words:
        raise SaladError("words: the text is empty; remove the utterance")
    samples, _ = read_audio(utterance.audio, RATE_HZ)
    duration_s = to_seconds(len(samples), RATE_HZ)
    low, high = RATE_LIMITS
    if not low <= len(words) / duration_s <= high:
        raise SaladError(
            f"speed: {len(words)} words in {duration_s:.1f} s are {len(words) / duration_s:.2f} a second, expected "
            f"{low} to {high}; does the text belong to the audio?"
        )
    if sentences is not None:
        placed, score = aligner.align(samples, words, sentences)
        _check_score(score, min_score)
        _check_lengths(placed)
        _check_heard(placed)
        return [utterance.aligned(placed, score)], []
    silences = find_silences(samples)
    aligned: tuple[Word, ...] | None = None
    if listen or (duration_s > whisper.WINDOW_S and not aligner.any_length):
        from salad.assets import get

        windows = find_windows(samples, words, silences, get(asset))
    elif duration_s > whisper.WINDOW_S:
        aligned, _ = aligner.align(samples, words, None)
        windows = windows_of(aligned, duration_s)
    else:
        windows = [Window(0, len(words), 0.0, duration_s)]
    runs: list[list[tuple[Window, tuple[Word, ...], float]]] = [[]]
    reasons: list[str] = []
    for window in windows:
        try:
            found = _align_window(aligner, samples, words, window) if aligned is None else _scored(aligned, window)
            where = f" from {window.start_s:.1f} s on, {found[0][0].text!r}" if len(windows) > 1 else ""
            _check_score(found[1], min_score, where)
            _check_sound(found[0], silences, window)
            _check_lengths(found[0])
            _check_heard(found[0])
            runs[-1].append((window, *found))
        except SaladError as error:
            reasons.append(str(error))
            runs.append([])
    runs = [run for run in runs if run]
    if not reasons:
        [run] = runs
        return [utterance.aligned(*_join(run))], []
    if not runs:
        raise SaladError("; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""))
    return [_cut(utterance, samples, run, n, folder) for n, run in enumerate(runs)], reasons


def _align_window(
    aligner: Aligner, samples: np.ndarray, words: Sequence[str], window: Window
) -> tuple[tuple[Word, ...], float]:
    """Words of one window, in seconds of the whole recording, and their score."""
    if window.problem:
        raise SaladError(window.problem)
    own = words[window.start_word : window.end_word]
    piece = samples[to_samples(window.start_s, RATE_HZ) : to_samples(window.end_s, RATE_HZ)]
    aligned, score = aligner.align(piece, own, None)
    moved = tuple(
        replace(word, start_s=word.start_s + window.start_s, end_s=word.end_s + window.start_s) for word in aligned
    )
    return moved, score


def _scored(words: Sequence[Word], window: Window) -> tuple[tuple[Word, ...], float]:
    """A window's words out of those of the whole recording, and their mean score."""
    own = tuple(words[window.start_word : window.end_word])
    scores = [word.score for word in own if not math.isnan(word.score)]
    return own, sum(scores) / len(scores) if scores else 0.0


def _check_score(score: float, min_score: float, where: str = "") -> None:
    if not score >= min_score:
        raise SaladError(
            f"score: {score:.3f}{where}, expected at least align.min_score {min_score}; does the text belong to the "
            "audio?"
        )


def _check_sound(words: Sequence[Word], silences: np.ndarray, window: Window) -> None:
    """Raise SaladError where a word or an edge holds more sound than it can: something is said that is not written."""
    for word in words:
        letters = sum(map(len, spoken_pieces(word.text)))
        if (sound_s := _sound(word.start_s, word.end_s, silences)) > LONGEST_WORD_S + LETTER_S * letters:
            raise SaladError(
                f"words spoken but not written: {sound_s:.1f} s of sound from {word.start_s:.1f} s for {word.text!r} "
                "alone"
            )
    for start_s, end_s in ((window.start_s, words[0].start_s), (words[-1].end_s, window.end_s)):
        if (sound_s := _sound(start_s, end_s, silences)) > EDGE_SOUND_S:
            raise SaladError(
                f"words spoken but not written: {sound_s:.1f} s of sound from {start_s:.1f} s that the text has no "
                "words for"
            )


def _check_lengths(words: Sequence[Word]) -> None:
    """Raise SaladError where many words, or several in a row, have no sound: something is written that nobody says."""
    spoken = [word for word in words if spoken_pieces(word.text)]
    short = [_is_squeezed(word) for word in spoken]
    number, longest, at = sum(short), 0, 0
    for n, run in enumerate(itertools.accumulate(short, lambda run, is_short: (run + 1) * is_short)):
        if run > longest:
            longest, at = run, n + 1 - run
    if longest < SQUEEZED_RUN and number <= max(2, SQUEEZED_SHARE * len(spoken)):
        return
    text = " ".join(word.text for word in spoken[at : at + longest][:8])
    raise SaladError(
        f"words written but not spoken: {number} of {len(spoken)} words last {1000 * MIN_WORD_S:.0f} ms, as do "
        f"{longest} in a row from {spoken[at].start_s:.1f} s ({text!r}); is a part of the text never said, or of the "
        "recording missing?"
    )


def _check_heard(words: Sequence[Word], *, given: bool = False) -> None:
    """Raise SaladError where several words in a row score next to nothing: they lie on the sound of others.

    A short sentence that nobody says has one such word, and behind it words of the least length, the next sentence's
    first one among them. given: times from elsewhere, which often come without scores: none is no sign of anything.
    """
    spoken = [word for word in words if spoken_pieces(word.text)]
    for low, own in itertools.groupby(spoken, lambda word: _is_unheard(word, given)):
        run = list(own)
        if low and len(run) >= UNHEARD_RUN:
            text = " ".join(word.text for word in run[:8])
            raise SaladError(
                f"words written but not spoken: {len(run)} in a row from {run[0].start_s:.1f} s score below "
                f"{UNHEARD_SCORE} or last {1000 * MIN_WORD_S:.0f} ms ({text!r}); is a part of the text never said?"
            )


def _is_unheard(word: Word, given: bool) -> bool:
    letters = sum(map(len, spoken_pieces(word.text)))
    unknown = math.isnan(word.score) and not given and _lasts(word, max(UNKNOWN_S, UNKNOWN_LETTER_S * letters))
    return word.score < UNHEARD_SCORE or unknown or _is_squeezed(word)


def _is_squeezed(word: Word) -> bool:
    return _lasts(word, MIN_WORD_S)


def _lasts(word: Word, most_s: float) -> bool:
    return word.end_s - word.start_s <= most_s + 1e-3


def _sound(start_s: float, end_s: float, silences: np.ndarray) -> float:
    """Seconds between two times that are not silent."""
    quiet = np.minimum(silences[:, 1], end_s) - np.maximum(silences[:, 0], start_s)
    return end_s - start_s - float(np.maximum(quiet, 0).sum())


def _join(run: Sequence[tuple[Window, tuple[Word, ...], float]]) -> tuple[tuple[Word, ...], float]:
    words = tuple(word for _, own, _ in run for word in own)
    return words, sum(score * len(own) for _, own, score in run) / len(words)


def _cut(
    utterance: Utterance,
    samples: np.ndarray,
    run: Sequence[tuple[Window, tuple[Word, ...], float]],
    number: int,
    folder: Path,
) -> Utterance:
    """A usable part of a recording as an utterance of its own, with its audio beside the manifest."""
    start_s, end_s = run[0][0].start_s, run[-1][0].end_s
    words, score = _join(run)
    piece = samples[to_samples(start_s, RATE_HZ) : to_samples(end_s, RATE_HZ)]
    name = f"{utterance.id}-part-{number:03d}"
    path = folder / "audio" / file_name(name, ".flac")
    write_flac(path, piece, RATE_HZ)
    return replace(
        utterance,
        id=name,
        text=" ".join(word.text for word in words),
        audio=str(path),
        sample_rate_hz=RATE_HZ,
        num_samples=len(piece),
        words=tuple(replace(word, start_s=word.start_s - start_s, end_s=word.end_s - start_s) for word in words),
        score=score,
        document_id=utterance.document_id or utterance.id,
    )


def _with_given_times(utterance: Utterance, times: Path | None) -> Utterance:
    words = given_words(utterance, times)
    _check_lengths(words)
    _check_heard(words, given=True)
    scores = [word.score for word in words]
    return utterance.aligned(words, float(np.mean(scores)) if utterance.words else float("nan"))


@functools.cache
def load_ctc(model: str) -> Aligner:
    """The CTC aligner of an asset or folder; loaded once per process."""
    from salad.align.ctc import CtcAligner
    from salad.assets import get

    return CtcAligner(get(model))
