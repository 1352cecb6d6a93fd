"""The one training loop. What varies is the task: its batches and its loss."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from salad.config import Stage
from salad.config.base import Section
from salad.files import write_jsonl
from salad.progress import progress
from salad.sequence.stream import Stream, StreamBatches
from salad.training.callbacks import Callback, Callbacks, trackers
from salad.training.checkpoint import (
    Saver,
    last_checkpoint,
    latest_checkpoint,
    load_averages,
    load_checkpoint,
    trainable,
)
from salad.training.distributed import Figure, ProcessGroup, before_pack, is_sharded, local, norms
from salad.training.monitor import Spikes, Terminated, on_host, perf, save_batch
from salad.training.optimizer import Kind, MuonAdamW, make_optimizer
from salad.training.schedule import before_decay, wsd
from salad.types import SaladError, Stopped


class Task(Protocol):
    """What is trained: batches as a pure function of the step, and a loss that is a sum.

    Where processes share layers (`sharded`) it is a `SharedTask`: who has no pack does `idle` beside the others.
    """

    def packs(self, step: int) -> list[Any]:
        """The packs of a global batch; the same step gives the same packs."""

    def count(self, pack: Any) -> int:
        """Targets in a pack: what the loss is divided by, summed over the global batch."""

    def loss(self, pack: Any) -> tuple[torch.Tensor | None, dict[str, Figure]]:
        """Summed loss (None where its gradient is exactly zero), and sums and counts to log: those that the device
        forms stay there, as tensors without a gradient."""


class SharedTask(Task, Protocol):
    """A task whose layers processes may share."""

    def shares(self, pack: Any) -> bool:
        """Whether the loss of a pack goes through the shared layers."""

    def idle(self) -> torch.Tensor:
        """A loss of 0 through them."""


STAGE = Stage(steps=1)  # its section states the defaults


@dataclass(frozen=True)
class Schedule:
    """What the loop reads of a recipe's section, by the section's own names; see `of`.

    lr: highest learning rates by the first part of parameter names ("adapter", "ctc", "llm"). steps, warmup_steps, and
    those between checkpoints and probes: optimiser steps; decay_share: of all steps. The recipe reference explains each
    name. Every default is that of a `Stage`: 500 steps of warm-up among them, so a short training states its own.
    """

    steps: int
    lr: dict[str, float]
    weight_decay: float = STAGE.weight_decay
    grad_clip: float = STAGE.grad_clip
    warmup_steps: int = STAGE.warmup_steps
    decay_share: float = STAGE.decay_share
    checkpoint_every: int = STAGE.checkpoint_every
    keep: int = STAGE.keep
    probe_every: int = STAGE.probe_every
    spike_factor: float = STAGE.spike_factor
    ema: float = STAGE.ema
    optimizer: Kind = STAGE.optimizer
    reshard: bool = STAGE.reshard
    reduce_once: bool = STAGE.reduce_once

    @classmethod
    def of(cls, section: Section, lr: dict[str, float], **others: Any) -> Schedule:
        """The schedule that a section asks for; `others` stand in place of its settings, or beside them."""
        named = {own.name for own in fields(cls)} - {"lr"}
        asked = {name: getattr(section, name) for name in named & set(type(section).model_fields)}
        return cls(lr=lr, **{**asked, **others})


def autocast(bf16: bool, device: str = "cpu") -> AbstractContextManager[Any]:
    """bf16 where asked. Casts of weights are not cached: they would outlive a change of the weights."""
    return torch.autocast(device, torch.bfloat16, cache_enabled=False) if bf16 else nullcontext()


def train(
    model: torch.nn.Module,
    task: Task,
    schedule: Schedule,
    folder: Path,
    *,
    title: str,
    bf16: bool,
    start_from: Path | None = None,
    probe: Callable[[], dict[str, float]] | None = None,
    world: ProcessGroup | None = None,
    sharded: bool = False,
    stream: StreamBatches | None = None,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Train to the end of `schedule`, resuming from `folder` if it holds checkpoints; returns the last one.

    Groups of `schedule.lr` are the first part of parameter names ("adapter", "ctc", "llm"). A fresh run takes
    weights and optimiser from the checkpoint `start_from`, if given. Losses are divided once, by the count
    of targets in the global batch, whatever the number of packs or processes. metrics.jsonl has one row a step;
    keys that begin with "perf/" are rates of this machine, all others follow from the seed.
    sharded: the processes share layers, the student's or the teacher's, so that each must go through them the same
    number of times (see `Task`).
    stream: what the task draws its batches from, where they are not a plan. Its state goes into the checkpoints, and
    the packs of a step are then each process's own, not shared out.
    callbacks: told of steps, rows, checkpoints and the end, after the trackers that SALAD_TRACK names (`trackers`).
    Raises SaladError on a loss or a gradient that is not finite, and on a loss that leaps (`schedule.spike_factor`
    times the median of the last 20 steps), after writing the batch to bad-batch.json; it has not moved the weights.
    The host waits for the device once a step, to look at these figures. SIGTERM ends the training after the step in
    flight, with a checkpoint and a SaladError.
    """
    own = _Training(model, task, schedule, folder, bf16, world or ProcessGroup(), sharded, stream)
    resume = own.resume(start_from)
    shown = progress(title, schedule.steps, "steps", quiet=not own.world.is_first)
    told = Callbacks([*trackers(title, folder), *callbacks] if own.world.is_first else [], resume)
    with shown as bar, told, own.saver, Terminated() as terminated:
        bar.advance(own.steps_done)
        if own.steps_done == 0 and probe is not None:
            told.on_log({"step": 0, "seconds": 0.0, **own.totals, **probe()})
        while own.steps_done < schedule.steps:
            row, rates = own.take_step()
            told.on_step(own.steps_done, model)
            row = own.logged(row)
            if probe is not None and own.is_due(schedule.probe_every):
                row |= probe()
            told.on_log(row | rates)
            bar.advance(1, f"loss {row['loss']:.3f}")
            stop = any(own.world.gather(terminated.asked)) and own.steps_done < schedule.steps
            if stop or own.is_due(schedule.checkpoint_every) or own.steps_done == own.keep_step:
                last = own.checkpoint()
                if callbacks:
                    own.saver.wait()  # they may read it
                told.on_checkpoint(own.steps_done, last)
            if stop:
                raise own.stopped(title, last)
    own.world.barrier()
    return last_checkpoint(folder)


