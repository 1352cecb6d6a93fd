"""Warm-up, stable, decay (WSD)."""

from __future__ import annotations

from salad.config import Stage


def before_decay(steps: int, decay_share: float) -> int:
    """Number of steps taken before the decay begins: where Stage II resumes."""
    return steps - round(steps * decay_share)


def wsd(step: int, steps: int, warmup_steps: int, decay_share: float) -> float:
    """Factor on the learning rate at `step` (0-based): linear warm-up, flat, linear to 0 over `decay_share`."""
    start = before_decay(steps, decay_share)
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    decay = (steps - step) / (steps - start) if start < steps and step >= start else 1.0
    return min(warm, decay)


def of_round(settings: Stage, number: int, rounds: int) -> Stage:
    """Stage II's own settings, or round `number`'s part of them where there are more rounds, counted from 1.

    The rounds have equal steps, and the learning rate falls in the last one alone.
    """
    if rounds == 1:
        return settings
    steps = settings.steps * number // rounds - settings.steps * (number - 1) // rounds
    decay = settings.decay_share if number == rounds else 0.0
    return settings.model_copy(update={"steps": steps, "decay_share": decay})
