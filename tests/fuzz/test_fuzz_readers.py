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
import re
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
from salad.data.ingest_plan import IngestLimits, make_plan, read_plan, rows_of
from salad.data.readers.registry import READERS, open_source
from salad.data.readers.text import read_text
from salad.evaluation.benchmark_task import Task, items_of
from salad.evaluation.rows import read_rows
from salad.types import SaladError

EXAMPLES = int(os.environ.get("SALAD_FUZZ", "20"))
DOOR = IngestLimits(min_s=0.1, max_s=60, context=1000, rate_hz=10, speech_share=0.6)
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


def check(found: dict[str, tuple[str, str]], ids: str, texts: list[str], damaged: set[int]) -> None:
    """One row for each that was written; those not damaged are kept, by their ids, with equal texts, in their order."""
    assert len(found) == len(texts), (found, texts)
    kept = [text for text, problem in found.values() if not problem]
    named = Counter((name.rpartition("#")[0], text) for name, (text, problem) in found.items() if not problem)
    assert all(named[ids.format(n), plain(text)] == 1 for n, text in enumerate(texts) if n not in damaged), named
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
    check(come_out(write(folder / "m.json", lines, encoding, pack)), "clip-{}.wav", [text for text, _ in rows], damaged)


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
    check(come_out(write(folder / "u.jsonl", lines, encoding, pack)), "u{}", [text for text, _ in rows], damaged)


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
    check(found, "c{}", [text for text, _ in rows], damaged)


@fuzz
@given(rows=SOME, encoding=ENCODING, pack=PACK)
def test_audiofolder(folder, rows, encoding, pack):
    rows = sound_first(rows)
    values = [{"file_name": f"clip-{n}.wav", "text": text} for n, (text, _) in enumerate(rows)]
    lines, damaged = lines_of(values, [damage for _, damage in rows], {"audio": "file_name"})
    found = come_out(write(folder / "metadata.jsonl", lines, encoding, pack))
    check(found, "clip-{}.wav", [text for text, _ in rows], damaged)


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
    check(come_out(path, format="table"), "clip-{}.wav", texts, set())


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
    tar_of(path, members)
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


def test_every_reader_is_drawn_for():
    """A reader that is added gets its strategy: each format is opened in this file, by its name or by its look."""
    text = Path(__file__).read_text(encoding="utf-8")
    drawn = set(re.findall(r"def test_(\w+)\(", text)) | set(re.findall(r'format="(\w+)"', text))
    assert set(READERS) <= drawn, set(READERS) - drawn


CELLS = st.sampled_from(["bytes", "bytes", "path", "null", "empty"])
COLUMNS = st.lists(
    st.tuples(st.one_of(st.none(), TEXTS, TEXTS, TEXTS), CELLS, st.sampled_from(["text", "null"])),
    min_size=1,
    max_size=ROWS,
)


def columns(rows: list[tuple[Any, str, str]]) -> Any:
    """An Arrow table as `datasets` writes it: the audio's bytes or its path, a text, an id; any of them null."""
    pyarrow = pytest.importorskip("pyarrow")
    cells = {"bytes": {"bytes": b"RIFF", "path": "x.wav"}, "null": None, "empty": {"bytes": None, "path": None}}
    audio = [{"bytes": None, "path": f"clip-{n}.wav"} if cell == "path" else cells[cell] for n, (_, cell, _) in
             enumerate(rows)]  # fmt: skip
    struct = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    ids = [f"u{n}" if given == "text" else None for n, (_, _, given) in enumerate(rows)]
    texts = pyarrow.array([text for text, _, _ in rows], pyarrow.string())
    return pyarrow.table(
        {"id": pyarrow.array(ids, pyarrow.string()), "audio": pyarrow.array(audio, struct), "text": texts}
    )


def check_columns(found: dict[str, tuple[str, str]], rows: list[tuple[Any, str, str]]) -> None:
    assert len(found) == len(rows), (found, rows)
    for n, ((name, (text, problem)), (written, cell, named)) in enumerate(zip(found.items(), rows, strict=True)):
        assert name == f"u{n}#{n}" if named == "text" else name.startswith("table-0"), name
        assert (text, problem) == (plain(written), "") if written and cell in ("bytes", "path") else True
        assert problem or written


@fuzz
@given(rows=COLUMNS, group=st.integers(1, ROWS), cut=st.one_of(st.none(), st.floats(0.01, 0.99)))
def test_parquet(folder, rows, group, cut):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = folder / "table.parquet"
    parquet.write_table(columns(rows), path, row_group_size=group)
    if cut is None:
        check_columns(come_out(path, format="parquet"), rows)
        return
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    [(name, (_, problem))] = come_out(path, format="parquet").items()
    assert "(the file)" in name and "cut off" in problem


@fuzz
@given(rows=COLUMNS, group=st.integers(1, ROWS), cut=st.one_of(st.none(), st.floats(0.01, 0.99)))
def test_arrow(folder, rows, group, cut):
    pyarrow = pytest.importorskip("pyarrow")
    path, table = folder / "table.arrow", columns(rows)
    with pyarrow.ipc.new_stream(str(path), table.schema) as stream:
        stream.write_table(table, max_chunksize=group)
    if cut is None:
        check_columns(come_out(path, format="arrow"), rows)
        return
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    found = come_out(path, format="arrow")
    whole = {name: row for name, row in found.items() if "(the file)" not in name}
    check_columns(whole, rows[: len(whole)])
    assert len(found) - len(whole) == 1


