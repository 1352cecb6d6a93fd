"""Decoder layers fused by torch.compile, on a GPU: all layers share graphs, for packs of any documents."""

from __future__ import annotations

from typing import Any

from torch import nn

from salad.model.attention import Packing, by_blocks
from salad.model.llm import decoder_layers
from salad.objective.distill import compiled
from salad.progress import console


def compile_layers(model: Any, **options: Any) -> bool:
    """Compile the forward pass of each layer of the model's decoder; whether it was done.

    It is done on a GPU, and where attention is FlexAttention's: what a pack holds is in the block mask then, a tensor,
    and no new pack is a new graph. A place where the graph would break is an error. `shard` comes before: what it wraps
    a layer in stays outside the graph. options: of `torch.compile`.
    """
    decoder = model.decoder()
    layers = decoder_layers(decoder)
    device = next(layers.parameters()).device
    if not by_blocks(device, _head_size(decoder), any(map(_special, layers))):
        if device.type != "cpu":
            console.print("compile: the loss alone; this LLM's attention is not FlexAttention's", highlight=False)
        return False
    having = [decoder.config, *layers.modules()]  # a family's attention reads its window from one or the other
    windows = {None, *(getattr(one, "sliding_window", None) for one in having)}

    def make_blocks(decoder: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Before the first layer: a mask is made from lists, which no graph holds."""
        packing: Packing | None = kwargs.get("packing")
        if packing is not None:
            for window in windows:
                packing.block(packing.window(window))

    decoder.register_forward_pre_hook(make_blocks, with_kwargs=True)
    for layer in layers:  # weights keep their shapes: kernels want the number of heads as a number
        layer.forward = compiled(layer.forward, dynamic=None, fullgraph=True, **options)
    return True


def _head_size(decoder: nn.Module) -> int:
    config: Any = decoder.config
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _special(layer: nn.Module) -> bool:
    """Whether its attention has sinks or a soft cap."""
    names = ("sinks", "attn_logit_softcapping")
    return any(getattr(module, name, None) is not None for module in layer.modules() for name in names)
