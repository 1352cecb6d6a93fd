"""The Ray engine: the same attempts as tasks of a Ray cluster, one CPU each. Needs the extra `ray`.

`RAY_ADDRESS` names the cluster; without it, Ray starts on this machine for the time of the job. Every node must see the
run directory and SALAD_CACHE under the same paths (a shared file system): shards are files, and only attempts travel.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from typing import Any

from salad.engine.local import THREAD_VARIABLES
from salad.engine.shards import Attempt, Outcome, perform
from salad.types import SaladError


class RayPool:
    """At most `workers` tasks at a time. Their processes are this pool's alone, as local ones are."""

    def __init__(self, workers: int) -> None:
        try:
            import ray
        except ImportError:
            raise SaladError(
                "engine: ray is not installed; pip install 'salad-speech[ray]', or --engine local"
            ) from None
        self._ray, self._size = ray, workers
        self._tasks: dict[Any, Attempt] = {}
        self._started_here = False
        errors = ray.exceptions
        self._gone = (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError, errors.ObjectLostError)

    def __enter__(self) -> RayPool:
        ray = self._ray
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use over the network
        if not ray.is_initialized():
            where = {} if os.environ.get("RAY_ADDRESS") else {"address": "local", "num_cpus": self._size}
            ray.init(**where, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            self._started_here = True
        # A variable of its own keeps this pool's processes apart from those of the pool before.
        variables = {**dict.fromkeys(THREAD_VARIABLES, "1"), "SALAD_POOL": secrets.token_hex(4)}
        if self._started_here:
            variables["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)  # functions are found by name
        self._perform = ray.remote(num_cpus=1, max_retries=0, runtime_env={"env_vars": variables})(perform)
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        if self._started_here:
            self._ray.shutdown()

    def free(self) -> int:
        return self._size - len(self._tasks)

    def submit(self, attempt: Attempt) -> None:
        self._tasks[self._perform.remote(attempt)] = attempt

    def wait(self) -> Outcome:
        [task], _ = self._ray.wait(list(self._tasks), num_returns=1)
        attempt = self._tasks.pop(task)
        try:
            self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            return Outcome(attempt, error.cause if isinstance(error.cause, Exception) else error)
        except self._gone:
            return Outcome(attempt, died=True)
        except self._ray.exceptions.RayError as error:  # Ray itself failed: no item is to blame
            return Outcome(attempt, SaladError(f"engine: ray: {error}"))
        return Outcome(attempt)
