"""Voices: text in, samples out. The same voice and text give the same samples in any process and any order."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from salad.files import read_json
from salad.synthesize.endpoint import EndpointVoice
from salad.types import SaladError

__all__ = ["KokoroVoice", "PiperVoice", "Voice", "assets_of_voice", "load_voice"]

MAX_TOKENS = 500  # Kokoro was trained on at most 510 phonemes at a time
KOKORO_HZ = 24_000
ENGLISH_VOICES = (
    "af_alloy af_aoede af_bella af_heart af_jessica af_kore af_nicole af_nova af_river af_sarah af_sky am_adam am_echo "
    "am_eric am_fenrir am_liam am_michael am_onyx am_puck am_santa bf_alice bf_emma bf_isabella bf_lily bm_daniel "
    "bm_fable bm_george bm_lewis"
).split()
JAPANESE_VOICES = "jf_alpha jf_gongitsune jf_nezumi jf_tebukuro jm_kumo".split()  # they speak clear English too

# Punctuation only at the edges of words: phonemizer's own marks cut "3.14" and "1,000" into single digits.
MARKS = re.compile(r'[;:,.!?…"“”)]+(?=[\s")”]|$)|(?<!\S)["“(]+|\s*—\s*')


class Voice(Protocol):
    """One speaker. `speak` returns float32 [num_samples], mono, at `sample_rate_hz`."""

    name: str
    sample_rate_hz: int

    def speak(self, text: str, speed: float = 1.0) -> np.ndarray:
        """Say `text` (best one sentence), 1.1 a tenth faster. Raises SaladError where nothing can be pronounced."""
        ...


class PiperVoice:
    """A Piper (VITS) voice on one thread.

    Piper draws its noise inside the graph from a generator that lives as long as the session, so samples would depend
    on what was spoken before, and a fresh session per sentence would double the cost. The noise is off here: same text,
    same samples. It costs a little life: rhythm is more even, sentences about 5 % shorter, and Whisper tiny.en's mean
    log-probability of its transcript falls from -0.27 to -0.29 (six sentences).
    """

    def __init__(self, name: str, model_path: Path) -> None:
        from piper import PiperVoice as Engine
        from piper.config import PiperConfig, SynthesisConfig

        self.name = name
        config = PiperConfig.from_dict(read_json(f"{model_path}.json"))
        self._engine = Engine(session=_session(model_path), config=config)
        self._config = SynthesisConfig(noise_scale=0.0, noise_w_scale=0.0)
        self._length = config.length_scale
        self.sample_rate_hz = config.sample_rate

    def speak(self, text: str, speed: float = 1.0) -> np.ndarray:
        config = self._config if speed == 1.0 else replace(self._config, length_scale=self._length / speed)
        chunks = [chunk.audio_float_array for chunk in self._engine.synthesize(text, config)]
        if not chunks:
            raise SaladError(f"text: {text[:80]!r} has no phonemes for {self.name}; remove it from the document")
        return np.concatenate(chunks).astype(np.float32, copy=False)


class KokoroVoice:
    """A Kokoro-82M voice on one thread. Its graph draws no noise, so it is deterministic as it is.

    style: float32 [num_rows, 256]; row n - 1 is the style of a text of n phonemes.
    """

    sample_rate_hz = KOKORO_HZ

    def __init__(self, name: str, folder: Path, style: np.ndarray, *, british: bool) -> None:
        self.name = name
        self._run: Callable[..., Any] = _session(folder / "kokoro.onnx").run
        self._vocab: dict[str, int] = read_json(folder / "vocab.json")["vocab"]
        self._style = np.ascontiguousarray(style, dtype=np.float32).reshape(-1, 256)
        self._british = british

    def speak(self, text: str, speed: float = 1.0) -> np.ndarray:
        parts = list(token_parts(text, self._tokens))
        if not parts:
            raise SaladError(f"text: {text[:80]!r} has no phonemes for {self.name}; remove it from the document")
        return np.concatenate([self._speak_tokens(tokens, speed) for tokens in parts])

    def _tokens(self, text: str) -> list[int]:
        phonemes = _espeak("en-gb" if self._british else "en-us")(text)
        tokens = [self._vocab[symbol] for symbol in phonemes if symbol in self._vocab]
        return tokens if any(symbol.isalpha() for symbol in phonemes) else []

    def _speak_tokens(self, tokens: list[int], speed: float) -> np.ndarray:
        row = min(len(tokens), len(self._style)) - 1
        inputs = {
            "tokens": np.array([[0, *tokens, 0]], dtype=np.int64),
            "style": self._style[row : row + 1],
            "speed": np.array([speed], dtype=np.float32),
        }
        return np.asarray(self._run(None, inputs)[0], dtype=np.float32).ravel()


def token_parts(text: str, tokens_of: Callable[[str], list[int]]) -> Iterator[list[int]]:
    """Phoneme tokens of `text` in parts of at most MAX_TOKENS, cut in halves between words where there are more."""
    tokens = tokens_of(text)
    words = text.split()
    if len(tokens) <= MAX_TOKENS:
        if tokens:
            yield tokens
    elif len(words) == 1:
        for start in range(0, len(tokens), MAX_TOKENS):
            yield tokens[start : start + MAX_TOKENS]
    else:
        yield from token_parts(" ".join(words[: len(words) // 2]), tokens_of)
        yield from token_parts(" ".join(words[len(words) // 2 :]), tokens_of)


def assets_of_voice(name: str) -> tuple[str, ...]:
    """Assets that `load_voice(name)` reads. Raises SaladError (a list of what exists) for an unknown name."""
    if name == "piper-joe":
        return ("piper-joe",)
    if name.startswith("openai:"):
        EndpointVoice(name)  # refuses a name that is no address
        return ()
    family, _, speaker = name.partition(":")
    if family == "kokoro" and speaker in JAPANESE_VOICES:
        return ("kokoro",)
    if family == "kokoro" and speaker in ENGLISH_VOICES:
        return ("kokoro", "kokoro-voices")
    known = ", ".join(["piper-joe", *(f"kokoro:{speaker}" for speaker in (*ENGLISH_VOICES, *JAPANESE_VOICES))])
    raise SaladError(f"voice: got {name!r}, expected one of {known}, or openai:MODEL:VOICE@URL")


@functools.cache
def load_voice(name: str) -> Voice:
    """The voice of a recipe: "piper-joe", "kokoro:NAME" such as "kokoro:af_heart", or "openai:MODEL:VOICE@URL".

    Loaded once per process. Raises SaladError for an unknown name; the message lists those that exist.
    """
    from salad.assets import get

    if name.startswith("openai:"):
        return EndpointVoice(name)
    folders = [get(asset) for asset in assets_of_voice(name)]
    if name == "piper-joe":
        return PiperVoice(name, folders[0] / "en_US-joe-medium.onnx")
    speaker = name.partition(":")[2]
    if speaker in JAPANESE_VOICES:
        with np.load(folders[0] / "voices_ja.npz", allow_pickle=False) as styles:
            style = styles[speaker]
    else:
        style = np.fromfile(folders[1] / "voices" / f"{speaker}.bin", dtype="<f4")
    return KokoroVoice(name, folders[0], style, british=speaker.startswith("b"))


@functools.cache
def _session(path: Path) -> Any:
    """An ONNX session on one thread: workers are processes, and their thread pools would fight over the cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@functools.cache
def _espeak(language: str) -> Callable[[str], str]:
    """text -> phonemes with stress and punctuation; one backend per process, as making it is slow."""
    import espeakng_loader
    from phonemizer.backend import EspeakBackend
    from phonemizer.backend.espeak.wrapper import EspeakWrapper

    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    backend = EspeakBackend(language, preserve_punctuation=True, with_stress=True, punctuation_marks=MARKS)
    return lambda text: backend.phonemize([text], strip=True)[0]
