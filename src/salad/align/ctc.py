"""Forced alignment by the letters of a CTC model: any transformers Wav2Vec2ForCTC, HubertForCTC or MMS checkpoint.

The path through the emissions is exact (`salad.align.viterbi`), for an hour as for a second. A word starts where its
first letter does; `salad.align.silence` moves boundaries to the pauses, as for Whisper.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from salad.align.silence import MIN_WORD_S, PAUSE_S, RATE_HZ, find_silences, place_words
from salad.align.viterbi import ctc_path
from salad.align.whisper import check_sentences
from salad.audio import to_samples, to_seconds
from salad.data.manifest import Sentence
from salad.engine.devices import worker_device
from salad.files import JsonObject, read_json
from salad.text.aligner_forms import spoken_pieces
from salad.types import SaladError, Word

CHUNK_S, CONTEXT_S = 20.0, 2.0
LANGUAGE = "eng"  # as MMS names it
BATCH_S = {"cpu": 0.0, "cuda": 160.0}  # sound, less its context, that goes through the model at once
GROUP_WORDS = 200  # words whose boundaries are matched to pauses together


class CtcAligner:
    """A checkpoint folder (config.json, *.safetensors, vocab.json, preprocessor_config.json), float32, on the worker's
    device.

    Of an MMS checkpoint it takes the vocabulary and the adapter of English, in which numbers are spelled out, too.
    """

    any_length = True

    def __init__(self, folder: str | Path) -> None:
        import torch
        from transformers import AutoModelForCTC

        self._torch, folder = torch, Path(folder)
        self._vocabulary, self._delimiter, nested = read_vocabulary(folder, LANGUAGE)
        choose = {"target_lang": LANGUAGE, "ignore_mismatched_sizes": True} if nested else {}
        try:
            self._model = AutoModelForCTC.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, **choose
            )
        except (OSError, ValueError) as error:
            raise SaladError(
                f"align.model: {folder} is no CTC checkpoint with safetensors ({error}); give the folder of one, such "
                "as wav2vec2-base-960h saved with save_pretrained"
            ) from error
        self._device = torch.device(worker_device())
        self._model.eval().to(self._device)
        config = self._model.config
        self._blank_id = config.pad_token_id or 0
        if max(self._vocabulary.values()) >= config.vocab_size:
            raise SaladError(
                f"align.model: vocab.json in {folder} names class {max(self._vocabulary.values())}, but the model has "
                f"{config.vocab_size} classes; copy both from one release"
            )
        self._hop = int(np.prod(config.conv_stride))
        self._field = 1
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            self._field = (self._field - 1) * stride + kernel
        settings = _read(folder / "preprocessor_config.json")
        if settings.get("sampling_rate", RATE_HZ) != RATE_HZ:
            raise SaladError(
                f"align.model: hears {settings['sampling_rate']} Hz, expected {RATE_HZ}; use another model"
            )
        self._normalise = settings.get("do_normalize", True)

    def align(
        self, samples: np.ndarray, words: Sequence[str], sentences: Sequence[Sentence] | None
    ) -> tuple[tuple[Word, ...], float]:
        """One `Word` for each of `words`, and the mean probability of their letters; see `WhisperAligner.align`.

        samples: float32 [num_samples], 16 kHz, of any length. A word of nothing that the model can read has score nan.
        Raises SaladError where the audio is too short for its text, or no letter of the text is in the vocabulary.
        """
        duration_s = to_seconds(len(samples), RATE_HZ)
        if not words:
            raise SaladError("words: the text is empty; remove the utterance")
        if sentences is not None:
            check_sentences(sentences, len(words), duration_s)
        targets, owners, ids = self.targets(words)
        scores = self.emissions(samples, ids)
        silences = find_silences(samples)
        frame_s = to_seconds(self._hop, RATE_HZ)
        aligned: list[Word] = []
        letters: list[float] = []
        for begin, end, low_s, high_s in sentences or [(0, len(words), 0.0, duration_s)]:
            mine = np.flatnonzero((owners >= begin) & (owners < end))
            mine = np.arange(mine[0], mine[-1] + 1) if len(mine) else mine  # the delimiters between
            first_frame = min(int(low_s / frame_s), len(scores))
            part = scores[first_frame : max(first_frame, min(len(scores), int(np.ceil(high_s / frame_s))))]
            path = ctc_path(part, targets[mine])
            starts, probabilities = _letters(part, path, targets[mine])
            known = (owners[mine] >= 0) & (targets[mine] != len(ids) - 1)
            letters += probabilities[known].tolist()
            bounds_s = np.full(end - begin + 1, np.nan)
            bounds_s[-1] = low_s + (int(np.flatnonzero(path >= 0)[-1]) + 1) * frame_s
            word_scores = np.full(end - begin, np.nan)
            for word in range(begin, end):
                own = owners[mine] == word
                if own.any():
                    bounds_s[word - begin] = low_s + starts[own][0] * frame_s
                    if (own & known).any():
                        word_scores[word - begin] = probabilities[own & known].mean()
            for word in range(end - begin - 1, -1, -1):  # what is not said starts with the word after it
                if np.isnan(bounds_s[word]):
                    bounds_s[word] = bounds_s[word + 1]
            if sentences is not None:
                bounds_s[[0, -1]] = low_s, high_s
            placed = _place(words[begin:end], bounds_s, silences, low_s, min(high_s, duration_s))
            aligned += [
                replace(word, score=round(float(score), 4)) for word, score in zip(placed, word_scores, strict=True)
            ]
        if not letters:
            raise SaladError("words: none of the text's letters is in the model's vocabulary; use another align.model")
        return tuple(aligned), float(np.mean(letters))

    def targets(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """(targets, owners, ids): classes to read in order and the word of each (-1: a delimiter), both int64 [L]; and
        the model's id of each class but the last. Class 0 is the blank, the last (id -1) stands for any letter.
        """
        pieces = [[self._piece(piece) for piece in spoken_pieces(word)] for word in words]
        used = sorted({i for word in pieces for piece in word for i in piece if i >= 0} | {self._delimiter} - {-1})
        ids = [self._blank_id, *used, -1]
        place = {i: n for n, i in enumerate(ids)}
        targets: list[int] = []
        owners: list[int] = []
        for n, word in enumerate(pieces):
            for piece in filter(None, word):
                if targets and self._delimiter >= 0:
                    targets.append(place[self._delimiter])
                    owners.append(-1)
                targets += [place[i] if i != self._blank_id else place[-1] for i in piece]
                owners += [n] * len(piece)
        return np.array(targets, dtype=np.int64), np.array(owners, dtype=np.int64), ids

    def _piece(self, piece: str) -> list[int]:
        """Ids of a piece's characters, in whichever case the vocabulary has; unknown letters in a row are one -1."""
        ids: list[int] = []
        for character in piece:
            known = [c for c in (character, character.upper(), character.lower()) if c in self._vocabulary]
            if known:
                ids.append(self._vocabulary[known[0]])
            elif character.isalnum() and ids[-1:] != [-1]:
                ids.append(-1)
        return ids

    def emissions(self, samples: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        """float32 [num_frames, len(ids)]: log-probabilities of the model's `ids`; -1 is the most likely of all.

        Heard in chunks of CHUNK_S with CONTEXT_S on either side, so that memory does not grow with the recording (but
        for this array: 4 bytes a frame and class that the text uses).
        """
        torch = self._torch
        num_frames = (len(samples) - self._field) // self._hop + 1
        if num_frames < 1:
            raise SaladError(f"audio: {len(samples)} samples, expected at least {self._field}; remove the file")
        mean, spread = (float(samples.mean()), float(samples.std()) + 1e-7) if self._normalise else (0.0, 1.0)
        chunk, context = (int(to_samples(s, RATE_HZ) / self._hop) for s in (CHUNK_S, CONTEXT_S))
        columns = torch.tensor([max(i, 0) for i in ids])
        scores = np.empty((num_frames, len(ids)), np.float32)
        together = max(1, int(BATCH_S[self._device.type] / CHUNK_S))
        spans = []  # (first frame heard, first and last kept, last heard), the ends exclusive
        for start in range(0, num_frames, chunk):
            end = min(start + chunk, num_frames)
            spans.append((max(0, start - context), start, end, min(num_frames, end + context)))
        for _, same in itertools.groupby(spans, key=lambda span: span[3] - span[0]):
            equal = list(same)
            for batch in (equal[i : i + together] for i in range(0, len(equal), together)):
                bounds = [(first * self._hop, (last - 1) * self._hop + self._field) for first, *_, last in batch]
                normed = torch.from_numpy(np.stack([(samples[a:b] - mean) / spread for a, b in bounds]))
                with torch.inference_mode(), self._exact():
                    logits = self._model(normed.to(self._device)).logits
                for (first, start, end, _), own in zip(batch, logits, strict=True):
                    heard = own.log_softmax(dim=-1)[start - first : end - first].cpu()
                    scores[start:end] = heard[:, columns].numpy()
                    if -1 in ids:
                        scores[start:end, ids.index(-1)] = heard.amax(dim=-1).numpy()
        return np.maximum(scores, -100.0)

    def _exact(self) -> AbstractContextManager[None]:
        """No TF32 on a GPU, so that the path is the CPU's but for rounding."""
        flags = self._torch.backends.cudnn.flags
        return flags(enabled=True, allow_tf32=False) if self._device.type == "cuda" else nullcontext()


def read_vocabulary(folder: Path, language: str) -> tuple[dict[str, int], int, bool]:
    """({character: id}, id of the word delimiter or -1, whether vocab.json holds several languages).

    Tokens of more than one character (<s>, <unk>) are no letters.
    """
    vocabulary = _read(folder / "vocab.json", needed=True)
    nested = all(isinstance(value, dict) for value in vocabulary.values())
    if nested and language not in vocabulary:
        raise SaladError(f"align.model: vocab.json has {', '.join(sorted(vocabulary)[:8])} ..., not {language!r}")
    vocabulary = vocabulary[language] if nested else vocabulary
    delimiter = _read(folder / "tokenizer_config.json").get("word_delimiter_token", "|")
    letters = {token: i for token, i in vocabulary.items() if len(token) == 1 and token != delimiter}
    if not letters:
        raise SaladError(f"align.model: vocab.json in {folder} has no letters; give a CTC model of characters")
    return letters, vocabulary.get(delimiter, -1), nested


def _letters(scores: np.ndarray, path: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First frame of each target on the path, and its mean probability over its frames."""
    spoken = np.flatnonzero(path >= 0)
    starts = spoken[np.searchsorted(path[spoken], np.arange(len(targets)))]
    probabilities = np.exp(scores[spoken, targets[path[spoken]]])
    return starts, np.bincount(path[spoken], probabilities) / np.bincount(path[spoken])


def _place(words: Sequence[str], bounds_s: np.ndarray, silences: np.ndarray, low_s: float, high_s: float) -> list[Word]:
    """`place_words`, in groups of about GROUP_WORDS that meet in a pause: matching all with all is quadratic."""
    placed: list[Word] = []
    begin = 0
    while begin < len(words):
        end, edge_s = len(words), high_s
        if end - begin > 2 * GROUP_WORDS:
            for k in range(begin + GROUP_WORDS, begin + 2 * GROUP_WORDS):
                pauses = silences[np.diff(silences)[:, 0] >= PAUSE_S] if len(silences) else silences
                near = pauses[(pauses[:, 0] - 0.1 <= bounds_s[k]) & (bounds_s[k] <= pauses[:, 1] + 0.1)]
                inside = near[near.mean(axis=1) > bounds_s[k - 1] + MIN_WORD_S] if len(near) else near
                if len(inside):
                    end, edge_s = k, float(inside[0].mean())
                    break
        mine = silences[(silences[:, 1] > low_s) & (silences[:, 0] < edge_s)]
        placed += place_words(words[begin:end], np.clip(bounds_s[begin : end + 1], low_s, edge_s), mine, low_s, edge_s)
        begin, low_s = end, edge_s
    return placed


def _read(path: Path, needed: bool = False) -> JsonObject:
    if not path.exists() and not needed:
        return {}
    try:
        found: JsonObject = read_json(path)
        return found
    except (OSError, ValueError) as error:
        raise SaladError(f"align.model: {path} cannot be read ({error}); give a checkpoint's folder") from error
