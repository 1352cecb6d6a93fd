"""Models laid out without memory for their weights, which then come from elsewhere: one copy of them in all."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedConfig, PreTrainedModel

from salad.model.ends import take_over_tokens
from salad.model.llm import build_llm
from salad.types import SaladError


class WeightsOnMeta(TorchDispatchMode):
    """Inside, what `torch.empty` makes lies on `meta`: weights before they are initialised. Buffers are computed.

    draw: random numbers are drawn as if the weights were there, a tensor at a time that is thrown away, so that what is
    drawn afterwards is what it would have been; else none are.
    """

    def __init__(self, draw: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch gives it no types
        self.draw = draw

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), function._schema.name
        if name == "aten::empty":
            return function(*args, **{**kwargs, "device": "meta", "pin_memory": False})
        if name in ("aten::normal_", "aten::uniform_") and args[0].is_meta:
            if self.draw:
                function(torch.empty(args[0].shape, dtype=args[0].dtype), *args[1:], **kwargs)
            return args[0]
        return function(*args, **kwargs)


def build_from(llm: PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """The LLM of `config` with our attention (`build_llm`), the weights of `llm` in float32 (those that are in float32
    are shared with it) and the tokens that end what it writes. Raises SaladError where the weights do not fit."""
    with WeightsOnMeta():
        built = build_llm(config)
    weights = {k: v.detach().float() if v.is_floating_point() else v.detach() for k, v in llm.state_dict().items()}
    fitting = {name: own.shape for name, own in built.state_dict().items()}
    wrong = [name for name, own in weights.items() if name in fitting and own.shape != fitting[name]]
    missing, unexpected = built.load_state_dict(
        {name: own for name, own in weights.items() if name not in wrong}, strict=False, assign=True
    )
    if missing or unexpected or wrong:
        raise SaladError(
            f"llm: the weights do not fit config.json (missing: {missing}, unexpected: {unexpected}, of another "
            f"shape: {wrong}); fetch the LLM again, both from one release"
        )
    built.tie_weights()
    take_over_tokens(built.generation_config, llm.generation_config)
    for name, buffer in llm.named_buffers():
        place, _, own = name.rpartition(".")
        if name not in weights:  # what is not saved, such as the rotations of positions
            setattr(built.get_submodule(place), own, buffer.detach().clone())
    return built
