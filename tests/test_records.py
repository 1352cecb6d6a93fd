"""A result and its file: what is written, what is read back, and what is refused at the door."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from salad.files import write_json, write_jsonl
from salad.records import from_json, null, read_record, read_records, to_json
from salad.types import SaladError


@dataclass(frozen=True)
class Part:
    value: float
    n: int = 0


@dataclass(frozen=True)
class Whole:
    name: str
    parts: tuple[Part, ...]
    by_name: Mapping[str, Part | None]
    place: str | None
    told: Part | None = null()
    silent: Part | None = None


WHOLE = Whole("w", (Part(1.5), Part(math.inf, 2)), {"a": Part(0.0), "b": None}, None)


def test_a_record_is_read_as_it_was_written(tmp_path):
    write_json(tmp_path / "w.json", to_json(WHOLE))
    assert read_record(Whole, tmp_path / "w.json") == WHOLE
    write_jsonl(tmp_path / "w.jsonl", map(to_json, WHOLE.parts))
    assert read_records(Part, tmp_path / "w.jsonl") == list(WHOLE.parts)


def test_what_is_none_is_null_where_its_field_says_so_and_left_out_elsewhere():
    told = to_json(WHOLE)
    assert told["told"] is told["place"] is told["by_name"]["b"] is None and "silent" not in told
    assert to_json(Whole("w", (), {}, None, silent=Part(1.0)))["silent"] == {"value": 1.0, "n": 0}


def test_values_become_jsons_own_types():
    found = to_json({"x": np.float32(0.5), 3: (np.int64(2), Path("a/b")), "no": None})
    assert found == {"x": 0.5, "3": [2, "a/b"], "no": None} and type(found["x"]) is float and type(found["3"][0]) is int


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"parts": [], "by_name": {}, "place": None}, "name: field required"),
        ({**to_json(WHOLE), "parts": [{"value": "much"}]}, "parts.0.value: input should be a valid number.*got 'much'"),
        ({**to_json(WHOLE), "by_name": {"a": {"value": 1, "n": 1.5}}}, "by_name.a.n: input should be a valid integer"),
        ([], "Whole: .*got \\[\\]"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(value, field):
    with pytest.raises(SaladError, match=f"figures.json: {field}"):
        from_json(Whole, value, "figures.json")


def test_a_line_that_does_not_fit_is_named(tmp_path):
    write_jsonl(tmp_path / "w.jsonl", [{"value": 1}, {"values": 2}])
    with pytest.raises(SaladError, match=r"w\.jsonl object 2: value: field required"):
        read_records(Part, tmp_path / "w.jsonl")


@pytest.mark.parametrize("held", [b'{"name": "w", "pa', b"", b'{"name": "\xff"}'])
def test_a_file_that_is_cut_is_named_with_the_cure(tmp_path, held):
    (tmp_path / "stage.json").write_bytes(held)
    with pytest.raises(SaladError, match=r"stage\.json: is not whole JSON .*Copy it again, or remove it"):
        read_record(Whole, tmp_path / "stage.json")
