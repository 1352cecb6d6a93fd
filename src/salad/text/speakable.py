"""What a voice should say for each written word: numbers, units, abbreviations, symbols, formulae, addresses.

One spoken form for each whitespace word of the written text, so that times of what is said map back to what is written.
Words made of letters and punctuation alone stay as they are. English (US). See docs/decisions/0008.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Callable, Sequence

from salad.text.normalise import without_loose_marks
from salad.text.written_symbols import (
    ABBREVIATIONS,
    BEFORE_NUMBERS,
    CURRENCIES,
    GREEK,
    MAGNITUDES,
    MONTHS,
    POWERS,
    SYMBOLS,
    TITLES,
    UNITS,
)
from salad.types import SaladError

NUM = r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
YEAR = r"1[1-9]\d\d|20\d\d"
WORD = re.compile(r"""^(["'“‘(\[{*_]*)(.*?)([.,;:!?"'”’)\]}*_…]*)$""", re.DOTALL)
PLAIN_SIGNS = frozenset("-'’‘“”\"().,;:!?…—–[]{}/*_")
URL = re.compile(
    r"(?:https?://|www\.)\S+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+|[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|edu|gov|io)\b\S*"
)
SIGNS = "".join(map(re.escape, (*SYMBOLS, *GREEK)))  # none of them is part of a run of letters
GREEK_LETTER = "[\u0370-\u03ff\u1f00-\u1fff]"  # two in a row are a word of Greek, not names of letters
LONE_GREEK = re.compile(f"(?<!{GREEK_LETTER}){GREEK_LETTER}(?!{GREEK_LETTER})")
TOKEN = re.compile(rf"{NUM}|{GREEK_LETTER}{{2,}}|[^\W\d_{SIGNS}]+|\S")
RARE = re.compile("[\u0180-\u024f\u1e00-\u1eff]")  # Latin letters that English voices do not know
FULL_WIDTH = re.compile("[\uff01-\uff5e]")
FRACTIONS = {"¼": "a quarter", "½": "a half", "¾": "three quarters", "⅓": "a third", "⅔": "two thirds"}
LONGEST = 15  # digits of a number that is said as one


def speakable(words: Sequence[str]) -> list[str]:
    """The spoken form of each word, [num_words]; a word that is plain already is returned as it is (in NFC)."""
    return [
        _speak(word, words[n - 1] if n else "", words[n + 1] if n + 1 < len(words) else "")
        for n, word in enumerate(words)
    ]


def _speak(word: str, before: str, after: str) -> str:
    word = without_loose_marks(word) or word
    if not word.isascii():
        word = RARE.sub(lambda letter: _base(letter[0]), FULL_WIDTH.sub(lambda sign: chr(ord(sign[0]) - 0xFEE0), word))
        word = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in word)  # of any script
    before, after = before.lstrip("\"'“‘(["), after.rstrip(".,;:!?\"'”’)]")
    opening, core, closing = WORD.match(word).groups()  # type: ignore[union-attr]  # every text matches
    if (abbreviation := _abbreviation(core, closing, after)) is not None:
        ends = closing[1:] if closing.startswith(".") else closing
        return opening + abbreviation + ends
    if unit := _unit_after_number(core, before):
        return opening + unit + closing
    if before[:1] in CURRENCIES and core in MAGNITUDES.values() and re.search(r"\d", before):
        return f"{opening}{core} {CURRENCIES[before[0]][1]}{closing}"
    if _is_plain(core):
        return word
    if not (said := _by_rule(core, after)):
        said = _joined(core, after) or _piece_by_piece(core)
    said = " ".join(said.split())
    return f"{opening}{said}{closing}" if said else word


def _by_rule(core: str, after: str) -> str:
    """What the first rule says that reads all of it; "" where none does."""
    found = ((say, match) for pattern, say in RULES if (match := pattern.fullmatch(core)))
    return next((say(match, after) for say, match in found), "")


def _joined(core: str, after: str) -> str:
    """ "19th-century", "mid-1990s", "10am–5pm": ordinals, decades, hours and prices joined to something, each as it is
    said alone; "" where there is none."""
    parts = re.split("[-–—]", core)
    known = [bool(ALONE.fullmatch(part)) for part in parts]
    if len(parts) < 2 or not all(parts) or not any(known):
        return ""
    joint = " to " if len(parts) == 2 and all(known) else " "
    return joint.join(_by_rule(part, after) or _piece_by_piece(part) for part in parts)


def _base(letter: str) -> str:
    """What a letter stands on, where that is of the plain alphabet: voices spell out a letter that they do not know."""
    base = unicodedata.normalize("NFD", letter)[0]
    return base if base.isascii() else letter


def _is_plain(core: str) -> bool:
    signs = (c for c in core if not c.isalpha())
    return not LONE_GREEK.search(core) and all(c in PLAIN_SIGNS for c in signs) and not URL.fullmatch(core)


def _abbreviation(core: str, closing: str, after: str) -> str | None:
    if core in TITLES and closing.startswith(".") and after[:1].isupper():
        return TITLES[core]
    key = core.lower()
    before_number = BEFORE_NUMBERS.get(core) or BEFORE_NUMBERS.get(key)
    if before_number and closing.startswith(".") and after[:1].isdigit():
        return before_number
    if key in ABBREVIATIONS and (closing.startswith(".") or "." in key):
        said = ABBREVIATIONS[key]
        return said.capitalize() if core[:1].isupper() else said
    return None


def _unit_after_number(core: str, before: str) -> str | None:
    if core not in UNITS or not re.fullmatch(rf"[-+−~≈±<>]?(?:{NUM})(?:[-–](?:{NUM}))?", before, re.ASCII):
        return None
    return _unit(core, before)


def _unit(unit: str, amount: str) -> str:
    return UNITS[unit][amount.lstrip("-+−~≈±<>") != "1"]


def integer(digits: str) -> str:
    """ "1,200" -> "one thousand two hundred"; with a leading zero, or very long: digit by digit."""
    digits = digits.replace(",", "")
    if len(digits) > LONGEST or (len(digits) > 1 and digits[0] == "0"):
        return " ".join(_words(int(digit)) for digit in digits)
    return _words(int(digits))


def number(text: str) -> str:
    """ "3.14" -> "three point one four"; ".5" -> "point five"."""
    whole, point, decimals = text.partition(".")
    said = integer(whole) if whole else ""
    return f"{said} point {' '.join(_words(int(d)) for d in decimals)}".strip() if point else said


def year(digits: str) -> str:
    return _words(int(digits), "year")


def _words(value: int, to: str = "cardinal") -> str:
    return str(number_words()(value, to=to)).replace(",", "")


def spoken_bounds(spoken: Sequence[str]) -> list[int]:
    """Where each word's spoken form begins in all spoken words, and the end; [num_words + 1]."""
    return [0, *itertools.accumulate(len(said.split()) for said in spoken)]


@functools.cache
def number_words() -> Callable[..., str]:
    """num2words. Raises SaladError where it is not installed."""
    try:
        from num2words import num2words
    except ImportError:
        raise SaladError("synthesize: num2words is not installed; pip install num2words") from None
    speller: Callable[..., str] = num2words
    return speller


def _number_or_year(match: re.Match[str], after: str) -> str:
    sign, digits = match["sign"], match["n"]
    said = {"-": "minus ", "−": "minus ", "–": "minus ", "+": "plus ", "~": "about ", "≈": "about ",
            "±": "plus or minus ", "<": "less than ", ">": "more than ", "": ""}[sign]  # fmt: skip
    if not sign and re.fullmatch(YEAR, digits) and after not in UNITS and after not in MAGNITUDES.values():
        return year(digits)
    return said + number(digits)


def _money(match: re.Match[str], after: str) -> str:
    fewer = match.groupdict().get("fewer")
    return (
        f"{number(fewer)} to {_amount(match, after)}"
        if fewer
        else "minus " * bool(match["minus"]) + _amount(match, after)
    )


def _amount(match: re.Match[str], after: str) -> str:
    one, many, cent, cents = CURRENCIES[match["sign"]]
    amount, suffix = match["n"], match["suffix"]
    if suffix:
        return f"{number(amount)} {MAGNITUDES[suffix]} {many}"
    if after in MAGNITUDES.values():
        return number(amount)  # "$3 million": the name follows the magnitude
    whole, _, decimals = amount.partition(".")
    if cent and len(decimals) == 2:
        parts = [f"{integer(whole or '0')} {one if whole == '1' else many}"] if whole.strip("0,") else []
        if int(decimals):
            parts.append(f"{integer(str(int(decimals)))} {cent if decimals == '01' else cents}")
        return " and ".join(parts) or f"zero {many}"
    return f"{number(amount)} {one if amount == '1' else many}"


def _clock(match: re.Match[str], _: str) -> str:
    hour, minute = int(match["h"]), int(match["m"] or 0)
    half = f" {' '.join(match['half'].lower().replace('.', ''))}" if match["half"] else ""
    if not minute:
        return _words(hour) + (half or " o'clock")
    return f"{_words(hour)} {'oh ' if minute < 10 else ''}{_words(minute)}{half}"


def _date(match: re.Match[str], _: str) -> str:
    return f"{MONTHS[int(match['m']) - 1]} {_words(int(match['d']), 'ordinal')} {year(match['y'])}"


def _decade(match: re.Match[str], _: str) -> str:
    said = year(match["n"]) if len(match["n"]) == 4 else _words(int(match["n"]))
    return said[:-1] + "ies" if said.endswith("y") else said + ("es" if said.endswith("x") else "s")


def _fraction(match: re.Match[str], _: str) -> str:
    above, below = int(match["a"]), int(match["b"])
    if match[0] == "24/7":
        return "twenty-four seven"
    if not 0 < above < below <= 20:
        return f"{integer(match['a'])} {'over' if below else 'slash'} {integer(match['b'])}"
    name = {2: "half", 4: "quarter"}.get(below) or _words(below, "ordinal")
    return f"{_words(above)} {name if above == 1 else name.replace('half', 'halve') + 's'}"


def _range(match: re.Match[str], after: str) -> str:
    ends = [match["a"], match["b"]]
    known = re.fullmatch(YEAR, ends[1]) and re.fullmatch(rf"\d{{3}}|{YEAR}", ends[0])
    years = known and not match["u"] and after not in UNITS
    unit = f" {UNITS[match['u']][1]}" if match["u"] else ""
    return " to ".join(year(end) if years and len(end) == 4 else number(end) for end in ends) + unit


def _address(match: re.Match[str], _: str) -> str:
    text = re.sub(r"^https?://(?:www\.)?|^www\.", "", match[0]).rstrip("/")
    names = {".": "dot", "/": "slash", "-": "dash", "_": "underscore", "@": "at", ":": "colon", "?": "question mark",
             "=": "equals", "&": "and", "#": "hash", "%": "percent", "+": "plus", "~": "tilde"}  # fmt: skip
    pieces = re.findall(r"[^\W\d_]+|\d+|\S", text, re.ASCII)
    return " ".join(names.get(p) or (integer(p) if p.isdecimal() else p if p.isalpha() else "") for p in pieces)


def _digits(match: re.Match[str], _: str) -> str:
    return ", ".join(" ".join(_words(int(d)) for d in group) for group in re.findall(r"\d+", match[0]))


Rule = tuple[re.Pattern[str], Callable[[re.Match[str], str], str]]
_CURRENCY = "".join(re.escape(sign) for sign in CURRENCIES)
_UNIT = "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True))
_ORDINAL = r"(?P<n>\d{1,3}(?:,\d{3})+|\d{1,9})(?:st|nd|rd|th|ST|ND|RD|TH)"
_DECADE = r"['’]?(?P<n>1[1-9]\d0|20\d0|[2-9]0)['’]?s"
ALONE = re.compile(
    "|".join(re.sub(r"\?P<\w+>", "?:", one) for one in (_ORDINAL, _DECADE))
    + rf"|(?:1[0-2]|[1-9])(?::[0-5]\d)?[aApP]\.?[mM]|[{_CURRENCY}](?:{NUM})(?:k|K|m|M|bn|B|T)?",
    re.ASCII,
)
RULES: tuple[Rule, ...] = tuple(
    (re.compile(pattern, re.ASCII), say)
    for pattern, say in (
        (URL.pattern, _address),
        (rf"(?P<y>{YEAR})-(?P<m>0[1-9]|1[0-2])-(?P<d>0[1-9]|[12]\d|3[01])", _date),
        (rf"(?P<minus>[-−–]?)(?P<sign>[{_CURRENCY}])(?P<n>{NUM})(?P<suffix>k|K|m|M|bn|B|T)?", _money),
        (rf"(?P<sign>[{_CURRENCY}])(?P<fewer>{NUM})[-–—][{_CURRENCY}]?(?P<n>{NUM})(?P<suffix>k|K|m|M|bn|B|T)?", _money),
        (rf"(?P<n>{NUM})¢", lambda m, _: f"{number(m['n'])} {'cent' if m['n'] == '1' else 'cents'}"),
        (rf"(?P<n>\d{{1,9}})(?P<f>[{''.join(FRACTIONS)}])", lambda m, _: f"{integer(m['n'])} and {FRACTIONS[m['f']]}"),
        (r"(?P<h>[01]?\d|2[0-3]):(?P<m>[0-5]\d)(?P<half>[aApP]\.?[mM])?", _clock),
        (r"(?P<h>1[0-2]|[1-9])(?P<m>)(?P<half>[aApP]\.?[mM])", _clock),
        (_ORDINAL, lambda m, _: _words(int(m["n"].replace(",", "")), "ordinal")),
        (_DECADE, _decade),
        (r"(?:\+?\d{1,2}[-.])?\(?\d{3}\)?[-.]\d{3}[-.]\d{4}", _digits),
        (rf"(?:\+?\d{{1,2}}-)?(?:555-|\d{{3}}-(?!{YEAR}))\d{{4}}", _digits),  # 299.7925 and 476-1453 are none
        (r"(?P<a>\d{1,9})[/⁄](?P<b>\d{1,9})", _fraction),
        (rf"(?P<a>{NUM})[-–—](?P<b>{NUM})(?P<u>{_UNIT})?", _range),
        (rf"(?P<sign>[-−–+~≈±<>]?)(?P<n>{NUM})(?P<u>{_UNIT})",
         lambda m, after: f"{_number_or_year(m, m['u'])} {_unit(m['u'], m['n'])}"),
        (rf"(?P<sign>[-−–+~≈±<>]?)(?P<n>{NUM})", _number_or_year),
        (r"v?\d+(?:\.\d+){2,}", lambda m, _: " point ".join(
            " ".join(filter(None, (p.rstrip("0123456789"), integer(p.lstrip("v"))))) for p in m[0].split("."))),
    )
)  # fmt: skip


def _piece_by_piece(core: str) -> str:
    """What no rule reads ("E=mc^2", "H2O", "B-52"): runs of letters and of digits, and the names of the signs."""
    formula = any(c in "=^+*×·÷<>≤≥≈≠√∑∫∂²³" for c in core) and not core.isalpha()
    pieces = TOKEN.findall(core)
    said, skip = [], False
    for n, piece in enumerate(pieces):
        following = pieces[n + 1] if n + 1 < len(pieces) else ""
        if skip:
            skip = False
        elif piece == "^" and following:
            said.append(POWERS.get(following) or f"to the power of {_piece_by_piece(following)}")
            skip = True
        elif re.fullmatch(NUM, piece, re.ASCII):
            said.append(number(piece))
        elif piece == "#" and n and pieces[n - 1].isalpha():
            said.append("sharp")
        elif piece in GREEK or piece in SYMBOLS:
            said.append(GREEK.get(piece) or SYMBOLS[piece])
        elif piece == "/":
            said.append("over" if formula else "slash")
        elif piece == "-":
            said.append("minus" if formula and n else "")
        elif piece in "'’":
            said.append(piece)
        elif letters := "".join(filter(str.isalpha, piece)):
            said.append(" ".join(letters) if formula and len(letters) <= 3 else letters)
    return re.sub(r" (['’]) ?", r"\1", " ".join(filter(None, said)))
