"""Points read in blocks of fixed size from memory or from a memory-mapped file, about their mean, in float32."""

from __future__ import annotations

from collections.abc import Iterator
from mmap import mmap

import numpy as np
import torch

from salad.progress import Bar
from salad.types import SaladError

BLOCK = 4096  # rows; with 128 clusters a block's distances are 2 MB and stay in cache


def check_rows(block: np.ndarray, first: int = 0) -> np.ndarray:
    """`block` [rows, dim] itself. first: its first row's number. Raises SaladError that names a row not finite."""
    if not np.isfinite(block.sum(dtype=np.float64)):
        bad = np.flatnonzero(~np.isfinite(block).all(1))
        if len(bad):
            raise SaladError(
                f"x: row {first + bad[0]} holds NaN or infinity, expected finite numbers; "
                "embed that document again, or leave it out"
            )
    return block


def _mapped(x: np.ndarray) -> np.ndarray:
    """`x`, mapped anew where it is a map of a file: pages of a map that stays count as memory of the process."""
    if isinstance(x, np.memmap) and isinstance(x.base, mmap) and x.flags.c_contiguous and x.filename is not None:
        return np.memmap(x.filename, x.dtype, "r", x.offset, x.shape)
    return x


def sums_of(x: torch.Tensor, labels: torch.Tensor, k: int) -> torch.Tensor:
    """Sums of the rows of x [n, dim] with each label, [k, dim]."""
    return torch.zeros(k, x.shape[1], device=x.device).index_add_(0, labels, x)


class RowBlocks:
    """`x` [N, dim] by blocks of float32 [<= block, dim] on `device`, minus the mean of all rows.

    Blocks begin at fixed rows, so their arithmetic does not depend on how x is stored. mean_square: the mean squared
    distance of a row from the mean.
    """

    def __init__(self, x: np.ndarray, device: torch.device, bar: Bar) -> None:
        self.x, self.device, self.bar, self.block = x, device, bar, BLOCK
        self.num, self.dim = x.shape
        self.mean = check_rows(np.asarray(x[: self.block], dtype=np.float32)).mean(0)
        self._shift = torch.from_numpy(self.mean).to(device)
        total, squares = torch.zeros(self.dim, dtype=torch.float64, device=device), 0.0
        for at, part in self.blocks():
            sums = part.sum(0, dtype=torch.float64)
            if not bool(torch.isfinite(sums).all()):
                check_rows(np.asarray(x[at], dtype=np.float32), at.start)
            total += sums
            squares += float((part * part).sum())
        off = total / self.num  # of the first block's mean from the mean
        self.mean = (self.mean + off.cpu().numpy()).astype(np.float32)
        self._shift = torch.from_numpy(self.mean).to(device)
        self.mean_square = max(squares / self.num - float((off**2).sum()), 0.0)

    def blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Every row once, in order: which rows, and float32 [rows, dim] with the mean taken off."""
        for at in self._slices():
            part = self._load(_mapped(self.x)[at])
            yield at, part
            self.bar.advance(len(part))

    def take(self, index: np.ndarray) -> torch.Tensor:
        """Rows of sorted `index`, float32 [len(index), dim]."""
        out = torch.empty(len(index), self.dim, device=self.device)
        for at in range(0, len(index), self.block):
            out[at : at + self.block] = self._load(_mapped(self.x)[index[at : at + self.block]])
        return out

    def means(self, labels: np.ndarray, k: int) -> tuple[np.ndarray, float]:
        """Means of k clusters, float32 [k, dim] in the coordinates of x, and the mean squared distance to them."""
        total = torch.zeros(k, self.dim, dtype=torch.float64, device=self.device)
        for at, part in self.blocks():
            here = torch.from_numpy(labels[at]).to(self.device)
            total += sums_of(part, here, k)
        sizes = torch.from_numpy(np.bincount(labels, minlength=k)).to(self.device)
        means = total / sizes[:, None]
        inertia = self.mean_square - float(((total * means).sum()) / self.num)
        return (means.cpu().numpy() + self.mean).astype(np.float32), max(inertia, 0.0)

    def _slices(self) -> Iterator[slice]:
        for at in range(0, self.num, self.block):
            yield slice(at, min(at + self.block, self.num))

    def _load(self, part: np.ndarray) -> torch.Tensor:
        # copied: memory-mapped rows are read-only, which torch does not know
        return torch.from_numpy(np.array(part)).to(self.device).to(torch.float32).sub_(self._shift)
