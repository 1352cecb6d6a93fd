"""A block of convolution, attention and MLP over padded batches; padding changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

__all__ = ["Block", "pad", "unpad"]


def pad(flat: torch.Tensor, lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """[sum of lengths, W] -> [B, longest, W], zeros behind each row's end, and bool [B, longest], true where it is."""
    rows = nn.utils.rnn.pad_sequence(list(flat.split(list(lengths))), batch_first=True)
    inside = torch.arange(rows.shape[1], device=flat.device)[None] < torch.tensor(lengths, device=flat.device)[:, None]
    return rows, inside


def unpad(rows: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """[B, longest, W] -> [sum of lengths, W]."""
    return rows[inside]


class Block(nn.Module):
    """x + depthwise convolution, x + attention (with `heads`), x + MLP; each behind a norm.

    causal: position t sees positions up to t alone. heads 0: no attention.
    """

    def __init__(self, width: int, mlp: int, kernel: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.causal, self.heads, self.kernel = causal, heads, kernel
        self.conv_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width, kernel, groups=width)
        self.mix = nn.Linear(width, width)
        if heads:
            self.attention_norm = nn.LayerNorm(width)
            self.qkv, self.attended = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, mlp), nn.Linear(mlp, width)

    def forward(self, x: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """x [B, T, W], inside bool [B, T] -> [B, T, W], zeros where it is not inside."""
        keep = inside[..., None].to(x.dtype)
        x = x + self.mix(functional.silu(self._convolve(self.conv_norm(x) * keep)))
        if self.heads:
            x = x + self._attend(self.attention_norm(x), inside)
        x = x + self.down(functional.silu(self.up(self.mlp_norm(x))))
        return x * keep

    def _convolve(self, x: torch.Tensor) -> torch.Tensor:
        before = self.kernel - 1 if self.causal else (self.kernel - 1) // 2
        # a depthwise convolution as a sum of shifted products: a CPU has no fast kernel for it in training
        padded = functional.pad(x, (0, 0, before, self.kernel - 1 - before))
        weight = self.conv.weight[:, 0].to(x.dtype)  # [W, kernel]
        out = self.conv.bias.to(x.dtype)
        for k in range(self.kernel):
            out = out + padded[:, k : k + x.shape[1]] * weight[:, k]
        return out

    def _attend(self, x: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mask = inside[:, None, None, :]
        if self.causal:
            mask = mask & torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        else:
            mask = mask | ~inside[:, None, :, None]  # a row of padding must see something
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.attended(out.transpose(1, 2).reshape(batch, length, width))
