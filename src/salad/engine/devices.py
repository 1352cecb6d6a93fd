"""Which device each worker of a data job computes on: planned before they start, told to each by its environment."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from typing import Literal

from salad.types import SaladError

Setting = Literal["auto", "cpu", "cuda"]
Library = Literal["torch", "ctranslate2"]
DEVICE, VISIBLE = "SALAD_DEVICE", "CUDA_VISIBLE_DEVICES"
CTRANSLATE2_NEEDS = ("libcublas.so.12", "libcudnn.so.9")  # of CTranslate2 4, which opens them by name once it computes


def plan_workers(
    setting: Setting, library: Library | None, workers: int, gpus: Sequence[str]
) -> tuple[str | None, ...]:
    """The GPU of each worker, by its name in CUDA_VISIBLE_DEVICES; None is the CPU.

    One worker a GPU where the job's `library` can use them (None: the job knows no GPU), else `workers` on the CPU.
    Raises SaladError where `cuda` is asked for and there is no GPU for the library.
    """
    if library is None or setting == "cpu" or (setting == "auto" and not gpus):
        return (None,) * workers
    if not gpus:
        raise no_gpu(library)
    return tuple(gpus)


def no_gpu(library: Library) -> SaladError:
    needs = f", or not {' and '.join(CTRANSLATE2_NEEDS)}" if library == "ctranslate2" else ""
    return SaladError(
        f"engine.device: got cuda, but {library} finds no GPU here{needs}; set engine.device: auto (a GPU where there "
        "is one) or cpu"
    )


def environment(gpu: str | None) -> dict[str, str]:
    """Variables that a worker is started with."""
    return {DEVICE: "cpu"} if gpu is None else {DEVICE: "cuda", VISIBLE: gpu}


def worker_device(library: Library = "torch") -> str:
    """ "cuda" in a worker that was given a GPU, its only one; else "cpu", in the process of a run as well.

    CTranslate2 stays on the CPU where it cannot use the worker's GPU: it may be the helper of a job that torch does.
    """
    if os.environ.get(DEVICE) != "cuda":
        return "cpu"
    return "cuda" if library == "torch" or gpus_here(library) else "cpu"


def gpus_here(library: Library) -> tuple[str, ...]:
    """Names of this process's GPUs that the library can use, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    if not torch.cuda.is_available() or (library == "ctranslate2" and not _ctranslate2_can()):
        return ()
    return gpu_names(torch.cuda.device_count(), os.environ.get(VISIBLE))


def gpu_names(count: int, visible: str | None) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES must be for each of `count` GPUs alone, given what it is (None: not set)."""
    return tuple(name.strip() for name in visible.split(","))[:count] if visible else tuple(map(str, range(count)))


def devices_line(title: str, devices: Sequence[str | None]) -> str:
    """The line that says what a job runs on."""
    gpus = [gpu for gpu in devices if gpu is not None]
    if gpus:
        return f"{title}: on {len(gpus)} GPU{'s' * (len(gpus) > 1)} ({', '.join(gpus)}), one worker each"
    return f"{title}: on the CPU, {len(devices)} worker{'s' * (len(devices) > 1)}"


@cache
def _ctranslate2_can() -> bool:
    try:
        import ctranslate2

        for name in CTRANSLATE2_NEEDS:
            ctypes.CDLL(name)
        return bool(ctranslate2.get_cuda_device_count() > 0)
    except (ImportError, OSError):
        return False
