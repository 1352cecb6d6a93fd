"""The upper part: symbols as they were heard -> tokens of the LLM, at text rate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from salad.model.ears.blocks import Block, through
from salad.model.ears.lexicon import TRAITS, Lexicon
from salad.text.phonemes import BOUNDARY

PLACE = 24  # width of one symbol at one place of a class vector
ROWS = 96  # width of what a class takes from the LLM's own row of its token
SHARPNESS = 4.0  # score of one symbol that agrees, at the start


class Upper(nn.Module):
    """At every symbol: does a token end here, and which one. Every token of the LLM but the control tokens is a class.

    A class vector is built from the token's pronunciation, symbol by symbol from its end, and beside it from the LLM's
    own row of it (low rank) and from how it is written (`TRAITS`). The query at a position begins as the symbols just
    heard, through the same table: before any training the scores look pronunciations up, forgiving a wrong symbol.
    """

    sounds: torch.Tensor
    traits: torch.Tensor
    sayable: torch.Tensor

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
        kernel: int = 5,
    ) -> None:
        super().__init__()
        self.depth = lexicon.sounds.shape[1]
        self.register_buffer("sounds", lexicon.sounds.to(torch.int16))
        self.register_buffer("traits", lexicon.traits.to(torch.uint8))
        self.register_buffer("sayable", lexicon.sayable)
        self.symbol = nn.Parameter(functional.normalize(torch.randn(num_symbols, PLACE), dim=-1))
        self.in_proj = nn.Linear(num_symbols, width)
        self.from_states = nn.Linear(states_width, width)
        self.blocks = nn.ModuleList(Block(width, 2 * width, kernel, heads, causal=causal) for _ in range(layers))
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

    def reset_constants(self) -> None:
        """What `__init__` gives by itself: where symbols lie, prices, and the tables of a lexicon not yet learnt."""
        nn.init.normal_(self.symbol, std=PLACE**-0.5)
        nn.init.constant_(self.length, 0.5)
        nn.init.constant_(self.sharpness, SHARPNESS)
        for zeros in (self.trait_prior, self.sounds, self.traits, self.sayable):
            nn.init.zeros_(zeros)

    def resize(self, rows: int) -> None:
        """Give the classes as many rows as the LLM's table; no sound says an added one until a lexicon is learnt."""
        for name in ("sounds", "traits", "sayable"):
            held = getattr(self, name)[:rows]
            setattr(self, name, torch.cat([held, held.new_zeros(rows - len(held), *held.shape[1:])]))

    def forward(
        self, posteriors: torch.Tensor, states: torch.Tensor | None, lengths: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
        """posteriors [N, S] and (or None) states [N, W] of spans laid end to end, `lengths` symbols each.

        A boundary is added behind each span. Returns queries [N + spans, D], scores of emission [N + spans] in
        logits, hidden [N + spans, width], positions of each span.
        """
        more = [length + 1 for length in lengths]
        end = functional.one_hot(torch.tensor([BOUNDARY], device=posteriors.device), posteriors.shape[1]).float()
        flat = torch.cat([part for span in posteriors.float().split(list(lengths)) for part in (span, end)])
        hidden = self.in_proj(flat)
        if states is not None:
            nothing = states.new_zeros(1, states.shape[1])
            laid = [part for span in states.split(list(lengths)) for part in (span, nothing)]
            hidden = hidden + self.from_states(torch.cat(laid))
        hidden = self.out_norm(through(self.blocks, hidden, more))
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            query = self.query(hidden) + functional.pad(self._echo(flat, more), (0, ROWS + len(TRAITS)))
            return query, self.emit(hidden)[:, 0], hidden, more

    def _echo(self, flat: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """[N, S] -> [N, depth * PLACE]: the symbols at t, t - 1, ...; a boundary stands before each span."""
        own = torch.cat([flat @ self.symbol, self.symbol[BOUNDARY][None]])
        place = torch.cat([torch.arange(length, device=flat.device) for length in lengths])[:, None]
        back = torch.arange(self.depth, device=flat.device)
        at = torch.arange(len(flat), device=flat.device)[:, None] - back
        return _rows(own, torch.where(back <= place, at, len(flat)))

    def classes(self, table: torch.Tensor, ids: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Class vectors [C, D] and biases [C] of the token ids (None: of all); table [V, llm width] the LLM's rows."""
        with torch.autocast(table.device.type, enabled=False):
            sounds = self.sounds if ids is None else self.sounds[ids]
            traits = (self.traits if ids is None else self.traits[ids]).float()
            rows = (table if ids is None else table[ids]).float()
            rows = functional.rms_norm(rows, rows.shape[-1:])
            known = functional.pad(self.symbol, (0, 0, 1, 0))  # symbol 0 of `sounds` is none
            vectors = _rows(known, sounds.long())
            bias = (
                self.prior(rows)[:, 0]
                + traits @ self.trait_prior
                - self.sharpness * ((sounds > 0).float() @ self.length)
            )
            sayable = self.sayable if ids is None else self.sayable[ids]
            own = self.row(rows)
            return torch.cat([self.sharpness * vectors, own, traits], dim=-1), bias.masked_fill(~sayable, -torch.inf)


def _rows(table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """table [R, W], ids int64 [N, K] -> [N, K * W]. Unlike an embedding's, this gradient is the same at each run."""
    return table.index_select(0, ids.flatten()).view(len(ids), -1)
