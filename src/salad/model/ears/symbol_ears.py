"""Both parts of the ears together: spans of frames in, embeddings at text rate out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from salad.model.ears.blocks import Block
from salad.model.ears.lexicon import TRAITS, Lexicon
from salad.model.ears.lower import Lower, Runs, pool_runs
from salad.model.ears.upper import Upper
from salad.model.llm import embedding_width
from salad.text.phonemes import Symbols

SHARPEN = 2.0  # what the LLM reads is sharper than what was learnt (1 was worse, 4 no better)
BEST = 64  # classes that a read-out mixes
CHUNK = 512  # positions scored against all classes at a time

Readout = Literal["mixed", "argmax"]


@dataclass(frozen=True)
class Candidates:
    """The tokens that may end at each kept position, N of them in all spans.

    token_ids int64 [N, K], likeliest first by the ears alone; scores float32 [N, K], sharpened, in logits; residual
    [N, llm width]; lengths: positions of each span; symbols: what was heard in each span, one symbol a run;
    kept: int64 [N], the symbol of its span at which each token ends (one behind the last where the span's end does).
    """

    token_ids: torch.Tensor
    scores: torch.Tensor
    residual: torch.Tensor
    lengths: list[int]
    symbols: list[list[int]]
    kept: torch.Tensor


class SymbolEars(nn.Module):
    """`lower`: frames -> symbols; `upper`: symbols -> tokens. See `salad.model.config.SaladConfig` for the shape."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.symbols = Symbols.from_dict(config.symbols)
        self._classes: tuple[Any, torch.Tensor, torch.Tensor] | None = None
        shape, llm = config.ears_shape, config.llm_config
        num, depth = len(self.symbols), shape["depth"]
        empty = Lexicon(
            torch.zeros(llm.vocab_size, depth, dtype=torch.long),
            torch.zeros(llm.vocab_size, len(TRAITS)),
            torch.zeros(llm.vocab_size, dtype=torch.bool),
        )
        self.lower = Lower(
            config.frame_dim,
            config.frame_rate_hz,
            config.stride,
            num,
            layers=shape["lower_layers"],
            width=shape["lower_width"],
            causal=config.causal,
        )
        self.upper = Upper(
            empty,
            num,
            shape["lower_width"],
            embedding_width(llm),
            layers=shape["upper_layers"],
            width=shape["upper_width"],
            heads=shape["upper_heads"],
            causal=config.causal,
        )

    def reset(self) -> None:
        """Weights of a fresh pair of ears."""
        for module in self.modules():
            if isinstance(module, Block):
                for linear in (module.conv, module.up):
                    nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
                nn.init.normal_(module.down.weight, std=0.5 * module.down.in_features**-0.5)
                if module.heads:
                    nn.init.normal_(module.qkv.weight, std=module.qkv.in_features**-0.5)
                    nn.init.normal_(module.attended.weight, std=0.5 * module.attended.in_features**-0.5)
        nn.init.normal_(self.lower.in_proj.weight, std=self.lower.in_proj.in_features**-0.5)
        self.upper.reset()

    def learn_lexicon(self, lexicon: Lexicon) -> None:
        """Take over how the LLM's tokens sound."""
        self.upper.sounds.copy_(lexicon.sounds)
        self.upper.traits.copy_(lexicon.traits)
        self.upper.sayable.copy_(lexicon.sayable)

    def runs(self, frames: Sequence[torch.Tensor]) -> Runs:
        scores, states, lengths = self.lower(frames)
        return pool_runs(scores, states, lengths)

    def candidates(
        self, posteriors: torch.Tensor, states: torch.Tensor | None, lengths: Sequence[int], table: torch.Tensor
    ) -> Candidates:
        """Symbols [N, S] as they were heard -> the tokens that they may spell; table [V, llm width] the embeddings."""
        query, emit, hidden, positions = self.upper(posteriors, states, lengths)
        keep, kept = kept_positions(emit, positions)
        query = query[keep]
        with torch.no_grad():
            vectors, bias = self._all_classes(table)
            found = [
                torch.addmm(bias, part, vectors.T).topk(min(BEST, len(bias))).indices
                for part in query.detach().split(CHUNK)
            ]
            best = torch.cat(found)
        few, place = best.unique(return_inverse=True)
        vectors, bias = self.upper.classes(table, few)
        with torch.autocast(table.device.type, enabled=False):
            own = vectors.index_select(0, place.flatten()).view(*place.shape, -1)  # an index's gradient has no order
            scores = torch.einsum("nd,nkd->nk", query, own) + bias.index_select(0, place.flatten()).view(place.shape)
        heard = posteriors.detach().argmax(-1).split(list(lengths))
        at = torch.cat([torch.arange(n, device=keep.device) for n in positions])[keep]
        symbols = [h.tolist() for h in heard]
        return Candidates(best, SHARPEN * scores, self.upper.residual(hidden[keep]), kept, symbols, at)

    @staticmethod
    def embed(
        found: Candidates, table: torch.Tensor, prior: torch.Tensor | None = None, *, readout: Readout = "mixed"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Expected embeddings [N, llm width] of the candidates, and the likeliest token ids [N].

        prior [N, K]: added to the scores. readout "argmax": the likeliest token's own embedding, nothing else.
        """
        with torch.autocast(table.device.type, enabled=False):
            scores = found.scores if prior is None else found.scores + prior
            likeliest = found.token_ids.gather(1, scores.detach().argmax(-1, keepdim=True))[:, 0]
            if readout == "argmax":
                return table[likeliest].float(), likeliest
            mixed = torch.einsum(
                "nk,nkw->nw", scores.softmax(-1), torch.nn.functional.embedding(found.token_ids, table).float()
            )
            return mixed + found.residual.float(), likeliest

    def _all_classes(self, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors and biases of every token, without gradients; made again when anything they are made of changed."""
        made_of = [table, *self.upper.parameters(), *self.upper.buffers()]
        key = tuple((t.data_ptr(), t._version) for t in made_of)
        if self._classes is None or self._classes[0] != key:
            self._classes = key, *self.upper.classes(table)
        return self._classes[1:]


def kept_positions(emit: torch.Tensor, lengths: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
    """Where a token ends: bool [P], and how many of each span; at least one a span."""
    keep = emit.detach() > 0
    counts, at = [], 0
    for length in lengths:
        span = slice(at, at + length)
        if not keep[span].any():
            keep[at + int(emit[span].detach().argmax())] = True
        counts.append(int(keep[span].sum()))
        at += length
    return keep, counts


def token_places(
    places: torch.Tensor, num_runs: Sequence[int], kept: torch.Tensor, num_tokens: Sequence[int]
) -> torch.Tensor:
    """int64 [N, 2]: where each token was heard, from the first of its runs to its last.

    places [R, 2] of the runs (see `Runs`), num_runs of each span; kept [N] the run at which each token ends (see
    `Candidates`), num_tokens of each span.
    """
    parts = []
    for own, ends in zip(places.split(list(num_runs)), kept.split(list(num_tokens)), strict=True):
        last = ends.clamp(max=len(own) - 1)
        first = torch.cat([last.new_zeros(1), last[:-1] + 1]).minimum(last)
        parts.append(torch.stack([own[first, 0], own[last, 1]], dim=1))
    return torch.cat(parts)
