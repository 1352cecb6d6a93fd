"""How training starts on many processes: one of them has read the weights, all get them tensor by tensor.

The others lay their model out without memory. Where layers are sharded each process keeps its rows of them alone, so
that the hosts together hold about one copy, however many processes there are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import distributed, nn

from salad.model import SaladForConditionalGeneration
from salad.model.llm import remember_packing
from salad.training.distributed import ProcessGroup, from_rows, is_sharded, rows_of


def place(
    model: SaladForConditionalGeneration,
    device: str,
    world: ProcessGroup,
    spread: Callable[[SaladForConditionalGeneration], None] = lambda model: None,
) -> None:
    """Bring a model to `device`, sharded by `spread`.

    Where there are other processes all call this together. The first one's model holds the weights, those of the others
    may lie on `meta`, and all end with the first one's; of a layer that `spread` has sharded each gets its own rows.
    Whether documents may be packed in the LLM, and the state of torch's random numbers, become the first one's as well.
    """
    if world.size == 1:
        model.to(device)
        spread(model)
        return
    held = _tensors(model) if world.is_first else {}
    told = {
        "tensors": [(name, tuple(own.shape), own.dtype) for name, own in held.items()],
        "packs": getattr(model.llm, "_salad_packs", None),
        "random": torch.get_rng_state(),
    }
    told = world.gather(told if world.is_first else None)[0]
    model.to("meta")
    spread(model)
    for name, shape, dtype in told["tensors"]:
        whole = held.pop(name).to(device) if held else torch.empty(shape, dtype=dtype, device=device)
        whole = whole.contiguous()
        distributed.broadcast(whole.view(-1).view(torch.uint8), 0)  # bytes: gloo does not know every type
        _put(model, name, whole)
    model.llm.tie_weights()
    if missing := [name for name, own in _tensors(model).items() if own.is_meta]:
        raise AssertionError(f"the first process holds no {missing}")
    if told["packs"] is not None:
        remember_packing(model.llm, told["packs"])
    torch.set_rng_state(told["random"])


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name; one that stands in two places is there once."""
    return {name: own.detach() for name, own in model.named_parameters()} | dict(model.named_buffers())


def _put(model: nn.Module, name: str, whole: torch.Tensor) -> None:
    """A parameter or buffer in place of what stands there, or this process's rows of it."""
    at, _, own = name.rpartition(".")
    module = model.get_submodule(at)
    before = getattr(module, own)
    if is_sharded(before):
        first, last = rows_of(before)
        whole = from_rows(whole[first:last].clone(), before)
    if isinstance(before, nn.Parameter):
        whole = nn.Parameter(whole, requires_grad=before.requires_grad)
    setattr(module, own, whole)
