"""Manifests and tables by chance: every row that was written comes out once, kept or with what is wrong with it.

`make fuzz` draws 2,000 of each kind (SALAD_FUZZ), `make test` a few. What was not damaged is kept, with an equal text.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import tarfile
import tempfile
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salad.config import Speech, Text
from salad.data.ingest_plan import Door, make_plan, read_plan, rows_of
from salad.data.readers.text import read_text
from salad.data.sources import open_source
from salad.evaluation.rows import read_rows
from salad.types import SaladError

EXAMPLES = int(os.environ.get("SALAD_FUZZ", "20"))
DOOR = Door(min_s=0.1, max_s=60, context=1000, rate_hz=10, speech_share=0.6)
ROWS = 6
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# Letters that tables, JSON and Unicode treat in their own ways; no file is called by any of them.
LETTERS = st.sampled_from(list('abcXYZ 0123"""\'\',;|\t.!?-–“”éßЖ漢👩\u0301\u2028\u00a0\ufeff\x0b\\/{}[]<>&%#=+'))
TEXTS = st.text(LETTERS, min_size=1, max_size=30).filter(lambda text: bool(plain(text)))
PACK = st.sampled_from([bytes, gzip.compress, lzma.compress, bz2.compress])
ENCODING = st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])

# A row of JSON, and what becomes of it; each of these costs the row that it is done to, and no other.
ODD = st.sampled_from([None, [], {}, ["a"], {"a": 1}, float("inf"), float("nan"), -1, 10**400, "", "\0", True, 1e308])
DAMAGE = st.one_of(
    st.none(),
    st.none(),
    st.tuples(st.just("set"), st.sampled_from(["text", "duration", "audio", "offset", "start", "type", "id"]), ODD),
    st.tuples(st.just("drop"), st.sampled_from(["text", "audio", "duration", "type"]), st.none()),
    st.tuples(st.just("cut"), st.integers(1, 40), st.none()),
    st.tuples(
        st.just("line"), st.sampled_from(["null", "3", "[]", "{}", '"text"', "{", "nothing", "[" * 2000]), st.none()
    ),
    st.tuples(
        st.just("path"), st.sampled_from(["../../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "x" * 400]), st.none()
    ),
)


def plain(text: str) -> str:
    return unicodedata.normalize("NFC", " ".join(text.replace("\0", " ").split()))


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory(prefix="salad-fuzz-") as name:
        for n in range(ROWS):
            (Path(name) / f"clip-{n}.wav").touch()
        yield Path(name)


def come_out(path: Path, **entry: Any) -> dict[str, tuple[str, str]]:
    """Id -> (text, problem) of every row that the plan of `salad prepare` holds for a source."""
    source = Speech(path=path, **entry)
    plan = path.parent / "plan.sqlite"
    make_plan(plan, [(source, *open_source(source))], DOOR)
    rows = [row for document in read_plan(plan)[0] for row in rows_of(plan, document.number)]
    plan.unlink()
    names = Counter(row.id for row in rows)
    assert all(times == 1 or any(r.id == name and r.problem for r in rows) for name, times in names.items())
    return {f"{row.id}#{n}": (row.text, row.problem) for n, row in enumerate(rows)}


def check(found: dict[str, tuple[str, str]], texts: list[str], damaged: set[int]) -> None:
    """One row for each that was written; those not damaged are kept with equal texts, in their order."""
    assert len(found) == len(texts), (found, texts)
    kept = [text for text, problem in found.values() if not problem]
    whole = [plain(text) for n, text in enumerate(texts) if n not in damaged]
    assert kept == whole or (damaged and not Counter(whole) - Counter(kept)), (found, texts, damaged)


def spoil(row: dict[str, Any], damage: Any, names: dict[str, str]) -> str:
    """A line of JSON with the row, or what was made of it. names: what the format calls audio, duration ..."""
    if damage is None:
        return json.dumps(row, ensure_ascii=False)
    kind, value, odd = damage
    if kind == "line":
        return value
    if kind == "cut":
        line = json.dumps(row, ensure_ascii=False)
        return line[: max(1, len(line) - value)]
    name = names.get("audio" if kind == "path" else value, value)
    row = {key: held for key, held in row.items() if key != name}
    return json.dumps(row if kind == "drop" else {**row, name: value if kind == "path" else odd})


def lines_of(rows: list[dict[str, Any]], damages: list[Any], names: dict[str, str]) -> tuple[list[str], set[int]]:
    lines = [spoil(row, damage, names) for row, damage in zip(rows, damages, strict=True)]
    return lines, {n for n, damage in enumerate(damages) if damage is not None}


def write(path: Path, lines: list[str], encoding: str, pack: Any) -> Path:
    path.write_bytes(pack("".join(line + "\n" for line in lines).encode(encoding, "surrogatepass")))
    return path


SOME = st.lists(st.tuples(TEXTS, DAMAGE), min_size=2, max_size=ROWS)


def sound_first(rows: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """A format is told from the first lines, of which one at least is whole."""
    return [(rows[0][0], None), *rows[1:]]


@fuzz
@given(rows=SOME, encoding=ENCODING, pack=PACK)
def test_nemo(folder, rows, encoding, pack):
    rows = sound_first(rows)
    values = [{"audio_filepath": f"clip-{n}.wav", "duration": 1.0, "text": text} for n, (text, _) in enumerate(rows)]
    lines, damaged = lines_of(values, [damage for _, damage in rows], {"audio": "audio_filepath", "start": "offset"})
    check(come_out(write(folder / "m.json", lines, encoding, pack)), [text for text, _ in rows], damaged)


@fuzz
@given(rows=SOME, encoding=ENCODING, pack=PACK)
def test_utterances(folder, rows, encoding, pack):
    rows = sound_first(rows)
    values = [
        {"id": f"u{n}", "audio": f"clip-{n}.wav", "num_samples": 16_000, "sample_rate_hz": 16_000, "text": text}
        for n, (text, _) in enumerate(rows)
    ]
    names = {"duration": "num_samples", "offset": "words", "start": "score", "type": "sample_rate_hz"}
    lines, damaged = lines_of(values, [damage for _, damage in rows], names)
    check(come_out(write(folder / "u.jsonl", lines, encoding, pack)), [text for text, _ in rows], damaged)


@fuzz
@given(rows=SOME, encoding=ENCODING, pack=PACK)
def test_lhotse(folder, rows, encoding, pack):
    values = []
    rows = sound_first(rows)
    for n, (text, _) in enumerate(rows):
        source = {"type": "file", "channels": [0], "source": f"clip-{n}.wav"}
        recording = {
            "id": f"r{n}",
            "sources": [source],
            "sampling_rate": 16_000,
            "num_samples": 16_000,
            "duration": 1.0,
        }
        supervision = {
            "id": f"s{n}",
            "recording_id": f"r{n}",
            "start": 0.0,
            "duration": 1.0,
            "channel": 0,
            "text": text,
        }
        values.append({"id": f"c{n}", "start": 0.0, "duration": 1.0, "channel": 0, "supervisions": [supervision],
                       "recording": recording, "type": "MonoCut"})  # fmt: skip
    names = {"audio": "recording", "text": "supervisions", "offset": "channel"}
    lines, damaged = lines_of(values, [damage for _, damage in rows], names)
    found = come_out(write(folder / "cuts.jsonl", lines, encoding, pack))
    check(found, [text for text, _ in rows], damaged)


@fuzz
@given(rows=SOME, encoding=ENCODING, pack=PACK)
def test_audiofolder(folder, rows, encoding, pack):
    rows = sound_first(rows)
    values = [{"file_name": f"clip-{n}.wav", "text": text} for n, (text, _) in enumerate(rows)]
    lines, damaged = lines_of(values, [damage for _, damage in rows], {"audio": "file_name"})
    check(come_out(write(folder / "metadata.jsonl", lines, encoding, pack)), [text for text, _ in rows], damaged)


@fuzz
@given(
    texts=st.lists(TEXTS, min_size=2, max_size=ROWS),
    delimiter=st.sampled_from(",;\t|"),
    header=st.booleans(),
    lines_in=st.booleans(),
    encoding=ENCODING,
)
def test_tables_that_a_program_wrote(folder, texts, delimiter, header, lines_in, encoding):
    if lines_in:
        texts = [text.replace(" ", "\n", 1) for text in texts]
    file = io.StringIO()
    # as spreadsheets do: quotes where they are needed, and where a text begins with one
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\r\n")
    writer.writerows([["path", "text"]] * header + [[f"clip-{n}.wav", text] for n, text in enumerate(texts)])
    path = folder / "m.csv"
    path.write_bytes(file.getvalue().replace("\x0b", " ").encode(encoding))
    check(come_out(path, format="table"), texts, set())


@fuzz
@given(
    texts=st.lists(
        st.text(LETTERS.filter(lambda c: c not in ",;\t|"), min_size=1, max_size=20), min_size=3, max_size=ROWS
    ),
    delimiter=st.sampled_from(",;\t|"),
    header=st.booleans(),
)
def test_tables_that_a_person_wrote(folder, texts, delimiter, header):
    """No quoting at all: a row is a line, and a text in quotes may lose them."""
    lines = [f"path{delimiter}text"] * header + [f"clip-{n}.wav{delimiter}{text}" for n, text in enumerate(texts)]
    (folder / "m.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = come_out(folder / "m.csv", format="table")
    assert len(found) == len(texts), (found, texts)
    for text, (read, problem) in zip(texts, found.values(), strict=True):
        unquoted = text.strip(" ")[1:-1].replace('""', '"')
        assert read in (plain(text), plain(unquoted)) or problem.startswith("text: is missing"), (text, read, problem)


@fuzz
@given(
    rows=st.lists(
        st.tuples(TEXTS, st.sampled_from(["", ".1", ".v2.x"]), st.booleans(), st.booleans()), min_size=1, max_size=ROWS
    ),
    apart=st.booleans(),
    cut=st.booleans(),
)
def test_webdataset(folder, rows, apart, cut):
    members = []
    for n, (text, middle, has_audio, has_text) in enumerate(rows):
        if has_audio:
            members.append((f"u{n}{middle}.wav", b"RIFF"))
        if has_text:
            members.append((f"u{n}{middle}.json", json.dumps({"text": text}).encode()))
    members = sorted(members, key=lambda member: member[0].endswith(".json")) if apart else members
    path = folder / "s.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    if cut:  # after the last member, which is not always told
        path.write_bytes(path.read_bytes()[: 512 * 2 * len(members) + 100])
    written = [(text, audio and told) for text, _, audio, told in rows if audio or told]
    found = come_out(path, format="webdataset")
    whole = [plain(text) for text, complete in written if complete]
    assert len(found) - len(written) in (0, cut) and Counter(t for t, p in found.values() if not p) == Counter(whole)


@fuzz
@given(rows=SOME, encoding=ENCODING, pack=PACK)
def test_broad_text(folder, rows, encoding, pack):
    rows = sound_first(rows)
    values = [{"id": f"d{n}", "text": text} for n, (text, _) in enumerate(rows)]
    lines, damaged = lines_of(values, [damage for _, damage in rows], {})
    path = write(folder / "web.jsonl", lines, encoding, pack)
    documents, aside = read_text(Text(path=path, format="jsonl"), lambda text: True)
    assert len(documents) + len(aside) == len(rows)
    read = [document.text for document in documents]
    assert not Counter(plain(text) for n, (text, _) in enumerate(rows) if n not in damaged) - Counter(read)


@fuzz
@given(rows=SOME, encoding=ENCODING, pack=PACK)
def test_task_files(folder, rows, encoding, pack):
    """All items as they were written, or the first line that is none is named."""
    values = [{"id": n, "text": text} for n, (text, _) in enumerate(rows)]
    lines, _ = lines_of(values, [damage for _, damage in rows], {})
    path = write(folder / "items.jsonl", lines, encoding, pack)
    bad = []
    for n, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            bad.append(n)
    if bad:
        with pytest.raises(SaladError, match=rf"tasks: .*items.jsonl line {bad[0]}: "):
            read_rows(path)
    else:
        assert [str(row) for row in read_rows(path)] == [str(json.loads(line)) for line in lines]
