"""Names of units, signs and abbreviations (US English). Data only."""

from __future__ import annotations

__all__ = [
    "ABBREVIATIONS",
    "BEFORE_NUMBERS",
    "CURRENCIES",
    "GREEK",
    "MAGNITUDES",
    "MONTHS",
    "POWERS",
    "SYMBOLS",
    "TITLES",
    "UNITS",
]

MONTHS = "January February March April May June July August September October November December".split()

# Said for one and for many. Only after a number: "5 m", "5m".
UNITS: dict[str, tuple[str, str]] = {
    short: (one, one + "s")
    for short, one in {
        "km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter", "µm": "micrometer", "nm": "nanometer",
        "kg": "kilogram", "g": "gram", "mg": "milligram", "µg": "microgram", "lb": "pound", "lbs": "pound", "oz": "ounce",
        "mi": "mile", "yd": "yard", "L": "liter", "l": "liter", "mL": "milliliter", "ml": "milliliter",
        "s": "second", "sec": "second", "ms": "millisecond", "µs": "microsecond", "ns": "nanosecond", "min": "minute",
        "h": "hour", "hr": "hour", "hrs": "hour", "KB": "kilobyte", "kB": "kilobyte", "MB": "megabyte", "GB": "gigabyte",
        "TB": "terabyte", "W": "watt", "kW": "kilowatt", "MW": "megawatt", "GW": "gigawatt", "kWh": "kilowatt hour",
        "V": "volt", "mV": "millivolt", "kV": "kilovolt", "mA": "milliamp", "J": "joule", "kJ": "kilojoule",
        "Pa": "pascal", "kPa": "kilopascal", "kcal": "kilocalorie", "cal": "calorie", "eV": "electron volt",
        "dB": "decibel", "°": "degree", "ha": "hectare",
    }.items()
} | {
    "ft": ("foot", "feet"), "°C": ("degree Celsius", "degrees Celsius"), "°F": ("degree Fahrenheit", "degrees Fahrenheit"),
    "Hz": ("hertz", "hertz"), "kHz": ("kilohertz", "kilohertz"), "MHz": ("megahertz", "megahertz"),
    "GHz": ("gigahertz", "gigahertz"), "mph": ("mile per hour", "miles per hour"),
    "km/h": ("kilometer per hour", "kilometers per hour"), "m/s": ("meter per second", "meters per second"),
    "km²": ("square kilometer", "square kilometers"), "m²": ("square meter", "square meters"),
    "m³": ("cubic meter", "cubic meters"), "cm³": ("cubic centimeter", "cubic centimeters"),
    "%": ("percent", "percent"), "‰": ("per mille", "per mille"),
}  # fmt: skip

MAGNITUDES = {
    "k": "thousand", "K": "thousand", "m": "million", "M": "million", "bn": "billion", "B": "billion", "T": "trillion",
}  # fmt: skip

# one, many, one hundredth, hundredths
CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "", ""),
    "₹": ("rupee", "rupees", "paisa", "paise"),
}

TITLES = {
    "Dr": "Doctor", "Mr": "Mister", "Mrs": "Missus", "Ms": "Miz", "Prof": "Professor", "St": "Saint", "Gen": "General",
    "Gov": "Governor", "Sen": "Senator", "Rep": "Representative", "Rev": "Reverend", "Capt": "Captain", "Lt": "Lieutenant",
}  # fmt: skip
BEFORE_NUMBERS = {
    "no": "number", "nos": "numbers", "fig": "figure", "eq": "equation", "vol": "volume", "ch": "chapter", "sec": "section",
    "p": "page", "pp": "pages", "jan": "January", "feb": "February", "mar": "March", "apr": "April", "jun": "June",
    "jul": "July", "aug": "August", "sept": "September", "sep": "September", "oct": "October", "nov": "November",
    "dec": "December",
}  # fmt: skip
ABBREVIATIONS = {
    "e.g": "for example", "i.e": "that is", "etc": "et cetera", "vs": "versus", "approx": "approximately",
    "cf": "compare", "et al": "and others", "dept": "department", "est": "established", "ltd": "limited",
    "inc": "incorporated", "corp": "corporation", "jr": "junior", "sr": "senior",
}  # fmt: skip

POWERS = {"2": "squared", "3": "cubed"}
SYMBOLS = {
    "=": "equals", "+": "plus", "−": "minus", "×": "times", "·": "times", "*": "times", "÷": "divided by", "±": "plus or minus",
    "<": "less than", ">": "greater than", "≤": "at most", "≥": "at least", "≈": "is about", "≠": "is not",
    "~": "about", "√": "square root of", "∞": "infinity", "∑": "sum of", "∫": "integral of", "∂": "partial",
    "→": "to", "²": "squared", "³": "cubed", "½": "one half", "¼": "one quarter", "¾": "three quarters",
    "⅓": "one third", "⅔": "two thirds", "°": "degrees", "%": "percent", "‰": "per mille", "&": "and", "@": "at",
    "#": "number", "$": "dollars", "€": "euros", "£": "pounds", "¥": "yen", "₹": "rupees", "§": "section", "µ": "micro",
    "₂": "two", "₃": "three", "₄": "four",
}  # fmt: skip
GREEK = dict(
    zip(
        "αβγδεζηθικλμνξοπρστυφχψω",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi "
        "chi psi omega".split(),
        strict=True,
    )
)
GREEK |= {letter.upper(): name for letter, name in GREEK.items()}
