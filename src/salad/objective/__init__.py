"""Distillation, NLL and CTC; losses are sums with their counts, divided once by the caller."""
