"""Which token ends at a position, if any: the loss of the upper part of the ears."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch.nn import functional


class Speller(Protocol):
    """The upper part of ears: which tokens can be said, and the vectors and biases of classes."""

    sayable: torch.Tensor

    def classes(self, table: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """table [V, W] of the LLM's embeddings, ids int64 [N] -> the vectors [N, D] and biases [N] of these classes."""


def spelling(
    upper: Speller,
    query: torch.Tensor,
    emit: torch.Tensor,
    targets: torch.Tensor,
    table: torch.Tensor,
    sampled: torch.Tensor,
) -> tuple[torch.Tensor, int, int]:
    """Summed loss in nats, the number of tokens, and how many of them score best among the classes compared.

    query [P, D], emit [P] of `upper`, targets int64 [P] (-1 where no token ends), table [V, W] the LLM's embeddings.
    Binary cross-entropy of emission at every position, and cross-entropy over classes where a token ends. The softmax
    runs over the targets of the batch and over `sampled` classes (int64, no two the same), which stand for all V: each
    weighs V / len(sampled) (importance sampling, Bengio and Senecal 2008).
    """
    ends = targets >= 0
    blank = functional.binary_cross_entropy_with_logits(emit.float(), ends.float(), reduction="sum")
    wanted = targets[ends]
    if not len(wanted):
        return blank, 0, 0
    own, place = wanted.unique(return_inverse=True)
    others = sampled[~torch.isin(sampled, own)]
    vectors, bias = upper.classes(table, torch.cat([own, others]))
    weight = math.log(max(1.0, (upper.sayable.sum().item() - len(own)) / max(1, len(others))))
    bias = torch.cat([bias[: len(own)], bias[len(own) :] + weight])
    scores = torch.addmm(bias, query[ends], vectors.T)
    loss = functional.cross_entropy(scores, place, reduction="sum")
    right = int((scores.detach().argmax(-1) == place).sum())
    return blank + loss, len(wanted), right
