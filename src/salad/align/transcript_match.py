"""Which words of an ASR transcript stand for which words of the reference."""

from __future__ import annotations

from collections.abc import Sequence

import jiwer

from salad.text.normalise import key


def words_for_ranges(reference: Sequence[str], hypothesis: str, ranges: Sequence[tuple[int, int]]) -> list[list[str]]:
    """For each range of reference words, the transcript's words aligned to it by edit distance.

    The whole document is transcribed, so that the cascade has all the context it wants; insertions go to
    the range of the reference word before them.
    """
    heard = hypothesis.split()
    if not heard:
        return [[] for _ in ranges]
    owner: list[int] = []  # reference word of each transcript word
    normal = [key(word) or "_" for word in reference]
    result = jiwer.process_words(" ".join(normal), " ".join(key(word) or "_" for word in heard))
    for chunk in result.alignments[0]:
        for j in range(chunk.hyp_end_idx - chunk.hyp_start_idx):
            owner.append(max(0, min(chunk.ref_start_idx + j, chunk.ref_end_idx - 1)))
    return [[word for word, at in zip(heard, owner, strict=True) if start <= at < end] for start, end in ranges]
