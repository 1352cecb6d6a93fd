"""Which tokens end an answer: those that an LLM names beside its weights, and its tokenizer's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import GenerationConfig

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def take_over_tokens(into: GenerationConfig, told: GenerationConfig) -> None:
    """What `told` names stands in `into` too. The end of a turn often stands in generation_config.json alone."""
    for name in TOKENS:
        if (value := getattr(told, name)) is not None:
            setattr(into, name, value)


def ends_of(model: Any, processor: Any) -> list[int]:
    """Ids, in order, of the tokens at which a model that hears has said all: one that opens a document is one too."""
    told = [config.eos_token_id for config in (model.generation_config, model.llm.generation_config)]
    found = {*_flat([*told, processor.tokenizer.eos_token_id, processor.start_token_id])}
    return sorted(found)


def _flat(told: Any) -> Iterator[int]:
    for each in told:
        if isinstance(each, list | tuple):
            yield from _flat(each)
        elif each is not None:
            yield int(each)
