"""The frozen text LLM, reading the text of whole documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from salad.model.modeling import SaladForConditionalGeneration
from salad.model.transfer import to_device
from salad.objective.head import Head
from salad.sequence import best_fit
from salad.types import Example

CACHE_BYTES = 4 * 2**30  # of states that are kept


class Teacher:
    """Q: hidden states of the original text LLM at every position of each document.

    `model`'s LLM serves as Q; where training changes the LLM, pass a frozen copy. With `cache`, states of
    documents seen before are kept (num_tokens x width floats each, the newest CACHE_BYTES): a small corpus is read
    once. Documents are read in packs of their own, at most `context` positions each, whatever the student's packs are;
    or each `alone`, so that what is kept does not depend on what was read beside it: a resumed training reads in
    another order, and a processor rounds a document in a larger product differently.

    most: of the passes through the LLM that this process needs, how many any process does, where they share its layers:
    all of them must take the same number, so that what is missing is filled up with passes over one token.
    """

    def __init__(
        self,
        model: SaladForConditionalGeneration,
        *,
        cache: bool,
        context: int = 2048,
        alone: bool = False,
        most: Callable[[int], int] = lambda number: number,
    ) -> None:
        self.model, self.context, self.alone, self.most = model, context, alone, most
        self.positions_read = 0
        self._cache: dict[bytes, torch.Tensor] | None = {} if cache else None
        self._bytes = 0

    @property
    def head(self) -> Head:
        return self.model.head

    @torch.no_grad()
    def hidden(self, examples: Sequence[Example]) -> torch.Tensor:
        """[sum of (1 + tokens), width], in the order of `assemble`'s teacher_ids; of no example at all [0, width]."""
        keys = [example.token_ids.tobytes() for example in examples]
        known = self._cache if self._cache is not None else {}
        kept = {key: known[key] for key in keys if key in known}
        new = list({key: example for key, example in zip(keys, examples, strict=True) if key not in known}.items())
        sizes = [1 + len(example.token_ids) for _, example in new]
        fresh: dict[bytes, torch.Tensor] = {}
        packs = [[i] for i in range(len(new))] if self.alone else best_fit(sizes, max([self.context, *sizes]))
        device, missing = self.head.device, self.most(len(packs)) - len(packs)  # asked before any pass, on all of them
        for pack in packs:
            ids = [np.concatenate([[new[i][1].start_id], new[i][1].token_ids]) for i in pack]
            starts = np.concatenate([[0], np.cumsum([len(one) for one in ids])])
            (tokens,) = to_device([np.concatenate(ids)], device)
            states = self.model.text_hidden_states(tokens, starts.tolist())
            for i, part in zip(pack, states.split([len(one) for one in ids]), strict=True):
                fresh[new[i][0]] = part.clone() if self._cache is not None else part
            self.positions_read += int(starts[-1])
        for _ in range(missing):
            self.model.text_hidden_states(torch.zeros(1, dtype=torch.long, device=device), [0, 1])
        if self._cache is not None:
            self._cache |= fresh
            self._bytes += sum(part.nbytes for part in fresh.values())
            while self._bytes > CACHE_BYTES:
                self._bytes -= self._cache.pop(next(iter(self._cache))).nbytes
        found = [fresh[key] if key in fresh else kept[key] for key in keys]
        return torch.cat(found) if found else self.head.weight[:0]
