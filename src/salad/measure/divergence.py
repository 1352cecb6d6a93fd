"""Misalignment M (eq. 2) and forgetting F (eq. 3), in nats per token, and the controls beside them.

What the student gets in place of the spoken words is its *ears*: the adapter's output (M), silence
(blind), nothing (deaf), or a transcript (cascade). The same text tokens are scored in all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from salad.model.modeling import SaladForConditionalGeneration
from salad.model.teacher import Teacher
from salad.objective import distill
from salad.sequence import assemble, best_fit
from salad.types import Example

__all__ = ["DocumentKL", "Ears", "deaf_ears", "divergence", "forgetting", "speech_ears", "summary", "transcript_ears"]

Ears = Callable[[Sequence[Example]], tuple[torch.Tensor, list[int]]]
POSITIONS = 1024  # in one forward pass


@dataclass(frozen=True)
class DocumentKL:
    """Summed KL in nats over the `count` scored tokens of one document."""

    id: str
    domain: str
    speaker: str
    kl: float
    count: int


def speech_ears(
    model: SaladForConditionalGeneration, frames: Callable[[Example], Sequence[np.ndarray]] | None = None
) -> Ears:
    """Hear through the adapter; `frames` may put others (silence) in place of an example's own."""

    def hear(examples: Sequence[Example]) -> tuple[torch.Tensor, list[int]]:
        spans = [span for e in examples for span in (frames(e) if frames else e.speech_frames)]
        device = model.get_input_embeddings().weight.device
        return model.speech_embeddings([torch.from_numpy(span).float().to(device) for span in spans])

    return hear


def deaf_ears(model: SaladForConditionalGeneration) -> Ears:
    """Leave the spoken spans out."""

    def hear(examples: Sequence[Example]) -> tuple[torch.Tensor, list[int]]:
        return model.get_input_embeddings().weight[:0], [0 for e in examples for _ in e.speech_tokens]

    return hear


def transcript_ears(model: SaladForConditionalGeneration, tokens: Callable[[Example], Sequence[Sequence[int]]]) -> Ears:
    """Read a transcript of each spoken span: its token ids, in order."""

    def hear(examples: Sequence[Example]) -> tuple[torch.Tensor, list[int]]:
        spans = [list(ids) for e in examples for ids in tokens(e)]
        table = model.get_input_embeddings().weight
        flat = torch.tensor([i for ids in spans for i in ids], dtype=torch.long, device=table.device)
        return model.get_input_embeddings()(flat), [len(ids) for ids in spans]

    return hear


@torch.no_grad()
def divergence(
    model: SaladForConditionalGeneration, reference: Teacher, examples: Sequence[Example], ears: Ears
) -> list[DocumentKL]:
    """KL(reference on the full text || model on the interleaved document), document by document.

    With `reference` reading by the same weights as `model` this is M (eq. 2); with the original LLM as
    reference it is what distillation minimises (eq. 5).
    """
    out: dict[int, DocumentKL] = {}
    sizes = [1 + len(e.token_ids) for e in examples]
    for group in best_fit(sizes, max([POSITIONS, *sizes])):
        part = [examples[i] for i in group]
        speech, lengths = ears(part)
        packed = assemble(part, lengths)
        device = speech.device
        ids, rows = (torch.from_numpy(x).to(device) for x in (packed.student_ids, packed.speech_rows))
        student = model.hidden_states(model.merge(ids, speech, rows), packed.student_starts)
        teacher = reference.hidden(part)
        for index, i in enumerate(group):
            own = np.flatnonzero(packed.pair_owner == index)
            loss = distill(
                student[torch.from_numpy(packed.pairs.student_pos[own]).to(device)],
                teacher[torch.from_numpy(packed.pairs.teacher_pos[own]).to(device)],
                model.get_output_embeddings().weight,
                reference.head,
                torch.from_numpy(packed.pairs.target_ids[own]).to(device),
            )
            example = examples[i]
            out[i] = DocumentKL(example.id, example.domain, example.speaker, float(loss.kl), loss.count)
    return [out[i] for i in range(len(examples))]


def forgetting(model: SaladForConditionalGeneration, base: Teacher, texts: Sequence[Example]) -> list[DocumentKL]:
    """F (eq. 3): KL(original LLM || adapted LLM) on plain text (examples of one text span each)."""
    return divergence(model, base, texts, deaf_ears(model))


def summary(rows: Sequence[DocumentKL]) -> dict[str, Any]:
    """{all, se, n_documents, n_tokens, by_domain, by_voice}: means over tokens, standard error over documents."""
    value, se = _mean(rows)
    return {
        "all": value,
        "se": se,
        "n_documents": len(rows),
        "n_tokens": sum(row.count for row in rows),
        "by_domain": {key: _mean(group)[0] for key, group in _groups(rows, "domain")},
        "by_voice": {key: _mean(group)[0] for key, group in _groups(rows, "speaker")},
    }


def _mean(rows: Sequence[DocumentKL]) -> tuple[float, float]:
    """Ratio estimate sum(kl) / sum(count), and its standard error with documents as the sampling units."""
    kl, count = np.array([r.kl for r in rows]), np.array([r.count for r in rows], dtype=float)
    value = kl.sum() / max(count.sum(), 1.0)
    if len(rows) < 2:
        return float(value), float("nan")
    residual = kl - value * count
    return float(value), float(np.sqrt(residual.var(ddof=1) * len(rows)) / count.sum())


def _groups(rows: Sequence[DocumentKL], field: str) -> list[tuple[str, list[DocumentKL]]]:
    groups: dict[str, list[DocumentKL]] = defaultdict(list)
    for row in rows:
        groups[getattr(row, field)].append(row)
    return sorted((key, group) for key, group in groups.items() if key)
