"""Voices: text in, samples out. The same voice and text give the same samples in any process and any order."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from salad.engine.devices import DEVICE, Library, worker_device
from salad.engine.machine import default_device
from salad.files import read_json, sha256_json
from salad.synthesize.endpoint import EndpointVoice
from salad.synthesize.onnx_session import one_thread_session
from salad.synthesize.piper import BRACKETS, PiperVoice
from salad.synthesize.word_spans import word_spans
from salad.text.phonemes import espeak
from salad.types import SaladError

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


Network = Callable[[Sequence[int], np.ndarray, float], tuple[np.ndarray, np.ndarray | None]]


class Voice(Protocol):
    """One speaker. `speak` returns float32 [num_samples], mono, at `sample_rate_hz`.

    One that knows when it says each word has `speak_timed` too, which returns that as well.
    """

    name: str
    sample_rate_hz: int

    def speak(self, text: str, speed: float = 1.0) -> np.ndarray:
        """Say `text` (best one sentence), 1.1 a tenth faster. Raises SaladError where nothing can be pronounced."""
        ...


class KokoroVoice:
    """A Kokoro-82M voice: the int8 ONNX export on one thread, or torch on a GPU, which also tells when words are said.

    style: float32 [num_rows, 256]; row n - 1 is the style of a text of n phonemes. network: phoneme tokens, a style
    [1, 256] and a speed in; samples out, and the length of each token where it tells (its unit does not matter).
    """

    sample_rate_hz = KOKORO_HZ

    def __init__(self, name: str, network: Network, vocab: dict[str, int], style: np.ndarray, *, british: bool) -> None:
        self.name = name
        self._network, self._vocab = network, vocab
        self._style = np.ascontiguousarray(style, dtype=np.float32).reshape(-1, 256)
        self._language = "en-gb" if british else "en-us"

    def speak(self, text: str, speed: float = 1.0) -> np.ndarray:
        return self.speak_timed(text, speed)[0]

    def speak_timed(self, text: str, speed: float = 1.0) -> tuple[np.ndarray, list[tuple[float, float]] | None]:
        """Samples, and start and end in seconds of each whitespace word; None where the network does not tell."""
        parts = list(token_parts(text, self._tokens))
        if not parts:
            raise SaladError(f"text: {text[:80]!r} has no phonemes for {self.name}; remove it from the document")
        said = [self._speak_tokens(tokens, speed) for tokens in parts]
        samples = np.concatenate([own for own, _ in said])
        if len(said) > 1 or said[0][1] is None:
            return samples, None
        ends_s = np.cumsum(said[0][1]) / np.sum(said[0][1]) * len(samples) / KOKORO_HZ
        spans = word_spans(self._phonemes(text), [self._phonemes(word) for word in text.split()])
        # ends_s[0] ends the start token: symbol i is said from ends_s[i] to ends_s[i + 1]
        return samples, None if spans is None else [(float(ends_s[a]), float(ends_s[b])) for a, b in spans]

    def _phonemes(self, text: str) -> str:
        said = _espeak(self._language)(BRACKETS.sub(lambda m: m[0][0], text))
        return "".join(symbol for symbol in said if symbol in self._vocab)

    def _tokens(self, text: str) -> list[int]:
        phonemes = self._phonemes(text)
        return [self._vocab[symbol] for symbol in phonemes] if any(map(str.isalpha, phonemes)) else []

    def _speak_tokens(self, tokens: list[int], speed: float) -> tuple[np.ndarray, np.ndarray | None]:
        row = min(len(tokens), len(self._style)) - 1
        samples, lengths = self._network([0, *tokens, 0], self._style[row : row + 1], speed)
        return np.asarray(samples, dtype=np.float32).ravel(), lengths


_kokoro_session = functools.cache(one_thread_session)  # loaded once in a process


def onnx_network(run: Callable[..., Any]) -> Network:
    """Kokoro's ONNX export, which gives samples alone and draws no noise. run: of an onnxruntime session."""

    def network(tokens: Sequence[int], style: np.ndarray, speed: float) -> tuple[np.ndarray, None]:
        inputs = {"tokens": np.array([tokens], np.int64), "style": style, "speed": np.array([speed], np.float32)}
        return run(None, inputs)[0], None

    return network


@dataclass(frozen=True)
class VoiceEngine:
    """What speaks. library: what it computes with on a GPU, where it can; fast: its documents are spoken last, so that
    no worker idles at the end; tells_words: its voices have `speak_timed`, so that nothing need be aligned."""

    name: str
    library: Library | None = None
    fast: bool = False
    tells_words: bool = False


