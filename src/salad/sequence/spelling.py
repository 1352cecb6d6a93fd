"""Which symbol each token of a text ends at: what the upper part of the ears learns, from text alone or from speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein
from safetensors.numpy import load_file

from salad.files import write_tensors
from salad.sequence.tokens import TokenisedDocument, tokenise
from salad.text.phonemes import BOUNDARY, Symbols
from salad.text.speakable import speakable

NO_TOKEN = -1


@dataclass(frozen=True)
class SpelledText:
    """A text, its symbols as it is said, and where each of its tokens ends.

    symbols: int64 [L], word after word, BOUNDARY behind each word that is said. token_ids: int64 [T]; ends: int64 [T],
    the symbol that each token should end at; limits: int64 [T], the last one that it may. Word w owns symbols
    symbol_starts[w] to symbol_starts[w + 1] and tokens token_starts[w] to token_starts[w + 1] (int64 [W + 1] each).
    """

    symbols: np.ndarray
    token_ids: np.ndarray
    ends: np.ndarray
    limits: np.ndarray
    symbol_starts: np.ndarray
    token_starts: np.ndarray

    def __len__(self) -> int:
        return len(self.symbol_starts) - 1

    def cut(self, start: int, end: int) -> SpelledText:
        """Words `start` to `end`."""
        s, t = self.symbol_starts[start], self.token_starts[start]
        own = slice(t, self.token_starts[end])
        return SpelledText(
            self.symbols[s : self.symbol_starts[end]],
            self.token_ids[own],
            np.maximum(self.ends[own] - s, 0),
            self.limits[own] - s,
            self.symbol_starts[start : end + 1] - s,
            self.token_starts[start : end + 1] - t,
        )


def spell(tokenizer: Any, text: str, symbols: Symbols, tokens: TokenisedDocument | None = None) -> SpelledText:
    """The symbols of a text as our voices say it ("1848": eighteen forty-eight), and where its tokens end.

    A token that is a part of a word ends at the same share of the word's symbols as of its letters; a sign ends at
    the boundary behind the word, an opening one at the word's first symbol.
    """
    tokens = tokens or tokenise(tokenizer, text)
    words = text.split()
    said = symbols.of_text(speakable(words))
    flat: list[int] = []
    ends: list[int] = []
    limits: list[int] = []
    starts = [0]
    for w, own in enumerate(said):
        begin = len(flat)
        flat += [*own, BOUNDARY] if own else []
        ids = tokens.token_ids[tokens.word_starts[w] : tokens.word_starts[w + 1]]
        last = max(len(flat) - 1, 0)
        ends += [begin + at for at in _ends([tokenizer.decode([int(i)]) for i in ids], len(own))]
        limits += [last] * len(ids)
        starts.append(len(flat))
    return SpelledText(
        np.array(flat, np.int64),
        tokens.token_ids,
        np.array(ends, np.int64),
        np.array(limits, np.int64),
        np.array(starts, np.int64),
        tokens.word_starts,
    )


def save_spelled(path: Path, texts: Sequence[SpelledText]) -> None:
    """Keep texts in one safetensors file, so that a later stage need not spell them again; written whole or not."""
    names = [field.name for field in fields(SpelledText)]
    columns = {name: [getattr(text, name) for text in texts] for name in names}
    tensors = {name: np.concatenate([np.zeros(0, np.int64), *column]) for name, column in columns.items()}
    tensors["sizes"] = np.array([[len(part) for part in astuple(text)] for text in texts], np.int64).reshape(-1, 6)
    write_tensors(path, tensors)


def load_spelled(path: Path) -> list[SpelledText]:
    """The texts that `save_spelled` kept, in their order."""
    tensors = load_file(path)
    ends = np.cumsum(tensors.pop("sizes"), axis=0)
    names = [field.name for field in fields(SpelledText)]
    parts = [np.split(tensors[name], ends[:-1, column]) for column, name in enumerate(names)]
    return [SpelledText(*own) for own in zip(*parts, strict=True)] if len(ends) else []


def _ends(pieces: Sequence[str], num_symbols: int) -> list[int]:
    """For the tokens of one word: the symbol, counted from the word's first, that each should end at."""
    if not num_symbols:
        return [-1] * len(pieces)  # nothing is said: at the boundary before
    letters = [sum(c.isalnum() for c in piece) for piece in pieces]
    total, done, out = sum(letters), 0, []
    for count in letters:
        done += count
        if not count:
            out.append(0 if not done else num_symbols if done == total else _share(done, total, num_symbols))
        else:
            out.append(_share(done, total, num_symbols))
    return out


def _share(done: int, total: int, num_symbols: int) -> int:
    return max(0, -(-done * num_symbols // total) - 1)


def place(spelled: SpelledText, where: np.ndarray, num_positions: int) -> np.ndarray:
    """int64 [num_positions]: the token that ends at each position, NO_TOKEN where none does.

    where: int64 [L], the position that stands for each symbol of the text (of a symbol that was not heard: the last
    one before it, -1 before the first). Tokens keep their order, one a position; one that finds no place before the
    end of its word is left out.
    """
    out = np.full(num_positions, NO_TOKEN, np.int64)
    last = -1
    for token, end, limit in zip(spelled.token_ids, spelled.ends, spelled.limits, strict=True):
        at = max(int(where[min(max(end, 0), len(where) - 1)]), last + 1) if len(where) else last + 1
        if at <= max(int(where[limit]) if len(where) else -1, 0) and at < num_positions:
            out[at] = token
            last = at
    return out


def moved(truth: Sequence[int], heard: Sequence[int]) -> np.ndarray:
    """`where` for symbols that were heard: int64 [len(truth)], by the fewest edits; one not heard stands at the last
    one before it that was, -1 before the first."""
    where = np.empty(len(truth), np.int64)
    for block in Levenshtein.opcodes(list(truth), list(heard)):
        for i in range(block.src_start, block.src_end):
            if block.tag == "delete":
                where[i] = block.dest_start - 1
            else:
                where[i] = block.dest_start + min(i - block.src_start, block.dest_end - block.dest_start - 1)
    return where
