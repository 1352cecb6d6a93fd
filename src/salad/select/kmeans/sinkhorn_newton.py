"""Prices that balance clusters: the dual of transport with entropy, maximised while it cools.

At a temperature T a point takes cluster c with share softmax(-(cost_c + price_c) / T). The dual is concave in the
prices; its gradient is load - N/k. Near the optimum Newton's step is taken, far from it Sinkhorn's, which never
overshoots (Cuturi, 2013; Brauer, Clason, Lorenz and Wirth, "A Sinkhorn-Newton method", 2017).
"""

from __future__ import annotations

import torch

COOLING = 0.7
NEAR = 2.0  # Newton where no load is further than this factor from even
MOST_STEPS = 10  # at one temperature
TRIES = 7
CURVED = 1 << 14  # rows that the curvature is estimated from


def settle(
    cost: torch.Tensor, prices: torch.Tensor, *, warm: float, cold: float, outside: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prices float64 [k] at temperature `cold` and the shares [n, k] there, from `cost` [n, k] and first prices.

    outside [k]: points of each cluster beyond these n, which do not move. Where the loads are not balanced in the end,
    the prices were too far off for `warm`, and it is tried again from twice that.
    """
    outside = torch.zeros_like(prices) if outside is None else outside.to(prices)
    even = (len(cost) + float(outside.sum())) / len(prices)
    first, share = prices, torch.empty_like(cost)
    warm = max(warm, cold)
    for _ in range(TRIES):
        prices, temperature, steps = first, warm, 0
        while True:
            torch.sub((prices / -temperature).to(cost.dtype), cost, alpha=1 / temperature, out=share)
            torch.softmax(share, 1, out=share)
            load = share.sum(0).double() + outside
            if temperature <= cold:
                break
            near = even / NEAR <= float(load.min()) and float(load.max()) <= even * NEAR
            if near:
                prices = prices + _newton(share, load - even, temperature)
            else:
                prices = prices + temperature * torch.log(load.clamp(min=1e-30) / even)
            prices = prices - prices.mean()
            steps += 1
            if near or steps >= MOST_STEPS:
                temperature, steps = max(temperature * COOLING, cold), 0
        if float(load.max()) <= 1.2 * even + 1:
            break
        warm *= 2
    return prices, share


def _newton(share: torch.Tensor, excess: torch.Tensor, temperature: float) -> torch.Tensor:
    """Step of at most 4 temperatures; curvature (diag(loads) - the shares' Gram matrix) / temperature, by some rows."""
    every = max(1, len(share) // CURVED)
    rows = share[::every].contiguous()
    soft, overlap = rows.sum(0).double() * every, (rows.T @ rows).double() * every
    curvature = torch.diag(soft + 1e-3 * soft.mean() + 1e-12) - overlap
    step: torch.Tensor = torch.linalg.solve(curvature, excess) * temperature
    step = step - step.mean()
    return step * min(1.0, 4 * temperature / max(float(step.abs().max()), 1e-30))
