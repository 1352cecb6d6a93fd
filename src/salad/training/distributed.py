"""One process or many: who am I, sums over all, and layers sharded over them (torchrun; gloo or nccl)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

__all__ = ["Figure", "World", "full", "is_sharded", "like", "norm", "shard"]

Figure = float | torch.Tensor  # what is logged: a number of the host's, or one on the device

TOGETHER = timedelta(minutes=30)  # the longest that a process may compute between two collectives of a step
PATIENCE = timedelta(days=30)  # the others wait while the first one makes a corpus
BUCKET = 2**26  # numbers in one all-reduce of gradients

_groups: dict[str, Any] = {}  # beside torch's own: of hosts, so that no GPU waits; `barrier` has one for its patience


@dataclass(frozen=True)
class World:
    """The processes that train together. `World.join()` under torchrun; alone otherwise."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> World:
        """Meet the other processes that torchrun started; alone where it started none."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not distributed.is_initialized():
            backend = "nccl" if torch.cuda.is_available() else "gloo"
            if backend == "nccl":
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            distributed.init_process_group(backend, timeout=TOGETHER)
        if not _groups:
            _groups["host"] = distributed.new_group(backend="gloo", timeout=TOGETHER)
            _groups["barrier"] = distributed.new_group(backend="gloo", timeout=PATIENCE)
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def rounds(self, packs: Sequence[Any], shares: Callable[[Any], bool], *, own: bool) -> list[Any]:
        """This process's packs of a step, where processes share layers. own: `packs` are its alone.

        Those that go through these layers (`shares`) come first, as many on every process; None stands for one that
        this process lacks.
        """
        through, others = [p for p in packs if shares(p)], [p for p in packs if not shares(p)]
        most = max(self.gather(len(through))) if own else -(-len(through) // self.size)
        if not own:
            through, others = through[self.rank :: self.size], others[self.rank :: self.size]
        return [*through, *[None] * (most - len(through)), *others]

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        distributed.all_gather_object(gathered, value, group=_groups.get("host"))
        return gathered

    def sum(self, values: Mapping[str, Figure]) -> dict[str, Figure]:
        """Each value summed over the processes, those on the device there; all must know the same keys only after this.

        At least one value is on the device, in float64 as all of these.
        """
        if self.size == 1:
            return dict(values)
        here = {key: value for key, value in values.items() if isinstance(value, torch.Tensor)}
        gathered = self.gather({key: None if key in here else value for key, value in values.items()})
        sums: dict[str, Figure] = {}
        for part in gathered:
            sums |= {key: sums.get(key, 0.0) + (value or 0.0) for key, value in part.items()}
        keys = [key for key in sums if any(part.get(key, 0.0) is None for part in gathered)]
        zero = torch.zeros_like(next(iter(here.values())))
        row = torch.stack([here.get(key, zero) for key in keys])
        distributed.all_reduce(row)
        return {**sums, **{key: sums[key] + value for key, value in zip(keys, row.unbind(), strict=True)}}

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter], scale: float) -> None:
        """Add up the gradients of all processes, over `scale`; a parameter that no process has touched keeps none.

        Those of sharded layers are added up as they are formed (FSDP), and not touched here.
        """
        if self.size == 1:
            return
        plain = [p for p in parameters if not is_sharded(p)]
        if not plain:
            return
        touched = self.gather([p.grad is not None for p in plain])
        moved = [p for p, *here in zip(plain, *touched, strict=True) if any(here)]
        for parameter in moved:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets(moved):
            flat = torch.cat([p.grad.flatten() for p in bucket])
            distributed.all_reduce(flat)
            for parameter, summed in zip(bucket, flat.div_(scale).split([p.numel() for p in bucket]), strict=True):
                parameter.grad.copy_(summed.view_as(parameter))

    def leave(self) -> None:
        """Part from the others, at the end of the program."""
        if self.size > 1:
            _groups.clear()
            distributed.destroy_process_group()

    def barrier(self) -> None:
        """Wait for the others, for days where it must be."""
        if self.size > 1:
            distributed.barrier(group=_groups.get("barrier"))


def _buckets(parameters: Iterable[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    """Parameters in their order, BUCKET numbers together or one that has more."""
    bucket: list[torch.nn.Parameter] = []
    for parameter in parameters:
        if bucket and sum(p.numel() for p in bucket) + parameter.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


def shard(model: Any, world: World) -> None:
    """Spread the LLM's layers over the processes (FSDP2); embeddings, final norm, heads and adapter stay whole.

    What reads embedding rows directly (merging speech in, the loss's head, CTC) then needs no gathering, and a batch
    without speech may leave the adapter out on one process alone.
    """
    if world.size == 1:
        return
    from torch.distributed.fsdp import fully_shard

    from salad.model.llm import decoder_layers

    for layer in decoder_layers(model.decoder()):
        fully_shard(layer, reshard_after_forward=True)  # each is a root of its own, which would stay whole otherwise


def full(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a sharded tensor (all processes must ask), or the tensor itself."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def like(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A whole tensor laid out as `target` is, on its device."""
    value = value.to(target.device)
    if not is_sharded(target):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, target.device_mesh, target.placements)  # type: ignore[attr-defined]


def norm(gradients: Iterable[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Euclidean norm of all of them together, over the processes that hold parts of them."""
    parts = [full(torch.linalg.vector_norm(g)) for g in gradients]
    if not parts:
        return torch.zeros((), device=device)
    return torch.linalg.vector_norm(torch.stack([p.float() for p in parts]))


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether processes hold parts of it."""
    return hasattr(tensor, "full_tensor") and hasattr(tensor, "placements")
