"""Misalignment M (eq. 2) and forgetting F (eq. 3), in nats per token, and the controls beside them.

What the student gets in place of the spoken words is its *ears*: the adapter's output (M), silence
(blind), nothing (deaf), or a transcript (cascade). The same text tokens are scored in all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from salad.measure.results import MeasuredKL, Share
from salad.measure.statistics import DRAWS, middle_95
from salad.model.ears.symbol_ears import Readout
from salad.model.modeling import SaladForConditionalGeneration
from salad.model.teacher import Teacher
from salad.objective.distill import distill, kl_per_position
from salad.sequence import assemble, best_fit
from salad.types import Estimate, Example, SaladError

Ears = Callable[[Sequence[Example]], tuple[torch.Tensor, list[int]]]
POSITIONS = 1024  # in one forward pass
ROWS = 256  # of logits at a time, where they are looked at one by one
BETWEEN = "(M_ref - M) / (M_ref - M_cascade)"
WITHOUT_CASCADE = "1 - M / M_ref"


@dataclass(frozen=True)
class DocumentKL:
    """Summed KL in nats over the `count` scored tokens of one document; nll: the model's own, of the same tokens.

    by_exposure: (summed KL, tokens) of parts of them that were asked for by name.
    """

    id: str
    domain: str
    speaker: str
    kl: float
    count: int
    nll: float = 0.0
    by_exposure: Mapping[str, tuple[float, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenKL:
    """Every scored token of one document, float32 [count] each, in nats: KL, the reference's entropy, and the model's
    own loss."""

    id: str
    kl: np.ndarray
    entropy: np.ndarray
    nll: np.ndarray


def speech_ears(
    model: SaladForConditionalGeneration,
    frames: Callable[[Example], Sequence[np.ndarray]] | None = None,
    readout: Readout = "mixed",
) -> Ears:
    """Hear through the adapter. frames: an example to others, [num_frames, frame_dim] a span, in place of its own.

    readout: of `hear`; "argmax" reads the likeliest token in place of the expected embedding.
    """

    def hear(examples: Sequence[Example]) -> tuple[torch.Tensor, list[int]]:
        spans = [span for e in examples for span in (frames(e) if frames else e.speech_frames)]
        device = model.get_input_embeddings().weight.device
        got = model.hear([torch.from_numpy(span).float().to(device) for span in spans], readout=readout)
        return got.embeddings, got.lengths

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
    model: SaladForConditionalGeneration,
    reference: Teacher,
    examples: Sequence[Example],
    ears: Ears,
    parts: Callable[[Example], Mapping[str, np.ndarray]] | None = None,
) -> list[DocumentKL]:
    """KL(reference on the full text || model on the interleaved document), document by document.

    With `reference` reading by the same weights as `model` this is M (eq. 2); with the original LLM as
    reference it is what distillation minimises (eq. 5). parts: which of an example's scored tokens are summed up apart,
    by name, bool [count] each (`exposure_parts`).
    """
    head = model.head
    out: dict[int, DocumentKL] = {}
    for i, student, teacher, targets in _states(model, reference, examples, ears):
        loss = distill(student, teacher, head, reference.head, targets)
        example = examples[i]
        found = {}
        for name, mask in (parts(example) if parts else {}).items():
            own = torch.from_numpy(mask).to(targets.device)
            part = distill(student[own], teacher[own], head, reference.head, targets[own])
            found[name] = (float(part.kl), part.count)
        sums = (float(loss.kl), loss.count, float(loss.nll))
        out[i] = DocumentKL(example.id, example.domain, example.speaker, *sums, found)
    return [out[i] for i in range(len(examples))]


@torch.no_grad()
def token_divergence(
    model: SaladForConditionalGeneration, reference: Teacher, examples: Sequence[Example], ears: Ears
) -> list[TokenKL]:
    """What `divergence` sums, token by token, and how unsure the reference is at each."""
    head, head_reference = model.head.float(), reference.head.float()
    out: dict[int, TokenKL] = {}
    for i, student, teacher, targets in _states(model, reference, examples, ears):
        found: tuple[list[torch.Tensor], ...] = ([], [], [])
        with torch.autocast(head.device.type, enabled=False):
            for few_s, few_t, few in zip(*(x.split(ROWS) for x in (student, teacher, targets)), strict=True):
                logits_s, logits_t = head.logits(few_s), head_reference.logits(few_t)
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
        student = model.hidden_states(model.merge(ids, speech, rows), packed.student_starts.tolist())
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


def summary(rows: Sequence[DocumentKL], documents: Mapping[str, str] | None = None) -> MeasuredKL:
    """Means over tokens, over all and by domain and voice; standard error over documents.

    documents: the document of each id: one that several voices read counts once, as the mean of its recordings.
    """
    single = once(rows, documents)
    value, se = _mean(single)
    return MeasuredKL(
        all=value,
        se=se,
        n_documents=len(single),
        n_tokens=sum(row.count for row in rows),
        by_domain={key: _mean(group)[0] for key, group in _groups(single, "domain")},
        by_voice={key: _mean(group)[0] for key, group in _groups(rows, "speaker")},
    )


def once(rows: Sequence[DocumentKL], documents: Mapping[str, str] | None) -> list[DocumentKL]:
    """One row a document, by its name: the mean of those of its recordings that have a token to score."""
    if documents is None:
        return list(rows)
    own: dict[str, list[DocumentKL]] = defaultdict(list)
    for row in rows:
        own[documents.get(row.id, row.id)].append(row)
    return [_mean_row(name, group) for name, group in own.items()]


def _mean_row(name: str, rows: Sequence[DocumentKL]) -> DocumentKL:
    scored = [row for row in rows if row.count] or rows
    kl, count, nll = (sum(getattr(row, key) for row in scored) / len(scored) for key in ("kl", "count", "nll"))
    return replace(scored[0], id=name, kl=kl, count=count, nll=nll)


def _mean(rows: Sequence[DocumentKL]) -> tuple[float, float]:
    """Ratio estimate sum(kl) / sum(count), and its standard error with documents as the sampling units."""
    rows = [row for row in rows if row.count]  # a document that is spoken as a whole has no token to score
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


def heard(
    m: Sequence[DocumentKL],
    references: Mapping[str, Sequence[DocumentKL]],
    cascade: Sequence[DocumentKL] | None,
    *,
    documents: Mapping[str, str] | None = None,
    resamples: int = DRAWS,
    seed: int = 0,
) -> Share | None:
    """heard = (M_ref - M) / (M_ref - M_cascade): 0 at the reference, 1 at the cascade's transcript.

    references: M of whoever cannot hear (deaf, blind, a twin trained on other documents' recordings); the lowest
    counts, for to lower M without hearing is not to hear. Documents that all have are compared and resampled together,
    and each draw takes its own lowest. `documents` names the document of each id, where several voices read one. None
    where that fraction means nothing: no document in common, or M_ref is not above the cascade.
    """
    names, groups = list(references), [m, *references.values(), *([cascade] if cascade else [])]
    found = _paired(groups, documents, resamples, seed)
    if found is None or not names:
        return None
    means, draws, n = found
    top, low = means[1 : 1 + len(names)].min(), means[-1] if cascade else 0.0
    if top <= low:
        return None
    tops, lows = draws[1 : 1 + len(names)].min(axis=0), draws[-1] if cascade else np.zeros(resamples)
    fit = tops > lows
    shares = (tops - draws[0])[fit] / (tops - lows)[fit]
    reference = names[int(means[1 : 1 + len(names)].argmin())]
    formula = BETWEEN if cascade else WITHOUT_CASCADE
    return Share(float((top - means[0]) / (top - low)), *middle_95(shares), n, reference, formula)


def difference(
    first: Sequence[DocumentKL],
    second: Sequence[DocumentKL],
    *,
    documents: Mapping[str, str] | None = None,
    resamples: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """M of `first` less M of `second`, in nats a token, on the documents that both have, which are resampled together.

    n: documents. Raises SaladError where they have none in common.
    """
    found = _paired([first, second], documents, resamples, seed)
    if found is None:
        raise SaladError("difference: the two have no document in common; compare measurements of one corpus")
    means, draws, n = found
    return Estimate(float(means[0] - means[1]), *middle_95(draws[0] - draws[1]), n)


def _paired(
    groups: Sequence[Sequence[DocumentKL]], documents: Mapping[str, str] | None, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Means over tokens [K] of each group, over the ids that all have and score a token of; the same of each draw
    [K, resamples]; and the number of documents drawn from. One that several voices read counts once, as the mean of
    its recordings."""
    tables = [{row.id: row for row in group} for group in groups]
    ids = [i for i in tables[0] if all(i in table and table[i].count for table in tables)]
    if not ids:
        return None
    _, index, recordings = np.unique(
        [(documents or {}).get(i, i) for i in ids], return_inverse=True, return_counts=True
    )
    kl, count = (
        np.array([np.bincount(index, weights=[getattr(table[i], key) for i in ids]) / recordings for table in tables])
        for key in ("kl", "count")
    )
    drawn = np.random.default_rng(seed).integers(0, kl.shape[1], (resamples, kl.shape[1]))
    means = kl.sum(axis=1) / count.sum(axis=1)
    return means, kl[:, drawn].sum(axis=2) / count[:, drawn].sum(axis=2), kl.shape[1]
