"""The weights that a fresh model begins with, of its own layers and of those that a checkpoint lacks."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from transformers.initialization import guard_torch_init_functions

from salad.model.adapter import Adapter, CTCHead
from salad.model.ears import SymbolEars


def fill_module(module: nn.Module) -> None:
    """What one module holds itself; transformers calls it for each, children first."""
    if isinstance(module, nn.Linear | nn.LayerNorm) and module.weight is not None:
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        else:
            nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, CTCHead):
        nn.init.zeros_(module.residual.weight)
        nn.init.constant_(module.scale, 20.0)


@torch.no_grad()
@guard_torch_init_functions()  # which leave alone what was loaded
def fill_missing(llm: nn.Module, adapter: SymbolEars | Adapter, ctc: CTCHead | None) -> None:
    """What `fill_module` cannot know of: tables, scales and LoRA that no checkpoint brought are raw memory so far."""
    if ctc is not None:
        nn.init.zeros_(ctc.token_ids)
    if isinstance(adapter, SymbolEars):
        adapter.upper.reset_constants()
        adapter.reset()
    for part in llm.modules():
        for name in getattr(part, "lora_B", ()):
            cast(Any, part).reset_lora_parameters(name, init_lora_weights=True)
