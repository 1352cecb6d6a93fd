"""Distillation and NLL at paired positions; losses are sums, divided once by the caller."""

from salad.objective.distill import Loss, distill, kl_per_position

__all__ = ["Loss", "distill", "kl_per_position"]
