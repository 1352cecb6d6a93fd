"""Warm-up, stable, decay (WSD)."""

from __future__ import annotations

__all__ = ["before_decay", "wsd"]


def before_decay(steps: int, decay_share: float) -> int:
    """Number of steps taken before the decay begins: where Stage II resumes."""
    return steps - round(steps * decay_share)


def wsd(step: int, steps: int, warmup_steps: int, decay_share: float) -> float:
    """Factor on the learning rate at `step` (0-based): linear warm-up, flat, linear to 0 over `decay_share`."""
    start = before_decay(steps, decay_share)
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    decay = (steps - step) / (steps - start) if start < steps and step >= start else 1.0
    return min(warm, decay)
