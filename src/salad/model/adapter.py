"""Frames -> LLM embeddings: a causal transformer decoder, and the CTC head that finds the text in it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaModel

from salad.model.attention import NAME, packed_arguments
from salad.model.config import SaladConfig
from salad.model.llm import embedding_width

# A mixture of many embeddings lies where no token does, and the LLM makes nothing of it (docs/decisions/0003).
SHARPEN = 4.0


@dataclass(frozen=True)
class SpeechEmbeddings:
    """Spans laid end to end: embeddings [sum of lengths, llm width] for the LLM; CTC logits [sum of all_lengths, C].

    `lengths`: positions that each span keeps; `all_lengths`: its adapter positions before any is dropped.
    token_ids: int64 [sum of lengths], the likeliest token at each kept position, -1 where that is the blank; None where
    nothing scores tokens. symbols: the likeliest symbols of each span, without blanks and repeats, where there are any.
    sure: float [sum of lengths], the share of the score that the likeliest has. places: int64 [sum of lengths, 2], the
    first of its span's `all_lengths` positions that a token was heard at, and the one behind its last.
    """

    embeddings: torch.Tensor
    lengths: list[int]
    ctc_logits: torch.Tensor | None
    all_lengths: list[int]
    token_ids: torch.Tensor | None = None
    symbols: list[list[int]] | None = None
    sure: torch.Tensor | None = None
    places: torch.Tensor | None = None


def stack_frames(frames: torch.Tensor, stride: int) -> torch.Tensor:
    """[T, dim] -> [ceil(T / stride), stride * dim]; the last position is filled up with zeros."""
    frames = functional.pad(frames, (0, 0, 0, -len(frames) % stride))
    return frames.reshape(len(frames) // stride, -1)


class Adapter(nn.Module):
    """Causal transformer decoder with a stride (SALAD: 12 layers, width 960, MLP 2560, 15/5 heads)."""

    def __init__(self, config: SaladConfig) -> None:
        super().__init__()
        width = config.adapter_width
        self.stride = config.stride
        self.in_norm = nn.LayerNorm(config.frame_dim * config.stride)
        self.in_proj = nn.Linear(config.frame_dim * config.stride, width)
        by_name: Any = {"attn_implementation": NAME}  # every configuration takes it, and none names it
        self.decoder = LlamaModel(
            LlamaConfig(
                vocab_size=1,
                hidden_size=width,
                intermediate_size=config.adapter_mlp,
                num_hidden_layers=config.adapter_layers,
                num_attention_heads=config.adapter_heads,
                num_key_value_heads=config.adapter_kv_heads,
                max_position_embeddings=8192,
                bos_token_id=None,
                eos_token_id=None,
                pad_token_id=None,
                **by_name,
            )
        )
        del self.decoder.embed_tokens
        self.decoder.register_module("embed_tokens", None)  # it reads vectors alone
        self.out_proj = nn.Linear(width, embedding_width(config.llm_config))

    def forward(self, frames: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[int]]:
        """frames: one [T, frame_dim] for each span -> [total positions, llm width], positions of each span.

        Spans are packed end to end; none sees another.
        """
        stacked = [stack_frames(span, self.stride) for span in frames]
        lengths = [len(span) for span in stacked]
        starts = [0, *itertools.accumulate(lengths)]
        hidden = self.in_proj(self.in_norm(torch.cat(stacked)))
        hidden = self.decoder(inputs_embeds=hidden[None], **packed_arguments(starts, hidden.device)).last_hidden_state
        return self.out_proj(hidden[0]), lengths


class CTCHead(nn.Module):
    """Scores adapter positions against the LLM's own embeddings of the tokens seen in training, plus a blank.

    Logits: a learned scale times the cosine to each embedding row; class 0 is the blank (CTC, Graves 2006).
    What a position passes on to the LLM is the expected embedding under these scores, so that a sure
    position looks to the LLM like the text token it heard, and distillation's gradient flows through it.
    """

    token_ids: torch.Tensor

    def __init__(self, config: SaladConfig) -> None:
        super().__init__()
        width = embedding_width(config.llm_config)
        self.register_buffer("token_ids", torch.zeros(config.ctc_vocab_size, dtype=torch.long))
        self.scale = nn.Parameter(torch.tensor(20.0))
        self.blank = nn.Linear(width, 1)
        self.residual = nn.Linear(width, width)
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)

    def classes(self) -> dict[int, int]:
        """Class of each token id that the head knows; 0 is the blank."""
        return {token: index + 1 for index, token in enumerate(self.token_ids.tolist())}

    def tokens(self, best: torch.Tensor) -> torch.Tensor:
        """Token id of each class in `best` (int64 [P]); -1 for the blank."""
        return torch.where(best > 0, self.token_ids[(best - 1).clamp(min=0)], -1)

    def forward(self, hidden: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """hidden [P, width], embeddings [vocabulary, width] -> logits [P, 1 + ctc_vocab_size], float32."""
        rows = functional.normalize(embeddings[self.token_ids].float(), dim=-1)
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            cosine = functional.normalize(hidden, dim=-1) @ rows.T
            return torch.cat([self.blank(hidden), self.scale * cosine], dim=-1)

    def embed(self, hidden: torch.Tensor, logits: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """Expected embedding under the sharpened scores without the blank, plus a residual from zero: [P, width]."""
        mixed = (SHARPEN * logits[:, 1:]).softmax(dim=-1) @ embeddings[self.token_ids].float()
        residual: torch.Tensor = self.residual(hidden)
        return mixed + residual.float()

    @staticmethod
    def positions_to_keep(best: torch.Tensor, lengths: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
        """Positions to keep: neither blank (class 0) nor a repeat of the one before; at least one a span.

        best: int64 [P], the best class of each position. Returns bool [P] and the kept positions of each span.
        """
        keep = best != 0
        keep[1:] &= best[1:] != best[:-1]
        counts, at = [], 0
        for length in lengths:
            span = slice(at, at + length)
            keep[at] = best[at] != 0  # the first position repeats nothing, whatever stood before its span
            if not keep[span].any():
                keep[at + length - 1] = True
            counts.append(int(keep[span].sum()))
            at += length
        return keep, counts
