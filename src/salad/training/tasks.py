"""What the loop trains: CTC onto the LLM's own embeddings, and distillation on interleaved documents."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from salad.engine import pick
from salad.model.adapter import SpeechEmbeddings
from salad.model.llm import decoder_layers
from salad.model.modeling import SaladForConditionalGeneration
from salad.model.teacher import Teacher
from salad.model.transfer import to_device
from salad.objective.ctc import ctc, ctc_fits
from salad.objective.distill import PLAIN_KL, Objective, distill
from salad.sequence import assemble, best_fit
from salad.sequence.examples import num_positions
from salad.sequence.stream import StreamBatches
from salad.training.distributed import Figure, is_sharded
from salad.training.ears_tasks import SimulatedBatches, batch_indices
from salad.training.loop import SharedTask, Task
from salad.training.monitor import step_flops
from salad.types import Example, SaladError


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


def _stream(source: Source, rng: random.Random) -> Iterator[tuple[Example, int]]:
    epoch = 0
    while True:
        for i in rng.sample(range(len(source.layouts)), len(source.layouts)):
            yield source.layouts[i][epoch % len(source.layouts[i])], source.positions[i]
        epoch += 1


class DistillTask:
    """alpha * divergence + (1 - alpha) * NLL at the text tokens of interleaved documents (eqs. 5 and 6), in nats.

    batches: the examples of each step. context: positions that one pass reads at most. objective: which divergence,
    at which temperature. hear: what makes the student's embeddings
    of the spoken spans; None: `model.hear`, of frames. Raises SaladError where `model.prior` and sharding meet.
    """

    def __init__(
        self,
        model: SaladForConditionalGeneration,
        teacher: Teacher,
        batches: Sequence[Sequence[Example]] | StreamBatches | SimulatedBatches,
        *,
        alpha: float,
        context: int,
        objective: Objective = PLAIN_KL,
        hear: Callable[[Sequence[torch.Tensor]], SpeechEmbeddings] | None = None,
    ) -> None:
        self.hear = hear or model.hear
        self.model, self.teacher, self.batches = model, teacher, batches
        self.alpha, self.context, self.objective = alpha, context, objective
        self.llm_frozen = not any(p.requires_grad for p in model.llm.parameters())
        if model.config.prior and any(is_sharded(p) for p in model.llm.parameters()):
            raise SaladError(
                f"model.prior: {model.config.prior} asks a sharded LLM more often on one process than on another; "
                "set shard: false, or model.prior: 0"
            )
        self._sizes = {
            "llm": sum(p.numel() for p in decoder_layers(model.decoder()).parameters()),
            "head": model.get_output_embeddings().weight.numel(),
        }
        self._adapter = sum(p.numel() for p in model.adapter.parameters())

    def packs(self, step: int) -> list[list[Example]]:
        """The batch of a step, cut into packs of at most `context` positions."""
        batch = self.batches[step]
        sizes = [1 + len(example.token_ids) for example in batch]  # at most: speech at text rate is shorter
        if self.model.config.rate == "fixed":
            sizes = [num_positions(example, self.model.config.stride, "fixed") for example in batch]
        return [[batch[i] for i in pack] for pack in best_fit(sizes, self.context)]

    def count(self, pack: list[Example]) -> int:
        """Text tokens, which the loss is divided by; a frozen LLM's plain text counts as well."""
        return sum(
            b - a
            for example in pack
            for span, (a, b) in zip(example.spans, example.token_bounds, strict=True)
            if span.modality == "text"
        )

    def shares(self, pack: list[Example]) -> bool:
        """Whether its loss goes through the LLM."""
        return bool(self._moving(pack))

    def idle(self) -> torch.Tensor:
        """0, by one position through the student and none through the teacher, forwards and backwards."""
        row = self.model.get_input_embeddings().weight[:1].detach().requires_grad_()
        states = self.model.hidden_states(row, [0, 1])
        self.teacher.hidden([])
        return 0.0 * states.float().sum()

    def _moving(self, pack: list[Example]) -> list[Example]:
        """Where the LLM is frozen plain text moves nothing: its gradient is exactly zero."""
        return [example for example in pack if example.speech_frames] if self.llm_frozen else pack

    def loss(self, pack: list[Example]) -> tuple[torch.Tensor | None, dict[str, Figure]]:
        """Summed loss in nats over the text tokens; None where nothing would move. Sums and counts to log beside it."""
        pack = self._moving(pack)
        if not pack:
            return None, {}
        head = self.model.head
        device = head.device
        frames = [span for example in pack for span in example.speech_frames]
        if frames:
            heard = self.hear(to_device(frames, device, torch.float32))
            speech, lengths, all_lengths = heard.embeddings, heard.lengths, heard.all_lengths
        else:
            speech, lengths, all_lengths = self.model.get_input_embeddings().weight[:0], [], []
        packed = assemble(pack, lengths)
        pairs = packed.pairs
        ids, rows, student_pos, teacher_pos, targets = to_device(
            [packed.student_ids, packed.speech_rows, pairs.student_pos, pairs.teacher_pos, pairs.target_ids], device
        )
        student = self.model.hidden_states(self.model.merge(ids, speech, rows), packed.student_starts.tolist())
        read_before = self.teacher.positions_read
        teacher = self.teacher.hidden(pack)
        out = distill(
            student[student_pos], teacher[teacher_pos], head, self.teacher.head, targets, self.alpha, self.objective
        )
        flops = step_flops(
            len(packed.student_ids),
            self.teacher.positions_read - read_before,
            out.count,
            adapter=6.0 * self._adapter * sum(all_lengths),
            frozen=self.llm_frozen,
            **self._sizes,
        )
        logs: dict[str, Figure] = {
            "positions": len(packed.student_ids),
            "targets": out.count,
            "kl_sum": out.kl,
            "nll_sum": out.nll,
            "flops": flops,
        }
        return out.total, logs


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
        assert model.ctc is not None
        self.model, self.head = model, model.ctc
        self._class = self.head.classes()
        possible = array("q", (number for number, span in enumerate(spans) if self._fits(*span)))
        self.impossible = len(spans) - len(possible)
        if not possible:
            raise SaladError("warm_start: no speech span is long enough for its tokens; lower model.stride")
        self.spans: Sequence[tuple[np.ndarray, np.ndarray]] = pick(spans, possible)
        self.batch, self._plan = batch, batch_indices(len(possible), steps, batch, f"{seed}/ctc")

    def _fits(self, frames: np.ndarray, ids: np.ndarray) -> bool:
        num_positions = -(-len(frames) // self.model.config.stride)
        return all(int(i) in self._class for i in ids) and ctc_fits(num_positions, ids.tolist())

    def packs(self, step: int) -> list[list[int]]:
        return [self._plan[step]]

    def count(self, pack: list[int]) -> int:
        return sum(len(self.spans[i][1]) for i in pack)

    def loss(self, pack: list[int]) -> tuple[torch.Tensor, dict[str, Figure]]:
        device = self.head.scale.device
        frames = to_device([self.spans[i][0] for i in pack], device, torch.float32)
        classes = [[self._class[int(t)] for t in self.spans[i][1]] for i in pack]
        logits, lengths = self.model.ctc_logits(frames)
        loss, count = ctc(logits, lengths, classes)
        adapter = sum(p.numel() for p in self.model.adapter.parameters())
        return loss, {"positions": sum(lengths), "targets": count, "flops": 6.0 * adapter * sum(lengths)}


@dataclass(frozen=True)
class Side:
    """A task beside the main one: `weight` times the mean of its own loss is added from step `first` on."""

    name: str
    task: Task
    weight: float
    first: int = 0


class Together:
    """A main task and others beside it. Each loss is a mean over its own targets of the global batch."""

    def __init__(self, main: SharedTask, sides: Sequence[Side]) -> None:
        self.main, self.sides = main, sides

    def packs(self, step: int) -> list[tuple[Side | None, float, Any]]:
        """(None, 1, pack) of the main task; (side, factor on its sum, pack) of the others."""
        packs = self.main.packs(step)
        targets = sum(self.main.count(pack) for pack in packs)
        out: list[tuple[Side | None, float, Any]] = [(None, 1.0, pack) for pack in packs]
        for side in self.sides:
            if step >= side.first:
                own = side.task.packs(step - side.first)
                factor = side.weight * targets / max(1, sum(side.task.count(pack) for pack in own))
                out += [(side, factor, pack) for pack in own]  # the loop divides by `targets`
        return out

    def count(self, pack: tuple[Side | None, float, Any]) -> int:
        return self.main.count(pack[2]) if pack[0] is None else 0

    def shares(self, pack: tuple[Side | None, float, Any]) -> bool:
        return pack[0] is None and self.main.shares(pack[2])

    def idle(self) -> torch.Tensor:
        return self.main.idle()

    def loss(self, pack: tuple[Side | None, float, Any]) -> tuple[torch.Tensor | None, dict[str, Figure]]:
        side, factor, own = pack
        if side is None:
            return self.main.loss(own)
        loss, logs = side.task.loss(own)
        kept: dict[str, Figure] = {"flops": logs.get("flops", 0.0)}
        if loss is not None:
            kept |= {f"{side.name}_sum": loss.detach(), f"{side.name}_targets": logs.get("targets", 0)}
        return None if loss is None else factor * loss, kept


class OneBatch:
    """The first batch of another task, again and again."""

    def __init__(self, task: SharedTask) -> None:
        self.task = task

    def packs(self, step: int) -> list[Any]:
        return self.task.packs(0)

    def count(self, pack: Any) -> int:
        return self.task.count(pack)

    def shares(self, pack: Any) -> bool:
        return self.task.shares(pack)

    def idle(self) -> torch.Tensor:
        return self.task.idle()

    def loss(self, pack: Any) -> tuple[torch.Tensor | None, dict[str, Figure]]:
        return self.task.loss(pack)
