"""Connectionist temporal classification (Graves et al. 2006) of speech spans onto their tokens."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, cast

import torch


def ctc_fits(num_positions: int, classes: Sequence[int]) -> bool:
    """Whether `classes` can be read off `num_positions` at all: a repeated class needs a blank between."""
    repeats = sum(a == b for a, b in itertools.pairwise(classes))
    return 0 < len(classes) <= num_positions - repeats


def ctc(logits: torch.Tensor, lengths: Sequence[int], classes: Sequence[Sequence[int]]) -> tuple[torch.Tensor, int]:
    """Summed negative log-likelihood in nats, and the number of targets.

    logits [P, C] of all spans laid end to end (class 0 is the blank), `lengths` positions of each span,
    `classes` its targets. A span that cannot hold its targets (see `ctc_fits`) adds neither loss nor count.
    """
    sizes = [int(length) for length in lengths]
    starts = [0, *itertools.accumulate(sizes)]
    spans = [
        (start, length, list(target))
        for start, length, target in zip(starts[:-1], sizes, classes, strict=True)
        if ctc_fits(length, target)
    ]
    if not spans:
        return logits.sum() * 0.0, 0
    loss: torch.Tensor = cast(Any, _CTC).apply(logits, spans)
    return loss, sum(len(target) for _, _, target in spans)


class _CTC(torch.autograd.Function):
    """A span's loss needs the scores of its own few classes and one normaliser, not a padded [T, B, C] of all.

    The gradient, softmax(logits) - posterior, is formed here too; torch's kernel gives the posteriors of the span's
    classes: it returns exp(log_probs) - posterior for the log-probabilities that it was handed.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, spans: Sequence[tuple[int, int, list[int]]]) -> torch.Tensor:
        wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
        norm = wide.logsumexp(dim=-1, keepdim=True)
        own = [[0, *dict.fromkeys(target)] for _, _, target in spans]  # class 0 stays the blank
        longest, widest = max(length for _, length, _ in spans), max(map(len, own))
        rows = torch.zeros(longest, len(spans), dtype=torch.long)
        columns = torch.zeros(len(spans), widest, dtype=torch.long)
        known = torch.zeros(len(spans), widest, dtype=torch.bool)
        heard = torch.zeros(longest, len(spans), dtype=torch.bool)
        targets = []
        for i, ((start, length, target), mine) in enumerate(zip(spans, own, strict=True)):
            rows[:length, i] = torch.arange(start, start + length)
            heard[:length, i] = True
            columns[i, : len(mine)] = torch.tensor(mine)
            known[i, : len(mine)] = True
            place = {c: j for j, c in enumerate(mine)}
            targets += [place[c] for c in target]
        rows, columns, known, heard = (x.to(wide.device) for x in (rows, columns, known, heard))
        scores = (wide[rows[:, :, None], columns[None]] - norm[rows]).masked_fill(~known, -torch.inf)
        with torch.enable_grad():
            scores.requires_grad_()
            loss = torch.nn.functional.ctc_loss(
                scores,
                torch.tensor(targets, device=wide.device),
                torch.tensor([length for _, length, _ in spans]),
                torch.tensor([len(target) for _, _, target in spans]),
                reduction="sum",
            )
            (partial,) = torch.autograd.grad(loss, scores)
        if ctx.needs_input_grad[0]:
            posterior = (scores.detach().exp() - partial).masked_fill(~(known & heard[:, :, None]), 0.0)
            weight = torch.zeros(len(wide), 1, dtype=wide.dtype, device=wide.device)  # spans left out get no gradient
            weight[rows[heard]] = 1.0
            grad = (wide - norm).exp_().mul_(weight)
            where = rows[:, :, None].expand_as(posterior), columns.expand_as(posterior)
            grad.index_put_(where, -posterior, accumulate=True)
            ctx.save_for_backward(grad)
        ctx.dtype = logits.dtype
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor, None]:
        (grad_loss,) = grads
        (grad,) = ctx.saved_tensors
        return (grad * grad_loss).to(ctx.dtype), None
