"""Spoken forms: one for each written word; plain words stay; nothing is left that a voice would stumble over."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad.text.speakable import speakable, spoken_bounds

pytest.importorskip("num2words")

# What is written, and under it what is said.
CASES = """
In 1848, about 1,200 people (50%)
In eighteen forty-eight, about one thousand two hundred people (fifty percent)
3.14 and .5 and 007
three point one four and point five and zero zero seven
paid $5.50 or $3 million, £1
paid five dollars and fifty cents or three million dollars, one pound
$1.2bn over 5 km at 20°C
one point two billion dollars over five kilometers at twenty degrees Celsius
1 km, 5kg; 2000 m
one kilometer, five kilograms; two thousand meters
at 10:30. until 9am
at ten thirty. until nine a m
E=mc^2, H2O and x² of CO₂
E equals m c squared, H two O and x squared of CO two
the 1990s, 1914–1918, 10–20%
the nineteen nineties, nineteen fourteen to nineteen eighteen, ten to twenty percent
Dr. Smith vs. No. 5, e.g. on Jan. 5, 1999.
Doctor Smith versus number five, for example on January five, nineteen ninety-nine.
https://www.example.com/a-b or me@site.org.
example dot com slash a dash b or me at site dot org.
3/4 of the 1st B-52, AT&T & C++
three quarters of the first B fifty-two, AT and T and C plus plus
Call 555-1234 about v2.0.1
Call five five five, one two three four about v two point zero point one
299.7925 from 476-1453,
two hundred and ninety-nine point seven nine two five from four hundred and seventy-six to fourteen fifty-three,
476-5309 or 800-555-1234
four seven six, five three zero nine or eight zero zero, five five five, one two three four
2024-05-01 -5 ~10 α-helix 24/7
May first twenty twenty-four minus five about ten alpha helix twenty-four seven
said no. He is 5.
said no. He is five.
19th-century 2nd-place 20,000th 21ST mid-1990s 1920s–1930s 10am-5pm 1990s-style
nineteenth century second place twenty thousandth twenty-first mid nineteen nineties nineteen twenties to nineteen thirties ten a m to five p m nineteen nineties style
-$20 –5 5¢ $5-10 7½ $5-a-day post-9/11 COVID-19
minus twenty dollars minus five five cents five to ten dollars seven and a half five dollars a day post nine slash eleven COVID nineteen
"""  # noqa: E501

LINES = CASES.strip().split("\n")
PAIRS = list(zip(LINES[::2], LINES[1::2], strict=True))


@pytest.mark.parametrize(("written", "said"), PAIRS)
def test_what_is_said(written: str, said: str) -> None:
    spoken = speakable(written.split())
    assert " ".join(spoken) == said
    assert len(spoken) == len(written.split())


@given(st.lists(st.text(alphabet="abcXYZéö'’-,.;:!?()\"“”…—*_/", min_size=1, max_size=12), max_size=12))
def test_plain_words_stay(words: list[str]) -> None:
    kept = speakable(words)
    assert [k for k, w in zip(kept, words, strict=True) if k != w] == []


@given(st.text(alphabet="abmxE 0123456789.,:;-–/$%#&@=+^()°²'\"*~<>", max_size=60))
def test_every_word_gets_words_and_no_digit_is_left(text: str) -> None:
    words = text.split()
    spoken = speakable(words)
    assert len(spoken) == len(words) and all(said.split() for said in spoken)
    assert not [said for said in spoken if re.search(r"\d", said)]
    assert spoken_bounds(spoken)[-1] == len(" ".join(spoken).split())


def test_combining_marks_are_said_as_their_letters():
    import unicodedata

    from salad.text.aligner_forms import spoken_pieces

    written = ["café", "naïve", "x̂-ray", "co\u00adoperate", "Ångström"]
    apart = [unicodedata.normalize("NFD", word) for word in written]
    assert apart != written
    assert speakable(apart) == speakable(written) == ["café", "naïve", "x-ray", "cooperate", "Ångström"]
    pieces = [spoken_pieces(word) for word in apart]
    assert pieces == [
        ("café",),
        ("naïve",),
        ("x", "ray"),
        ("cooperate",),
        ("ångström",),
    ]
    assert speakable(["\u0301"]) == ["\u0301"]  # a mark alone is no letter's; nothing is lost


def test_letters_that_voices_spell_out_are_said_plainly():
    """espeak says "letter two three three" for a y with a bar."""
    words = ["y\u0304", "\u1e83ord", "\uff34\uff48\uff45", "\uff3b\uff3briver\uff3d\uff3d", "caf\u00e9"]
    assert speakable(words) == ["y", "word", "The", "[[river]]", "caf\u00e9"]
