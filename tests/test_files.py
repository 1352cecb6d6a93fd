"""The one reader of JSON lines, whatever a file is packed in or begins with; whole writes; names for ids."""

from __future__ import annotations

import bz2
import errno
import gzip
import json
import lzma
import os

import numpy as np
import pytest
from safetensors import safe_open

from salad.audio import write_flac
from salad.files import (
    Rows,
    file_name,
    json_lines,
    num_bytes,
    read_json,
    read_jsonl,
    read_lines,
    size_of,
    write_json,
    write_jsonl,
    write_tensors,
    write_text,
)
from salad.select.embed import join_embeddings
from salad.types import SaladError

ROWS = [{"id": "a", "text": "Käse\u2028und Brot"}, {"id": "b", "text": "two"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, bz2.compress])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_lines_as_programs_write_them(tmp_path, pack, encoding):
    path = tmp_path / "rows.jsonl"  # what it is packed in is told from its bytes
    path.write_bytes(pack(LINES.replace("\n", "\r\n").encode(encoding)))
    assert read_jsonl(path) == ROWS
    path.write_bytes(pack(("\n\n" + LINES.strip()).encode(encoding)))
    assert [where for where, _ in json_lines(path)] == ["line 3", "line 4"]


@pytest.mark.parametrize(
    "text", [json.dumps(ROWS), json.dumps(ROWS, indent=1), "\n".join(json.dumps(r, indent=1) for r in ROWS)]
)
def test_an_array_or_objects_over_many_lines(tmp_path, text):
    (tmp_path / "rows.json").write_text(text)
    assert read_jsonl(tmp_path / "rows.json") == ROWS
    (tmp_path / "rows.json").write_text(text[:-3])
    found = json_lines(tmp_path / "rows.json")
    assert next(found) == ("item 1", ROWS[0])
    with pytest.raises(SaladError, match="is not whole JSON after item 1"):
        next(found)


@pytest.mark.parametrize("line", ["not json", "[1]", "3", "null", "[" * 100_000])
def test_a_broken_line_is_named_and_the_others_are_read(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(LINES + line + "\n" + LINES)
    with pytest.raises(SaladError, match=r"rows.jsonl line 3: expected one JSON object, got"):
        read_jsonl(path)
    assert [row for _, row in json_lines(path) if isinstance(row, dict)] == ROWS + ROWS


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_file_cut_in_the_middle_gives_the_lines_before(tmp_path, pack):
    text = "".join(f'{{"n": {n * n * n * 7919}}}\n' for n in range(20_000))
    data = pack(text.encode())
    (tmp_path / "a").write_bytes(data[: len(data) // 2])
    lines: list[str] = []
    with pytest.raises(SaladError, match="is cut off or damaged in the middle, after .* lines"):
        for line in read_lines(tmp_path / "a"):
            lines.append(line)
    assert 0 < len(lines) < 20_000 and lines == text.split("\n")[: len(lines)]


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(SaladError, match="none.jsonl: cannot be read"):
        read_jsonl(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"a": 1}\n{"a": "caf\xe9"}\n')
    with pytest.raises(SaladError, match="latin.jsonl line 2: is not UTF-8"):
        read_jsonl(tmp_path / "latin.jsonl")
    write_text(tmp_path / "a.json", "\ufeff[1]")
    assert read_json(tmp_path / "a.json") == [1]


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path):
    def rows():
        yield ROWS[0]
        raise RuntimeError("no more")

    for name in ("rows.jsonl", "rows.jsonl.gz"):
        write_jsonl(tmp_path / name, ROWS)
        before = (tmp_path / name).read_bytes()
        with pytest.raises(RuntimeError, match="no more"):
            write_jsonl(tmp_path / name, rows())
        assert (tmp_path / name).read_bytes() == before and read_jsonl(tmp_path / name) == ROWS
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "rows.jsonl.gz"}


def test_the_name_of_a_file_fits_and_is_of_one_id():
    long = "https://example.org/" + "ü/" * 200
    names = [file_name(name, ".flac") for name in ("a b", "a/b", "ü", long, long + "x", "x" * 300)]
    assert names[:3] == ["a b.flac", "a%2Fb.flac", "%C3%BC.flac"]
    assert len(set(names)) == 6 and all(len(name.encode()) < 220 and "/" not in name for name in names)


def test_what_is_not_utf8_can_be_written_down_and_read_again(tmp_path):
    rows = [{"id": "caf\udce9.wav", "text": "é"}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    write_json(tmp_path / "a.json", rows)
    assert read_jsonl(tmp_path / "a.jsonl") == read_json(tmp_path / "a.json") == rows


def test_the_size_of_a_folder_counts_what_lies_there_alone(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_bytes(bytes(1500))
    (tmp_path / "a" / "y").write_bytes(bytes(700))
    (tmp_path / "z").hardlink_to(tmp_path / "a" / "y")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert 1500 <= num_bytes(tmp_path / "a") < 1600 and num_bytes(tmp_path / "nowhere") == 0
    assert [size_of(n) for n in (0, 999, 3_200_000_000, 2 * 10**15)] == ["0 bytes", "999 bytes", "3.2 GB", "2 PB"]


def test_half_a_letter_in_an_id_makes_a_name_all_the_same():
    assert file_name("a\ud83d", ".flac") == "a%5Cud83d.flac" and file_name("caf\udce9") == "caf%E9"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_any_system_ends_them(tmp_path, end):
    (tmp_path / "a.txt").write_bytes(end.join(["one", "", "two"]).encode())
    assert list(read_lines(tmp_path / "a.txt")) == ["one", "", "two"]


def test_rows_are_read_when_they_are_asked_for(tmp_path):
    paths = [tmp_path / f"{name}.jsonl" for name in "abc"]
    for path, rows in zip(paths, ([{"n": 0}, {"n": "ü"}], [], [{"n": 2}]), strict=True):
        write_jsonl(path, rows)
    rows = Rows(paths, lambda row, path: (path.stem, row["n"]))
    expected = [("a", 0), ("a", "ü"), ("c", 2)]
    assert list(rows) == expected == [rows[i] for i in range(3)] and rows[-1] == ("c", 2)
    assert len(rows) == 3 and rows.sizes == [2, 0, 1] and not Rows(paths[1:2])
    with pytest.raises(IndexError):
        rows[3]
    paths[2].write_text('{"n": 7}\n')
    assert rows[2] == ("c", 7)
    paths[2].write_text('{"n": 7\n')
    with pytest.raises(SaladError, match=r"c\.jsonl: a line is no JSON .*; run the stage that wrote it again"):
        rows[2]


def test_recordings_and_embeddings_are_on_the_disk_before_they_have_their_name(tmp_path, monkeypatch):
    """A disk that is full as they are flushed leaves no half of them, and nothing aside."""
    np.save(tmp_path / "embeddings.npy", np.ones((2, 3), np.float16))

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_flac(tmp_path / "out" / "a.flac", np.zeros(160, np.float32), 16_000)
    with pytest.raises(OSError, match="No space left"):
        join_embeddings([tmp_path], tmp_path / "out" / "all.npy")
    assert os.listdir(tmp_path / "out") == []


def test_arrays_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "a.safetensors"
    write_tensors(path, {"x": np.arange(3)}, {"ids": "[1]"})
    with pytest.raises(AttributeError):
        write_tensors(path, {"x": "no array"})
    with safe_open(path, "numpy") as file:
        assert file.get_tensor("x").tolist() == [0, 1, 2] and file.metadata() == {"ids": "[1]"}
    assert os.listdir(path.parent) == [path.name]
