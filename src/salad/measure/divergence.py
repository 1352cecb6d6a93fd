"""Misalignment M (eq. 2) and forgetting F (eq. 3), in nats per token, and the controls beside them.

What the student gets in place of the spoken words is its *ears*: the adapter's output (M), silence
(blind), nothing (deaf), or a transcript (cascade). The same text tokens are scored in all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from salad.model.modeling import SaladForConditionalGeneration
from salad.model.teacher import Teacher
from salad.objective import distill
from salad.objective.distill import kl_per_position
from salad.sequence import assemble, best_fit
from salad.types import Example

__all__ = [
    "DocumentKL",
    "Ears",
    "TokenKL",
    "deaf_ears",
    "divergence",
    "forgetting",
    "speech_ears",
    "summary",
    "token_divergence",
    "transcript_ears",
]

Ears = Callable[[Sequence[Example]], tuple[torch.Tensor, list[int]]]
POSITIONS = 1024  # in one forward pass
ROWS = 256  # of logits at a time, where they are looked at one by one


@dataclass(frozen=True)
class DocumentKL:
    """Summed KL in nats over the `count` scored tokens of one document; nll: the model's own, of the same tokens."""

    id: str
    domain: str
    speaker: str
    kl: float
    count: int
    nll: float = 0.0


@dataclass(frozen=True)
class TokenKL:
    """Every scored token of one document, float32 [count] each, in nats: KL, the reference's entropy, and the model's
    own loss."""

    id: str
    kl: np.ndarray
    entropy: np.ndarray
    nll: np.ndarray


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
    head = model.get_output_embeddings().weight
    out: dict[int, DocumentKL] = {}
    for i, student, teacher, targets in _states(model, reference, examples, ears):
        loss = distill(student, teacher, head, reference.head, targets)
        example = examples[i]
        out[i] = DocumentKL(example.id, example.domain, example.speaker, float(loss.kl), loss.count, float(loss.nll))
    return [out[i] for i in range(len(examples))]


@torch.no_grad()
def token_divergence(
    model: SaladForConditionalGeneration, reference: Teacher, examples: Sequence[Example], ears: Ears
) -> list[TokenKL]:
    """What `divergence` sums, token by token, and how unsure the reference is at each."""
    head = model.get_output_embeddings().weight.float()
    head_reference = reference.head.float()
    out: dict[int, TokenKL] = {}
    for i, student, teacher, targets in _states(model, reference, examples, ears):
        found: tuple[list[torch.Tensor], ...] = ([], [], [])
        with torch.autocast(head.device.type, enabled=False):
            for few_s, few_t, few in zip(*(x.split(ROWS) for x in (student, teacher, targets)), strict=True):
                logits_s, logits_t = few_s.float() @ head.T, few_t.float() @ head_reference.T
                log_t = logits_t.log_softmax(-1)
                found[0].append(kl_per_position(logits_t, logits_s))
                found[1].append(-(log_t.exp() * log_t).sum(-1))
                found[2].append(torch.nn.functional.cross_entropy(logits_s, few, reduction="none"))
        out[i] = TokenKL(examples[i].id, *(torch.cat(x).float().cpu().numpy() for x in found))
    return [out[i] for i in range(len(examples))]


def _states(
    model: SaladForConditionalGeneration, reference: Teacher, examples: Sequence[Example], ears: Ears
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(index, states of the model [N, Hs], of the reference [N, Ht], target ids [N]) at each document's pairs."""
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
            at_s, at_t, targets = (
                torch.from_numpy(x[own]).to(device)
                for x in (packed.pairs.student_pos, packed.pairs.teacher_pos, packed.pairs.target_ids)
            )
            yield i, student[at_s], teacher[at_t], targets


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
