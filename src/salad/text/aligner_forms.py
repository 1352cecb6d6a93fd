"""How a written word is said: its pieces, tied to the word, so that an aligner of letters gives times to both."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence

from salad.text.normalise import without_loose_marks
from salad.text.speakable import speakable

QUOTES = str.maketrans("’‘", "''")


@functools.lru_cache(maxsize=1 << 16)
def spoken_pieces(word: str) -> tuple[str, ...]:
    """What is said for one written word, in lower-case words of letters, digits spelled out (English); () for a dash.

    The word's `speakable` form, cut at what is no letter: "Well-known" -> well, known; "1984," -> nineteen, eighty,
    four. Whether a speaker says a number that way is not known: where it matters, scores tell.
    """
    [spoken] = speakable([word])
    text = without_loose_marks(unicodedata.normalize("NFKC", spoken))
    pieces = re.split(r"[^\w']+|_", text.lower().translate(QUOTES))
    return tuple(piece for piece in (piece.strip("'") for piece in pieces) if any(map(str.isalnum, piece)))


def tie(written: Sequence[str], heard: Sequence[str]) -> list[list[int]]:
    """For each character of each of the `heard` keys, the word of `written` (keys too) that it belongs to, or -1.

    By the fewest edits between the two run together, so that neither has to part its words where the other does; an
    edited character goes with the word that it stands against.
    """
    from rapidfuzz.distance import Levenshtein

    owners = [n for n, word in enumerate(written) for _ in word]
    mine = [-1] * sum(map(len, heard))
    for tag, from_start, from_end, to_start, to_end in Levenshtein.opcodes("".join(written), "".join(heard)):
        if tag in ("equal", "replace"):
            mine[int(to_start) : int(to_end)] = owners[int(from_start) : int(from_end)]
    tied, start = [], 0
    for word in heard:
        tied.append(mine[start : start + len(word)])
        start += len(word)
    return tied
