"""The normal forms in which texts are compared: our own, and Whisper's, in which word errors are counted."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache, lru_cache

LOOSE = re.compile("[\u00ad\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u200b-\u200d\u2060\u20d0-\u20ff\ufeff]+")


def without_loose_marks(text: str) -> str:
    """The text in NFC; accents that make no letter of their own with what they stand on, and soft hyphens, left out.

    An x with a hat is said as an x. Marks of scripts that write vowels with them stay.
    """
    return LOOSE.sub("", unicodedata.normalize("NFC", text))


def normalise(text: str) -> str:
    """Lower case, no accents, no punctuation (a hyphen or a dash parts words, an apostrophe joins), single spaces.

    Digits are not spelled out ("3" and "three" differ): numbers are few in running text, and a rule that reads years,
    sums and dates would bring errors of its own. Where both may occur, take `salad.text.error_rates`.
    """
    decomposed = unicodedata.normalize("NFKD", text.lower())
    kept = (character for character in decomposed if not unicodedata.combining(character) and character not in "'’‘")
    return " ".join("".join(character if character.isalnum() else " " for character in kept).split())


@lru_cache(maxsize=1 << 14)  # words come again
def key(text: str) -> str:
    """The normal form without its spaces: what two spellings of one word share."""
    return normalise(text).replace(" ", "")


def wer_words(text: str) -> list[str]:
    """The words that a word error rate counts, by Whisper's English normaliser (Radford et al. 2022, appendix C).

    Numbers become digits, contractions and British spellings one form, fillers ("uh") nothing: so do most papers, whose
    figures ours may then be put beside.
    """
    return _english()(text).split()


@cache
def _english() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer

    normaliser: Callable[[str], str] = EnglishTextNormalizer()
    return normaliser
