"""Texts that come from outside, and what the teacher is asked to write."""

import json

import pytest

from salad.data.generate_text import clean, prompts
from salad.data.readers.text import read_local_text
from salad.types import SaladError


def test_local_text(tmp_path):
    (tmp_path / "a.txt").write_text("One paragraph\nof text.\n\n\nAnother.\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "A  row\u2028here", "domain": "d", "id": 7}) + "\n\n")
    documents = read_local_text([tmp_path / "a.txt", tmp_path / "b.jsonl"])
    assert [d.text for d in documents] == ["One paragraph of text.", "Another.", "A row here"]
    assert documents[2].id == "7" and documents[2].domain == "d"
    for name in ("a.txt", "b.jsonl"):  # as Windows writes them
        (tmp_path / name).write_text("\ufeff" + (tmp_path / name).read_text())
    assert read_local_text([tmp_path / "a.txt", tmp_path / "b.jsonl"]) == documents


@pytest.mark.parametrize("line", ["not json", '{"words": 3}', '{"text": 3}', "[]"])
def test_a_bad_line_is_named(tmp_path, line):
    (tmp_path / "b.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(SaladError, match=r"corpus.local_text: .*b.jsonl line 2"):
        read_local_text([tmp_path / "b.jsonl"])


def test_clean_keeps_whole_sentences_of_prose():
    text = "**Title**\n\n1. The sea is *wide*.\n- It is deep, too!  It was on"
    assert clean(text) == "Title The sea is wide. It is deep, too!"
    assert clean("no end") == ""


def test_prompts_are_distinct_and_in_a_fixed_order():
    topics = {"stories": ["a dog", "a cat"], "physics": ["light"]}
    rows = prompts(topics, 2, "web", 0)
    assert rows == prompts(topics, 2, "web", 0) and len({r["id"] for r in rows}) == 6
    assert {r["domain"] for r in rows} == {"stories", "physics"}
    assert all(r["topic"] in r["prompt"] for r in rows)
