"""Length-normalised log-probabilities of options after a prefix of embeddings; the prefix is read once."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from salad.model.modeling import SaladForConditionalGeneration

__all__ = ["score_options"]


@torch.no_grad()
def score_options(
    model: SaladForConditionalGeneration, prefix: torch.Tensor, options: Sequence[Sequence[int]]
) -> tuple[float, ...]:
    """Mean log-probability in nats per token of each option as a continuation of `prefix` [L, width].

    The prefix's keys and values are computed once and copied for the options, which run as one padded batch.
    """
    llm = model.llm
    first = llm(inputs_embeds=prefix[None], use_cache=True, logits_to_keep=1)
    longest = max(len(option) for option in options)
    ids = torch.zeros(len(options), longest, dtype=torch.long)
    real = torch.zeros_like(ids, dtype=torch.bool)
    for row, option in enumerate(options):
        ids[row, : len(option)] = torch.tensor(list(option))
        real[row, : len(option)] = True
    cache = copy.deepcopy(first.past_key_values)
    cache.batch_repeat_interleave(len(options))
    mask = torch.cat([torch.ones(len(options), len(prefix), dtype=torch.long), real.long()], dim=1)
    rest = llm(input_ids=ids, past_key_values=cache, attention_mask=mask, use_cache=True).logits[:, :-1]
    with torch.autocast(prefix.device.type, enabled=False):
        logits = torch.cat([first.logits[:, -1:].expand(len(options), 1, -1), rest], dim=1).float()
        chosen = logits.log_softmax(-1).gather(2, ids[..., None])[..., 0]
    return tuple(float(v) for v in (chosen * real).sum(1) / real.sum(1))
