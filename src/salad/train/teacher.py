"""The frozen text LLM, reading the text of whole documents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from salad.model.modeling import SaladForConditionalGeneration
from salad.types import Example

__all__ = ["Teacher"]


class Teacher:
    """Q: hidden states of the original text LLM at every position of each document.

    `model`'s LLM serves as Q; where training changes the LLM, pass a frozen copy. With `cache`, states of
    documents seen before are kept (num_tokens x width floats each): a small corpus is read once.
    """

    def __init__(self, model: SaladForConditionalGeneration, *, cache: bool) -> None:
        self.model = model
        self._cache: dict[bytes, torch.Tensor] | None = {} if cache else None

    @property
    def head(self) -> torch.Tensor:
        return self.model.get_output_embeddings().weight

    @torch.no_grad()
    def hidden(self, examples: Sequence[Example]) -> torch.Tensor:
        """[sum of (1 + tokens), width], in the order of `assemble`'s teacher_ids."""
        keys = [example.token_ids.tobytes() for example in examples]
        known = self._cache if self._cache is not None else {}
        new = list({key: example for key, example in zip(keys, examples, strict=True) if key not in known}.items())
        fresh: dict[bytes, torch.Tensor] = {}
        if new:
            ids = [np.concatenate([[e.start_id], e.token_ids]) for _, e in new]
            starts = np.concatenate([[0], np.cumsum([len(i) for i in ids])])
            states = self.model.text_hidden_states(torch.from_numpy(np.concatenate(ids)), starts)
            fresh = {key: part.clone() for (key, _), part in zip(new, states.split([len(i) for i in ids]), strict=True)}
            if self._cache is not None:
                self._cache.update(fresh)
        return torch.cat([fresh[key] if key in fresh else known[key] for key in keys])
