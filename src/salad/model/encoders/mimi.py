"""Mimi, the paper's encoder: causal, 12.5 Hz, as continuous latents or as codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salad.model.encoders.huggingface import TorchEncoder, exact_float32
from salad.types import SaladError


@dataclass
class _Carried:
    """Caches of transformers' after a block of sound: what pads the next one's convolutions, and keys and values."""

    padding: Any = None
    keys: Any = None


class Mimi(TorchEncoder):
    """Mimi (arXiv 2410.00037) by transformers: encoder, its transformer, and the step down to 12.5 Hz.

    Frames are the latents before quantisation, or, with `num_codebooks`, what their codes stand for. Sound is padded
    with silence to whole frames before the first layer, as Kyutai's own code does; transformers pads inside every
    layer instead, which is why its padded batches differ from single waveforms. On whole frames both are the same.

    Over `BLOCK_S` the sound goes through in blocks, with the state of every layer carried over: memory is bounded and
    any length goes.
    """

    causal = True
    UNUSED = ("decoder", "upsample")
    BLOCK_S = 60.0

    def __init__(self, folder: Path, name: str, device: str = "cpu", num_codebooks: int | None = None) -> None:
        super().__init__(folder, name, device)
        config = self._model.config
        self.sample_rate_hz = config.sampling_rate
        self._frame_samples = config.frame_size
        if num_codebooks is not None:
            least, most = config.num_semantic_quantizers, config.num_quantizers
            if not least <= num_codebooks <= most:
                raise SaladError(
                    f"assets.encoder: {name!r} asks for {num_codebooks} codebooks, expected {least} to {most}"
                )
            self.num_codebooks = num_codebooks
        # transformers 5.23 holds the encoder's half in a model of its own
        self._half = self._model.encoder if hasattr(self._model.encoder, "encoder_transformer") else self._model
        self._convolutions = getattr(self._half, "encoder_seanet", self._model.encoder)

    def encode_codes(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        if not self.num_codebooks:
            raise self._no_codes()
        waves = self._checked(waveforms)
        out: list[np.ndarray] = [np.empty(0)] * len(waves)
        for members, latents in self._run(waves):
            for i, row in zip(members, latents, strict=True):  # one by one: the nearest code must not depend on a batch
                with exact_float32(self.device):
                    codes = self._model.quantizer.encode(row.T[None], self.num_codebooks)  # [K, 1, T]
                out[i] = codes[:, 0].T.cpu().numpy().astype(np.uint16)
        return out

    def frames_of_codes(self, codes: np.ndarray) -> np.ndarray:
        if not self.num_codebooks:
            raise self._no_codes()
        size = self._model.config.codebook_size
        if codes.ndim != 2 or codes.shape[1] != self.num_codebooks or (codes.size and not 0 <= codes.max() < size):
            found = f", up to {codes.max()}" if codes.size else ""
            raise SaladError(
                f"codes: got {codes.dtype} {list(codes.shape)}{found}; {self.name} takes [T, {self.num_codebooks}], "
                f"each 0 to {size - 1}"
            )
        if not len(codes):
            return np.zeros((0, self.frame_dim), np.float32)
        with exact_float32(self.device):
            wanted = torch.from_numpy(codes.astype(np.int64).T[None]).to(self.device)  # [1, K, T]
            frames = self._model.quantizer.decode(wanted)[0].T  # [T, frame_dim]
        return np.ascontiguousarray(frames.float().cpu().numpy())

    def _settings(self) -> dict[str, int]:
        return {"codebooks": self.num_codebooks}

    def _encode(self, waves: list[np.ndarray]) -> list[np.ndarray]:
        if not self.num_codebooks:
            return super()._encode(waves)
        return [self.frames_of_codes(codes) for codes in self.encode_codes(waves)]

    def _prepare(self, wave: np.ndarray) -> np.ndarray:
        return np.pad(wave, (0, self.num_frames(len(wave)) * self._frame_samples - len(wave)))[None]

    def _forward(self, batch: torch.Tensor) -> torch.Tensor:
        block = max(1, int(self.BLOCK_S * self.frame_rate_hz)) * self._frame_samples
        if batch.shape[-1] <= block:
            return self._latents(batch)
        carried = self._fresh_state()
        return torch.cat([self._latents(part, carried) for part in batch.split(block, dim=-1)], dim=1)

    def _latents(self, batch: torch.Tensor, carried: _Carried | None = None) -> torch.Tensor:
        """[B, 1, whole frames of samples] -> [B, T, frame_dim]; `carried` is the state after what came before."""
        state = carried or _Carried()
        hidden = self._convolutions(batch, padding_cache=state.padding).transpose(1, 2)
        mixed = self._half.encoder_transformer(
            hidden, past_key_values=state.keys, use_cache=carried is not None, return_dict=True
        )
        state.keys = mixed.past_key_values
        hidden = mixed.last_hidden_state.transpose(1, 2)
        frames: torch.Tensor = self._half.downsample(hidden, padding_cache=state.padding)
        return frames.transpose(1, 2)

    def _fresh_state(self) -> _Carried:
        from transformers.models.mimi.modeling_mimi import MimiConv1d, MimiConv1dPaddingCache

        found = [
            module
            for part in (self._convolutions, self._half.downsample)
            for module in part.modules()
            if isinstance(module, MimiConv1d)
        ]
        layers = sorted(found, key=lambda module: module.layer_idx or 0)
        padding = MimiConv1dPaddingCache(
            num_layers=len(layers),
            per_layer_padding=[int(layer.padding_total) for layer in layers],
            per_layer_padding_mode=[layer.pad_mode for layer in layers],
            per_layer_in_channels=[layer.in_channels for layer in layers],
        )
        return _Carried(padding)
