"""Speech between tokens: the embeddings of a sequence whose parts are read or heard. Nothing else puts it there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def splice(table: nn.Embedding, parts: Sequence[Sequence[int] | torch.Tensor]) -> torch.Tensor:
    """Embeddings [positions, width] of `parts`, one after the other; none at all give [0, width].

    A part is token ids (a sequence of ints, or int64 [n]), which `table` (the LLM's input embeddings) embeds, or speech
    that is embedded already: float [n, width], which takes the table's precision.
    """
    weight = table.weight
    pieces = []
    for part in parts:
        if isinstance(part, torch.Tensor) and part.is_floating_point():
            pieces.append(part.to(weight.dtype))
        else:
            pieces.append(table(torch.as_tensor(part, dtype=torch.long, device=weight.device)))
    return torch.cat(pieces) if pieces else weight.new_zeros(0, weight.shape[1])


def splice_at(table: nn.Embedding, ids: torch.Tensor, rows: torch.Tensor, speech: torch.Tensor) -> torch.Tensor:
    """Embeddings [..., L, width] of `ids` [..., L] with `speech` [n, width] at the n positions that `rows` counts.

    rows: int64 [n], each another position of `ids` laid flat; the ids there may be any number. Speech takes the table's
    precision. Training and measuring put spans into packs by it, and a prompt into its placeholders.
    """
    embedded: torch.Tensor = table(ids.reshape(-1).index_fill(0, rows, 0) if len(rows) else ids)
    return embedded.index_copy(0, rows, speech.to(embedded.dtype)).view(*ids.shape, -1) if len(rows) else embedded