def tar_of(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@fuzz
@given(rows=SOME, lost=st.sets(st.integers(0, ROWS - 1)), cut=st.booleans())
def test_shar(rows, lost, cut):
    """A cut whose recording is not in the tar is set aside by its id, as is what is wrong with its own line."""
    rows = sound_first(rows)
    values = []
    for n, (text, _) in enumerate(rows):
        source = {"type": "shar", "channels": [0], "source": ""}
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
    with tempfile.TemporaryDirectory(prefix="salad-fuzz-") as name:
        place = Path(name) / "shar"
        place.mkdir()
        tar_of(place / "recording.000000.tar", [(f"c{n}.flac", b"fLaC") for n in range(len(rows)) if n not in lost])
        if cut:
            (place / "recording.000000.tar").write_bytes((place / "recording.000000.tar").read_bytes()[:-512])
        found = come_out(write(place / "cuts.000000.jsonl.gz", lines, "utf-8", gzip.compress).parent, format="shar")
    found = {name: row for name, row in found.items() if "(the file)" not in name}
    check(found, "c{}", [text for text, _ in rows], damaged | lost)
    missing = {f"c{n}" for n in lost if n < len(rows) and n not in damaged}
    assert missing <= {name.partition("#")[0] for name, (_, why) in found.items() if "holds no audio" in why}


@fuzz
@given(
    rows=st.lists(
        st.tuples(
            TEXTS.filter(lambda text: not text.startswith("\ufeff")),
            st.sampled_from(["beside", "beside", "apart", "list", "none", "empty", "folder", "twin"]),
            ENCODING,
        ),
        min_size=1,
        max_size=ROWS,
    )
)
def test_folder(rows):
    """Recordings with a text beside each, in a folder of texts, in a LibriSpeech list; without one; with two copies."""
    with tempfile.TemporaryDirectory(prefix="salad-fuzz-") as name:
        place = Path(name) / "data"
        listed = []
        for n, (text, kind, encoding) in enumerate(rows):
            (place / "wav").mkdir(parents=True, exist_ok=True)
            (place / "txt").mkdir(exist_ok=True)
            (place / "wav" / f"u{n}.wav").touch()
            if kind == "twin":
                (place / "wav" / f"u{n}.mp3").touch()
            if kind == "folder":
                (place / "wav" / f"u{n}.txt").mkdir()
            elif kind == "list":
                listed.append(f"u{n} {plain(text)}\n")
            elif kind != "none":
                data = b"" if kind == "empty" else text.encode(encoding)
                (place / ("txt" if kind == "apart" else "wav") / f"u{n}.txt").write_bytes(data)
        (place / "wav" / "all.trans.txt").write_text("".join(listed), encoding="utf-8")
        found = come_out(place, format="folder")
    written = {f"wav/u{n}.wav": (plain(text), kind) for n, (text, kind, _) in enumerate(rows)}
    written |= {f"wav/u{n}.mp3": ("", "copy") for n, (_, kind, _) in enumerate(rows) if kind == "twin"}
    assert sorted(name.partition("#")[0] for name in found) == sorted(written)
    for name, (text, problem) in found.items():
        expected, kind = written[name.partition("#")[0]]
        usable = kind in ("beside", "apart", "list", "twin")
        assert (text, problem) == (expected, "") if usable else problem, (name, text, problem, kind)


ODD_ITEM = st.one_of(
    ODD,
    st.lists(st.one_of(TEXTS, ODD, st.integers(0, 9)), max_size=4),
    st.integers(-2, 9),
    st.text(LETTERS, max_size=5),
    st.just("9" * 5000),
)


@fuzz
@given(
    rows=st.lists(
        st.tuples(
            TEXTS, st.one_of(st.none(), st.tuples(st.sampled_from(["id", "context", "choices", "answer"]), ODD_ITEM))
        ),
        min_size=2,
        max_size=ROWS,
    )
)
def test_items_of_a_task(rows):
    """Each item is scored or set aside, by its id and once; or the file is refused with a sentence."""
    values = [
        {"id": f"q{n}", "context": text, "choices": ["yes", "no"], "answer": n % 2} for n, (text, _) in enumerate(rows)
    ]
    for value, (_, damage) in zip(values, rows, strict=True):
        if damage is not None:
            value[damage[0]] = damage[1]
    try:
        loaded = items_of(Task(task="t"), values, "mine")
    except SaladError as error:
        loaded, why = None, str(error)
    if loaded is None:
        assert why.startswith("tasks: ") and any(damage is not None for _, damage in rows)
        return
    assert len(loaded.items) + len(loaded.skipped) == len(rows)
    kept = {item.id: item for item in loaded.items}
    for n, (text, damage) in enumerate(rows):
        if damage is None and f"q{n}" in kept:
            assert kept[f"q{n}"].context == unicodedata.normalize("NFC", text)
    if all(damage is None for _, damage in rows):
        assert len(kept) == len(rows)