ENGINES = (
    VoiceEngine("piper", fast=True, tells_words=True),
    VoiceEngine("kokoro"),
    VoiceEngine("kokoro-torch", library="torch", tells_words=True),
    VoiceEngine("openai"),
)


def engine_of(voice: str) -> VoiceEngine:
    name = "piper" if voice.startswith("piper") else voice.partition(":")[0]
    return next((engine for engine in ENGINES if engine.name == name), VoiceEngine(name))


def library_of(voices: Iterable[str]) -> Library | None:
    """What the voices of one job compute with on a GPU."""
    return next((library for voice in voices if (library := engine_of(voice).library)), None)


@functools.cache
def torch_network(folder: Path) -> tuple[Network, dict[str, int]]:
    """Kokoro in torch (the package `kokoro`), on a GPU where there is one (a worker's own); and its phonemes' numbers.

    folder: config.json and one .pth of the model's repository; tensors alone are read from it. The noise in its source
    is drawn from a generator that the tokens seed: same text, same samples, in any order. Raises SaladError where the
    package or a file is missing.
    """
    import torch

    try:
        from kokoro.model import KModel
    except ImportError as error:
        raise SaladError("voice: kokoro-torch needs the package kokoro: pip install salad-speech[kokoro]") from error
    weights = sorted(folder.glob("*.pth"))
    if len(weights) != 1 or not (folder / "config.json").is_file():
        raise SaladError(f"voice: {folder} holds {len(weights)} .pth files; expected one, and config.json beside it")
    config = read_json(folder / "config.json")
    device = torch.device(worker_device() if DEVICE in os.environ else default_device())
    model = KModel("hexgrad/Kokoro-82M", config=config, model=str(weights[0])).to(device).eval()

    def network(tokens: Sequence[int], style: np.ndarray, speed: float) -> tuple[np.ndarray, np.ndarray]:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.inference_mode():
            torch.manual_seed(int(sha256_json(list(tokens))[:15], 16))
            ids = torch.tensor([tokens], device=device)
            samples, lengths = model.forward_with_tokens(ids, torch.from_numpy(style).to(device), speed)
        return samples.cpu().numpy(), lengths.cpu().numpy()

    return network, config["vocab"]


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
    if family == "kokoro-torch":
        speaker, _, folder = speaker.partition("@")
        if speaker in ENGLISH_VOICES and folder:
            return (folder, "kokoro-voices")
    if family == "kokoro" and speaker in JAPANESE_VOICES:
        return ("kokoro",)
    if family == "kokoro" and speaker in ENGLISH_VOICES:
        return ("kokoro", "kokoro-voices")
    known = ", ".join(["piper-joe", *(f"kokoro:{speaker}" for speaker in (*ENGLISH_VOICES, *JAPANESE_VOICES))])
    raise SaladError(
        f"voice: got {name!r}, expected one of {known}, kokoro-torch:NAME@FOLDER (an English one, "
        "with config.json and the .pth of Kokoro-82M), or openai:MODEL:VOICE@URL"
    )


@functools.cache
def load_voice(name: str) -> Voice:
    """The voice of a recipe: "piper-joe", "kokoro:NAME" such as "kokoro:af_heart", "kokoro-torch:NAME@FOLDER" (for a
    GPU; see `torch_network`), or "openai:MODEL:VOICE@URL".

    Loaded once per process. Raises SaladError for an unknown name; the message lists those that exist.
    """
    from salad.assets import get

    if name.startswith("openai:"):
        return EndpointVoice(name)
    folders = [get(asset) for asset in assets_of_voice(name)]
    if name == "piper-joe":
        return PiperVoice(name, folders[0] / "en_US-joe-medium.onnx")
    family, _, speaker = name.partition("@")[0].partition(":")
    if speaker in JAPANESE_VOICES:
        with np.load(folders[0] / "voices_ja.npz", allow_pickle=False) as styles:
            style = styles[speaker]
    else:
        style = np.fromfile(folders[1] / "voices" / f"{speaker}.bin", dtype="<f4")
    if family == "kokoro-torch":
        network, vocab = torch_network(folders[0])
    else:
        network = onnx_network(_kokoro_session(folders[0] / "kokoro.onnx").run)
        vocab = read_json(folders[0] / "vocab.json")["vocab"]
    return KokoroVoice(name.partition("@")[0], network, vocab, style, british=speaker.startswith("b"))


@functools.cache
def _espeak(language: str) -> Callable[[str], str]:
    """text -> phonemes with stress and punctuation."""
    backend = espeak(language, preserve_punctuation=True, with_stress=True, punctuation_marks=MARKS)
    return lambda text: backend.phonemize([text], strip=True)[0]
