"""Attention over packed sequences: documents laid end to end, none sees another, no dense mask.

Registered with transformers as "salad_packed". A forward pass that carries a `Packing` attends causally within each
document, a layer's sliding window kept; one that does not is plain attention. On a CPU that is one fused kernel a
document; on a GPU FlexAttention with a block mask, which skips the blocks between documents.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from salad.model.transfer import to_device
from salad.objective.distill import compiled

NAME = "salad_packed"
BLOCK = 128  # positions in a block of FlexAttention's mask
Head = Sequence[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class KernelCall:
    """One kernel call: queries at `start` to `end`, keys there and at `first` to `last`; mask bool [queries, keys]."""

    start: int
    end: int
    first: int
    last: int
    mask: torch.Tensor | None


@dataclass
class Packing:
    """Documents laid end to end: `starts` (cumulative lengths, first 0), and what each continues (`packed_arguments`).

    positions: int64 [L], each position's place in its document, the last one at `longest` - 1. Masks of a window are
    made once, for all its layers.
    """

    starts: Sequence[int]
    prefixes: Sequence[tuple[int, int]] | None
    head: Head | None
    positions: torch.Tensor
    longest: int
    calls: list[KernelCall]
    _windowed: dict[int, list[KernelCall]] = field(default_factory=dict)
    _blocks: dict[int | None, BlockMask] = field(default_factory=dict)

    @property
    def before_all(self) -> int:
        return self.head[0][0].shape[2] if self.head else 0

    def window(self, size: int | None) -> int | None:
        """`size` where some position of these documents lies beyond it, else None."""
        return size if size and self.longest > size else None

    def calls_within(self, window: int | None) -> list[KernelCall]:
        """The calls with masks by which a position sees the last `window` positions of its document, itself among
        them."""
        if window is None:
            return self.calls
        if window not in self._windowed:
            self._windowed[window] = [self._narrowed(call, window) for call in self.calls]
        return self._windowed[window]

    def _narrowed(self, call: KernelCall, window: int) -> KernelCall:
        queries = self.positions[call.start : call.end]
        before = torch.arange(self.before_all, device=queries.device)
        keys = torch.cat([before, self.positions[call.first : call.last], queries])
        near = queries[:, None] - keys[None] < window
        own = call.mask
        if own is None:
            own = torch.ones(len(queries), len(keys), dtype=torch.bool, device=queries.device).tril()
        return KernelCall(call.start, call.end, call.first, call.last, own & near)

    def block(self, window: int | None) -> BlockMask:
        if window not in self._blocks:
            self._blocks[window] = block_mask(
                self.starts, self.positions.device, self.prefixes, self.before_all, window, self.positions
            )
        return self._blocks[window]


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packing: Packing | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query [1, heads, L, d], key and value [1, kv_heads, L, d] -> [1, L, heads, d].

    Some decoders drop the argument `packing` on its way; their mask, which none of them touches, carries it too.
    softcap: scores are softcap * tanh(scores / softcap) (Gemma 2); s_aux [heads]: a score that takes its share of the
    softmax and gives nothing (the sinks of GPT-OSS).
    """
    packing = packing if packing is not None else getattr(attention_mask, "packing", None)
    special = softcap is not None or s_aux is not None
    if packing is None:
        if special:
            mask = _plain_mask(query, key, attention_mask)
            out = _attend(query, key, value, mask, scaling, dropout if module.training else 0.0, softcap, s_aux)
            return out.transpose(1, 2), None
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    window = packing.window(sliding_window) if sliding_window else None
    head = [part.to(key.dtype) for part in packing.head[cast(int, module.layer_idx)]] if packing.head else None
    if by_blocks(query.device, query.shape[-1], special):
        if head:
            key, value = (torch.cat(pair, dim=2) for pair in zip(head, (key, value), strict=True))
        return blockwise(query, key, value, packing.block(window), scaling), None
    out_dtype = query.dtype
    if query.device.type == "cpu" and out_dtype == torch.bfloat16:  # on a CPU the float32 kernel is the faster one
        query, key, value = query.float(), key.float(), value.float()
        head = [part.float() for part in head] if head else None
    outs = []
    for call in packing.calls_within(window):
        keys, values = key[:, :, call.start : call.end], value[:, :, call.start : call.end]
        if call.last > call.first:  # these documents go on after another one, which they see whole
            keys = torch.cat([key[:, :, call.first : call.last], keys], dim=2)
            values = torch.cat([value[:, :, call.first : call.last], values], dim=2)
        if head:
            keys, values = (torch.cat(pair, dim=2) for pair in zip(head, (keys, values), strict=True))
        queries = query[:, :, call.start : call.end]
        if special:
            mask = call.mask if call.mask is not None else _plain_mask(queries, keys, None)
            outs.append(_attend(queries, keys, values, mask, scaling, dropout, softcap, s_aux))
            continue
        outs.append(
            scaled_dot_product_attention(
                queries,
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


def by_blocks(device: torch.device, head_size: int, special: bool) -> bool:
    """Whether FlexAttention attends. special: with sinks or a soft cap. Its kernels take no heads under 16 (tests)."""
    return device.type == "cuda" and not special and head_size >= 16


def blockwise(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: BlockMask, scaling: float | None
) -> torch.Tensor:
    """The attention of `blockwise` masks by FlexAttention: keys of the common head stand before all others."""
    attend = _compiled() if query.is_cuda and not torch.compiler.is_compiling() else flex_attention
    grouped = query.shape[1] != key.shape[1]
    out: torch.Tensor = attend(query, key, value, block_mask=mask, scale=scaling, enable_gqa=grouped)
    return out.transpose(1, 2)


def _plain_mask(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor | None:
    """`mask`, or where there is none the causal one, None where every query sees every key."""
    if mask is not None or query.shape[2] == 1:
        return mask
    length = query.shape[2]  # a cache may hold room for more keys than were read
    return torch.ones(length, key.shape[2], dtype=torch.bool, device=query.device).tril()


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention that no fused kernel has: [B, heads, L, d]; mask: bool, or added to the scores."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:  # a row of padding sees nothing: equal shares of anything, not NaN
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if mask.dtype == torch.bool else scores + mask
    if sinks is not None:
        sink = sinks.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1).to(scores.dtype)
        scores = torch.cat([scores, sink], dim=-1)
    shares = scores.softmax(dim=-1, dtype=torch.float32)
    shares = shares[..., : key.shape[2]].to(value.dtype)
    return torch.nn.functional.dropout(shares, dropout) @ value


def _calls(
    starts: Sequence[int], prefixes: Sequence[tuple[int, int]] | None, head: int, device: torch.device
) -> list[KernelCall]:
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
        calls.append(KernelCall(at, at + total, first, last, mask))
        at += total
    return calls


def block_mask(
    starts: Sequence[int],
    device: torch.device,
    prefixes: Sequence[tuple[int, int]] | None = None,
    head: int = 0,
    window: int | None = None,
    positions: torch.Tensor | None = None,
) -> BlockMask:
    """Which positions see which, for FlexAttention: causal within a document, and all of the one it continues.

    The first `head` keys stand before all documents, and all see them. With `window` a position sees the last `window`
    positions of its document only, by `positions` (see `Packing`).
    """
    lengths = np.diff(np.asarray(starts))
    bounds = np.array(prefixes or [(0, 0)] * len(lengths), dtype=np.int64).T + head
    columns = [np.arange(len(lengths)), *bounds]
    document, first, last = to_device([np.repeat(column, lengths) for column in columns], device)
    of_key = torch.nn.functional.pad(document, (head, 0), value=-1)

    def sees(batch: torch.Tensor, head_index: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return ((document[q] == of_key[k]) & (q >= k - head)) | ((k >= first[q]) & (k < last[q])) | (k < head)

    def sees_near(batch: torch.Tensor, head_index: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return sees(batch, head_index, q, k) & (place[q] - place_of_key[k] < width)

    if window is not None:
        assert positions is not None
        place, width = positions, window
        place_of_key = torch.cat([torch.arange(head, device=device), positions])
    length = int(starts[-1])
    if window is None and not head and not prefixes:
        number, places, whole, whole_places = _document_blocks(starts, device)
        return BlockMask.from_kv_blocks(
            number, places, whole, whole_places, mask_mod=sees, seq_lengths=(length, length)
        )
    return create_block_mask(sees if window is None else sees_near, None, None, length, head + length, str(device))


def _document_blocks(starts: Sequence[int], device: torch.device) -> list[torch.Tensor]:
    """Blocks of keys that each block of queries sees in part and whole, as `BlockMask.from_kv_blocks` takes them.

    From where documents begin alone: the mask of every pair of positions, 268 MB for 16,384, is not made.
    """
    bounds = np.asarray(starts)
    begins = np.repeat(bounds[:-1], np.diff(bounds))  # of each position's document
    firsts = np.arange(0, len(begins), BLOCK)
    lasts = firsts + BLOCK - 1
    inside = lasts < len(begins)  # of a last block that is not full nothing is seen whole: the kernel asks the mask
    block, keys = np.arange(len(firsts))[:, None], np.arange(len(firsts))[None]
    seen = (keys >= begins[firsts][:, None] // BLOCK) & (keys <= block)
    latest = begins[np.minimum(lasts, len(begins) - 1)]
    whole = seen & inside[:, None] & (keys * BLOCK >= latest[:, None]) & (keys < block)
    columns = []
    for chosen in (seen & ~whole, whole):
        columns += [chosen.sum(1), np.argsort(~chosen, axis=1, kind="stable").ravel()]
    counts, places, whole_counts, whole_places = to_device([c.astype(np.int32) for c in columns], device)
    square = (1, 1, len(firsts), len(firsts))
    return [counts[None, None], places.reshape(square), whole_counts[None, None], whole_places.reshape(square)]


@cache
def _compiled() -> Any:
    return compiled(flex_attention)


def packed_arguments(
    starts: Sequence[int],
    device: torch.device,
    prefixes: Sequence[tuple[int, int]] | None = None,
    head: Head | None = None,
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
    longest = before_all + max(
        before + end - start for start, end, before in zip(starts, starts[1:], seen, strict=False)
    )
    packing = Packing(starts, prefixes, head, positions, longest, _calls(starts, prefixes, before_all, device))
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
    cast(Any, mask).packing = packing
    return {"position_ids": positions[None], "attention_mask": mask, "packing": packing, "use_cache": False}


def read_head(decoder: torch.nn.Module, embeddings: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of each layer of `decoder` over `embeddings` [H, width], for `packed_arguments`.

    All of them, of layers with a window too: which of them a position sees, its own place decides.
    """
    cache = decoder(inputs_embeds=embeddings[None], past_key_values=DynamicCache(), use_cache=True).past_key_values
    return [(layer.keys, layer.values) for layer in cache.layers]


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
