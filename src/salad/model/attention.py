"""Attention over packed sequences: documents laid end to end, none sees another, no dense mask.

Registered with transformers as "salad_packed". A forward pass that carries `packed_starts` (cumulative
lengths, first 0) attends causally within each document; one that does not is plain SDPA. On a CPU that is one
fused kernel a document; on a GPU FlexAttention with a block mask, which skips the blocks between documents.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["NAME", "block_mask", "packed_arguments", "read_head"]

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
    packed_calls: Sequence[Call] = (),
    packed_head: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None,
    packed_mask: BlockMask | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query [1, heads, L, d], key and value [1, kv_heads, L, d] -> [1, L, heads, d]."""
    if packed_starts is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    head = [part.to(key.dtype) for part in packed_head[module.layer_idx]] if packed_head else None
    if packed_mask is not None and query.shape[-1] >= 16:  # smaller heads (tests) are below what its GPU kernels take
        if head:
            key, value = (torch.cat(pair, dim=2) for pair in zip(head, (key, value), strict=True))
        grouped = query.shape[1] != key.shape[1]
        attend = _compiled() if query.is_cuda else flex_attention
        out = attend(query, key, value, block_mask=packed_mask, scale=scaling, enable_gqa=grouped)
        return out.transpose(1, 2), None
    out_dtype = query.dtype
    if query.device.type == "cpu" and out_dtype == torch.bfloat16:  # on a CPU the float32 kernel is the faster one
        query, key, value = query.float(), key.float(), value.float()
        head = [part.float() for part in head] if head else None
    outs = []
    for call in packed_calls:
        keys, values = key[:, :, call.start : call.end], value[:, :, call.start : call.end]
        if call.last > call.first:  # these documents go on after another one, which they see whole
            keys = torch.cat([key[:, :, call.first : call.last], keys], dim=2)
            values = torch.cat([value[:, :, call.first : call.last], values], dim=2)
        if head:
            keys, values = (torch.cat(pair, dim=2) for pair in zip(head, (keys, values), strict=True))
        outs.append(
            scaled_dot_product_attention(
                query[:, :, call.start : call.end],
                keys,
                values,
                attn_mask=call.mask,
                is_causal=call.mask is None,
                scale=scaling,
                dropout_p=dropout,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(outs, dim=2).transpose(1, 2).to(out_dtype), None


@dataclass(frozen=True)
class Call:
    """One kernel call: queries at `start` to `end`, keys there and at `first` to `last`; mask bool [queries, keys]."""

    start: int
    end: int
    first: int
    last: int
    mask: torch.Tensor | None


def _calls(
    starts: Sequence[int], prefixes: Sequence[tuple[int, int]] | None, head: int, device: torch.device
) -> list[Call]:
    """Kernel calls for documents laid end to end; those that continue the same one, in a row, share a call."""
    groups: list[tuple[tuple[int, int], list[int]]] = []  # what is continued, lengths
    for index, (start, end) in enumerate(itertools.pairwise(starts)):
        prefix = prefixes[index] if prefixes else (0, 0)
        if prefix[1] > prefix[0] and groups and groups[-1][0] == prefix:
            groups[-1][1].append(end - start)
        else:
            groups.append((prefix, [end - start]))
    calls, at = [], starts[0]
    for (first, last), lengths in groups:
        total, seen = sum(lengths), head + last - first
        mask = None
        if seen:
            own = torch.block_diag(*[torch.ones(n, n, device=device).tril() for n in lengths]).bool()
            mask = torch.cat([torch.ones(total, seen, dtype=torch.bool, device=device), own], dim=1)
        calls.append(Call(at, at + total, first, last, mask))
        at += total
    return calls


def block_mask(
    starts: Sequence[int], device: torch.device, prefixes: Sequence[tuple[int, int]] | None = None, head: int = 0
) -> BlockMask:
    """Which positions see which, for FlexAttention: causal within a document, and all of the one it continues.

    The first `head` keys stand before all documents, and all see them.
    """
    lengths = [end - start for start, end in itertools.pairwise(starts)]
    repeats = torch.tensor(lengths, device=device)
    document = torch.arange(len(lengths), device=device).repeat_interleave(repeats)
    bounds = torch.tensor(prefixes or [(0, 0)] * len(lengths), device=device) + head
    first, last = (bounds[:, i].repeat_interleave(repeats) for i in (0, 1))
    of_key = torch.nn.functional.pad(document, (head, 0), value=-1)

    def sees(batch: torch.Tensor, head_index: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return ((document[q] == of_key[k]) & (q >= k - head)) | ((k >= first[q]) & (k < last[q])) | (k < head)

    length = int(starts[-1])
    return create_block_mask(sees, None, None, length, head + length, device=str(device))


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=True)


def packed_arguments(
    starts: Sequence[int],
    device: torch.device,
    prefixes: Sequence[tuple[int, int]] | None = None,
    head: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> dict[str, Any]:
    """Arguments that make a transformers decoder treat a [1, L] input as documents laid end to end.

    Position ids restart at each document. `prefixes` gives for each document the positions (first, last + 1) of an
    earlier one that it continues, (0, 0) for none: it sees that one whole, and counts on from it. `head` holds keys
    and values [1, kv_heads, H, d] of each layer (see `read_head`) that every document continues; they are only read.
    transformers passes a 4-D mask through untouched, and it is not read: the kernel above takes its own.
    """
    starts = [int(start) for start in starts]
    seen = [last - first for first, last in prefixes] if prefixes else [0] * (len(starts) - 1)
    before_all = head[0][0].shape[2] if head else 0
    positions = torch.cat(
        [
            torch.arange(before_all + before, before_all + before + end - start, device=device)
            for start, end, before in zip(starts[:-1], starts[1:], seen, strict=True)
        ]
    )
    return {
        "position_ids": positions[None],
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
        "packed_starts": starts,
        "packed_calls": _calls(starts, prefixes, before_all, device),
        "packed_head": head,
        "packed_mask": block_mask(starts, device, prefixes, before_all) if device.type == "cuda" else None,
        "use_cache": False,
    }


def read_head(decoder: torch.nn.Module, embeddings: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of each layer of `decoder` over `embeddings` [H, width], for `packed_arguments`."""
    cache = decoder(inputs_embeds=embeddings[None], use_cache=True).past_key_values
    return [(layer.keys, layer.values) for layer in cache.layers]


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
