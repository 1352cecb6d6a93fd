"""The lower part: encoder frames -> scores of a small alphabet, under CTC; and the runs that are read off them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from salad.model.adapter import stack_frames
from salad.model.ears.blocks import Block, through

SYMBOLS_A_SECOND = 14.0  # of English; CTC needs two positions for each, one of them for a blank between two of a kind


@dataclass(frozen=True)
class Runs:
    """What was heard, one row a run of one symbol, spans laid end to end; `lengths` rows of each span.

    posteriors [N, S]: mean over the run, without the blank; states [N, width]: mean of the lower part's own.
    places: int64 [N, 2], the first position of the run in its span, and the one behind its last.
    """

    posteriors: torch.Tensor
    states: torch.Tensor
    lengths: list[int]
    places: torch.Tensor


class Lower(nn.Module):
    """Frames [T, frame_dim] -> scores [P, 1 + S] (class 0 is the blank, class s + 1 symbol s) at P = T / stride * up.

    up: positions made of one stacked frame where the encoder is slower than two positions a symbol.
    """

    def __init__(
        self,
        frame_dim: int,
        frame_rate_hz: float,
        stride: int,
        num_symbols: int,
        *,
        layers: int,
        width: int,
        causal: bool,
        kernel: int = 9,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.up = max(1, math.ceil(1.75 * SYMBOLS_A_SECOND * stride / frame_rate_hz))
        self.in_norm = nn.LayerNorm(frame_dim * stride)
        self.in_proj = nn.Linear(frame_dim * stride, width * self.up)
        self.blocks = nn.ModuleList(Block(width, width, kernel, 0, causal=causal) for _ in range(layers))
        self.out_norm = nn.LayerNorm(width)
        self.out_proj = nn.Linear(width, 1 + num_symbols)

    def num_positions(self, num_frames: int) -> int:
        return -(-num_frames // self.stride) * self.up

    def forward(self, frames: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """One [T, frame_dim] a span -> scores [P, 1 + S] float32, states [P, width], positions of each span."""
        stacked = [stack_frames(span, self.stride) for span in frames]
        lengths = [len(span) * self.up for span in stacked]
        flat = self.in_proj(self.in_norm(torch.cat(stacked)))
        states = self.out_norm(through(self.blocks, flat.reshape(len(flat) * self.up, -1), lengths))
        with torch.autocast(states.device.type, enabled=False):
            return self.out_proj(states.float()), states, lengths


def pool_runs(scores: torch.Tensor, states: torch.Tensor, lengths: Sequence[int]) -> Runs:
    """Neighbouring positions of one best symbol become one row, their mean; blanks are left out.

    scores [P, 1 + S], states [P, width] of all spans laid end to end. A span of blanks alone keeps its likeliest
    position. Gradients flow through the means.
    """
    best = scores.detach().argmax(dim=-1)
    span = torch.repeat_interleave(
        torch.arange(len(lengths), device=scores.device), torch.tensor(lengths, device=scores.device)
    )
    silent = torch.ones(len(lengths), dtype=torch.bool, device=scores.device).index_fill(0, span[best != 0], False)
    if silent.any():
        at = 0
        for i, length in enumerate(lengths):
            if silent[i]:
                likeliest, symbol = scores[at : at + length, 1:].detach().max(dim=-1)
                loudest = int(likeliest.argmax())
                best[at + loudest] = symbol[loudest] + 1
            at += length
    heard = best != 0
    starts = torch.ones_like(heard)
    starts[1:] = (best[1:] != best[:-1]) | (span[1:] != span[:-1])
    number = (starts & heard).cumsum(0)[heard] - 1
    total = int(number[-1]) + 1
    counts = torch.bincount(number, minlength=total)[:, None]
    probabilities = functional.softmax(scores[:, 1:].float(), dim=-1)[heard]
    posteriors = torch.zeros(total, probabilities.shape[1], device=scores.device)
    posteriors = posteriors.index_add(0, number, probabilities) / counts
    pooled = torch.zeros(total, states.shape[1], dtype=torch.float32, device=scores.device)
    pooled = pooled.index_add(0, number, states[heard].float()) / counts
    owner = span[starts & heard]
    ends = torch.ones_like(starts)
    ends[:-1] = starts[1:]
    place = torch.cat([torch.arange(length, device=scores.device) for length in lengths])
    places = torch.stack([place[starts & heard], place[ends & heard] + 1], dim=1)
    return Runs(posteriors, pooled, torch.bincount(owner, minlength=len(lengths)).tolist(), places)
