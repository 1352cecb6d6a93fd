"""Which phonemes of a sentence belong to which of its words."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np

SILENT = ' ;:,.!?—…"()“”'  # pauses, which belong to no word


def word_spans(phonemes: str, singles: Sequence[str]) -> list[tuple[int, int]] | None:
    """First and last + 1 symbol in `phonemes` of each word of a sentence; None where a word has no sound of its own.

    singles: each word's phonemes when said alone. Where the sentence has as many parts between spaces, they are the
    words; else ("of the" is said as one, "etc." as two) the singles, strung together, are laid along it by the fewest
    edits.
    """
    parts = [(match.start(), match.end()) for match in re.finditer(r"\S+", phonemes)]
    if len(parts) != len(singles) or any(len(single.split()) != 1 for single in singles):
        from rapidfuzz.distance import Levenshtein

        alone = ["".join(single.split()) for single in singles]
        pairs = [
            (block.src_start + i, block.dest_start + i)
            for block in Levenshtein.opcodes("".join(alone), phonemes)
            if block.tag in ("equal", "replace")
            for i in range(block.src_end - block.src_start)
        ]
        if not pairs:
            return None
        bounds = np.cumsum([0, *map(len, alone)])
        at = np.interp(bounds, [a for a, _ in pairs] + [pairs[-1][0] + 1], [b for _, b in pairs] + [pairs[-1][1] + 1])
        parts = [(round(start), round(end)) for start, end in itertools.pairwise(at)]
    spans = []
    for start, end in parts:
        own = phonemes[start:end]
        if not any(map(str.isalpha, own)):
            return None
        spans.append((start + len(own) - len(own.lstrip(SILENT)), end - len(own) + len(own.rstrip(SILENT))))
    return spans
