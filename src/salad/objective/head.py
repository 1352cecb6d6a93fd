"""How an LLM makes logits of its last hidden states: one head, with all that a family does to them."""

from __future__ import annotations

import builtins
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Head:
    """logits = cap(scale * (hidden @ weight.T + bias)), where cap(x) = cap * tanh(x / cap).

    weight [V, H]; bias [V] (Phi) or None; scale: Cohere's `logit_scale`, 1 / `logits_scaling` of Granite; cap: the last
    soft cap of Gemma 2, or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    @property
    def device(self) -> torch.device:
        return self.weight.device

    def __len__(self) -> int:
        return len(self.weight)

    def detach(self) -> Head:
        """This head without gradients."""
        return replace(self, weight=self.weight.detach(), bias=None if self.bias is None else self.bias.detach())

    def float(self) -> Head:
        """This head in float32: what forms many logits casts its weights once."""
        return replace(self, weight=self.weight.float(), bias=None if self.bias is None else self.bias.float())

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [..., H] -> [..., V], float32 whatever the precision of the states, under autocast too."""
        with torch.autocast(self.weight.device.type, enabled=False):
            raw = hidden.float() @ self.weight.float().T
            return self.finish(raw if self.bias is None else raw + self.bias.float())

    def logits_of(self, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """hidden [N, H], ids int64 [N, K] -> the logits [N, K] of these tokens alone, float32."""
        with torch.autocast(self.weight.device.type, enabled=False):
            raw = torch.einsum("nw,nkw->nk", hidden.float(), self.weight[ids].float())
            return self.finish(raw if self.bias is None else raw + self.bias[ids].float())

    def finish(self, raw: torch.Tensor) -> torch.Tensor:
        """raw [..., V], the product with the bias added -> logits [..., V]: scaled and capped, or `raw` itself."""
        if self.scale != 1.0:
            raw = raw * self.scale
        return raw if self.cap is None else self.cap * torch.tanh(raw / self.cap)

    def slope(self, logits: torch.Tensor) -> torch.Tensor | builtins.float:
        """d logits / d (hidden @ weight.T) of finished logits [..., V], elementwise: of their shape, or one number."""
        return self.scale if self.cap is None else self.scale * (1.0 - (logits / self.cap) ** 2)
