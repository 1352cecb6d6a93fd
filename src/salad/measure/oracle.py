"""Where misalignment comes from: M with the true symbols in place of those heard, and with the likeliest token alone.

Rows for ears of two parts (frames -> symbols -> what the LLM reads); other models have none.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

from salad.measure.divergence import DocumentKL, Ears, divergence, speech_ears
from salad.model.teacher import Teacher
from salad.text.phonemes import BOUNDARY, Symbols
from salad.text.speakable import speakable
from salad.types import Example

ERROR_RATES = (0.0, 0.05, 0.1, 0.2)
Said = Callable[[Example], Sequence[Sequence[int]]]  # symbols of each spoken span, boundaries between words


def symbols_of_model(model: Any) -> Any | None:
    """The alphabet (`salad.text.phonemes.Symbols`) between the two parts of its ears; None where they are one part."""
    row = getattr(model.config, "symbols", None)
    if not row or not callable(getattr(model, "hear_symbols", None)):
        return None
    return Symbols.from_dict(row)


def true_symbols(text: str, symbols: Any, example: Example) -> list[list[int]]:
    """The true symbols of each spoken span of this text, as they sound in the whole of it.

    Boundaries stand between words, none behind the last: so the ears learn them (`training.ears_tasks`), and the upper
    part adds the last one itself.
    """
    said, out = symbols.of_text(speakable(text.split())), []
    for span in example.spans:
        if span.modality == "speech":
            ids: list[int] = []
            for word in said[span.start_word : span.end_word]:
                ids += [BOUNDARY, *word] if ids and word else word
            out.append(ids or [BOUNDARY])
    return out


def disturbed_symbols(ids: Sequence[int], rate: float, num_symbols: int, rng: random.Random) -> list[int]:
    """`ids` with errors at a share `rate` of the places: in equal parts another symbol, none, or one more before it."""
    out: list[int] = []
    for symbol in ids:
        error = rng.randrange(3) if rng.random() < rate else None
        if error == 0:
            out.append((symbol + 1 + rng.randrange(num_symbols - 1)) % num_symbols)
        elif error == 2:
            out += [rng.randrange(num_symbols), symbol]
        elif error is None:
            out.append(symbol)
    return out or list(ids[:1])


def symbol_ears(model: Any, said: Said, num_symbols: int, error_rate: float = 0.0, seed: int = 0) -> Ears:
    """The upper part reads the true symbols, `error_rate` of them wrong, each as sure as can be."""

    def hear(examples: Sequence[Example]) -> tuple[torch.Tensor, list[int]]:
        table = model.get_input_embeddings().weight
        spans = []
        for example in examples:
            for k, own in enumerate(said(example)):
                rng = random.Random(f"{seed}/{example.id}/{k}/{error_rate}")
                ids = disturbed_symbols(own, error_rate, num_symbols, rng)
                spans.append(torch.eye(num_symbols, device=table.device)[torch.tensor(ids, device=table.device)])
        got = model.hear_symbols(spans)
        return got.embeddings, got.lengths

    return hear


def oracle_rows(
    model: Any, reader: Teacher, examples: Sequence[Example], said: Said, seed: int = 0
) -> dict[str, list[DocumentKL]]:
    """M of `oracle_symbols`, of the same at each error rate (`oracle_symbols_10`: 10 %), and of `oracle_argmax`."""
    symbols = symbols_of_model(model)
    if symbols is None:
        return {}
    rows = {}
    for rate in ERROR_RATES:
        name = "oracle_symbols" + (f"_{100 * rate:.0f}" if rate else "")
        rows[name] = divergence(model, reader, examples, symbol_ears(model, said, len(symbols), rate, seed))
    rows["oracle_argmax"] = divergence(model, reader, examples, speech_ears(model, readout="argmax"))
    return rows
