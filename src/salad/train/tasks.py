"""What the loop trains: CTC onto the LLM's own embeddings, and distillation on interleaved documents."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from salad.model.modeling import SaladForConditionalGeneration
from salad.objective import ctc, ctc_fits, distill
from salad.sequence import assemble, best_fit
from salad.train.teacher import Teacher
from salad.types import Example, SaladError

__all__ = ["CTCTask", "DistillTask", "Source", "plan_batches"]


@dataclass(frozen=True)
class Source:
    """Examples of one kind and their share of each batch's positions.

    layouts: for each document its interleavings; pass number e over the source uses layout e (modulo).
    positions: estimated student positions of each document.
    """

    name: str
    share: float
    layouts: Sequence[Sequence[Example]]
    positions: Sequence[int]


def plan_batches(sources: Sequence[Source], steps: int, positions: int, seed: int) -> list[list[Example]]:
    """Every batch of a stage: documents are drawn without replacement in each pass over a source.

    The source that is furthest behind its share of the positions gives the next document. The plan is a
    pure function of its arguments, so a step's batch needs no state to be found again.
    """
    sources = [source for source in sources if source.share > 0 and source.layouts]
    if not sources:
        raise SaladError("training: no examples left to train on; see quarantine.jsonl for what was set aside")
    streams = [_stream(source, random.Random(f"{seed}/{source.name}")) for source in sources]
    given = [0.0] * len(sources)
    batches = []
    for _ in range(steps):
        batch, filled = [], 0
        while filled < positions:
            behind = min(range(len(sources)), key=lambda i: given[i] / sources[i].share)
            example, size = next(streams[behind])
            batch.append(example)
            given[behind] += size
            filled += size
        batches.append(batch)
    return batches


def _stream(source: Source, rng: random.Random):  # type: ignore[no-untyped-def]
    epoch = 0
    while True:
        for i in rng.sample(range(len(source.layouts)), len(source.layouts)):
            yield source.layouts[i][epoch % len(source.layouts[i])], source.positions[i]
        epoch += 1


class DistillTask:
    """alpha * KL + (1 - alpha) * NLL at the text tokens of interleaved documents (eqs. 5 and 6).

    `ctc_weight` (ours; 0 in the paper) adds the CTC loss of the spoken spans, which the warm start left behind:
    it keeps the text-rate positions in place and teaches the words of newly bought speech.
    """

    def __init__(
        self,
        model: SaladForConditionalGeneration,
        teacher: Teacher,
        batches: Sequence[Sequence[Example]],
        *,
        alpha: float,
        context: int,
        ctc_weight: float = 0.0,
    ) -> None:
        self.model, self.teacher, self.batches = model, teacher, batches
        self.alpha, self.context, self.ctc_weight = alpha, context, ctc_weight
        self._class = model.ctc.classes() if model.ctc is not None else {}
        self.llm_frozen = not any(p.requires_grad for p in model.llm.parameters())

    def packs(self, step: int) -> list[list[Example]]:
        batch = self.batches[step]
        sizes = [1 + len(example.token_ids) for example in batch]  # at most: speech at text rate is shorter
        return [[batch[i] for i in pack] for pack in best_fit(sizes, self.context)]

    def count(self, pack: list[Example]) -> int:
        return sum(
            b - a
            for example in pack
            for span, (a, b) in zip(example.spans, example.token_bounds, strict=True)
            if span.modality == "text"
        )

    def loss(self, pack: list[Example]) -> tuple[torch.Tensor | None, dict[str, float]]:
        if self.llm_frozen:  # plain text moves nothing: its gradient is exactly zero
            pack = [example for example in pack if example.speech_frames]
            if not pack:
                return None, {}
        frames = [torch.from_numpy(span).float() for example in pack for span in example.speech_frames]
        heard = self.model.hear(frames) if frames else None
        speech = heard.embeddings if heard else self.model.get_input_embeddings().weight[:0]
        lengths = heard.lengths if heard else []
        packed = assemble(pack, lengths)
        merged = self.model.merge(torch.from_numpy(packed.student_ids), speech, torch.from_numpy(packed.speech_rows))
        student = self.model.hidden_states(merged, packed.student_starts)
        teacher = self.teacher.hidden(pack)
        out = distill(
            student[torch.from_numpy(packed.pairs.student_pos)],
            teacher[torch.from_numpy(packed.pairs.teacher_pos)],
            self.model.get_output_embeddings().weight,
            self.teacher.head,
            torch.from_numpy(packed.pairs.target_ids),
            self.alpha,
        )
        logs = {
            "positions": len(packed.student_ids),
            "targets": out.count,
            "kl_sum": float(out.kl),
            "nll_sum": float(out.nll),
        }
        if heard is None or not self.ctc_weight:
            return out.total, logs
        spoken = [[self._class.get(int(t), 0) for t in ids] for example in pack for ids in example.speech_tokens]
        known = [ids if all(ids) else [] for ids in spoken]  # a token outside the head's vocabulary has no class
        ctc_sum, ctc_count = ctc(heard.ctc_logits, heard.all_lengths, known)
        logs |= {"ctc_sum": float(ctc_sum.detach()), "ctc_count": ctc_count}
        return out.total + self.ctc_weight * ctc_sum, logs


class CTCTask:
    """CTC of speech spans onto the LLM's own embedding rows (ours; the warm start before Stage I).

    spans: (frames [T, frame_dim], token ids [L]) of every piece. Pieces too short for their tokens
    (T / stride < L + repeats) are counted in `impossible` and left out.
    """

    def __init__(
        self,
        model: SaladForConditionalGeneration,
        spans: Sequence[tuple[np.ndarray, np.ndarray]],
        *,
        steps: int,
        batch: int,
        seed: int,
    ) -> None:
        self.model = model
        self._class = model.ctc.classes()
        possible = [s for s in spans if self._fits(*s)]
        self.impossible = len(spans) - len(possible)
        if not possible:
            raise SaladError("warm_start: no speech span is long enough for its tokens; lower model.stride")
        self.spans, self.batch = possible, batch
        self._plan: list[list[int]] = []
        rng, left = random.Random(f"{seed}/ctc"), []
        for _ in range(steps):
            while len(left) < batch:
                left += rng.sample(range(len(possible)), len(possible))
            self._plan.append(left[:batch])
            del left[:batch]

    def _fits(self, frames: np.ndarray, ids: np.ndarray) -> bool:
        num_positions = -(-len(frames) // self.model.config.stride)
        return all(int(i) in self._class for i in ids) and ctc_fits(num_positions, ids.tolist())

    def packs(self, step: int) -> list[list[int]]:
        return [self._plan[step]]

    def count(self, pack: list[int]) -> int:
        return sum(len(self.spans[i][1]) for i in pack)

    def loss(self, pack: list[int]) -> tuple[torch.Tensor, dict[str, float]]:
        frames = [torch.from_numpy(self.spans[i][0]).float() for i in pack]
        classes = [[self._class[int(t)] for t in self.spans[i][1]] for i in pack]
        logits, lengths = self.model.ctc_logits(frames)
        loss, count = ctc(logits, lengths, classes)
        return loss, {"positions": sum(lengths), "targets": count}
