"""What prompts begin with alike is read once: a system prompt, a conversation so far; kept as keys and values."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache

LEAST = 16  # positions, below which it is not worth it
ROOM = 2048  # positions that are kept, of all prompts together


class Prefixes:
    """The last prompts, as embeddings and as every layer's keys and values, the last used one last."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._kept: list[tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]] = []

    def begin(self, prompt: torch.Tensor) -> tuple[DynamicCache, int]:
        """A cache that holds the first positions of `prompt` [n, width], and how many; one at least is left to read."""
        lengths = [min(shared(prompt, kept), len(prompt) - 1) for kept, _ in self._kept]
        cache, longest = DynamicCache(), max(lengths, default=0)
        if longest < LEAST:
            return cache, 0
        used = self._kept.pop(lengths.index(longest))
        self._kept.append(used)
        for i, (keys, values) in enumerate(used[1]):
            cache.update(keys[:, :, :longest], values[:, :, :longest], i)
        return cache, longest

    def keep(self, prompt: torch.Tensor, cache: DynamicCache) -> None:
        """`cache`: of all of `prompt`; it may grow afterwards, but its tensors must not be written to."""
        n = min(len(prompt), self._room)
        if n < LEAST:
            return
        self._kept = [(p, layers) for p, layers in self._kept if shared(prompt, p) < len(p)]  # the new one goes on
        every: Any = cache.layers  # each has keys and values
        layers = [(_first(layer.keys, n), _first(layer.values, n)) for layer in every]
        self._kept.append((prompt[:n], layers))
        while sum(len(p) for p, _ in self._kept) > self._room:
            self._kept.pop(0)


def shared(one: torch.Tensor, other: torch.Tensor) -> int:
    """How many rows of [n, width] and [m, width] are equal before the first that is not."""
    n = min(len(one), len(other))
    differs = (one[:n] != other[:n]).any(-1)
    return int(differs.int().argmax()) if bool(differs.any()) else n


def _first(part: torch.Tensor, n: int) -> torch.Tensor:
    """Keys or values [1, heads, >= n, d] of the first n positions; no view of more."""
    return part if part.shape[-2] == n else part[:, :, :n].clone()