class _Training:
    """What a training holds between steps: weights, optimiser, averages, and the figures that checkpoints keep."""

    def __init__(
        self,
        model: torch.nn.Module,
        task: Task,
        schedule: Schedule,
        folder: Path,
        bf16: bool,
        world: ProcessGroup,
        sharded: bool,
        stream: StreamBatches | None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.model, self.task, self.schedule, self.folder = model, task, schedule, folder
        self.bf16, self.world, self.sharded, self.stream = bf16, world, sharded, stream
        self.parameters = trainable(model)
        self.device = next(iter(self.parameters.values())).device.type
        self.groups = {name: [p for n, p in self.parameters.items() if n.split(".")[0] == name] for name in schedule.lr}
        self.optimizer = _optimizer(schedule, self.groups, self.parameters, self.device, bf16)
        self.keep_step = before_decay(schedule.steps, schedule.decay_share)
        self.saver = Saver(folder, schedule.keep, {self.keep_step, schedule.steps}, world)
        self.spikes = Spikes(schedule.spike_factor)
        self.averages: dict[str, torch.Tensor] = {}
        self.steps_done, self.totals, self.began_s = 0, {"positions": 0, "targets": 0}, time.monotonic()

    def resume(self, start_from: Path | None) -> Path | None:
        """Go on from the newest checkpoint of the folder, which is returned; else take weights and optimiser of
        `start_from`. The log keeps the rows up to there."""
        seconds, rows, log = 0.0, list[dict[str, float]](), self.folder / "metrics.jsonl"
        if (found := latest_checkpoint(self.folder)) is not None:
            state = load_checkpoint(found, self.model, self.optimizer, self.world)
            self.steps_done, seconds, self.totals = state["step"], state["seconds"], state["totals"]
            self.averages = load_averages(found, self.parameters, self.world)
            if self.stream is not None:
                self.stream.load_state_dict(state.get("stream", {}))
            rows = [row for row in _read_log(log) if row["step"] <= self.steps_done]
        elif start_from is not None:
            load_checkpoint(start_from, self.model, self.optimizer, self.world)
        if self.world.is_first:
            write_jsonl(log, rows)
        self.world.barrier()
        for row in rows:
            if "loss" in row:
                self.spikes.is_spike(row["loss"])
        self.began_s = time.monotonic() - seconds
        return found

    def take_step(self) -> tuple[dict[str, float], dict[str, float]]:
        """One step of the optimiser: its figures, and rates of this machine. Raises SaladError, the weights not moved,
        where a figure is not finite or the loss leaps."""
        schedule, world = self.schedule, self.world
        factor = wsd(self.steps_done, schedule.steps, schedule.warmup_steps, schedule.decay_share)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        began = time.perf_counter()
        packs = self.task.packs(self.steps_done)
        waited = time.perf_counter() - began
        figures, count = self._accumulate(packs)
        lengths = _gradients(self.groups, world, self.sharded)
        row = on_host({**figures, **lengths})
        row["loss"] /= count
        if not all(map(math.isfinite, row.values())) or self.spikes.is_spike(row["loss"]):
            self.saver.wait()
            raise _stopped(self.folder, self.steps_done, packs, row, schedule.spike_factor, world)
        _update(self.optimizer, self.parameters.values(), schedule.grad_clip, lengths["grad_norm"])
        if schedule.ema:
            _average(self.averages, self.parameters, schedule.ema)
        self.steps_done += 1
        rates = perf(row, time.perf_counter() - began, waited, self.device, self.bf16, world.size)
        return {"lr_factor": round(factor, 6), **row}, rates

    def logged(self, row: dict[str, float]) -> dict[str, float]:
        """A step's row of metrics.jsonl: its sums are added to the totals, which stand in their place."""
        factor = row.pop("lr_factor")
        for key in self.totals:
            self.totals[key] += int(row.pop(key, 0))
        return {"step": self.steps_done, "lr_factor": factor, "seconds": self.seconds, **self.totals, **row}

    @property
    def seconds(self) -> float:
        """Since the training began, less what lay between its parts."""
        return time.monotonic() - self.began_s

    def is_due(self, every: int) -> bool:
        """Whether what is done every so many steps is due, as all is at the end."""
        return self.steps_done % every == 0 or self.steps_done == self.schedule.steps

    def checkpoint(self) -> Path:
        """Where the state after this step is being written."""
        extra: dict[str, Any] = {"seconds": self.seconds, "totals": dict(self.totals)}
        if self.stream is not None:
            extra["stream"] = Stream.join(self.world.gather(self.stream.state_dict()))
        return self.saver.save(self.model, self.optimizer, self.steps_done, extra, self.averages)

    def stopped(self, title: str, last: Path) -> Stopped:
        """What ends a training that SIGTERM asked to stop, once all processes have written the checkpoint `last`."""
        self.saver.wait()
        self.world.barrier()  # torchrun ends all processes as soon as one has failed
        return Stopped(
            f"{title}: stopped by SIGTERM after step {self.steps_done} of {self.schedule.steps}; the checkpoint {last} "
            "is written. The same command goes on from there"
        )

    def _accumulate(self, packs: list[Any]) -> tuple[dict[str, Figure], int]:
        together = partial(
            before_pack, self.model, reshard=self.schedule.reshard, reduce_once=self.schedule.reduce_once
        )
        own, device = self.stream is not None, self.device
        return _accumulate(self.task, packs, self.bf16, device, self.world, together if self.sharded else None, own)


def _optimizer(
    schedule: Schedule,
    groups: dict[str, list[torch.nn.Parameter]],
    parameters: dict[str, torch.nn.Parameter],
    device: str,
    bf16: bool,
) -> torch.optim.Optimizer | MuonAdamW:
    """One group for each learning rate, and one of its own for what processes share."""
    return make_optimizer(
        schedule.optimizer,
        [
            {"params": own, "lr": schedule.lr[name], "base_lr": schedule.lr[name]}
            for name, group in groups.items()
            for own in ([p for p in group if not is_sharded(p)], [p for p in group if is_sharded(p)])
            if own
        ],
        {parameter: name for name, parameter in parameters.items()},
        schedule.weight_decay,
        fused=device == "cuda",
        bf16=bf16,
    )


def _accumulate(
    task: Task,
    packs: list[Any],
    bf16: bool,
    device: str,
    world: ProcessGroup,
    together: Callable[..., None] | None,
    own: bool,
) -> tuple[dict[str, Figure], int]:
    """Gradients of one global batch, summed over its packs; its figures, summed over the processes that share (or
    `own`) them as well, and its targets. Nothing here waits for the device.

    together: where processes share layers, what to call before each pack that goes through these.
    """
    count = sum(task.count(pack) for pack in packs)
    count = max(1, sum(world.gather(count)) if own else count)
    # FSDP averages the gradients of sharded layers over the processes; the others are summed below.
    scale = world.size if together else 1
    sums: dict[str, Figure] = {"loss": torch.zeros((), dtype=torch.float64, device=device)}
    through: list[Any] = []
    if together:
        through, others = world.rounds(packs, cast(SharedTask, task).shares, own=own)
    else:
        others = packs if own else packs[world.rank :: world.size]
    for index, pack in enumerate([*through, *others]):
        if together and index < len(through):
            together(last=index == len(through) - 1)
        with autocast(bf16, device):
            loss, logs = (cast(SharedTask, task).idle(), {}) if pack is None else task.loss(pack)
        for key, value in logs.items():
            sums[key] = sums.get(key, 0.0) + (value.double() if isinstance(value, torch.Tensor) else value)
        if loss is not None:
            (loss * (scale / count)).backward()
            sums["loss"] = sums["loss"] + loss.detach().double()
    return world.sum(sums), count


def _gradients(
    groups: dict[str, list[torch.nn.Parameter]], world: ProcessGroup, sharded: bool
) -> dict[str, torch.Tensor]:
    """Sum the gradients over the processes, and give their norm, that of all groups first and then of each."""
    every = [p for group in groups.values() for p in group]
    world.sum_gradients(every, world.size if sharded else 1)
    grads = {name: [p.grad for p in group if p.grad is not None] for name, group in groups.items() if group}
    own = norms(grads, every[0].device)
    total = torch.linalg.vector_norm(torch.stack(list(own.values())))
    return {"grad_norm": total, **{f"grad_norm_{name}": value for name, value in own.items()}}


def _update(
    optimizer: torch.optim.Optimizer | MuonAdamW,
    parameters: Iterable[torch.nn.Parameter],
    grad_clip: float,
    total: torch.Tensor,
) -> None:
    """Clip by the norm of all gradients, and step."""
    with torch.no_grad():
        if gradients := [local(p.grad) for p in parameters if p.grad is not None]:
            factor = (grad_clip / (total + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
            torch._foreach_mul_(gradients, factor)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def _average(averages: dict[str, torch.Tensor], parameters: dict[str, torch.nn.Parameter], decay: float) -> None:
    for name, parameter in parameters.items():
        if name in averages:
            averages[name].lerp_(parameter.detach(), 1.0 - decay)
        else:
            averages[name] = parameter.detach().clone()


def _stopped(
    folder: Path, step: int, packs: list[Any], row: dict[str, float], factor: float, world: ProcessGroup
) -> SaladError:
    what = next((key for key, value in row.items() if not math.isfinite(value)), "loss")
    why = f"{row[what]} at step {step}"
    if math.isfinite(row[what]):
        why += f", more than spike_factor {factor:g} times the median of the last 20 steps"
    where = save_batch(folder, step, packs, row) if world.is_first else folder
    world.barrier()  # torchrun ends all processes as soon as one has failed
    return SaladError(
        f"{what}: got {why}; {where} names the documents of the batch. Listen to those, lower the learning rates, or "
        "raise warmup_steps"
    )


def _read_log(path: Path) -> list[dict[str, float]]:
    """Rows of metrics.jsonl; a line that a power cut tore ends them."""
    rows: list[dict[str, float]] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows
