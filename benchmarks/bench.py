"""What every benchmark shares: run the candidates in turn, take medians, print one JSON line."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from salad.engine.machine import flush_subnormals

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BUDGET_S, LEAST_ROUNDS = 90.0, 3  # a file without arguments ends within five minutes, on a slow processor too


def set_threads() -> None:
    flush_subnormals()  # as the processes of `salad` do
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))


def machine() -> str:
    if DEVICE == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def in_turn(
    candidates: Mapping[str, Callable[[], Any]], rounds: int = 5, *, budget_s: float = BUDGET_S, warm: bool = False
) -> dict[str, float]:
    """Median seconds of each candidate; they alternate, so that a slow moment of the machine hits all of them.

    Past `budget_s` no further round begins, but LEAST_ROUNDS (or `rounds`, where that is fewer) are always made.
    warm: each has run before.
    """
    began = time.perf_counter()
    for run in () if warm else candidates.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds):
        if number >= LEAST_ROUNDS and time.perf_counter() - began > budget_s:
            break
        for name, run in candidates.items():
            _wait()
            start = time.perf_counter()
            run()
            _wait()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def line(bench: str, ours_s: float, peer: str, peer_s: float, floor_s: float | None, ok: bool, **more: Any) -> None:
    """The last line that a benchmark prints."""
    row = {
        "bench": bench,
        "ours_s": round(ours_s, 5),
        "peer": peer,
        "peer_s": round(peer_s, 5),
        "floor_s": None if floor_s is None else round(floor_s, 5),
        "ratio_to_peer": round(ours_s / peer_s, 3),
        "ratio_to_floor": None if floor_s is None else round(ours_s / floor_s, 3),
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "ok": ok,
        "machine": machine(),
        **more,
    }
    print(json.dumps(row), flush=True)


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
