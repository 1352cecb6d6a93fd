"""One interface to any ASR: samples in, text out. Transcripts are kept by what was heard and by whom."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from salad import assets
from salad.align.transcribe import transcribe
from salad.files import read_json, sha256_json, write_json
from salad.types import SaladError

RATE_HZ = 16_000
CHUNK_S = 30.0


class Asr(Protocol):
    """Speech recognition; `fingerprint` tells whose transcripts are whose."""

    name: str
    fingerprint: str

    def transcribe(self, samples: np.ndarray) -> str:
        """Text of float32 [num_samples], mono, at 16 kHz, of any length."""
        ...


class WhisperAsr:
    """A Whisper in CTranslate2's format, by faster-whisper: greedy, English. precision: float32, or int8 (faster)."""

    def __init__(self, name: str, folder: Path, precision: str = "float32") -> None:
        self.name, self.fingerprint, self._folder = name, assets.fingerprint(name), folder
        self._precision = precision
        if precision != "float32":  # other transcripts than those that are kept under the plain one
            self.name, self.fingerprint = f"{name} ({precision})", sha256_json([self.fingerprint, precision])

    def transcribe(self, samples: np.ndarray) -> str:
        return transcribe(samples, self._folder, threads=torch.get_num_threads(), precision=self._precision)


class TransformersAsr:
    """A transformers folder with its processor: Whisper, or a CTC model such as Wav2Vec2; greedy."""

    def __init__(self, name: str, folder: Path, device: str = "cpu") -> None:
        from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoTokenizer
        from transformers.pipelines.automatic_speech_recognition import AutomaticSpeechRecognitionPipeline

        self.name, self.fingerprint = name, assets.fingerprint(name)
        whisper = read_json(folder / "config.json").get("model_type") == "whisper"
        model = (AutoModelForSpeechSeq2Seq if whisper else AutoModelForCTC).from_pretrained(folder)
        extractor = AutoFeatureExtractor.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        made: Any = AutomaticSpeechRecognitionPipeline  # it takes more than its types tell
        self._run: Any = made(model=model.eval(), feature_extractor=extractor, tokenizer=tokenizer, device=device)
        self._whisper = whisper

    def transcribe(self, samples: np.ndarray) -> str:
        sound = {"raw": samples.astype(np.float32), "sampling_rate": RATE_HZ}
        if self._whisper:  # its own long form, which cuts where a sentence ends
            arguments = {"return_timestamps": len(samples) > CHUNK_S * RATE_HZ, "generate_kwargs": {"do_sample": False}}
        else:
            arguments = {"chunk_length_s": CHUNK_S}
        return str(self._run(sound, **arguments)["text"]).strip()


def load_asr(name: str, device: str = "cpu", precision: str = "float32") -> Asr:
    """An asset, a hub name, or a folder: CTranslate2's model.bin, or a transformers model for speech recognition.

    precision: of a CTranslate2 model's weights.
    """
    folder = assets.get(name)
    if (folder / "model.bin").is_file():
        return WhisperAsr(name, folder, precision)
    if (folder / "config.json").is_file():
        return TransformersAsr(name, folder, device)
    raise SaladError(f"asr: {name!r} holds neither model.bin nor config.json; give the folder of a speech recogniser")


class Transcripts:
    """What an ASR hears in samples, each transcribed once; kept in `folder`, so that another run need not wait."""

    def __init__(self, asr: Asr, folder: Path) -> None:
        self.asr, self._folder = asr, folder / asr.fingerprint[:16]
        self._known: dict[str, str] = {}

    def of(self, key: str, samples: Callable[[], np.ndarray]) -> str:
        """`key` stands for the samples in this process; `samples()` gives them (float32 at 16 kHz)."""
        if key not in self._known:
            wave = np.ascontiguousarray(samples(), dtype=np.float32)
            digest = hashlib.sha256(wave.tobytes()).hexdigest()
            path = self._folder / digest[:2] / f"{digest}.json"
            if not path.is_file():
                write_json(path, {"asr": self.asr.name, "text": self.asr.transcribe(wave)})
            self._known[key] = read_json(path)["text"]
        return self._known[key]
