"""Attention over packed sequences: documents laid end to end, none sees another, no dense mask.

Registered with transformers as "salad_packed". A forward pass that carries `packed_starts` (cumulative
lengths, first 0) attends causally within each document; one that does not is plain SDPA.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["NAME", "packed_arguments"]

NAME = "salad_packed"


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_starts: Sequence[int] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query [1, heads, L, d], key and value [1, kv_heads, L, d] -> [1, L, heads, d]."""
    if packed_starts is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    out_dtype = query.dtype
    if query.device.type == "cpu" and out_dtype == torch.bfloat16:  # on a CPU the float32 kernel is the faster one
        query, key, value = query.float(), key.float(), value.float()
    outs = []
    for start, end in zip(packed_starts[:-1], packed_starts[1:], strict=True):
        outs.append(
            scaled_dot_product_attention(
                query[:, :, start:end],
                key[:, :, start:end],
                value[:, :, start:end],
                is_causal=True,
                scale=scaling,
                dropout_p=dropout,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(outs, dim=2).transpose(1, 2).to(out_dtype), None


def packed_arguments(starts: Sequence[int], device: torch.device) -> dict[str, Any]:
    """Arguments that make a transformers decoder treat a [1, L] input as documents laid end to end.

    Position ids restart at each document. The 4-D mask is passed through by transformers untouched and
    is not read: the kernel above takes the boundaries from `packed_starts`.
    """
    starts = [int(start) for start in starts]
    positions = torch.cat([torch.arange(b - a, device=device) for a, b in zip(starts[:-1], starts[1:], strict=True)])
    return {
        "position_ids": positions[None],
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
        "packed_starts": starts,
        "use_cache": False,
    }


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
