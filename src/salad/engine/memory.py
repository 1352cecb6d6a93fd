"""Keep freed memory for the next tensor of its size."""

from __future__ import annotations

import ctypes
import platform
from functools import cache

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h of the GNU C library


@cache
def keep_freed_memory() -> bool:
    """Tell the C library to give nothing back to the system; True where it could be told.

    By default every tensor over 32 MB is mapped anew and unmapped after use, and the system clears its pages each time:
    that was 40 % of a training step's time on two cores. The process then keeps the most it ever held.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(M_TOP_PAD, 2**26))
