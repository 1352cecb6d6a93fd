"""How each token of an LLM sounds and looks: what the classes of the upper part are built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from salad.text.phonemes import BOUNDARY, Symbols

TRAITS = ("leading space", "capital", "all capitals", "digits", "signs", "letters")


@dataclass(frozen=True)
class Lexicon:
    """sounds: int64 [V, depth], 1 + the symbol at each place counted from a token's end, 0 where it has none; a token
    that begins a word has the boundary before its first symbol. traits: float32 [V, len(TRAITS)], 0 or 1. sayable:
    bool [V], false for control tokens, which no sound may say.
    """

    sounds: torch.Tensor
    traits: torch.Tensor
    sayable: torch.Tensor

    @classmethod
    def of_tokenizer(cls, tokenizer: Any, symbols: Symbols, vocab_size: int, depth: int) -> Lexicon:
        """Every token of `tokenizer` said alone; rows of the LLM's table beyond its tokens are not sayable."""
        from salad.text.speakable import speakable

        known = min(vocab_size, len(tokenizer))
        control = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
        texts = [tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in range(known)]
        if getattr(tokenizer, "is_fast", False):  # decoders of some families drop a leading space
            pieces = tokenizer.convert_ids_to_tokens(list(range(known)))
            texts = [
                f" {text}" if piece[:1] in ("Ġ", "▁") and not text.startswith(" ") else text
                for text, piece in zip(texts, pieces, strict=True)
            ]
        spoken = [" ".join(speakable(text.split())) for text in texts]
        words = [word for form in spoken for word in form.split()]
        said = iter(symbols.of_words(words))
        sounds = torch.zeros(vocab_size, depth, dtype=torch.long)
        traits = torch.zeros(vocab_size, len(TRAITS))
        sayable = torch.zeros(vocab_size, dtype=torch.bool)
        for i, (text, form) in enumerate(zip(texts, spoken, strict=True)):
            ids: list[int] = []
            for _ in form.split():
                own = next(said)
                ids += [BOUNDARY, *own] if ids and own else own
            if ids and text[:1].isspace():
                ids = [BOUNDARY, *ids]
            tail = torch.tensor(ids[::-1][:depth], dtype=torch.long) + 1
            sounds[i, : len(tail)] = tail
            core = text.strip()
            traits[i] = torch.tensor(
                [
                    text[:1].isspace(),
                    core[:1].isupper(),
                    len(core) > 1 and core.isupper(),
                    any(c.isdigit() for c in core),
                    not any(c.isalnum() for c in core),
                    core.isalpha(),
                ],
                dtype=torch.float32,
            )
            sayable[i] = i not in control
        return cls(sounds, traits, sayable)
