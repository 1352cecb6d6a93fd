"""Encoders that run through transformers and torch: what they share; Whisper, and the Wav2Vec2 family."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn

from salad.engine.local import torch_threads
from salad.model.encoders.base import Encoder, EncoderShape, Weights
from salad.types import SaladError

# Sound that goes through the model at once. On one core a batch gains nothing for waveforms of 2 s (a third at 0.5 s).
BATCH_S = {"cpu": 0.0, "cuda": 300.0}


class TorchEncoder(Encoder):
    """A batch holds waveforms of equally many frames, each padded alone to whole frames: nothing to mask, so members
    come out as they do alone (within rounding), whatever the model's norms and attention look at. On a CPU each goes
    alone, which is exact. Float32, evaluation mode, no gradients, no TF32, no autocast.
    """

    library = "torch"
    UNUSED: tuple[str, ...] = ()  # weights by the start of their name that frames do not need

    def __init__(self, folder: Path, name: str, device: str) -> None:
        self.name, self.device = name, torch.device(device)
        self.batch_s = BATCH_S[self.device.type]
        self.weights = Weights(folder)
        self._model: Any = self._load(folder)  # of any family of transformers
        shape = shape_of_config(self._model.config)
        self.frame_rate_hz, self.frame_dim = shape.frame_rate_hz, shape.frame_dim

    @abstractmethod
    def _prepare(self, wave: np.ndarray) -> np.ndarray:
        """The model's input, of a shape that the number of frames alone decides."""

    @abstractmethod
    def _forward(self, batch: torch.Tensor) -> torch.Tensor:
        """[B, *input] -> [B, T, frame_dim]."""

    def _encode(self, waves: list[np.ndarray]) -> list[np.ndarray]:
        out: list[np.ndarray] = [np.empty(0)] * len(waves)
        for members, frames in self._run(waves):
            for i, row in zip(members, frames.float().cpu().numpy(), strict=True):
                out[i] = np.ascontiguousarray(row)
        return out

    def _run(self, waves: list[np.ndarray]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """(members, their frames [B, T, frame_dim] on the device) for each batch."""
        by_length: dict[int, list[int]] = defaultdict(list)
        for i, wave in enumerate(waves):
            by_length[self.num_frames(len(wave))].append(i)
        for num, group in by_length.items():
            size = max(1, int(self.batch_s * self.frame_rate_hz / num))
            for start in range(0, len(group), size):
                members = group[start : start + size]
                with exact_float32(self.device):
                    batch = torch.from_numpy(np.stack([self._prepare(waves[i]) for i in members]))
                    frames = self._forward(batch.to(self.device))
                assert frames.shape[1] == num, (frames.shape, num)
                yield members, frames

    def _load(self, folder: Path) -> nn.Module:
        """Load from safetensors alone. Refuses a folder that lacks weights: transformers would draw them at random."""
        from transformers import AutoModel

        if not any(folder.glob("*.safetensors")):
            raise SaladError(
                f"assets.encoder: {self.name!r} holds no .safetensors file, and pickled weights are not read; convert "
                "it once: AutoModel.from_pretrained(THE_MODEL).save_pretrained(FOLDER), and name FOLDER"
            )
        try:
            model, info = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise SaladError(f"assets.encoder: {self.name!r} cannot be loaded ({error}); fetch it again") from error
        if absent := sorted(key for key in info["missing_keys"] if not key.startswith(self.UNUSED)):
            raise SaladError(
                f"assets.encoder: {self.name!r} lacks {len(absent)} weights of {type(model).__name__}, such as "
                f"{absent[0]}; fetch it again, or name a folder that holds the whole model"
            )
        loaded: nn.Module = model.eval().requires_grad_(False).to(self.device)
        return loaded

    def _extractor(self, folder: Path) -> Any:
        """The feature extractor saved beside the weights; it tells the rate and whether loudness is normalised."""
        from transformers import AutoFeatureExtractor

        try:
            return AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise SaladError(
                f"assets.encoder: {self.name!r} holds no preprocessor_config.json that can be read; copy it from where "
                "the weights come from: without it nobody knows how the sound is normalised"
            ) from error


class Whisper(TorchEncoder):
    """Whisper's encoder, 50 Hz, each waveform at its own length, as `WhisperCT2`: not padded to 30 s of silence.

    transformers' own forward insists on 30 s, so its layers are called here one by one, with the first T of the learned
    positions. A mel spectrogram is scaled by its own peak, so it is made of each waveform alone. Up to 30 s.
    """

    causal = False
    UNUSED = ("decoder.",)

    def __init__(self, folder: Path, name: str, device: str = "cpu") -> None:
        super().__init__(folder, name, device)
        self._mel = self._extractor(folder)
        self._model = self._model.encoder
        self.sample_rate_hz = self._mel.sampling_rate
        self._hop = 2 * self._mel.hop_length  # the second convolution halves the rate
        self.max_samples = self._model.config.max_source_positions * self._hop

    def _prepare(self, wave: np.ndarray) -> np.ndarray:
        num = self.num_frames(len(wave))
        # half a frame more of silence: the last windows reach over the end, and must not see it mirrored
        padded = np.pad(wave, (0, num * self._hop + self._hop // 2 - len(wave)))
        mel = self._mel(padded, sampling_rate=self.sample_rate_hz, padding="longest", truncation=False)
        return np.asarray(mel["input_features"][0], np.float32)[:, : 2 * num]

    def _forward(self, batch: torch.Tensor) -> torch.Tensor:
        encoder = self._model
        hidden = nn.functional.gelu(encoder.conv2(nn.functional.gelu(encoder.conv1(batch)))).transpose(1, 2)
        hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
        for layer in encoder.layers:
            hidden = layer(hidden, None)
        frames: torch.Tensor = encoder.layer_norm(hidden)
        return frames


class Wav2Vec2(TorchEncoder):
    """Wav2Vec2, HuBERT or WavLM: the last hidden states, 50 Hz. Up to 60 s: attention looks at all pairs of frames.

    Loudness is normalised as the feature extractor says, over the true samples. Then silence is added until the
    convolutions, which do not pad, give as many frames as cover the sound (for 50 Hz at 16 kHz: 320 T + 80 samples).
    """

    causal = False
    UNUSED = ("masked_spec_embed",)

    def __init__(self, folder: Path, name: str, device: str = "cpu") -> None:
        super().__init__(folder, name, device)
        config = self._model.config
        if getattr(config, "add_adapter", False):
            raise SaladError(f"assets.encoder: {name!r} has an adapter that thins its frames; name the model without")
        self._extract = self._extractor(folder)
        self.sample_rate_hz = self._extract.sampling_rate
        self._hop = math.prod(config.conv_stride)
        self.frame_rate_hz = self.sample_rate_hz / self._hop
        self._reach = 1  # samples that one frame hears
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            self._reach = (self._reach - 1) * stride + kernel
        self.max_samples = 60 * self.sample_rate_hz

    def _prepare(self, wave: np.ndarray) -> np.ndarray:
        num_samples = (self.num_frames(len(wave)) - 1) * self._hop + self._reach
        if len(wave):
            wave = np.asarray(self._extract(wave, sampling_rate=self.sample_rate_hz)["input_values"][0], np.float32)
        return np.pad(wave, (0, max(0, num_samples - len(wave))))[:num_samples]

    def _forward(self, batch: torch.Tensor) -> torch.Tensor:
        frames: torch.Tensor = self._model(batch).last_hidden_state
        return frames


def shape_of_config(config: Any) -> EncoderShape:
    """Shape by a transformers configuration (of 16 kHz models, for those that do not say their sample rate)."""
    if config.model_type == "mimi":
        return EncoderShape(float(config.frame_rate), config.hidden_size)
    if config.model_type == "whisper":
        return EncoderShape(50.0, config.d_model)
    return EncoderShape(16_000 / math.prod(config.conv_stride), config.hidden_size)


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, no TF32, on a CPU one thread: frames do not depend on who asks for them."""
    precision = torch.get_float32_matmul_precision()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cpu":  # sums are split by thread, and the cache is written by workers of one thread
            stack.enter_context(torch_threads(1))
        if device.type == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False))
        torch.set_float32_matmul_precision("highest")
        stack.callback(torch.set_float32_matmul_precision, precision)
        yield
