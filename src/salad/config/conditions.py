"""How a recipe or a command names what happens to speech on its way: white:10, reverb:0.5, codec:mp3, telephone."""

from __future__ import annotations

import math

from salad.types import SaladError

CONDITIONS = "white[:SNR_DB], reverb[:RT60_S], codec[:opus|mp3], speed:FACTOR, telephone, or several joined by +"
CODECS = {"opus": 1.0, "mp3": 0.99}  # libsndfile's level: about 12 and 16 kbit/s
NUMBERS = {"white": ("10", -30, 80), "reverb": ("0.5", 0.05, 5), "speed": ("", 0.5, 2)}  # default, lowest, highest


def condition(name: str) -> str:
    """The condition as it is written in full, such as "white:10+telephone" or "reverb:0.5" for "reverb".

    Raises SaladError for one that is not known, or a number out of its range.
    """
    return "+".join(_in_full(*parse_condition(part)) for part in name.split("+"))


def parse_condition(part: str) -> tuple[str, float | str]:
    """Kind and value (a number, a codec, or "") of one condition that no + joins to another. Raises SaladError."""
    kind, _, given = part.partition(":")
    if kind == "codec" and (given or "opus") in CODECS:
        return kind, given or "opus"
    if kind == "telephone" and not given:
        return kind, ""
    if kind in NUMBERS and (given or NUMBERS[kind][0]):
        default, low, high = NUMBERS[kind]
        return kind, _number(part, given or default, low, high)
    raise SaladError(f"noise: got {part!r}, expected {CONDITIONS}")


def _in_full(kind: str, value: float | str) -> str:
    if isinstance(value, float):
        return f"{kind}:{value:g}"
    return f"{kind}:{value}" if value else kind


def _number(part: str, given: str, low: float, high: float) -> float:
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise SaladError(f"noise: got {part!r}, expected a number from {low:g} to {high:g} after the colon")
    return value
