"""Arrays of the host on the device, by one copy that the host does not wait for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def to_device(
    arrays: Sequence[np.ndarray], device: torch.device | str, dtype: torch.dtype | None = None
) -> list[torch.Tensor]:
    """Arrays [n_i, ...] of one kind as tensors on `device`, parts of one tensor; there they become `dtype`, if given.

    For a GPU they are laid in pinned memory together: a copy for each would wait for all work before it.
    """
    whole = torch.from_numpy(np.concatenate(arrays))
    if torch.device(device).type == "cuda":
        whole = whole.pin_memory()
    whole = whole.to(device, non_blocking=True)
    return list((whole if dtype is None else whole.to(dtype)).split([len(array) for array in arrays]))
