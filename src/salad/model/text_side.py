"""What transformers asks of the text LLM inside a model that hears: its decoder, its attention, its tables."""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from salad.model.ears import SymbolEars
from salad.model.llm import decoder_of
from salad.types import SaladError


class TextSide(PreTrainedModel):
    """Of a model with an `llm`, an `adapter` and a `ctc`, all that is the LLM's; a table is resized with whatever has a
    row for each of its tokens."""

    llm: PreTrainedModel
    adapter: Any
    ctc: Any

    def set_attn_implementation(self, attn_implementation: str | dict[str, str], *args: Any, **kwargs: Any) -> None:
        """Of the text LLM (in a dict: `llm_config`); the ears keep theirs, which parts spans laid end to end."""
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
        if isinstance(self.adapter, SymbolEars):
            self.adapter.upper.resize(table.weight.shape[0])
        return table
