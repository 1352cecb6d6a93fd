"""Text LLMs whose sizes stand in a configuration inside that of their folder."""

from __future__ import annotations

from typing import Any, cast

from transformers import AutoModelForCausalLM, PreTrainedConfig

from salad.types import SaladError

UNNEST = "save its text LLM alone (model.language_model of it), with the tokenizer, and give that folder"


def causal_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration that `AutoModelForCausalLM` gives the LLM of a folder with this one: its text LLM's, where the
    family has a causal LLM of the text alone (Llama 4, Qwen 3.5). Raises SaladError where it has none."""
    own: Any = cast(Any, AutoModelForCausalLM)._model_mapping.get(type(config), None)
    nested = (config.sub_configs or {}).get("text_config")
    if own is not None and nested is not None and own.config_class is nested:
        return config.get_text_config()
    if nests_text(config):
        raise SaladError(f"llm: {config.model_type}: its configuration nests the text LLM's; {UNNEST}")
    return config


def nests_text(config: PreTrainedConfig) -> bool:
    """Whether the sizes of the text LLM stand in a configuration inside this one (Gemma 3 from 4B on)."""
    return config.get_text_config() is not config and not hasattr(config, "hidden_size")
