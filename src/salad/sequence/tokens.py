"""Tokenise a whole document once, and know which tokens belong to which word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from salad.types import SaladError, Span

__all__ = ["TokenisedDocument", "start_token_id", "tokenise"]


@dataclass(frozen=True)
class TokenisedDocument:
    """token_ids: int64 [T]. Word w owns tokens word_starts[w] to word_starts[w + 1] (int64 [W + 1])."""

    token_ids: np.ndarray
    word_starts: np.ndarray

    def bounds(self, spans: Sequence[Span]) -> tuple[tuple[int, int], ...]:
        """First and last + 1 token of each span; spans that tile the words tile the tokens."""
        return tuple((int(self.word_starts[s.start_word]), int(self.word_starts[s.end_word])) for s in spans)


def tokenise(tokenizer: Any, text: str) -> TokenisedDocument:
    """Token ids of `text` and the first token of each whitespace word.

    A token belongs to the word that holds its last non-space character; a token of white space alone
    belongs to the word after it. So a span of words is a run of tokens, and the runs joined are exactly
    the tokens of the document (DESIGN, invariant 1). Needs a tokenizer with character offsets ("fast").
    """
    if not getattr(tokenizer, "is_fast", False):
        raise SaladError(f"llm: its tokenizer {type(tokenizer).__name__} has no character offsets; use a fast one")
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    word_ends = np.array([match.end() for match in re.finditer(r"\S+", text)], dtype=np.int64)
    if len(word_ends) == 0:
        raise SaladError("document: its text holds no words")
    owners = np.empty(len(encoded["input_ids"]), dtype=np.int64)
    for i, (start, end) in enumerate(encoded["offset_mapping"]):
        piece = text[start:end]
        last = start + max(len(piece.rstrip()), 1)  # a token of white space alone counts where it starts
        owners[i] = np.searchsorted(word_ends, last, side="left")
    owners = np.maximum.accumulate(np.minimum(owners, len(word_ends) - 1))
    word_starts = np.searchsorted(owners, np.arange(len(word_ends) + 1), side="left")
    return TokenisedDocument(np.array(encoded["input_ids"], dtype=np.int64), word_starts)


ENDOFTEXT = "<|endoftext|>"


def start_token_id(tokenizer: Any) -> int:
    """The token that opens a document: `<|endoftext|>` where the vocabulary has it, else bos, else eos."""
    token_id = tokenizer.convert_tokens_to_ids(ENDOFTEXT)  # the unknown token's where there is none
    if token_id is not None and tokenizer.convert_ids_to_tokens(token_id) == ENDOFTEXT:
        return token_id
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return token_id
    raise SaladError("llm: its tokenizer has no <|endoftext|>, bos or eos token to open a document with")
