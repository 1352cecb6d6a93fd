"""The upper part: symbols as they were heard -> tokens of the LLM, at text rate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from salad.model.ears.blocks import Block, pad, unpad
from salad.model.ears.lexicon import TRAITS, Lexicon
from salad.text.phonemes import BOUNDARY

__all__ = ["Upper"]

PLACE = 24  # width of one symbol at one place of a class vector
ROWS = 96  # width of what a class takes from the LLM's own row of its token
SHARPNESS = 4.0  # score of one symbol that agrees, at the start


class Upper(nn.Module):
    """At every symbol: does a token end here, and which one. Every token of the LLM but the control tokens is a class.

    A class vector is built from the token's pronunciation, symbol by symbol from its end, and beside it from the LLM's
    own row of it (low rank) and from how it is written (`TRAITS`). The query at a position begins as the symbols just
    heard, through the same table: before any training the scores look pronunciations up, forgiving a wrong symbol.
    """

    def __init__(
        self,
        lexicon: Lexicon,
        num_symbols: int,
        states_width: int,
        llm_width: int,
        *,
        layers: int,
        width: int,
        heads: int,
        causal: bool,
        kernel: int = 9,
    ) -> None:
        super().__init__()
        self.depth = lexicon.sounds.shape[1]
        self.register_buffer("sounds", lexicon.sounds.to(torch.int16))
        self.register_buffer("traits", lexicon.traits.to(torch.uint8))
        self.register_buffer("sayable", lexicon.sayable)
        self.symbol = nn.Parameter(functional.normalize(torch.randn(num_symbols, PLACE), dim=-1))
        self.in_proj = nn.Linear(num_symbols, width)
        self.from_states = nn.Linear(states_width, width)
        self.blocks = nn.ModuleList(Block(width, 4 * width, kernel, heads, causal=causal) for _ in range(layers))
        self.out_norm = nn.LayerNorm(width)
        self.emit = nn.Linear(width, 1)
        self.query = nn.Linear(width, self.depth * PLACE + ROWS + len(TRAITS))
        self.row = nn.Linear(llm_width, ROWS, bias=False)
        self.prior = nn.Linear(llm_width, 1, bias=False)
        self.length = nn.Parameter(torch.full((self.depth,), 0.5))  # what a symbol of a class costs, by its place
        self.trait_prior = nn.Parameter(torch.zeros(len(TRAITS)))
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS))
        self.residual = nn.Linear(width, llm_width)

    def reset(self) -> None:
        """What must begin at zero, or at a scale of its own."""
        for linear in (self.from_states, self.query, self.prior, self.residual):
            nn.init.zeros_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        nn.init.normal_(self.in_proj.weight)
        nn.init.normal_(self.row.weight, std=self.row.in_features**-0.5)

    def forward(
        self, posteriors: torch.Tensor, states: torch.Tensor | None, lengths: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
        """posteriors [N, S] and (or None) states [N, W] of spans laid end to end, `lengths` symbols each.

        A boundary is added behind each span. Returns queries [N + spans, D], scores of emission [N + spans] in
        logits, hidden [N + spans, width], positions of each span.
        """
        rows, _ = pad(posteriors.float(), lengths)
        more = [length + 1 for length in lengths]
        ends = torch.tensor(lengths, device=rows.device)
        inside = torch.arange(rows.shape[1] + 1, device=rows.device)[None] <= ends[:, None]
        rows = functional.pad(rows, (0, 0, 0, 1))
        rows[torch.arange(len(more), device=rows.device), ends, BOUNDARY] = 1.0
        hidden = self.in_proj(rows)
        if states is not None:
            hidden = hidden + functional.pad(self.from_states(pad(states, lengths)[0]), (0, 0, 0, 1))
        hidden = hidden * inside[..., None]
        for block in self.blocks:
            hidden = block(hidden, inside)
        hidden = self.out_norm(unpad(hidden, inside))
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            query = self.query(hidden) + functional.pad(unpad(self._echo(rows), inside), (0, ROWS + len(TRAITS)))
            return query, self.emit(hidden)[:, 0], hidden, more

    def _echo(self, rows: torch.Tensor) -> torch.Tensor:
        """[B, T, S] -> [B, T, depth * PLACE]: the symbols at t, t - 1, ...; a boundary stands before each span."""
        own = rows @ self.symbol
        before = self.symbol[BOUNDARY].expand(len(own), self.depth - 1, PLACE)
        padded = torch.cat([before, own], dim=1)
        length, last = own.shape[1], self.depth - 1
        return torch.cat([padded[:, last - j : last - j + length] for j in range(self.depth)], dim=-1)

    def classes(self, table: torch.Tensor, ids: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Class vectors [C, D] and biases [C] of the token ids (None: of all); table [V, llm width] the LLM's rows."""
        with torch.autocast(table.device.type, enabled=False):
            sounds = self.sounds if ids is None else self.sounds[ids]
            traits = (self.traits if ids is None else self.traits[ids]).float()
            rows = (table if ids is None else table[ids]).float()
            rows = functional.rms_norm(rows, rows.shape[-1:])
            known = functional.pad(self.symbol, (0, 0, 1, 0))  # symbol 0 of `sounds` is none
            vectors = known[sounds.long()].flatten(1)
            bias = (
                self.prior(rows)[:, 0]
                + traits @ self.trait_prior
                - self.sharpness * ((sounds > 0).float() @ self.length)
            )
            sayable = self.sayable if ids is None else self.sayable[ids]
            own = self.row(rows)
            return torch.cat([self.sharpness * vectors, own, traits], dim=-1), bias.masked_fill(~sayable, -torch.inf)
