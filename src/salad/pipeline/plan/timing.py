"""How long a call takes where nothing else runs: the quickest of a few, or its processor seconds on a busy machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch

from salad.assets import ASSETS, BUILT_IN, is_cached
from salad.engine.machine import wait_for
from salad.pipeline.plan.card import Figure

ROUNDS, BUDGET_S = 7, 4.0  # of each thing: whatever else runs only slows it
REST = 0.6  # processes that run or wait, for each core: above that the machine is busy
_processor: ContextVar[int] = ContextVar("processor", default=0)


def is_busy() -> bool:
    """Whether other processes compute here, by the load of the last minute."""
    return os.getloadavg()[0] > REST * (os.cpu_count() or 1)


@contextmanager
def processor_seconds(threads: int) -> Iterator[None]:
    """Inside, `quickest` counts processor seconds of one thread, and takes `threads` to be so many times as fast: what
    a busy machine can tell of itself at rest."""
    token, before = _processor.set(threads), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _processor.reset(token)


def quickest(function: Callable[[], Any], device: str = "cpu") -> float:
    """Seconds of the quickest of a few calls, after one that is not counted."""
    threads = _processor.get() if device == "cpu" else 0
    clock = time.process_time if threads else time.perf_counter
    times: list[float] = []
    function()
    began = time.perf_counter()
    while len(times) < ROUNDS and (len(times) < 2 or time.perf_counter() - began < BUDGET_S):
        wait_for(device)
        start = clock()
        function()
        wait_for(device)
        times.append(clock() - start)
    return min(times) / max(1, threads)


def measured(value: float, what: str) -> Figure:
    how = "processor seconds, for the machine was busy" if _processor.get() else "this card"
    return Figure(value, "measured", f"{what}, {how}")


def is_here(names: Sequence[str]) -> bool:
    """Whether all of these assets or folders can be read without fetching anything."""
    return all(is_cached(name) if name in ASSETS else name in BUILT_IN or Path(name).exists() for name in names)
