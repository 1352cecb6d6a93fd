"""The one normal form in which texts are compared: letters and digits, lower case, without accents or punctuation."""

from __future__ import annotations

import unicodedata

__all__ = ["key", "normalise"]


def normalise(text: str) -> str:
    """Lower case, no accents, no punctuation (a hyphen or a dash parts words, an apostrophe joins), single spaces.

    Digits are not spelled out ("3" and "three" differ): numbers are few in running text, and a rule that reads years,
    sums and dates would bring errors of its own. Where both may occur, compare `salad.text.speakable` of the two.
    """
    decomposed = unicodedata.normalize("NFKD", text.lower())
    kept = (character for character in decomposed if not unicodedata.combining(character) and character not in "'’‘")
    return " ".join("".join(character if character.isalnum() else " " for character in kept).split())


def key(text: str) -> str:
    """The normal form without its spaces: what two spellings of one word share."""
    return normalise(text).replace(" ", "")
