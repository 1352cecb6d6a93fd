"""Forced alignment of a known transcript by Whisper's cross-attention (through CTranslate2).

The times come from dynamic time warping over the decoder's attention, as in OpenAI's `find_alignment`: a word starts
where its first token starts and lasts until the next word's first token. Two corrections follow. The known times of
sentences clamp their words, and a silence near the end of a word is taken from it (`snap_to_silence`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from salad.audio import read_audio, to_samples, to_seconds
from salad.corpus.manifest import Sentence, utterance_from_dict, write_utterances
from salad.engine import Shard
from salad.files import write_jsonl
from salad.types import SaladError, Utterance, Word

__all__ = ["WhisperAligner", "align_utterances", "load_aligner", "load_whisper"]

RATE_HZ = 16_000
WINDOW_S = 29.5  # Whisper hears 30 s at a time
WINDOW_TOKENS = 400  # its decoder reads at most 448, the prompt among them
TOKEN_S = 0.02
MIN_WORD_S = 0.02
ENERGY_HOP_S = 0.01
SILENCE_DB = -35.0  # below the speech level
SILENCE_S = 0.06
REACH_S = 0.2  # a silence belongs to a boundary that lies at most this far from it
RATE_LIMITS = (0.3, 8.0)  # words per second


class WhisperAligner:
    """A CTranslate2 Whisper model in `folder`, float32 on the CPU."""

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        from faster_whisper.tokenizer import Tokenizer

        self._model = load_whisper(Path(folder), threads)
        self._tokenizer = Tokenizer(
            self._model.hf_tokenizer, self._model.model.is_multilingual, task="transcribe", language="en"
        )

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
        if sentences is None:
            if duration_s > WINDOW_S:
                raise SaladError(
                    f"audio: {duration_s:.1f} s without sentence times, expected at most {WINDOW_S} s; "
                    "cut it into shorter recordings, each with its text"
                )
            sentences = [(0, len(words), 0.0, duration_s)]
        tokens = [self._tokenizer.encode(f" {word}") for word in words]
        levels_db = energy_db(samples)
        aligned: list[Word] = []
        probabilities: list[float] = []
        for window in group_sentences(sentences, [len(token) for token in tokens]):
            start_s, end_s = window[0][2], min(window[-1][3], duration_s)
            first, last = window[0][0], window[-1][1]
            piece = samples[to_samples(start_s, RATE_HZ) : to_samples(end_s, RATE_HZ)]
            starts_s, ends_s, token_probabilities = self._align_window(piece, tokens[first:last])
            probabilities += token_probabilities
            for begin, end, low_s, high_s in window:
                here = slice(begin - first, end - first)
                times = clamp(starts_s[here] + start_s, ends_s[here] + start_s, low_s, min(high_s, duration_s))
                times = snap_to_silence(*times, levels_db, low_s, min(high_s, duration_s))
                aligned += [
                    Word(word, float(start), float(end)) for word, start, end in zip(words[begin:end], *times, strict=True)
                ]
        return tuple(aligned), float(np.mean(probabilities))

    def _align_window(
        self, samples: np.ndarray, tokens: Sequence[Sequence[int]]
    ) -> tuple[np.ndarray, np.ndarray, list[float]]:
        """Start and end of each word in seconds from the window's start, and the probability of each token."""
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
        return times_s[bounds[:-1]], times_s[bounds[1:]], list(result.text_token_probs)


@dataclass(frozen=True)
class Boundaries:
    """Placeholder-free record of one sentence's limits in seconds."""

    low_s: float
    high_s: float
