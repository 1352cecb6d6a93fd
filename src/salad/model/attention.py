"""Attention over packed sequences: documents laid end to end, none sees another, no dense mask.

Registered with transformers as "salad_packed". A forward pass that carries `packed_starts` (cumulative
lengths, first 0) attends causally within each document; one that does not is plain SDPA. On a CPU that is one
fused kernel a document; on a GPU FlexAttention with a block mask, which skips the blocks between documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["NAME", "block_mask", "packed_arguments"]

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
    packed_prefixes: Sequence[tuple[int, int]] | None = None,
    packed_mask: BlockMask | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query [1, heads, L, d], key and value [1, kv_heads, L, d] -> [1, L, heads, d]."""
    if packed_starts is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if packed_mask is not None and query.shape[-1] >= 16:  # smaller heads (tests) are below what its GPU kernels take
        grouped = query.shape[1] != key.shape[1]
        attend = _compiled() if query.is_cuda else flex_attention
        out = attend(query, key, value, block_mask=packed_mask, scale=scaling, enable_gqa=grouped)
        return out.transpose(1, 2), None
    out_dtype = query.dtype
    if query.device.type == "cpu" and out_dtype == torch.bfloat16:  # on a CPU the float32 kernel is the faster one
        query, key, value = query.float(), key.float(), value.float()
    outs = []
    for index, (start, end) in enumerate(zip(packed_starts[:-1], packed_starts[1:], strict=True)):
        keys, values, mask = key[:, :, start:end], value[:, :, start:end], None
        first, last = packed_prefixes[index] if packed_prefixes else (0, 0)
        if last > first:  # this document goes on after another one, which it sees whole
            keys = torch.cat([key[:, :, first:last], keys], dim=2)
            values = torch.cat([value[:, :, first:last], values], dim=2)
            mask = torch.ones(end - start, last - first + end - start, dtype=torch.bool, device=query.device)
            mask = mask.tril(diagonal=last - first)
        outs.append(
            scaled_dot_product_attention(
                query[:, :, start:end],
                keys,
                values,
                attn_mask=mask,
                is_causal=mask is None,
                scale=scaling,
                dropout_p=dropout,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(outs, dim=2).transpose(1, 2).to(out_dtype), None


def block_mask(
    starts: Sequence[int], device: torch.device, prefixes: Sequence[tuple[int, int]] | None = None
) -> BlockMask:
    """Which positions see which, for FlexAttention: causal within a document, and all of the one it continues."""
    lengths = [end - start for start, end in zip(starts[:-1], starts[1:], strict=True)]
    repeats = torch.tensor(lengths, device=device)
    document = torch.arange(len(lengths), device=device).repeat_interleave(repeats)
    bounds = torch.tensor(prefixes or [(0, 0)] * len(lengths), device=device)
    first, last = (bounds[:, i].repeat_interleave(repeats) for i in (0, 1))

    def sees(batch: torch.Tensor, head: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return ((document[q] == document[k]) & (q >= k)) | ((k >= first[q]) & (k < last[q]))

    length = int(starts[-1])
    return create_block_mask(sees, None, None, length, length, device=str(device))


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=True)


def packed_arguments(
    starts: Sequence[int], device: torch.device, prefixes: Sequence[tuple[int, int]] | None = None
) -> dict[str, Any]:
    """Arguments that make a transformers decoder treat a [1, L] input as documents laid end to end.

    Position ids restart at each document. `prefixes` gives for each document the positions (first, last + 1) of an
    earlier one that it continues, (0, 0) for none: it sees that one whole, and counts on from it. transformers passes a
    4-D mask through untouched, and it is not read: the kernel above takes the boundaries from `packed_starts`.
    """
    starts = [int(start) for start in starts]
    seen = [last - first for first, last in prefixes] if prefixes else [0] * (len(starts) - 1)
    positions = torch.cat(
        [
            torch.arange(before, before + end - start, device=device)
            for start, end, before in zip(starts[:-1], starts[1:], seen, strict=True)
        ]
    )
    return {
        "position_ids": positions[None],
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
        "packed_starts": starts,
        "packed_prefixes": prefixes,
        "packed_mask": block_mask(starts, device, prefixes) if device.type == "cuda" else None,
        "use_cache": False,
    }


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
