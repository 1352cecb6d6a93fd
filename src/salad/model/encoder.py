"""Frozen speech encoders: waveforms in, frames or codes out. This file: what they share, and how one is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from salad import assets, audio
from salad.files import read_json, sha256_file, sha256_json
from salad.types import SaladError

__all__ = ["Encoder", "Shape", "Weights", "load_encoder", "shape_of"]

CTRANSLATE2 = ("vocabulary.txt", "vocabulary.json")  # beside model.bin
MODEL_TYPES = ("hubert", "mimi", "wav2vec2", "wavlm", "whisper")


@dataclass(frozen=True)
class Shape:
    """What an encoder gives: frames a second, and the width of each."""

    frame_rate_hz: float
    frame_dim: int


# Encoders whose shape is known before their files are here.
SHAPES = {
    "log-mel": Shape(100.0, 80),
    "whisper-tiny.en": Shape(50.0, 384),
    "kyutai/mimi": Shape(12.5, 512),
}


class Encoder:
    """Waveform -> frames, frozen.

    Every encoder gives `num_frames(num_samples)` frames, by one rule: as many as cover the sound, at least one. Sound
    that ends within a frame, or is too short for one, is padded with silence to whole frames. A batch gives what its
    members give alone.

    `causal` tells whether frame t depends on sound up to the end of frame t alone. An encoder that is not causal hears
    the words after a span, so spans are cut out of the recording *before* they are encoded (docs/decisions/0002).
    `max_samples`: longer waveforms are refused; None takes any length. `num_codebooks`: codes a frame, 0 for none.
    """

    name: str
    sample_rate_hz: int
    frame_rate_hz: float
    frame_dim: int
    causal: bool
    max_samples: int | None = None
    num_codebooks: int = 0
    revision = 1  # counts the changes of our own code that change frames: kept frames of an older one are stale
    weights: Weights | None = None

    def num_frames(self, num_samples: int) -> int:
        return audio.num_frames(num_samples, self.sample_rate_hz, self.frame_rate_hz)

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """float32 [num_frames(num_samples), frame_dim] for each mono waveform [num_samples] at `sample_rate_hz`.

        Raises SaladError where a waveform is not mono, too long, or holds NaN or infinity.
        """
        return self._encode(self._checked(waveforms))

    def encode_codes(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """uint16 [num_frames(num_samples), num_codebooks] for each waveform, as `encode` takes them."""
        raise self._no_codes()

    def frames_of_codes(self, codes: np.ndarray) -> np.ndarray:
        """float32 [T, frame_dim] of codes [T, num_codebooks]; where there are codes, `encode` gives these frames."""
        raise self._no_codes()

    def fingerprint(self) -> str:
        """sha256 over the class, its settings that change frames, and its weights: the key of whatever keeps frames.

        Where the weights lie and how they are named does not count. Raises SaladError where a file was changed after
        it was loaded: frames of the old weights must not be kept under the new ones' name.
        """
        files = self.weights.hashes() if self.weights is not None else []
        return sha256_json([type(self).__name__, self.revision, self._settings(), files])

    def _settings(self) -> dict[str, Any]:
        return {}

    def _encode(self, waves: list[np.ndarray]) -> list[np.ndarray]:
        raise SaladError(f"encoder {type(self).__name__} does not encode")

    def _checked(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        out = []
        for i, wave in enumerate(waveforms):
            wave = np.asarray(wave)
            which = f"audio: waveform {i} of {len(waveforms)}"
            if wave.ndim != 1 or not np.issubdtype(wave.dtype, np.floating):
                raise SaladError(
                    f"{which} is {wave.dtype} {list(wave.shape)}, expected mono float samples in [-1, 1]; "
                    "read files with salad.audio.read_audio"
                )
            if not np.isfinite(wave).all():
                raise SaladError(f"{which} holds NaN or infinite samples; re-export the file it comes from")
            if self.max_samples is not None and len(wave) > self.max_samples:
                limit = f"{self.max_samples / self.sample_rate_hz:g} s at most"
                raise SaladError(
                    f"{which} lasts {len(wave) / self.sample_rate_hz:.1f} s; {self.name} takes {limit}: "
                    "cut it first (salad.audio.split_at_quiet)"
                )
            out.append(wave.astype(np.float32, copy=False))
        return out

    def _no_codes(self) -> SaladError:
        return SaladError(f"assets.encoder: {self.name} gives no codes; name one that does, such as kyutai/mimi:codes8")


class Weights:
    """The files of a folder that frames depend on, as they were when this was made (before they are loaded)."""

    PATTERNS = (
        "config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "model.bin",
        "*.safetensors",
        "*.safetensors.index.json",
    )

    def __init__(self, folder: Path) -> None:
        paths = sorted({path for pattern in self.PATTERNS for path in folder.glob(pattern)})
        self._seen = {path.absolute(): _state(path) for path in paths}

    def hashes(self) -> list[tuple[str, str]]:
        """(file name, sha256), by name. Hashed once while size, time and place on the disk stay."""
        for path, state in self._seen.items():
            if not path.exists() or _state(path) != state:
                raise SaladError(f"assets.encoder: {path} was changed after it was loaded; load the encoder again")
        return [(path.name, _sha256_once(path, state)) for path, state in self._seen.items()]


def _state(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


@lru_cache(maxsize=256)
def _sha256_once(path: Path, state: tuple[int, int, int]) -> str:
    return sha256_file(path)


def shape_of(name: str) -> Shape:
    """Shape of a known encoder, or of a local folder by its config.json. Raises SaladError for others: load them."""
    base, _ = assets.split_setting(name)
    if base in SHAPES:
        return SHAPES[base]
    if (Path(base) / "config.json").is_file() and _model_type(Path(base), name) is not None:
        from transformers import AutoConfig

        from salad.model.encoder_torch import shape_of_config

        return shape_of_config(AutoConfig.from_pretrained(base, local_files_only=True))
    raise SaladError(
        f"assets.encoder: the shape of {name!r} is not known; expected one of {', '.join(SHAPES)}, or the path of a "
        "local folder with the encoder's config.json"
    )


def load_encoder(name: str, threads: int = 1, device: str = "cpu") -> Encoder:
    """Encoder by name: "log-mel" (no files), an asset, a hub name, or a local folder; `:codes8` asks for 8 codebooks.

    A folder's config.json tells what it holds: Mimi, Whisper, Wav2Vec2, HuBERT or WavLM through transformers; one with
    CTranslate2's model.bin is Whisper. `threads` is for CTranslate2; the others run in torch's pool, which is the
    process's to size. `device`: "cpu", "cuda" or "cuda:N"; log-mel stays on the CPU.
    """
    base, setting = assets.split_setting(name)
    if setting and not (setting.startswith("codes") and setting[5:].isdecimal()):
        raise SaladError(f"assets.encoder: {name!r} has the setting {setting!r}, expected codesN such as codes8")
    num_codebooks = int(setting[5:]) if setting else None
    if base in assets.BUILT_IN:
        from salad.model.encoder_mel import LogMel

        return _without_codes(LogMel(), name, num_codebooks)
    _check_device(device)
    folder = assets.get(base)
    model_type = _model_type(folder, name)
    if model_type is None:
        from salad.model.encoder_ct2 import WhisperCT2

        return _without_codes(WhisperCT2(folder, name, threads, device), name, num_codebooks)
    if model_type == "mimi":
        from salad.model.encoder_mimi import Mimi

        return Mimi(folder, name, device, num_codebooks)
    from salad.model.encoder_torch import Wav2Vec2, Whisper

    encoder = Whisper if model_type == "whisper" else Wav2Vec2
    return _without_codes(encoder(folder, name, device), name, num_codebooks)


def _model_type(folder: Path, name: str) -> str | None:
    """`model_type` of config.json; None for a CTranslate2 folder."""
    if (folder / "model.bin").is_file() and any((folder / vocabulary).is_file() for vocabulary in CTRANSLATE2):
        return None
    found = read_json(folder / "config.json").get("model_type") if (folder / "config.json").is_file() else None
    if found not in MODEL_TYPES:
        what = f"a model of type {found!r}" if found else "no encoder we know"
        raise SaladError(
            f"assets.encoder: {name!r} holds {what}; expected a config.json whose model_type is one of "
            f"{', '.join(MODEL_TYPES)}, a CTranslate2 Whisper folder, or the name 'log-mel'"
        )
    return found


def _without_codes(encoder: Encoder, name: str, num_codebooks: int | None) -> Encoder:
    if num_codebooks is not None:
        raise SaladError(f"assets.encoder: {name!r}: only Mimi gives codes; leave out ':codes{num_codebooks}'")
    return encoder


def _check_device(device: str) -> None:
    import torch

    if device != "cpu" and not (device.split(":")[0] == "cuda" and torch.cuda.is_available()):
        raise SaladError(f"device: got {device!r}, expected 'cpu'" + ", or 'cuda' where there is a GPU")
