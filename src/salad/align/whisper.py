"""Forced alignment of a known transcript by Whisper's cross-attention (through CTranslate2).

The times come from dynamic time warping over the decoder's attention, as in OpenAI's `find_alignment`: a word starts
where its first token starts and lasts until the next word's first token. `salad.align.silence` then moves the
boundaries to the pauses, and the known times of sentences clamp their words.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from salad.align.silence import MIN_WORD_S, RATE_HZ, find_silences, place_words
from salad.audio import to_samples, to_seconds
from salad.data.manifest import Sentence
from salad.engine.devices import worker_device
from salad.engine.local import keep_torch_threads
from salad.types import SaladError, Word

WINDOW_S = 29.5  # Whisper hears 30 s at a time
WINDOW_TOKENS = 400  # its decoder reads at most 448, the prompt among them
TOKEN_S = 0.02
LAG_S = 0.05  # how late Whisper tiny.en starts a word, measured against Piper's own phoneme times and at pauses


class WhisperAligner:
    """A CTranslate2 Whisper model in `folder`, float32, on `worker_device()`."""

    any_length = False

    def __init__(self, folder: str | Path) -> None:
        from faster_whisper.tokenizer import Tokenizer

        self._model = load_whisper(Path(folder))
        self._tokenizer = Tokenizer(
            self._model.hf_tokenizer, self._model.model.is_multilingual, task="transcribe", language="en"
        )
        added = self._tokenizer.tokenizer.get_added_tokens_decoder().values()
        self._control = re.compile("|".join(re.escape(token.content) for token in added if len(token.content) > 1))

    def align(
        self, samples: np.ndarray, words: Sequence[str], sentences: Sequence[Sentence] | None
    ) -> tuple[tuple[Word, ...], float]:
        """One `Word` for each of `words` (what `text.split()` gives), and the mean probability of their tokens.

        samples: float32 [num_samples], 16 kHz. sentences: (start_word, end_word, start_s, end_s), or None where the
        times are not known, for audio of at most 29.5 s. Times do not decrease, lie inside the audio, and every word
        lasts. Raises SaladError where there are no words, the audio is too long, or too short for its words.
        """
        duration_s = to_seconds(len(samples), RATE_HZ)
        if not words:
            raise SaladError("words: the text is empty; remove the utterance")
        if duration_s < len(words) * MIN_WORD_S:
            raise SaladError(f"audio: {duration_s:.2f} s cannot hold {len(words)} words; replace or remove the file")
        if sentences is None and duration_s > WINDOW_S:
            raise SaladError(
                f"audio: {duration_s:.1f} s without sentence times, expected at most {WINDOW_S} s; "
                "align it with `salad.align.utterances`, which finds windows first"
            )
        if sentences is not None:
            check_sentences(sentences, len(words), duration_s)
        tokens = [self._tokens_of(word) for word in words]
        known = sentences is not None
        silences = find_silences(samples)
        aligned: list[Word] = []
        probabilities: list[float] = []
        for window in group_sentences(
            sentences or [(0, len(words), 0.0, duration_s)], [len(token) for token in tokens]
        ):
            first, last, offset_s = window[0][0], window[-1][1], window[0][2]
            piece = samples[to_samples(offset_s, RATE_HZ) : to_samples(window[-1][3], RATE_HZ)]
            times_s, token_probabilities = self._align_window(piece, tokens[first:last])
            probabilities += token_probabilities
            for begin, end, low_s, high_s in window:
                bounds_s = times_s[begin - first : end - first + 1] + offset_s
                if known:
                    bounds_s[[0, -1]] = low_s, high_s
                aligned += place_words(words[begin:end], bounds_s, silences, low_s, min(high_s, duration_s))
        firsts = np.cumsum([0, *map(len, tokens[:-1])])
        scores = np.add.reduceat(probabilities, firsts) / [len(word) for word in tokens]
        scored = [replace(word, score=round(float(score), 4)) for word, score in zip(aligned, scores, strict=True)]
        return tuple(scored), float(np.mean(probabilities))

    def _tokens_of(self, word: str) -> list[int]:
        """Its tokens as characters: the name of a control token in it is cut behind its first character."""
        cuts = [match.start() + 1 for match in self._control.finditer(word)]
        bounds = zip([0, *cuts], [*cuts, len(word)], strict=True)
        parts = [(" " if start == 0 else "") + word[start:end] for start, end in bounds]
        return [token for part in parts for token in self._tokenizer.encode(part)]

    def _align_window(self, samples: np.ndarray, tokens: Sequence[Sequence[int]]) -> tuple[np.ndarray, list[float]]:
        """Start of each word and end of the last, float64 [num_words + 1], in seconds from the window's start; and the
        probability of each token.
        """
        from faster_whisper.audio import pad_or_trim

        features = self._model.feature_extractor(samples)
        num_frames = min(features.shape[-1] - 1, self._model.feature_extractor.nb_max_frames)
        encoded = self._model.encode(pad_or_trim(features))
        flat = [token for word in tokens for token in word]
        result = self._model.model.align(
            encoded, self._tokenizer.sot_sequence, [flat], num_frames, median_filter_width=7
        )[0]
        path = np.array(result.alignments)  # [num_steps, 2]: token, 20 ms frame; the last token is the end of text
        first_of_token = np.flatnonzero(np.diff(path[:, 0], prepend=-1))
        times_s = path[first_of_token, 1] * TOKEN_S
        bounds = np.cumsum([0, *map(len, tokens)])
        # A token's attention rises a little after its sound does; the end of the text is not a sound.
        return np.append(np.maximum(times_s[bounds[:-1]] - LAG_S, 0.0), times_s[-1]), list(result.text_token_probs)


def check_sentences(sentences: Sequence[Sentence], num_words: int, duration_s: float) -> None:
    """Raise SaladError unless the sentences hold every word once, in order, at times that grow inside the audio."""
    bounds = [bound for start, end, _, _ in sentences for bound in (start, end)]
    times_s = [time_s for _, _, start_s, end_s in sentences for time_s in (start_s, end_s)]
    joined = bounds[:1] == [0] and bounds[-1:] == [num_words] and bounds[1:-1:2] == bounds[2::2]
    grow = all(end > start and end_s > start_s for start, end, start_s, end_s in sentences)
    if not (joined and grow and times_s == sorted(times_s) and times_s[0] >= 0 and times_s[-1] <= duration_s + 0.01):
        raise SaladError(
            f"sentences: {list(sentences)} do not cover {num_words} words in {duration_s:.2f} s in order; "
            "expected (start_word, end_word, start_s, end_s) one after another"
        )


def group_sentences(sentences: Sequence[Sentence], num_tokens: Sequence[int]) -> list[list[Sentence]]:
    """Runs of consecutive sentences that fit Whisper's window, as long as possible. num_tokens: tokens of each word."""
    windows: list[list[Sentence]] = []
    for sentence in sentences:
        start, end, start_s, end_s = sentence
        if end_s - start_s > WINDOW_S or sum(num_tokens[start:end]) > WINDOW_TOKENS:
            raise SaladError(
                f"sentence: words {start} to {end} last {end_s - start_s:.1f} s and have {sum(num_tokens[start:end])} "
                f"tokens, expected at most {WINDOW_S} s and {WINDOW_TOKENS} tokens; cut the sentence"
            )
        window = windows[-1] if windows else []
        fits_s = window and end_s - window[0][2] <= WINDOW_S
        if fits_s and sum(num_tokens[window[0][0] : end]) <= WINDOW_TOKENS:
            window.append(sentence)
        else:
            windows.append([sentence])
    return windows


@functools.cache
def load_aligner(asset: str) -> WhisperAligner:
    """The aligner of an asset (name or folder); loaded once per process."""
    from salad.assets import get

    return WhisperAligner(get(asset))


def load_whisper(folder: Path, threads: int = 1, precision: str = "float32") -> Any:
    """faster-whisper's model in `folder`, on `worker_device()`, shared by the aligner and the transcriber of a process.

    precision: float32, or int8 for weights of eight bits.
    """
    return _loaded(Path(folder), threads, precision)


@functools.cache
def _loaded(folder: Path, threads: int, precision: str) -> Any:
    from faster_whisper import WhisperModel

    with keep_torch_threads():
        return WhisperModel(
            str(folder),
            device=worker_device("ctranslate2"),
            compute_type=precision,
            cpu_threads=threads,
            local_files_only=True,
        )
