"""What this machine is, and which device computes here."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

__all__ = ["default_device", "machine"]


def default_device() -> str:
    """ "cuda" where torch finds a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def machine() -> dict[str, Any]:
    """{cpu, cores, python, torch, gpu}; gpu is None where there is none."""
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
