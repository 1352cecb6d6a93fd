"""Connectionist temporal classification (Graves et al. 2006) of speech spans onto their tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["ctc", "ctc_fits"]


def ctc_fits(num_positions: int, classes: Sequence[int]) -> bool:
    """Whether `classes` can be read off `num_positions` at all: a repeated class needs a blank between."""
    repeats = sum(a == b for a, b in zip(classes[:-1], classes[1:], strict=True))
    return 0 < len(classes) <= num_positions - repeats


def ctc(logits: torch.Tensor, lengths: Sequence[int], classes: Sequence[Sequence[int]]) -> tuple[torch.Tensor, int]:
    """Summed negative log-likelihood in nats, and the number of targets.

    logits [P, C] of all spans laid end to end (class 0 is the blank), `lengths` positions of each span,
    `classes` its targets. A span that cannot hold its targets (see `ctc_fits`) adds neither loss nor count.
    """
    spans = [
        (span, target) for span, target in zip(logits.split(list(lengths)), classes, strict=True)
        if ctc_fits(len(span), target)
    ]  # fmt: skip
    if not spans:
        return logits.sum() * 0.0, 0
    with torch.autocast(logits.device.type, enabled=False):
        padded = torch.nn.utils.rnn.pad_sequence([span.float().log_softmax(-1) for span, _ in spans])
        targets = torch.tensor([c for _, target in spans for c in target])
        counts = [len(target) for _, target in spans]
        loss = torch.nn.functional.ctc_loss(
            padded, targets, torch.tensor([len(s) for s, _ in spans]), torch.tensor(counts), reduction="sum"
        )
    return loss, sum(counts)
