"""What transformers asks of the text LLM inside a model that hears: its decoder, its attention, its tables."""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from salad.model.llm import decoder_of
from salad.types import SaladError


def refuse_lora(*args: Any, **kwargs: Any) -> None:
    """What PEFT runs in a layer that carries LoRA already, whose trained matrices it would replace or switch off."""
    raise SaladError(
        "peft: got LoRA for a layer of the LLM that carries trained LoRA already (lora_rank), which it would replace; "
        "merge that first: salad export MODEL --to OUT --merge-lora"
    )


class TextSide(PreTrainedModel):
    """All that is the LLM's in a model with an `llm`, an `adapter` and a `ctc`; a table is resized with whatever has a
    row for each of its tokens."""

    config: Any
    llm: PreTrainedModel
    adapter: Any
    ctc: Any

    @property
    def silent_ids(self) -> list[int]:
        """Tokens that are never written: the placeholder, where the LLM's table has a row for it."""
        audio: int = self.config.audio_token_id
        return [audio] if audio < self.get_output_embeddings().weight.shape[0] else []

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As transformers has it. Where PEFT merged and unloaded the LLM's LoRA, the folder says that it has none."""
        if self.config.lora_rank and not any("lora_" in name for name, _ in self.llm.named_parameters()):
            self.config.lora_rank = 0
        super().save_pretrained(*args, **kwargs)

    def set_attn_implementation(self, attn_implementation: str | dict[str, str], *args: Any, **kwargs: Any) -> None:
        """Set the text LLM's attention (in a dict: `llm_config`); the ears keep theirs, which parts spans."""
        asked: Any = attn_implementation
        own = asked.get("llm_config", asked.get("")) if isinstance(asked, dict) else asked
        if own is not None:
            self.llm.set_attn_implementation(own, *args, **kwargs)

    def get_decoder(self) -> nn.Module:
        return decoder_of(self.llm)

    def get_input_embeddings(self) -> nn.Embedding:
        return cast(nn.Embedding, self.llm.get_input_embeddings())

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.llm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Linear:
        return cast(nn.Linear, self.llm.get_output_embeddings())

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.llm.set_output_embeddings(new_embeddings)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As transformers has it. Ears in two parts take rows as well, for tokens that nothing heard may say until
        `adapter.learn_lexicon` tells how they sound.

        Raises SaladError where a token that the CTC head scores would have no row.
        """
        wanted = 0 if self.ctc is None else int(self.ctc.token_ids.max()) + 1
        if new_num_tokens is not None and new_num_tokens < wanted:
            raise SaladError(
                f"new_num_tokens: got {new_num_tokens}, and the CTC head scores token {wanted - 1}; "
                f"give {wanted} or more"
            )
        table = super().resize_token_embeddings(new_num_tokens, *args, **kwargs)
        if self.config.ears == "symbols":
            self.adapter.upper.resize(table.weight.shape[0])
        return table
