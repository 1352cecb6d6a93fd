"""Prompts whose placeholders are heard: as many placeholder ids as embeddings, whatever a processor counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from salad.model.splice import splice_at
from salad.types import SaladError

IGNORED = -100  # a label that the loss does not ask for


@dataclass(frozen=True)
class Prompt:
    """ids int64 [B, L]; heard bool [B, L], where a placeholder stands; embeddings [B, L, width]; labels like ids.

    mask: int64 [B, L], None where every position counts, or whatever else was given where nothing had to be moved.
    """

    ids: torch.Tensor
    heard: torch.Tensor
    embeddings: torch.Tensor
    mask: torch.Tensor | None
    labels: torch.Tensor | None = None

    def rows(self) -> list[torch.Tensor]:
        """Embeddings [length, width] of each row, without what pads it."""
        if self.mask is None:
            return list(self.embeddings)
        return [row[own.bool()] for row, own in zip(self.embeddings, self.mask, strict=True)]

    def on_the_left(self) -> Prompt:
        """The prompts with their padding before each row, so that a decoder can write on; without labels."""
        if self.mask is None or bool(self.mask[:, -1].all()):
            return self
        ids, heard, embeddings, mask = (
            pad_sequence([row[own.bool()] for row, own in zip(whole, self.mask, strict=True)], True, 0, "left")
            for whole in (self.ids, self.heard, self.embeddings, self.mask)
        )
        return Prompt(ids, heard, embeddings, mask)

    def read_ids(self) -> torch.Tensor:
        """ids with the token before them in place of placeholders, for which the LLM's table may have no row."""
        place = torch.arange(self.ids.shape[1], device=self.ids.device).expand_as(self.ids)
        before = place.masked_fill(self.heard, 0).cummax(dim=1).values
        return self.ids.masked_fill(self.heard, 0).gather(1, before)


def read_prompt(
    table: nn.Embedding,
    audio_token_id: int,
    input_ids: torch.Tensor,
    mask: torch.Tensor | None,
    spans: Sequence[torch.Tensor],
    span_lengths: Sequence[int] | torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
) -> Prompt:
    """Prompts with `spans` ([positions, width] each, in order) at their placeholders.

    span_lengths: how many placeholders stand for each span; by default one for each of its positions, or else one for
    each span. Where ears hear more or fewer (they were trained since the processor counted, or compute in another
    precision) rows grow or shrink. Raises SaladError where placeholders and spans do not belong together.
    """
    if labels is not None and labels.shape != input_ids.shape:
        raise SaladError(f"labels: got {list(labels.shape)}, expected {list(input_ids.shape)} as input_ids")
    heard = input_ids == audio_token_id
    lengths, number = [len(span) for span in spans], int(heard.sum())
    if span_lengths is not None:
        counted = [int(length) for length in span_lengths]
    else:
        counted = lengths if number == sum(lengths) else [1] * len(spans)
    if sum(counted) != number or len(counted) != len(spans):
        raise SaladError(
            f"frames: {len(spans)} spans of {sum(lengths)} positions for {number} audio placeholders in input_ids, "
            "expected one for each position or one for each span; give what one call of the processor gave"
        )
    if counted != lengths:
        input_ids, mask, labels = _recounted(input_ids, mask, labels, heard, counted, lengths)
        heard = input_ids == audio_token_id
    places, width = heard.reshape(-1).nonzero().squeeze(1), table.weight.shape[1]
    speech = torch.cat(list(spans)) if spans else table.weight.new_zeros(0, width)
    embeddings = splice_at(table, input_ids, places, speech)
    if labels is not None:
        labels = labels.masked_fill(heard, IGNORED)
        if mask is not None and mask.dim() == 2:  # neither padding nor what stands behind it, which nothing predicts
            padding = mask == 0
            labels = labels.masked_fill(padding | nn.functional.pad(padding[:, :-1], (1, 0)), IGNORED)
    return Prompt(input_ids, heard, embeddings, mask, labels)


def items_asked(number: Any, given: torch.Tensor | None, kept: torch.Tensor) -> Any:
    """How many labels the loss is divided by: where a Trainer counted those of `given` alone, those of them that
    `read_prompt` asks for. A number over several batches stays as it is, so that each token of each weighs the same."""
    if number is None or given is None:
        return number
    told, asked = ((labels[..., 1:] != IGNORED).sum() for labels in (given, kept))
    return torch.where(torch.as_tensor(number, device=told.device) == told, asked.clamp(min=1), number)


def _recounted(
    ids: torch.Tensor,
    mask: torch.Tensor | None,
    labels: torch.Tensor | None,
    heard: torch.Tensor,
    counted: Sequence[int],
    lengths: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Rows with lengths[i] placeholders in place of counted[i] for span i; padded on the side on which they were."""
    mask = torch.ones_like(ids) if mask is None else mask
    side = "left" if bool((mask[:, 0] == 0).any()) else "right"
    places, span = [], 0
    for row in heard:
        at, used, last, kept = row.nonzero().flatten().tolist(), 0, 0, []
        while used < len(at):
            first, own = at[used], counted[span]
            if at[used : used + own] != list(range(first, first + own)):
                raise SaladError(
                    f"span_lengths: the {own} placeholders of span {span} do not stand side by side in input_ids; give "
                    "what one call of the processor gave"
                )
            kept += [*range(last, first), *([first] * lengths[span])]
            last, used, span = first + own, used + own, span + 1
        places.append(torch.tensor([*kept, *range(last, len(row))], device=ids.device))

    def moved(whole: torch.Tensor, value: int) -> torch.Tensor:
        return pad_sequence([row[place] for row, place in zip(whole, places, strict=True)], True, value, side)

    return moved(ids, 0), moved(mask, 0), None if labels is None else moved(labels, IGNORED)
