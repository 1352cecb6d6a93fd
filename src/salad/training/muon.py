"""Muon in float32, for processors that multiply bf16 slowly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of the quintic (Jordan et al. 2024), as in `torch.optim.Muon`
ROUNDS = 5
WIDE = 2  # a matrix this many times as wide as it is high goes by its Gram matrix, which is less work


class Muon32(torch.optim.Muon):
    """`torch.optim.Muon`, whose update is made orthogonal in float32 in place of bf16.

    torch's always casts to bf16. A processor without products in bf16 needs several times as long for them as for
    float32 (docs/log.md, 2026-11-27). State and settings are those of `torch.optim.Muon`; its settings stay at
    their defaults but for the rate and the weight decay, and updates are scaled to the size of AdamW's
    (Liu et al. 2025, arXiv 2502.16982).
    """

    def __init__(self, params: Any, weight_decay: float) -> None:
        super().__init__(params, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closure
        """One update of every matrix that has a gradient. Raises ValueError on a closure."""
        if closure is not None:
            raise ValueError("Muon32 takes no closure")
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                momentum = state["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonal(matrix.grad.lerp(momentum, group["momentum"]))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-0.2 * max(matrix.shape) ** 0.5 * float(group["lr"]))


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """[M, N] -> [M, N] float32: singular values brought near 1 by five rounds of Newton and Schulz's iteration.

    Each round multiplies X by Q = aI + bG + cG^2 with G = XX'. All Q are polynomials of the first G and commute, so
    a wide matrix needs XX' once, and their product once: 40 n^3 + 4 n^2 k operations in place of 20 n^2 k + 10 n^3.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).float()
    x = x / x.norm().clamp(min=1e-7)
    if x.shape[1] >= WIDE * x.shape[0]:
        gram, one = x @ x.T, torch.eye(len(x), device=x.device)
        product = one
        for left in reversed(range(ROUNDS)):
            factor = torch.addmm(gram, gram, gram, beta=b, alpha=c).add_(one, alpha=a)
            product = factor @ product
            if left:
                gram = factor @ gram @ factor
        x = product @ x
    else:
        for _ in range(ROUNDS):
            gram = x @ x.T
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
