"""The encoder that goes along with an exported model: which class reads its folder, and CTranslate2's as torch's."""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from transformers.audio_utils import spectrogram, window_function

from salad.model.encoders.base import Encoder
from salad.model.encoders.huggingface import Wav2Vec2, Whisper
from salad.model.encoders.log_mel import LogMel
from salad.model.encoders.mimi import Mimi
from salad.types import SaladError

FOLDER = "encoder"  # of an exported model
FLOATS, INT16 = {0: np.float32, 4: np.float16}, 2  # CTranslate2's numbers of its types
LAYER = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}


class EncoderInside(TypedDict):
    """What processor_config.json tells of it: the class that reads it, codebooks (0: none), and its files."""

    kind: str
    codebooks: int
    files: list[str]


class WhisperOfCT2(Whisper):
    """Whisper's encoder with the weights of a CTranslate2 file, and the spectrogram that `WhisperCT2` gives it."""

    def _prepare(self, wave: np.ndarray) -> np.ndarray:
        num = 2 * self.num_frames(len(wave))
        mel = spectrogram(
            np.pad(wave, (0, 160)),
            window_function(400, "hann"),
            frame_length=400,
            hop_length=160,
            power=2.0,
            mel_filters=np.asarray(self._mel.mel_filters),
            log_mel="log10",
        )[:, :-1]
        mel = (np.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0
        return np.pad(mel[:, :num], ((0, 0), (0, max(0, num - mel.shape[1]))), mode="edge").astype(np.float32)


def encoder_inside(held: EncoderInside, folder: Path, name: str, device: str = "cpu") -> Encoder:
    """The encoder whose files lie in `folder`; held: as `put_inside` gives it."""
    if held["kind"] == "LogMel":
        return LogMel()
    if held["kind"] == "Mimi":
        return Mimi(folder, name, device, held["codebooks"] or None)
    kinds: dict[str, Callable[[Path, str, str], Encoder]]
    kinds = {"Whisper": Whisper, "Wav2Vec2": Wav2Vec2, "WhisperOfCT2": WhisperOfCT2}
    return kinds[held["kind"]](folder, name, device)


def put_inside(encoder: Encoder, into: Path) -> EncoderInside:
    """The encoder's files, in `into`/encoder, and what `encoder_inside` reads them by.

    Raises SaladError where CTranslate2's weights are stored in integers, which torch's encoder cannot hold.
    """
    held: EncoderInside = {"kind": type(encoder).__name__, "codebooks": encoder.num_codebooks, "files": []}
    if encoder.weights is None:
        return held
    folder = into / FOLDER
    folder.mkdir(exist_ok=True)
    if held["kind"] == "WhisperCT2":
        held["kind"] = "WhisperOfCT2"
        (weights,) = (path for path in encoder.weights.paths if path.name == "model.bin")
        _save_whisper(_variables(weights), folder)
    else:
        copy_encoder(encoder, into)
    return {**held, "files": sorted(path.name for path in folder.iterdir())}


def copy_encoder(encoder: Encoder, into: Path) -> None:
    """The files that it was loaded from, in `into`/encoder."""
    for path in encoder.weights.paths if encoder.weights is not None else ():
        copy_file(path, into / FOLDER / path.name)


def copy_file(path: Path, to: Path) -> None:
    """A copy, in a folder that is made where there is none; nothing where it lies there already."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if not (to.exists() and path.samefile(to)):
        shutil.copyfile(path, to)


def _save_whisper(variables: dict[str, np.ndarray], folder: Path) -> None:
    """A transformers Whisper folder, in float32; of its decoder there are no layers and an empty table."""
    import torch
    from safetensors.torch import save_file
    from transformers import WhisperConfig, WhisperFeatureExtractor

    weights: dict[str, np.ndarray] = {}
    number = len({key.split("/")[1] for key in variables if re.match(r"encoder/layer_\d", key)})
    for key, value in variables.items():
        if not key.startswith("encoder/") or value.ndim == 0:
            continue
        stem, _, leaf = key.removeprefix("encoder/").rpartition("/")
        leaf = {"gamma": "weight", "beta": "bias"}.get(leaf, leaf)
        layer, _, inside = stem.partition("/")
        if inside:
            stem = f"layers.{layer.removeprefix('layer_')}"
            if inside == "self_attention/linear_0":  # queries, keys and values in one; keys have no bias in Whisper
                for part, own in zip("qkv", np.split(value, 3), strict=True):
                    if (part, leaf) != ("k", "bias"):
                        weights[f"{stem}.self_attn.{part}_proj.{leaf}"] = own
                continue
            stem = f"{stem}.{LAYER[inside]}"
        weights["embed_positions.weight" if stem == "position_encodings" else f"{stem}.{leaf}"] = value
    width, mels = weights["conv1.weight"].shape[:2]
    heads = int(variables["encoder/num_heads"])
    config = WhisperConfig(
        d_model=width, num_mel_bins=mels, encoder_layers=number, encoder_attention_heads=heads,
        encoder_ffn_dim=len(weights["layers.0.fc1.bias"]), max_source_positions=len(weights["embed_positions.weight"]),
        decoder_layers=0, decoder_attention_heads=heads, decoder_ffn_dim=1, vocab_size=1, max_target_positions=1,
        pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=0, suppress_tokens=None,
        begin_suppress_tokens=None, architectures=["WhisperModel"],
    )  # fmt: skip
    config.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=mels).save_pretrained(folder)
    tensors = {f"encoder.{key}": torch.from_numpy(np.array(value, np.float32)) for key, value in weights.items()}
    tensors |= {f"decoder.{name}.weight": torch.zeros(1, width) for name in ("embed_tokens", "embed_positions")}
    tensors |= {f"decoder.layer_norm.{name}": torch.zeros(width) for name in ("weight", "bias")}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _variables(path: Path) -> dict[str, np.ndarray]:
    """Every variable of a CTranslate2 model.bin (format 6) that is kept in floats; raises SaladError for another."""
    data, at = path.read_bytes(), 0

    def take(kind: str) -> tuple[Any, ...]:
        nonlocal at
        found = struct.unpack_from(f"<{kind}", data, at)
        at += struct.calcsize(f"<{kind}")
        return found

    def text() -> str:
        (length,) = take("H")
        return str(take(f"{length}s")[0][:-1], "utf-8")

    (version,) = take("I")
    if version != 6:
        raise SaladError(f"encoder: {path} has CTranslate2's format {version}, expected 6; convert the model again")
    text(), take("I")
    found = {}
    for _ in range(take("I")[0]):
        name = text()
        shape = take(f"{take('B')[0]}I")
        kind, num_bytes = take("B")[0], take("I")[0]
        if kind in FLOATS or (kind == INT16 and not shape):
            own = np.dtype(FLOATS.get(kind, np.int16))
            found[name] = np.frombuffer(data, own, num_bytes // own.itemsize, at).reshape(shape)
        elif name.startswith("encoder/") and name.endswith("/weight"):
            raise SaladError(
                f"encoder: {path} keeps {name} in CTranslate2's type {kind}, expected float32 or float16; convert the "
                "model again with --quantization float16, or use Whisper's safetensors"
            )
        at += num_bytes
    return found
