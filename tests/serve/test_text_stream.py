"""Text as tokens come: the same as the whole, no half characters, nothing behind a stop string."""

from __future__ import annotations

import pytest

from salad.serve.text_stream import TextStream


def pieces(text, tokenizer, stops=()):
    stream = TextStream(tokenizer.decode, stops)
    found = []
    for i in tokenizer(text)["input_ids"]:
        found.append(stream.push(i))
        if stream.stopped:
            return found, True
    return [*found, stream.end()], stream.stopped


@pytest.mark.parametrize("text", ["the river, 12 boats", "naïve – 東京 🙂🙂 ok", " leading", "", "a\n\n b  c", "�"])
def test_pieces_joined_are_the_text(text, tokenizer):
    found, stopped = pieces(text, tokenizer)
    assert "".join(found) == text and not stopped
    assert text == "�" or not any("�" in p for p in found)


def test_a_stop_string_across_tokens(tokenizer):
    found, stopped = pieces("the water of the sea", tokenizer, ["r of", "zzz"])
    assert "".join(found) == "the wate" and stopped


def test_what_only_begins_as_a_stop_string_is_given_later(tokenizer):
    found, stopped = pieces("the water", tokenizer, ["waters"])
    assert "".join(found) == "the water" and not stopped and found[-1] == "water"


def test_the_first_of_two_stops_counts(tokenizer):
    found, _ = pieces("one two three", tokenizer, ["three", "two"])
    assert "".join(found) == "one "
