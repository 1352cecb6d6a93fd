"""The one training loop. What varies is the task: its batches and its loss."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from salad.files import read_jsonl, write_jsonl
from salad.progress import progress
from salad.train.checkpoint import latest_checkpoint, load_checkpoint, prune_checkpoints, save_checkpoint, trainable
from salad.train.schedule import before_decay, wsd
from salad.types import SaladError

__all__ = ["Schedule", "Task", "autocast", "train", "uses_bf16"]


class Task(Protocol):
    """What is trained: batches as a pure function of the step, and a loss that is a sum."""

    def packs(self, step: int) -> list[Any]:
        """The packs of a global batch; the same step gives the same packs."""

    def count(self, pack: Any) -> int:
        """Targets in a pack: what the loss is divided by, summed over the global batch."""

    def loss(self, pack: Any) -> tuple[torch.Tensor | None, dict[str, float]]:
        """Summed loss (None where its gradient is exactly zero), and sums and counts to log."""


@dataclass(frozen=True)
class Schedule:
    steps: int
    lr: dict[str, float]
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    warmup_steps: int = 0
    decay_share: float = 0.2
    checkpoint_every: int = 50
    probe_every: int = 0


def uses_bf16(precision: str, device: str = "cpu") -> bool:
    """Whether to compute in bf16: as told, or where the processor multiplies it natively."""
    if precision != "auto":
        return precision == "bf16"
    if device != "cpu":
        return True
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


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
) -> Path:
    """Train to the end of `schedule`, resuming from `folder` if it holds checkpoints; returns the last one.

    Groups of `schedule.lr` are the first part of parameter names ("adapter", "ctc", "llm"). A fresh run takes
    weights and optimiser from the checkpoint `start_from`, if given. Losses are divided once, by the count
    of targets in the global batch. metrics.jsonl has one row a step. Raises SaladError on a loss that is
    not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parameters = trainable(model)
    groups = [
        {"params": [p for n, p in parameters.items() if n.split(".")[0] == name], "lr": lr, "base_lr": lr}
        for name, lr in schedule.lr.items()
    ]
    optimizer = torch.optim.AdamW(
        [g for g in groups if g["params"]], betas=(0.9, 0.95), weight_decay=schedule.weight_decay
    )
    keep_step = before_decay(schedule.steps, schedule.decay_share)
    step, seconds, totals = 0, 0.0, {"positions": 0, "targets": 0}
    if (resume := latest_checkpoint(folder)) is not None:
        state = load_checkpoint(resume, model, optimizer)
        step, seconds, totals = state["step"], state["seconds"], state["totals"]
    elif start_from is not None:
        load_checkpoint(start_from, model, optimizer)
    log = folder / "metrics.jsonl"
    rows = [row for row in read_jsonl(log) if row["step"] <= step] if log.exists() else []
    write_jsonl(log, rows)
    before_s = time.monotonic() - seconds
    with progress(title, schedule.steps, "steps") as bar, open(log, "a", encoding="utf-8") as metrics:
        bar.advance(step)
        if step == 0 and probe is not None:
            _write(metrics, {"step": 0, "seconds": 0.0, **totals, **probe()})
        while step < schedule.steps:
            factor = wsd(step, schedule.steps, schedule.warmup_steps, schedule.decay_share)
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            row = _step(model, task, step, optimizer, list(parameters.values()), schedule.grad_clip, bf16)
            step += 1
            for key in totals:
                totals[key] += row.pop(key, 0)
            row = {"step": step, "lr_factor": round(factor, 6), "seconds": time.monotonic() - before_s, **totals, **row}
            if probe is not None and (step % schedule.probe_every == 0 or step == schedule.steps):
                row |= probe()
            _write(metrics, row)
            bar.advance(1, f"loss {row['loss']:.3f}")
            if step % schedule.checkpoint_every == 0 or step in (keep_step, schedule.steps):
                extra = {"seconds": time.monotonic() - before_s, "totals": totals}
                save_checkpoint(folder, model, optimizer, step, extra)
                prune_checkpoints(folder, keep=2, always={keep_step, schedule.steps})
    last = latest_checkpoint(folder)
    assert last is not None
    return last


def _step(
    model: torch.nn.Module,
    task: Task,
    step: int,
    optimizer: torch.optim.Optimizer,
    parameters: list[torch.nn.Parameter],
    grad_clip: float,
    bf16: bool,
) -> dict[str, float]:
    """One update over one global batch."""
    packs = task.packs(step)
    count = max(1, sum(task.count(pack) for pack in packs))
    loss_sum, sums = 0.0, {}
    for pack in packs:
        with autocast(bf16):
            loss, logs = task.loss(pack)
        for key, value in logs.items():
            sums[key] = sums.get(key, 0.0) + value
        if loss is not None:
            (loss / count).backward()
            loss_sum += float(loss.detach())
    if not math.isfinite(loss_sum):
        raise SaladError(f"loss: {loss_sum} at step {step}; lower the learning rate or look at the batch's audio")
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, grad_clip))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"loss": loss_sum / count, "grad_norm": norm, **sums}


def _write(metrics: Any, row: dict[str, Any]) -> None:
    metrics.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}) + "\n")
    metrics.flush()
