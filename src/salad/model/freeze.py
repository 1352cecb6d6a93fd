"""What trains of a SpeechLM, and in which precision the rest is held."""

from __future__ import annotations

import torch

from salad.model.modeling import SaladForConditionalGeneration
from salad.types import SaladError


def freeze(model: SaladForConditionalGeneration, llm: str, *, bf16: bool) -> None:
    """What trains: the adapter and its CTC head, and of the LLM all, its LoRA weights, or nothing.

    bf16: what is frozen is multiplied in bf16, so the matrices are held in it.
    """
    if llm not in ("frozen", "lora", "full"):
        raise SaladError(f"llm: got {llm!r}, expected frozen, lora or full")
    for name, parameter in model.llm.named_parameters():
        parameter.requires_grad_(llm == "full" or (llm == "lora" and "lora_" in name))
    if llm != "full" and bf16:
        merge_linear(model)


def merge_linear(model: SaladForConditionalGeneration) -> None:
    """Hold the frozen linear weights of the decoder in bf16 (norms, embeddings and the head stay in float32)."""
    for module in model.decoder().modules():
        if isinstance(module, torch.nn.Linear) and not module.weight.requires_grad:
            module.to(torch.bfloat16)
