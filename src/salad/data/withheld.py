"""Words kept out of all training text, so that a measurement can ask for words that nobody taught."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Exposure",
    "base_form",
    "choose_withheld",
    "documents_with",
    "exposure",
    "has_withheld",
    "read_withheld",
    "word_forms",
]

MIN_LETTERS = 5
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
    return frozenset(map(base_form, path.read_text(encoding="utf-8").split())) if path.is_file() else frozenset()


def has_withheld(text: str, withheld: Collection[str]) -> bool:
    """Whether a text holds any of these words; `withheld` holds base forms, as `read_withheld` gives them."""
    return any(base_form(word) in withheld for word in word_forms(text))


def documents_with(texts: Iterable[str]) -> Counter[str]:
    """In how many of the texts each base form occurs."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update({base_form(word) for word in word_forms(text)})
    return counts


def choose_withheld(
    heldout: Sequence[str], training: Sequence[str], *, occurrences: int, max_documents: int = 2
) -> tuple[list[str], list[int]]:
    """Words of the held-out texts to withhold, sorted, and the places of the training texts that must go for them.

    A word has letters only, MIN_LETTERS at least, and occurs in at most `max_documents` training texts. All words that
    no training text has are chosen, for they cost nothing; then those that give most occurrences for the texts they
    cost, until the held-out texts hold `occurrences` of all chosen.
    """
    surface: dict[str, set[str]] = {}
    counts: Counter[str] = Counter()
    for text in heldout:
        for word in word_forms(text):
            form = base_form(word)
            if len(form) >= MIN_LETTERS and form.isalpha():
                counts[form] += 1
                surface.setdefault(form, set()).add(word.removesuffix("'s"))
    places: dict[str, set[int]] = {form: set() for form in counts}
    for place, text in enumerate(training):
        for form in {base_form(word) for word in word_forms(text)} & places.keys():
            places[form].add(place)
    total, chosen, dropped = 0, [], set[int]()
    for form in sorted(places, key=lambda f: (len(places[f]) / counts[f], f)):
        if len(places[form]) > max_documents or (places[form] and total >= occurrences):
            continue
        chosen.append(form)
        dropped |= places[form]
        total += counts[form]
    return sorted(word for form in chosen for word in surface[form]), sorted(dropped)


@dataclass(frozen=True)
class Exposure:
    """Words of held-out texts (each occurrence counts), by the number of training texts that have them."""

    words: int
    withheld: int
    in_none: int  # the withheld ones among them
    in_1_to_2: int
    in_3_to_9: int
    in_10_or_more: int


def exposure(heldout: Iterable[str], training: Iterable[str], withheld: Iterable[str]) -> Exposure:
    seen, kept_out = documents_with(training), {base_form(word) for word in withheld}
    forms = [base_form(word) for text in heldout for word in word_forms(text)]
    counts = [seen[form] for form in forms]
    return Exposure(
        words=len(forms),
        withheld=sum(form in kept_out for form in forms),
        in_none=sum(n == 0 for n in counts),
        in_1_to_2=sum(1 <= n <= 2 for n in counts),
        in_3_to_9=sum(3 <= n <= 9 for n in counts),
        in_10_or_more=sum(n >= 10 for n in counts),
    )
