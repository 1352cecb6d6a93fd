"""Texts that come from outside, and what the teacher is asked to write."""

import gzip
import json

import pytest

from salad.config import Text
from salad.data.generate_text import clean, prompts
from salad.data.readers.text import read_local_text, read_text
from salad.types import SaladError


def test_local_text(tmp_path):
    (tmp_path / "a.txt").write_text("One paragraph\nof text.\n\n\nAnother.\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "A  row\u2028here", "domain": "d", "id": 7}) + "\n\n")
    documents = read_local_text([tmp_path / "a.txt", tmp_path / "b.jsonl"], aside := [])
    assert [d.text for d in documents] == ["One paragraph of text.", "Another.", "A row here"]
    assert documents[2].id == "7" and documents[2].domain == "d"
    for name in ("a.txt", "b.jsonl"):  # as Windows writes them
        (tmp_path / name).write_text("\ufeff" + (tmp_path / name).read_text())
    assert read_local_text([tmp_path / "a.txt", tmp_path / "b.jsonl"], aside) == documents and not aside
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.txt").write_text("Of the same name.")
    both = read_local_text([tmp_path / "a.txt", tmp_path / "c" / "a.txt"], aside)
    assert [d.id for d in both] == ["a-000000", "a-000001", "a-000000~2"] and not aside
    with pytest.raises(SaladError, match="corpus.local_text: .*c is no file"):
        read_local_text([tmp_path / "c"], aside)


def test_local_text_is_read_as_any_broad_text(tmp_path):
    """A page and a PDF are no prose, parquet is read, a text that does not fit is cut; ids are as they were."""
    (tmp_path / "a.txt").write_text("One two. Three four.\n\nFive.")
    (tmp_path / "page.txt").write_text("<!DOCTYPE html>\n<p>hello</p>\n")
    (tmp_path / "b.txt").write_bytes(b"%PDF-1.7\nstream\n")
    documents = read_local_text(
        [tmp_path / name for name in ("a.txt", "page.txt", "b.txt")], aside := [], fits=lambda text: len(text) < 12
    )
    assert [(d.id, d.text) for d in documents] == [
        ("a-000000#0", "One two."), ("a-000000#1", "Three four."), ("a-000001", "Five.")]  # fmt: skip
    assert [row["id"] for row in aside] == ["page.txt", "b.txt"] and "no plain text" in aside[0]["reason"]
    write_table = pytest.importorskip("pyarrow.parquet").write_table
    import pyarrow

    write_table(pyarrow.table({"text": ["One.", "Two."], "id": ["x", ""]}), tmp_path / "c.parquet")
    documents = read_local_text([tmp_path / "c.parquet"], aside := [])
    assert [(d.id, d.text) for d in documents] == [("x", "One."), ("c-000001", "Two.")] and not aside


@pytest.mark.parametrize(
    "line", ["not json", '{"words": 3}', '{"text": 3}', "[]", "null", '{"text": " "}', b'{"text": "a\xff"}']
)
def test_a_bad_line_is_set_aside_by_its_number(tmp_path, line):
    data = line if isinstance(line, bytes) else line.encode()
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "fine"}\n' + data + b'\n{"text": "too"}\n')
    documents = read_local_text([tmp_path / "b.jsonl"], aside := [])
    assert [d.text for d in documents] == ["fine", "too"]
    assert [row["id"] for row in aside] == ["b-000002"] and str(tmp_path / "b.jsonl") in aside[0]["reason"]


def test_a_damaged_line_of_text_is_told_as_what_it_is(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"text": "fine"}\n{"text": "ba\n{"words": 3}\n')
    documents, aside = read_text(Text(path=tmp_path / "b.jsonl"), lambda text: True)
    assert [d.text for d in documents] == ["fine"] and [row["id"] for row in aside] == ["b-b-0000002", "b-b-0000003"]
    assert f"{tmp_path / 'b.jsonl'} line 2: expected one JSON object, got" in aside[0]["reason"]
    assert aside[1]["reason"].startswith(f"{tmp_path / 'b.jsonl'}: text: expected a string, got None")


def test_a_packed_text_that_is_cut_off_is_told_and_read_as_far_as_it_goes(tmp_path):
    lines = "".join(json.dumps({"text": f"Line number {n}, of many."}) + "\n" for n in range(2000))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode())[:-3000])
    documents = read_local_text([tmp_path / "b.jsonl.gz"], aside := [])
    assert 0 < len(documents) < 2000 and [row["id"] for row in aside] == ["b.jsonl.gz"]
    assert "is cut off" in aside[0]["reason"]


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


@pytest.mark.parametrize(
    "content",
    ['{"text": "One."}\n{"text": "Two."}\n', '[{"text": "One."}, {"text": "Two."}]', '["One.", "Two."]\n',
     '[\n  {"text": "One."},\n  {"text": "Two."}\n]\n', '{\n "text": "One."\n}\n{\n "text": "Two."\n}\n'],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.jsonl", "a"])
def test_json_is_no_prose_whatever_its_file_is_called(tmp_path, content, name):
    (tmp_path / name).write_text(content)
    assert [d.text for d in read_local_text([tmp_path / name], [])] == ["One.", "Two."]
    documents, aside = read_text(Text(path=tmp_path / name), lambda text: True)
    assert [d.text for d in documents] == ["One.", "Two."] and not aside


@pytest.mark.parametrize("content", ["[1] Smith, J. A book.", '["Who is it?"] she said.', "{{Infobox}} A town."])
def test_prose_may_begin_with_a_bracket(tmp_path, content):
    (tmp_path / "a.txt").write_text(content)
    assert [d.text for d in read_local_text([tmp_path / "a.txt"], [])] == [content]
    assert [d.text for d in read_text(Text(path=tmp_path / "a.txt"), lambda _: True)[0]] == [content]


def test_a_table_is_no_prose(tmp_path):
    for name in ("a.csv", "a.TSV", "a.csv.gz"):
        (tmp_path / name).write_text("id,text\n1,Who is it?\n")
        with pytest.raises(SaladError, match=r"a\.\w+.*: is a table, .*; convert it to JSON lines"):
            read_local_text([tmp_path / name], [])
        documents, aside = read_text(Text(path=tmp_path / name), lambda text: True)
        assert not documents and "is a table" in aside[0]["reason"]
    (tmp_path / "b.csv").write_text('{"text": "One."}\n')  # what it holds decides, and not what it is called
    assert [d.text for d in read_local_text([tmp_path / "b.csv"], [])] == ["One."]


def test_text_of_a_folder_of_parquet_is_of_its_split(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    names = ["train-00000-of-00001", "test-00000-of-00001", "test-drives", "birds"]
    for name in names:
        parquet.write_table(pyarrow.table({"text": [name]}), tmp_path / f"{name}.parquet")
    (tmp_path / "a.jsonl").write_text('{"text": "lines"}\n')
    documents, aside = read_text(Text(path=tmp_path), lambda text: True)
    assert {d.text for d in documents} == {"lines", "train-00000-of-00001", "birds"}
    assert [row["id"] for row in aside] == ["test-drives.parquet"] and "outside the split" in aside[0]["reason"]
    documents, _ = read_text(Text(path=tmp_path, split="test"), lambda text: True)
    assert {d.text for d in documents} == {"lines", "test-00000-of-00001", "test-drives"}
