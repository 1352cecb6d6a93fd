"""What a step cost, and when to stop: rates, floating-point operations, memory, spikes."""

from __future__ import annotations

import resource
import signal
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salad.engine.machine import wait_for
from salad.files import write_json, write_tensors
from salad.types import Example

WINDOW = 20  # steps whose median a loss is held against
PERF = "perf/"  # figures that differ from run to run begin with this


class Spikes:
    """A loss above `factor` times the median of the last steps; 0 looks for none."""

    def __init__(self, factor: float) -> None:
        self.factor, self.last = factor, deque[float](maxlen=WINDOW)

    def is_spike(self, loss: float) -> bool:
        """Tell, and remember the loss if it is none."""
        full = len(self.last) == self.last.maxlen
        if self.factor and full and loss > self.factor * max(statistics.median(self.last), 1e-3):
            return True
        self.last.append(loss)
        return False


class Terminated:
    """Whether SIGTERM has come since it was entered; a second one does what it did before."""

    asked = False

    def __enter__(self) -> Terminated:
        self._main = threading.current_thread() is threading.main_thread()  # no other one may listen
        if self._main:
            self._before = signal.signal(signal.SIGTERM, self._ask) or signal.SIG_DFL
        return self

    def _ask(self, *_: object) -> None:
        self.asked = True
        signal.signal(signal.SIGTERM, self._before)

    def __exit__(self, *_: object) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._before)


def on_host(figures: Mapping[str, float | torch.Tensor]) -> dict[str, float]:
    """All figures as numbers: the one time in a step that the host waits for the device."""
    formed = {key: value for key, value in figures.items() if isinstance(value, torch.Tensor)}
    row = torch.stack([value.double() for value in formed.values()])
    host = row.to("cpu", non_blocking=True)
    bool(row.isfinite().all())  # waits for the device, and so for the copy above
    return {**figures, **dict(zip(formed, host.tolist(), strict=True))}


def step_flops(
    student_positions: int, teacher_positions: int, targets: int, *, llm: int, adapter: float, head: int, frozen: bool
) -> float:
    """Least floating-point operations of a distillation step.

    llm: parameters of the decoder without embeddings; adapter: its operations; head: width x vocabulary. Forward 2,
    backward 2 for the inputs and 2 more for weights that train; the loss forms both sides' logits and one gradient
    (6 * N * H * V, 8 with a trained head).
    """
    student = (4 if frozen else 6) * student_positions * llm
    return student + 2.0 * teacher_positions * llm + (6 if frozen else 8) * targets * head + adapter


@cache
def peak_flops(device: str, bf16: bool) -> float:
    """Floating-point operations a second of a large matrix product here, the best of a few."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    side = 1024 if device == "cpu" else 8192
    own = torch.Generator(device).manual_seed(0)  # the training's own numbers must not depend on being timed
    a, b = (torch.randn(side, side, dtype=dtype, device=device, generator=own) for _ in range(2))
    best = float("inf")
    for _ in range(4):
        wait_for(device)
        start = time.perf_counter()
        a @ b
        wait_for(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * side**3 / best


def perf(
    sums: dict[str, float], seconds: float, waited: float, device: str, bf16: bool, processes: int
) -> dict[str, float]:
    """Rates of one step. floor: its least operations at this machine's best rate, as a share of the time it took."""
    flops = sums.pop("flops", 0.0)
    row = {
        "positions_per_s": sums.get("positions", 0.0) / seconds,
        "targets_per_s": sums.get("targets", 0.0) / seconds,
        "data_wait_share": waited / seconds,
        "memory_gb": memory_bytes(device) / 2**30,
    }
    if flops:
        least_s = flops / (peak_flops(device, bf16) * processes)
        row |= {"tflops_per_s": flops / seconds / 1e12, "floor": least_s / seconds}
    return {PERF + key: value for key, value in row.items()}


def memory_bytes(device: str) -> int:
    """Most memory held so far: the GPU's, or this process's on a CPU."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def save_batch(folder: Path, step: int, packs: list[Any], why: Mapping[str, float]) -> Path:
    """Write what a bad step read: bad-batch.json, and the frames it heard in bad-batch.safetensors."""
    frames: dict[str, np.ndarray] = {}
    members: list[Any] = []
    for pack in packs:
        while isinstance(pack, tuple):  # a task beside others gives its pack last
            pack = pack[-1]
        for example in [pack] if isinstance(pack, int) else pack:
            if not isinstance(example, Example):
                members.append({"piece": example})
                continue
            members.append({"id": example.id, "token_ids": example.token_ids.tolist()})
            frames |= {f"{len(members) - 1}.{i}": np.ascontiguousarray(f) for i, f in enumerate(example.speech_frames)}
    write_tensors(folder / "bad-batch.safetensors", frames)
    path = folder / "bad-batch.json"
    write_json(path, {"step": step, **why, "members": members})
    return path
