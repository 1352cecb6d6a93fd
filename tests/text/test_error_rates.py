"""Error rates compare what is said, count edits, and are the same wherever a transcript is judged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad.measure.results import ErrorRates
from salad.pipeline.hearing import transcript_errors
from salad.text.error_rates import cer, pooled_cer, pooled_wer, wer
from salad.text.normalise import normalise, wer_words
from salad.types import Utterance

pytest.importorskip("num2words")


def test_normalised_text_has_no_case_accent_or_punctuation() -> None:
    assert normalise("  The Café's well-known “Menu” — it’s 3.5!") == "the cafes well known menu its 3 5"


def test_error_rates_are_zero_for_the_same_words_and_count_edits() -> None:
    assert cer("Hello,  WORLD", "hello world!") == wer("Hello,  WORLD", "hello world!") == 0
    assert wer("hello there world", "hello world") == 0.5
    assert cer("cat", "cart") == 0.25
    assert cer("", "word") == 1 and cer("", "...") == 0 and cer("word", "...") == 1


def test_words_of_an_error_rate_are_in_whisper_s_normal_form() -> None:
    text = "It's twenty-five of Mr. Smith's colours, um, isn't it? (laughs)"
    assert wer_words(text) == "it is 25 of mister smith is colors is not it".split()
    assert wer("the color cost 3 dollars", "The colour cost three dollars!") == 0


@given(st.text(alphabet="abc ,.'", max_size=40))
def test_a_text_is_no_distance_from_itself(text: str) -> None:
    assert cer(text, text) == wer(text, text) == 0


def test_digits_and_words_are_heard_alike() -> None:
    assert cer("in 1848 it cost $5", "In eighteen forty-eight it cost five dollars.") == 0
    assert cer("in 1849", "In 1848.") > 0.1


def test_the_cascade_is_right_where_it_writes_a_number_in_another_way() -> None:
    utterances = [Utterance("a", "It cost 12 pounds.", "a.flac", 16_000, 16_000)]
    assert transcript_errors(utterances, {"a": "it cost twelve pounds"}) == ErrorRates(0.0, 0.0)


def test_pooled_rates_count_edits_over_all_texts() -> None:
    pairs = [("a shot", "A shot."), ("cold men sing", "Old men"), ("noise", "!")]
    assert (pooled_wer(pairs), pooled_cer(pairs)) == (pytest.approx(2 / 4), pytest.approx(6 / (6 + 7)))
    assert pooled_wer([]) == 0 and pooled_cer([("noise", "!")]) == 1
