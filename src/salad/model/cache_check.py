"""Whether an LLM goes on from keys and values alone, as a server's cache keeps them for each of its layers."""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from transformers import DynamicCache, PreTrainedModel

from salad.model.llm import EXACT, ROUGH, decoder_layers, decoder_of, head_of, precision_of, probe_documents, reading
from salad.objective.distill import kl_per_position
from salad.types import SaladError

READ_FIRST = 6  # positions of the probe
FAULTS = (TypeError, ValueError, LookupError, AttributeError, RuntimeError)


def goes_on(llm: PreTrainedModel) -> bool:
    """Whether what is read behind a cache of keys and values is what it is in one; found once by reading a few tokens.

    LLMs of mixed layers (Jamba, LFM2, Qwen3-Next, RecurrentGemma) also have states, which such a cache does not hold.
    """
    known = getattr(llm, "_salad_goes_on", None)
    if known is None:
        with reading(llm), torch.no_grad():
            try:
                known = _difference(llm) <= (EXACT if precision_of(llm) is None else ROUGH[0])
            except torch.OutOfMemoryError:
                raise
            except FAULTS:
                known = False
        cast(Any, llm)._salad_goes_on = known
    return cast(bool, known)


def require_going_on(llm: PreTrainedModel, what: str) -> None:
    """Raises SaladError where `what` cannot be done with this LLM."""
    if not goes_on(llm):
        raise SaladError(
            f"model: {what}: its LLM ({llm.config.model_type}) keeps states beside the keys and values of attention, "
            "which the server's cache does not hold; write with `salad answer` or generate(), or take an LLM all of "
            "whose layers attend"
        )


def _difference(llm: PreTrainedModel) -> float:
    """KL in nats, the greatest of the positions that are read behind a cache."""
    decoder, (first, _), cache = decoder_of(llm), probe_documents(llm), DynamicCache()
    whole = decoder(inputs_embeds=first[None], use_cache=False).last_hidden_state[0]
    takes = "position_ids" in inspect.signature(decoder.forward).parameters
    read = []
    for a, b in ((0, READ_FIRST), (READ_FIRST, len(first))):
        places = {"position_ids": torch.arange(a, b, device=first.device)[None]} if takes else {}
        out = decoder(inputs_embeds=first[None, a:b], past_key_values=cache, use_cache=True, **places)
        read.append(out.last_hidden_state[0])
        layers = cast(Any, cache.layers)
        if len(layers) != len(decoder_layers(decoder)) or any(layer.keys.shape[2] != b for layer in layers):
            raise ValueError("layers without keys and values")
    own = head_of(llm)
    return float(kl_per_position(own.logits(whole).double(), own.logits(torch.cat(read)).double()).max())
