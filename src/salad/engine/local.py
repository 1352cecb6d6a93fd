"""The local engine: a pool of single-thread processes.

Two processes with two OpenMP threads each on two cores run 10-50 times slower than with one, so
every worker holds itself to one thread.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from salad.engine.devices import environment
from salad.engine.shards import Attempt, Outcome, perform
from salad.types import SaladError

MAX_FAILED_STARTS = 5
PATIENCE_S = 5.0  # for all idle workers together to end by themselves
BEGUN = "begun"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CT2_INTRA_THREADS")


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    place: int  # of its device among the pool's
    attempt: Attempt | None = None
    begun: bool = False  # the worker has read its attempt


class LocalPool:
    """Processes of this machine, each on its own pipe: when one dies, it is known which attempt it was at, and the
    others do not notice. A new one takes its place. (`ProcessPoolExecutor` ends all of them, and cannot tell.)

    devices: the GPU of each worker, or None for the CPU.
    """

    def __init__(self, devices: Sequence[str | None]) -> None:
        self._context = multiprocessing.get_context("spawn")
        self.devices = tuple(devices)
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *_: object) -> None:
        """Idle workers end by themselves, so that what they hold of the system (semaphores) is given back; those that
        are at work, or take their time, are killed.
        """
        for worker in self._workers:
            if worker.attempt is not None:
                worker.process.kill()
            worker.pipe.close()
        until_s = time.monotonic() + PATIENCE_S
        for worker in self._workers:
            worker.process.join(max(0.0, until_s - time.monotonic()))
            worker.process.kill()
            worker.process.join()

    def free(self) -> int:
        return len(self.devices) - sum(worker.attempt is not None for worker in self._workers)

    def submit(self, attempt: Attempt) -> None:
        idle = [worker for worker in self._workers if worker.attempt is None and worker.process.is_alive()]
        worker = idle[0] if idle else self._start()
        worker.attempt = attempt
        try:
            worker.pipe.send(attempt)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it died while idle or at its start; `wait` sees that

    def wait(self) -> Outcome:
        while True:
            busy = [worker for worker in self._workers if worker.attempt is not None]
            ready = wait([*(worker.pipe for worker in busy), *(worker.process.sentinel for worker in busy)])
            worker = next(w for w in busy if w.pipe in ready or w.process.sentinel in ready)
            attempt = worker.attempt
            assert attempt is not None
            try:
                said = worker.pipe.recv()  # what it said before it died counts
            except (EOFError, ConnectionResetError, pickle.UnpicklingError):
                self._remove(worker)
                if worker.begun:
                    return Outcome(attempt, died=True)
                self._not_started(worker.process.exitcode)
                self.submit(attempt)
                continue
            self._failed_starts = 0
            if said == BEGUN:
                worker.begun = True
                continue
            worker.attempt, worker.begun = None, False
            return Outcome(attempt, said)

    def _remove(self, worker: _Worker) -> None:
        worker.process.join()
        worker.pipe.close()
        self._workers.remove(worker)

    def _not_started(self, exit_code: int | None) -> None:
        """No item is to blame for a worker that never got to it."""
        self._failed_starts += 1
        if self._failed_starts == MAX_FAILED_STARTS:
            raise SaladError(
                f"engine: {MAX_FAILED_STARTS} workers in a row ended before they began (exit code {exit_code}); their "
                "message is above. A script that calls run_shards must do so under `if __name__ == '__main__':`"
            )

    def _start(self) -> _Worker:
        for worker in [w for w in self._workers if w.attempt is None and not w.process.is_alive()]:
            self._remove(worker)
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, os.getpid()))
        place = min(set(range(len(self.devices))) - {worker.place for worker in self._workers})
        with single_threaded(environment(self.devices[place])):
            process.start()
        theirs.close()
        worker = _Worker(process, ours, place)
        self._workers.append(worker)
        return worker


def _work(pipe: Connection, parent: int) -> None:
    """One thread, and no life after the parent's: a killed run must not leave writers behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=watch, daemon=True).start()
    while True:
        try:
            attempt = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        pipe.send(BEGUN)
        pipe.send(_error_of(attempt))


def _error_of(attempt: Attempt) -> BaseException | None:
    """Perform it; the error it raises, with its traceback as a note, in a form that gets through a pipe."""
    try:
        perform(attempt)
    except BaseException as error:
        error.add_note(f"in a worker:\n{traceback.format_exc()}")
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return RuntimeError(f"{error!r} in a worker:\n{traceback.format_exc()}")
        return error
    return None


def _set_torch_threads(n: int) -> int:
    """Set torch's threads and return what they were; torch is not imported where it is not installed."""
    try:
        import torch
    except ImportError:
        return n
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    return before


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    before = _set_torch_threads(n)
    try:
        yield
    finally:
        _set_torch_threads(before)


@contextmanager
def keep_torch_threads() -> Iterator[None]:
    """Torch's threads stay what they were: as it is loaded, a CTranslate2 model sets OpenMP's, which torch
    shares, and all that torch computes afterwards would run on so many.
    """
    import torch

    with torch_threads(torch.get_num_threads()):
        yield


class single_threaded:
    """Children started inside inherit one thread per library, and `more` variables; the parent's come back after."""

    def __init__(self, more: dict[str, str]) -> None:
        self.inside = {**dict.fromkeys(THREAD_VARIABLES, "1"), **more}

    def __enter__(self) -> None:
        self.before = {name: os.environ.get(name) for name in self.inside}
        os.environ.update(self.inside)

    def __exit__(self, *_: object) -> None:
        for name, value in self.before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
