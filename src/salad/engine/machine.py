"""What this machine is, which device computes here, and how its processor treats subnormal numbers."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypedDict

FENV_BYTES, MXCSR_AT = 32, 28  # fenv_t of the GNU C library on x86-64, and its last member
FLUSH = 0x8040  # results (FTZ) and operands (DAZ) that are subnormal count as zero


class Machine(TypedDict):
    """gpu: None where there is none."""

    cpu: str
    cores: int | None
    python: str
    torch: str
    gpu: str | None


def wait_for(device: str) -> None:
    """Wait until a GPU has done what it was given; a CPU has."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


def default_device() -> str:
    """ "cuda" where torch finds a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def machine() -> Machine:
    """This one, by what results depend on."""
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__, "gpu": gpu
    }  # fmt: skip


def flush_subnormals(on: bool = True) -> bool | None:
    """Count numbers below the smallest normal one (1.2e-38 in float32) as zero; returns whether it was so before.

    An x86 processor takes a hundred times as long over such a number, and weights that decay, tails of a softmax and
    silence are full of them. It is a setting of the thread that every thread inherits from the one that starts it:
    called before numpy and torch are imported, it holds in their pools as well. None, and nothing changed, elsewhere
    than on x86-64 with the GNU C library.
    """
    library = _c_library()
    if library is None:
        return None
    state = ctypes.create_string_buffer(FENV_BYTES)
    library.fegetenv(state)
    (control,) = struct.unpack_from("I", state, MXCSR_AT)
    struct.pack_into("I", state, MXCSR_AT, control | FLUSH if on else control & ~FLUSH)
    library.fesetenv(state)
    return bool(control & FLUSH == FLUSH)


@contextmanager
def flushed() -> Iterator[None]:
    """Subnormals are flushed inside, by this thread and those that it starts there."""
    before = flush_subnormals()
    try:
        yield
    finally:
        flush_subnormals(bool(before))


@cache
def _c_library() -> ctypes.CDLL | None:
    fits = platform.machine() in ("x86_64", "AMD64") and platform.libc_ver()[0] == "glibc"
    if not fits:
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "fesetenv") else ctypes.CDLL("libm.so.6")
