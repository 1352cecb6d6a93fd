"""Length-normalised log-probabilities of options after a prefix of embeddings; the prefix is read once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from salad.model.modeling import SaladForConditionalGeneration

__all__ = ["score_options"]


@torch.no_grad()
def score_options(
    model: SaladForConditionalGeneration, items: Sequence[tuple[torch.Tensor, Sequence[Sequence[int]]]]
) -> list[tuple[float, ...]]:
    """For each item (prefix [L, width], options as token ids): mean log-probability in nats per token of each option.

    All items run in one packed forward pass: each prefix once, its options behind it as branches that see the prefix
    and themselves. Logits are formed in float32 at the options' tokens alone.
    """
    table = model.get_input_embeddings()
    parts: list[torch.Tensor] = []
    starts, prefixes, branches = [0], [], []
    for prefix, options in items:
        at = (starts[-1], starts[-1] + len(prefix))
        parts.append(prefix)
        starts.append(at[1])
        prefixes.append((0, 0))
        for option in options:
            ids = torch.tensor(list(option))
            branches.append((at[1] - 1, starts[-1], ids))  # the prefix's end predicts the option's first token
            parts.append(table(ids).to(prefix.dtype))
            starts.append(starts[-1] + len(ids))
            prefixes.append(at)
    hidden = model.hidden_states(torch.cat(parts), starts, prefixes)
    rows = torch.cat([torch.tensor([end, *range(start, start + len(ids) - 1)]) for end, start, ids in branches])
    targets = torch.cat([ids for _, _, ids in branches])
    with torch.autocast(hidden.device.type, enabled=False):
        logits = hidden[rows].float() @ model.get_output_embeddings().weight.float().T
        chosen = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    means = iter([float(span.mean()) for span in chosen.split([len(ids) for _, _, ids in branches])])
    return [tuple(next(means) for _ in options) for _, options in items]
