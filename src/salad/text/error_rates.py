"""How far a transcript is from what was said: the one character error rate and the one word error rate of SALAD.

Both compare what is said, not how it is written: "1848" is heard right as "1848" and as "eighteen forty-eight".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from salad.text.normalise import normalise, wer_words
from salad.text.speakable import speakable


def cer(hypothesis: str, reference: str) -> float:
    """Character error rate of both spoken forms: edits / characters of the reference; can exceed 1.

    A reference without a letter or digit gives 0 for an equally empty hypothesis and 1 for any other.
    """
    return pooled_cer([(hypothesis, reference)])


def wer(hypothesis: str, reference: str) -> float:
    """Word error rate of texts in Whisper's normal form (`wer_words`); an empty reference as in `cer`."""
    return pooled_wer([(hypothesis, reference)])


def pooled_cer(pairs: Iterable[tuple[str, str]]) -> float:
    """`cer` over (hypothesis, reference) pairs together: all edits / all characters, so long texts weigh more.

    References without a letter or digit are left out, unless there is no other.
    """
    import jiwer

    return _pooled(pairs, _spoken_form, jiwer.cer)


def pooled_wer(pairs: Iterable[tuple[str, str]]) -> float:
    """`wer` over (hypothesis, reference) pairs together, as in `pooled_cer`."""
    import jiwer

    return _pooled(pairs, lambda text: " ".join(wer_words(text)), jiwer.wer)


def _spoken_form(text: str) -> str:
    return normalise(" ".join(speakable(text.split())))


def _pooled(pairs: Iterable[tuple[str, str]], form: Callable[[str], str], rate: Callable[..., Any]) -> float:
    forms = [(form(hypothesis), form(reference)) for hypothesis, reference in pairs]
    rows = [(heard, said) for heard, said in forms if said]
    if not rows:
        return float(any(heard for heard, _ in forms))
    return float(rate([said for _, said in rows], [heard for heard, _ in rows]))
