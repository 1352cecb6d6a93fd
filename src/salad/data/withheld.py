"""Words kept out of all training text, so that a measurement can ask for words that nobody taught."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


def word_forms(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation; the parts of a hyphenated word each count."""
    return WORD.findall(text.lower().replace("’", "'"))


def base_form(word: str) -> str:
    """The word in lower case without a possessive or plural s: "Glacier", "glaciers" and "glacier's" are one."""
    word = word.lower().replace("’", "'").removesuffix("'s").removesuffix("'")
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def read_withheld(path: str | Path) -> frozenset[str]:
    """The base forms of a withheld.txt; none where there is no such file."""
    path = Path(path)
    return frozenset(map(base_form, path.read_text(encoding="utf-8-sig").split())) if path.is_file() else frozenset()


def has_withheld(text: str, withheld: Collection[str]) -> bool:
    """Whether a text holds any of these words; `withheld` holds base forms, as `read_withheld` gives them."""
    return any(base_form(word) in withheld for word in word_forms(text))
