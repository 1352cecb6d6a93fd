"""A block of convolution, attention and MLP over padded batches; padding changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional

ALIKE = 0.7  # spans padded together are at least so long as the longest of them, as a share


def through(blocks: Iterable[nn.Module], flat: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """flat [sum of lengths, W], spans laid end to end -> the same shape, through all blocks.

    Spans of like length are padded together: one long span in a batch would fill the others with padding.
    """
    through_all, spans = list(blocks), flat.split(list(lengths))
    out: list[torch.Tensor] = [flat[:0]] * len(spans)
    for group in _alike(lengths):
        own = [lengths[i] for i in group]
        rows, inside = _pad([spans[i] for i in group], own)
        for block in through_all:
            rows = block(rows, inside)
        for i, length, row in zip(group, own, rows, strict=True):
            out[i] = row[:length]
    return torch.cat(out)


def _alike(lengths: Sequence[int]) -> list[list[int]]:
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and lengths[i] >= ALIKE * lengths[groups[-1][0]]:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _pad(spans: Sequence[torch.Tensor], lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, longest, W], zeros behind each row's end, and bool [B, longest], true where it is."""
    rows = nn.utils.rnn.pad_sequence(list(spans), batch_first=True)
    inside = torch.arange(rows.shape[1], device=rows.device)[None] < torch.tensor(lengths, device=rows.device)[:, None]
    return rows, inside


class Block(nn.Module):
    """x + convolution, x + attention (with `heads`), x + MLP; each behind a norm.

    causal: position t sees positions up to t alone. heads 0: no attention.
    """

    def __init__(self, width: int, mlp: int, kernel: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.causal, self.heads, self.kernel = causal, heads, kernel
        self.conv_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.conv = nn.Linear(kernel * width, width)  # of neighbours laid side by side: one product of matrices
        if heads:
            self.attention_norm = nn.LayerNorm(width)
            self.qkv, self.attended = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, mlp), nn.Linear(mlp, width)

    def forward(self, x: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """x [B, T, W], inside bool [B, T] -> [B, T, W], zeros where it is not inside."""
        keep = inside[..., None].to(x.dtype)
        x = x + functional.silu(self._convolve(self.conv_norm(x) * keep))
        if self.heads:
            x = x + self._attend(self.attention_norm(x), inside)
        x = x + self.down(functional.silu(self.up(self.mlp_norm(x))))
        return x * keep

    def _convolve(self, x: torch.Tensor) -> torch.Tensor:
        before = self.kernel - 1 if self.causal else (self.kernel - 1) // 2
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))  # before it is laid out `kernel` times
        padded = functional.pad(x, (0, 0, before, self.kernel - 1 - before))
        out: torch.Tensor = self.conv(torch.cat([padded[:, k : k + x.shape[1]] for k in range(self.kernel)], dim=-1))
        return out

    def _attend(self, x: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mask = inside[:, None, None, :]
        if self.causal:
            mask = mask & torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        else:
            mask = mask | ~inside[:, None, :, None]  # a row of padding must see something
        # spans are short: the plain product trains faster than a CPU's fused kernel with a mask
        scores = (q @ k.transpose(-1, -2)).float() * (q.shape[-1] ** -0.5)
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1).to(v.dtype)
        out: torch.Tensor = self.attended((weights @ v).transpose(1, 2).reshape(batch, length, width))
        return out
