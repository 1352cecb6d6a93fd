"""The Ray engine: the same attempts as tasks of a Ray cluster, one CPU or one GPU each. Needs the extra `ray`.

`RAY_ADDRESS` names the cluster; without it, Ray starts on this machine for the time of the job. Every node must see the
run directory and SALAD_CACHE under the same paths (a shared file system): shards are files, and only attempts travel.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from typing import Any

from salad.engine.devices import DEVICE, Library, Setting, gpus_here, plan_workers
from salad.engine.local import THREAD_VARIABLES
from salad.engine.shards import Attempt, Outcome, perform
from salad.types import SaladError


class RayPool:
    """At most `workers` tasks at a time. Their processes are this pool's alone, as local ones are.

    A job whose `library` can use a GPU has as many tasks as the cluster has GPUs, whatever `workers` says, and Ray
    tells each which is its own; see `plan_workers`.
    """

    def __init__(self, workers: int, setting: Setting = "cpu", library: Library | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise SaladError(
                "engine: ray is not installed; pip install 'salad-speech[ray]', or --engine local"
            ) from None
        self._ray, self._workers = ray, workers
        self._setting, self._library = setting, library
        self._tasks: dict[Any, Attempt] = {}
        self._started_here = False
        errors = ray.exceptions
        self._gone = (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError, errors.ObjectLostError)

    def __enter__(self) -> RayPool:
        ray = self._ray
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use over the network
        if not ray.is_initialized():
            gpus = len(gpus_here(self._library)) if self._library and self._setting != "cpu" else 0
            here = {"address": "local", "num_cpus": max(self._workers, gpus), "num_gpus": gpus}
            where = {} if os.environ.get("RAY_ADDRESS") else here
            ray.init(**where, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            self._started_here = True
        names = [str(n) for n in range(int(ray.cluster_resources().get("GPU", 0)))]
        try:
            self.devices = plan_workers(self._setting, self._library, self._workers, names)
        except SaladError:
            self.__exit__()
            raise
        on_gpu = self.devices[0] is not None
        # A variable of its own keeps this pool's processes apart from those of the pool before.
        variables = {**dict.fromkeys(THREAD_VARIABLES, "1"), "SALAD_POOL": secrets.token_hex(4)}
        variables[DEVICE] = "cuda" if on_gpu else "cpu"
        if self._started_here:
            variables["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)  # functions are found by name
        needs = {"num_cpus": 1, "num_gpus": 1} if on_gpu else {"num_cpus": 1}
        self._perform = ray.remote(**needs, max_retries=0, runtime_env={"env_vars": variables})(perform)
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        if self._started_here:
            self._ray.shutdown()

    def free(self) -> int:
        return len(self.devices) - len(self._tasks)

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
            return Outcome(
                attempt, SaladError(f"engine: Ray failed ({error}); mend the cluster, or give --engine local")
            )
        return Outcome(attempt)
