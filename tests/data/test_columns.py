"""Arrow and parquet by column: streams and files that end early, types of other writers, damage inside of a file."""

from __future__ import annotations

import json

import pytest
import soundfile

from salad.config import Speech, Text
from salad.data.readers.registry import open_source
from salad.data.readers.rows import read_row
from salad.data.readers.text import read_text
from salad.testing.corpora import RATE_HZ, encoded, sound
from salad.types import SaladError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

STRUCT = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])

SCHEMA = pyarrow.schema([("audio", STRUCT), ("text", pyarrow.string())])


def recordings(number=3):
    """A table as `datasets` makes it."""
    cells = [{"bytes": encoded(sound(0.5, n)), "path": None} for n in range(number)]
    return pyarrow.table({"audio": pyarrow.array(cells, STRUCT), "text": [f"text {n}" for n in range(number)]})


def read(path, **settings):
    """The texts of the rows that can be heard, and what is wrong with the others, by id."""
    heard, problems = [], {}
    for row in open_source(Speech(path=path, **settings))[1]:
        try:
            if row.problem:
                raise SaladError(row.problem)
            assert len(read_row(row, RATE_HZ, max_s=60)) == RATE_HZ // 2
            heard.append(row.text)
        except SaladError as error:
            problems[row.id] = str(error)
    return heard, problems


def stream(path, table, end=None):
    """An Arrow stream of one row a batch, of which the last bytes from `end` on are lost."""
    with pyarrow.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    path.write_bytes(path.read_bytes()[:end])
    return path


@pytest.mark.parametrize(
    ("end", "rows", "message"),
    [
        (None, 3, ""),
        (-8, 3, "has no end mark behind its 3 rows, so that it is cut off, or its writer was stopped"),
        (-3, 3, "cannot be read: .* is it cut off"),
        (-300, 2, "cannot be read: .* is it cut off"),
    ],
)
def test_a_stream_that_is_cut_keeps_what_is_whole_and_says_so(tmp_path, end, rows, message):
    """A cut between two batches leaves a stream that the format allows; nobody can tell, so it is read and told."""
    heard, problems = read(stream(tmp_path / "s.arrow", recordings(), end))
    assert heard == [f"text {n}" for n in range(rows)]
    assert list(problems) == ["s.arrow (the file)"] * bool(message)
    if message:
        with pytest.raises(SaladError, match=message):
            raise SaladError(*problems.values())
    documents, left_out = read_text(Text(path=tmp_path / "s.arrow"), lambda text: True)
    assert len(documents) == rows and len(left_out) == bool(message)


def test_a_stream_that_is_cut_between_two_batches_has_rows_and_a_word(tmp_path):
    ends = []
    with pyarrow.OSFile(str(tmp_path / "s.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, SCHEMA) as writer:
        for batch in recordings().to_batches(max_chunksize=1):
            writer.write_batch(batch)
            ends.append(file.tell())
    (tmp_path / "s.arrow").write_bytes((tmp_path / "s.arrow").read_bytes()[: ends[1]])
    heard, problems = read(tmp_path / "s.arrow")
    assert heard == ["text 0", "text 1"] and "behind its 2 rows" in problems["s.arrow (the file)"]


def test_an_arrow_file_is_read_as_a_stream_is(tmp_path):
    with pyarrow.ipc.new_file(str(tmp_path / "f.arrow"), recordings().schema) as writer:
        writer.write_table(recordings(), max_chunksize=1)
    assert read(tmp_path / "f.arrow") == (["text 0", "text 1", "text 2"], {})
    (tmp_path / "f.arrow").write_bytes((tmp_path / "f.arrow").read_bytes()[:-300])
    heard, problems = read(tmp_path / "f.arrow")
    assert not heard and "is it cut off?" in problems["f.arrow (the file)"]


@pytest.mark.parametrize("kind", ["large_binary", "binary_view", "struct", "string"])
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_types_of_other_writers(tmp_path, kind, suffix):
    """polars writes large types; a table of files names them, as metadata.parquet of an audiofolder does."""
    sounds = [encoded(sound(0.5, n)) for n in range(2)]
    for n, data in enumerate(sounds):
        (tmp_path / f"{n}.wav").write_bytes(data)
    name, cells = {
        "struct": ("audio", pyarrow.array([{"bytes": x, "path": None} for x in sounds], pyarrow.struct(
            [("bytes", pyarrow.large_binary()), ("path", pyarrow.large_string())]))),
        "string": ("file_name", pyarrow.array(["0.wav", "1.wav"])),
    }.get(kind) or ("audio", pyarrow.array(sounds, getattr(pyarrow, kind)()))  # fmt: skip
    table = pyarrow.table({name: cells, "text": pyarrow.array(["one", "two"], pyarrow.large_string())})
    path = tmp_path / f"metadata{suffix}"
    parquet.write_table(table, path) if suffix == ".parquet" else stream(path, table)
    assert read(path) == (["one", "two"], {})


def test_a_column_that_was_renamed_below_the_note_of_datasets(tmp_path):
    note = json.dumps({"info": {"features": {"audio": {"_type": "Audio"}}}}).encode()
    table = recordings(2).replace_schema_metadata({b"huggingface": note}).rename_columns(["recording", "text"])
    parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == (["text 0", "text 1"], {})


@pytest.mark.parametrize("column", ["audio.bytes", "text"])
def test_a_damaged_part_of_a_parquet_costs_its_own_rows(tmp_path, column):
    path = tmp_path / "a.parquet"
    parquet.write_table(recordings(), path, row_group_size=1, compression="zstd", use_dictionary=False)
    data, group = bytearray(path.read_bytes()), parquet.read_metadata(path).row_group(1)
    [place] = [own for n in range(group.num_columns) if (own := group.column(n)).path_in_schema == column]
    end = place.data_page_offset + place.total_compressed_size
    data[place.data_page_offset : end] = bytes(place.total_compressed_size)
    path.write_bytes(data)
    heard, problems = read(path)
    assert heard == ["text 0", "text 2"] and len(problems) == 1
    assert "copy it again" in next(iter(problems.values())).lower()


def test_a_file_whose_sound_is_none_is_named(tmp_path):
    soundfile.write(tmp_path / "a.wav", sound(0.5), RATE_HZ)
    parquet.write_table(pyarrow.table({"number": [1], "text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(SaladError, match="has the columns number, text, none of which holds audio; set audio_field"):
        read(tmp_path / "a.parquet")
