"""Processes for tests, forked from one that has imported torch and ours: they start in milliseconds, not in seconds."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

IMPORTED = (
    "pytest",
    "salad.model.check",
    "salad.testing.small_run",
    "salad.training.broadcast_weights",
    "torch.distributed.fsdp",
)


class Fork:
    """function(*args, ready) in a process of its own on one thread, which calls `ready()` when it has set up.

    It is a process as any other: it has its own environment, a signal ends it, and nothing of it is shared. function
    must be of a module that can be imported.
    """

    def __init__(self, function: Callable[..., None], *args: Any, env: Mapping[str, str] | None = None) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(IMPORTED))
        self._said, there = context.Pipe(duplex=False)
        self._process = context.Process(target=_call, args=(there, function, args, dict(env or {})))
        self._process.start()
        there.close()

    def wait_ready(self) -> None:
        """Raises AssertionError with its traceback where it ends before."""
        assert self._said.poll(120), "the process is not ready"
        told = self._said.recv()
        assert told is None, told

    def wait(self, timeout_s: float = 300.0) -> int | None:
        """Its exit status; None where it is still at work."""
        self._process.join(timeout_s)
        return self._process.exitcode

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self._process.kill()
        self._process.join()

    def error(self) -> str:
        """The traceback of what ended it, or ""."""
        told = None
        while told is None and self._said.poll():
            try:
                told = self._said.recv()
            except EOFError:
                break
        return told or ""


def run_alone(function: Callable[..., None], *args: Any) -> None:
    """One process to its end. Raises AssertionError where it fails."""
    process = Fork(function, *args)
    assert process.wait() == 0, process.error()


def run_together(function: Callable[..., None], *args: Any, size: int = 2, timeout_s: float = 300.0) -> None:
    """Processes that know each other as those of torchrun do. Raises AssertionError where one fails, or all wait."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    all_of_them = [Fork(function, *args, env={**shared, "RANK": str(rank)}) for rank in range(size)]
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and (states := _states(all_of_them)).count(0) < size:
        if any(states):  # the others would wait for it
            break
        time.sleep(0.02)
    states = _states(all_of_them)
    for process in all_of_them:
        process.kill()
    assert states == [0] * size, "\n".join(process.error() for process in all_of_them)


def _states(processes: Sequence[Fork]) -> list[int | None]:
    return [process.wait(0) for process in processes]


def _call(there: Any, function: Callable[..., None], args: tuple[Any, ...], env: dict[str, str]) -> None:
    os.environ.update(env)
    torch.set_num_threads(1)
    try:
        function(*args, ready=lambda: there.send(None))
    except BaseException:
        there.send(traceback.format_exc()[-3000:])
        raise
