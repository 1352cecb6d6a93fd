"""Distillation, NLL and CTC; losses are sums with their counts, divided once by the caller."""

from salad.objective.ctc import ctc, ctc_fits
from salad.objective.distill import Divergence, Loss, distill, kl_per_position
from salad.objective.head import Head

__all__ = ["Divergence", "Head", "Loss", "ctc", "ctc_fits", "distill", "kl_per_position"]
