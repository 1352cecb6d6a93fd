"""One process or many: who am I, sums over all, and layers sharded over them (torchrun; gloo or nccl)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
from torch import distributed

Figure = float | torch.Tensor  # what is logged: a number of the host's, or one on the device

TOGETHER = timedelta(minutes=30)  # the longest that a process may compute between two collectives of a step
PATIENCE = timedelta(days=30)  # the others wait while the first one makes a corpus
BUCKET = 2**26  # numbers in one all-reduce of gradients

_groups: dict[str, Any] = {}  # beside torch's own: of hosts, so that no GPU waits; `barrier` has one for its patience


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train together. `ProcessGroup.join()` under torchrun; alone otherwise."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> ProcessGroup:
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

    def rounds(self, packs: Sequence[Any], shares: Callable[[Any], bool], *, own: bool) -> tuple[list[Any], list[Any]]:
        """This process's packs of a step, where processes share layers. own: `packs` are its alone.

        Those that go through these layers (`shares`) first, as many on every process: None stands for one that this
        process lacks. Then the others.
        """
        through, others = [p for p in packs if shares(p)], [p for p in packs if not shares(p)]
        most = max(self.gather(len(through))) if own else -(-len(through) // self.size)
        if not own:
            through, others = through[self.rank :: self.size], others[self.rank :: self.size]
        return [*through, *[None] * (most - len(through))], others

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
            gradients = [p.grad for p in bucket if p.grad is not None]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            distributed.all_reduce(flat)
            for gradient, summed in zip(gradients, flat.div_(scale).split([p.numel() for p in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))

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


def shard(model: Any, world: ProcessGroup, *, reshard: bool = True, bf16: bool = False) -> None:
    """Spread the LLM's layers over the processes (FSDP2); embeddings, norms, biases, heads and adapter stay whole.

    What reads embedding rows directly (merging speech in, the loss's head, CTC) then needs no gathering, and a batch
    without speech may leave the adapter out on one process alone. The decoder is the one root: its layers share streams
    and buffers, and each is gathered while the one before it computes.
    reshard: free a layer's weights after its forward pass. bf16: gather and multiply in bf16, and sum gradients in
    float32; norms and biases stay exact, as under autocast.
    """
    if world.size == 1:
        return
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    from salad.model.llm import decoder_layers

    low = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    decoder = model.decoder()
    layers = decoder_layers(decoder)
    small = {p for p in layers.parameters() if p.ndim < 2}
    for layer in layers:
        fully_shard(
            layer,
            reshard_after_forward=reshard,
            mp_policy=low if bf16 else MixedPrecisionPolicy(),
            ignored_params=small,
        )
    fully_shard(decoder, ignored_params={p for p in decoder.parameters() if not is_sharded(p)})
    for index, layer in enumerate(cast(Sequence[Any], layers)):
        layer.set_modules_to_forward_prefetch(list(layers[index + 1 : index + 2]))
        # The first one names itself: without a name FSDP takes what ran before, the end of another forward pass.
        layer.set_modules_to_backward_prefetch([layers[max(0, index - 1)]])


def before_pack(model: Any, *, last: bool, reshard: bool, reduce_once: bool) -> None:
    """Say what the backward pass of a pack does: whether it frees gathered weights, and sums gradients over processes.

    After the last pack of a step it does both.
    """
    decoder = model.decoder()
    if hasattr(decoder, "set_requires_gradient_sync"):
        decoder.set_requires_gradient_sync(last or not reduce_once)
        decoder.set_reshard_after_backward(last or reshard)


def reshard(model: Any) -> None:
    """Free weights that a forward pass without a backward one has gathered, so that parameters are the sharded ones."""
    for module in model.modules():
        if hasattr(module, "set_requires_gradient_sync"):
            module.reshard()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a sharded tensor that this process holds, or the tensor itself."""
    return cast(Any, tensor).to_local() if is_sharded(tensor) else tensor


def rows_of(tensor: Any) -> tuple[int, int]:
    """The rows (first, last + 1) of a sharded tensor that this process holds: FSDP2 cuts as `torch.chunk` does."""
    each = -(-len(tensor) // tensor.device_mesh.size())
    first = min(tensor.device_mesh.get_local_rank() * each, len(tensor))
    return first, min(first + each, len(tensor))


def from_rows(rows: torch.Tensor, target: Any) -> torch.Tensor:
    """A tensor that is sharded as `target`, of which this process holds `rows`, on its device already."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(rows, target.device_mesh, target.placements, shape=target.shape, stride=target.stride())


def norms(groups: Mapping[str, Sequence[torch.Tensor]], device: torch.device) -> dict[str, torch.Tensor]:
    """Euclidean norm of each group of gradients, over the processes that hold parts of them."""
    whole = {name: _norm([g for g in group if not is_sharded(g)], device) for name, group in groups.items()}
    parts = [[g for g in group if is_sharded(g)] for group in groups.values()]
    if not any(parts):
        return whole
    squares = torch.stack([_norm([local(g) for g in group], device) for group in parts]).square()
    distributed.all_reduce(squares)
    return {name: (norm.square() + part).sqrt() for (name, norm), part in zip(whole.items(), squares, strict=True)}


def _norm(gradients: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    if not gradients:
        return torch.zeros((), device=device)
    norm: torch.Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g).float() for g in gradients]))
    return norm


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether processes hold parts of it."""
    return hasattr(tensor, "full_tensor") and hasattr(tensor, "placements")
