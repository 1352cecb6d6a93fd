"""How a written word is said: its pieces, tied to the word, so that an aligner of letters gives times to both."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence

__all__ = ["spoken_pieces", "tie"]

SYMBOLS = {"&": "and", "%": "percent", "+": "plus", "=": "equals", "@": "at", "#": "number", "°": "degrees"}
CURRENCIES = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent")}
NUMBER = re.compile(
    r"(?P<money>[$£€])?(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?P<decimals>\.\d+)?(?P<tail>(?:st|nd|rd|th|s)(?![^\W\d_]))?"
)
CLOCK = re.compile(r"\b(\d{1,2}):(\d{2})\b")
YEARS = range(1100, 2000)


@functools.lru_cache(maxsize=1 << 16)
def spoken_pieces(word: str) -> tuple[str, ...]:
    """What is said for one written word, in lower-case words of letters, digits spelled out (English); () for a dash.

    "Well-known" -> well, known; "$1,200" -> one, thousand, two, hundred, dollars; "1984," -> nineteen, eighty, four.
    Whether a speaker says a number that way is not known: where it matters, scores tell.
    """
    text = unicodedata.normalize("NFKC", word).lower().replace("’", "'").replace("‘", "'")
    if any(character.isdigit() for character in text):
        text = CLOCK.sub(lambda m: f" {_number(m[1])} {'' if m[2] == '00' else _clock_minutes(m[2])} ", text)
        text = NUMBER.sub(_say_number, text)
    text = "".join(f" {SYMBOLS[character]} " if character in SYMBOLS else character for character in text)
    pieces = re.split(r"[^\w']+|_", text)
    return tuple(piece for piece in (piece.strip("'") for piece in pieces) if any(map(str.isalnum, piece)))


def _say_number(match: re.Match[str]) -> str:
    whole, decimals, tail = match["whole"].replace(",", ""), match["decimals"] or "", match["tail"] or ""
    if len(whole) > 15:  # a serial number: digit by digit
        said = " ".join(map(_number, whole))
    elif tail in ("st", "nd", "rd", "th"):
        said = _number(whole, "ordinal")
    elif not (match["money"] or decimals or "," in match["whole"]) and int(whole) in YEARS:
        said = _number(whole, "year")
    else:
        said = _number(whole)
    if match["money"]:
        unit, part = CURRENCIES[match["money"]]
        said += f" {unit}" + ("s" if whole != "1" else "")
        if len(decimals) == 3 and decimals != ".00":
            said += f" {_number(decimals[1:])} {'pence' if part == 'penny' else part + 's'}"
    elif decimals:
        said += " point " + " ".join(map(_number, decimals[1:]))
    if tail == "s":
        said = said[:-1] + "ies" if said.endswith("y") else said + "s"
    return f" {said} "


def _clock_minutes(digits: str) -> str:
    return f"oh {_number(digits[1])}" if digits[0] == "0" else _number(digits)


def _number(digits: str, to: str = "cardinal") -> str:
    from num2words import num2words

    return num2words(int(digits), to=to).replace("-", " ").replace(",", "")


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
            mine[to_start:to_end] = owners[from_start:from_end]
    tied, start = [], 0
    for word in heard:
        tied.append(mine[start : start + len(word)])
        start += len(word)
    return tied
