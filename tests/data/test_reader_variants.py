"""Layouts that people bring home from elsewhere: read as they are meant, or refused with what to do."""

from __future__ import annotations

import json

import pytest

from salad.config import Speech, Text
from salad.data.ingest_plan import IngestLimits, make_plan, read_plan, rows_of
from salad.data.readers.columns import need_pyarrow
from salad.data.readers.registry import open_source
from salad.data.readers.text import read_text
from salad.testing.corpora import RATE_HZ, encoded, sound, write_jsonl, write_tar
from salad.types import SaladError


def opened(path, **settings):
    found, rows = open_source(Speech(path=path, **settings))
    return found, list(rows)


def planned(path, **settings):
    """(rows of the plan, its note) of a folder."""
    plan, entry = path.parent / "plan.sqlite", Speech(path=path, **settings)
    make_plan(plan, [(entry, *open_source(entry))], IngestLimits(0.1, 60.0, 2048, 12.5, 0.6))
    documents, (source,) = read_plan(plan)
    return [row for d in documents for row in rows_of(plan, d.number)], source.note


def recorded(folder, *names, seconds=1.0):
    folder.mkdir(parents=True, exist_ok=True)
    for n, name in enumerate(names):
        (folder / name).write_bytes(encoded(sound(seconds, n)))


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    need_pyarrow().parquet.write_table(need_pyarrow().Table.from_pylist(rows), path)
    return path


def cell(seed=0, seconds=1.0):
    return {"bytes": encoded(sound(seconds, seed)), "path": "a.wav"}


def test_a_split_that_is_not_there_is_named_whatever_it_is_called(tmp_path):
    for name in ("train.clean.100-00000-of-00001", "validation.clean", "test.clean"):
        write_parquet(tmp_path / f"{name}.parquet", [{"audio": cell(), "text": "one"}])
    with pytest.raises(SaladError, match=r"has the splits test, train, validation, but split is 'train.clean.360'"):
        opened(tmp_path, split="train.clean.360")
    assert len(opened(tmp_path, split="train.clean.100")[1]) == 1


SPAN = "audio,start_time,end_time,text\nlong.wav,0.0,2.0,first words\nlong.wav,3.0,5.5,second words\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", SPAN),
        ("m.csv", SPAN.replace("start_time,end_time", "offset,end")),
        ("m.jsonl", "".join(
            json.dumps({"audio_filepath": "long.wav", "start": a, "end": b, "text": t}) + "\n"
            for a, b, t in ((0.0, 2.0, "first words"), (3.0, 5.5, "second words")))),
    ],
)  # fmt: skip
def test_a_start_and_an_end_are_a_part_of_a_recording(tmp_path, name, content):
    recorded(tmp_path, "long.wav", seconds=10)
    (tmp_path / name).write_text(content)
    rows = opened(tmp_path / name)[1]
    assert [(r.offset_s, r.duration_s, r.problem) for r in rows] == [(0.0, 2.0, ""), (3.0, 2.5, "")]
    assert len({r.id for r in rows}) == 2


def test_an_end_that_is_no_time_costs_its_row(tmp_path):
    recorded(tmp_path, "long.wav")
    (tmp_path / "m.csv").write_text("audio,start,end,text\nlong.wav,00:00:01,00:00:02,one\n")
    assert "start: '00:00:01', expected seconds as a number" in opened(tmp_path / "m.csv")[1][0].problem


def test_offsets_of_parquet_that_names_files_are_read(tmp_path):
    recorded(tmp_path, "a.wav", seconds=10)
    names = ("audio_filepath", "offset", "duration", "text")
    rows = [dict(zip(names, row, strict=True)) for row in (("a.wav", 0.0, 2.0, "one"), ("a.wav", 3.0, 2.5, "two"))]
    rows = opened(write_parquet(tmp_path / "m.parquet", rows))[1]
    assert [(r.offset_s, r.duration_s, r.problem) for r in rows] == [(0.0, 2.0, ""), (3.0, 2.5, "")]


def test_a_window_that_cuts_a_sentence_is_named(tmp_path):
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
    from lhotse.shar import SharWriter

    recorded(tmp_path, "a.wav", seconds=10)
    cut = MonoCut("c", 0, 10.0, 0, [SupervisionSegment("s", "a", 4.0, 3.0, text="two crosses five"),
                                    SupervisionSegment("u", "a", 8.0, 1.0, text="whole")],
                  recording=Recording.from_file(tmp_path / "a.wav", recording_id="a"))  # fmt: skip
    windows = CutSet.from_cuts([cut]).cut_into_windows(5).to_eager()
    (tmp_path / "shar").mkdir()
    with SharWriter(str(tmp_path / "shar"), fields={"recording": "flac"}) as writer:
        for window in windows:
            writer.write(window)
    rows = opened(tmp_path / "shar")[1]
    assert [bool(r.problem) for r in rows] == [True, True, False] and rows[2].text == "whole"
    assert "goes beyond the cut, which is 5.00 s long; cut with keep_excessive_supervisions=False" in rows[1].problem


def test_common_voice_as_it_ships_asks_for_one_table(tmp_path):
    recorded(tmp_path / "clips", "a.wav", "b.wav")
    for name, clip in (("train", "a"), ("invalidated", "b")):
        (tmp_path / f"{name}.tsv").write_text(f"client_id\tpath\tsentence\n1\t{clip}.wav\tone\n")
    (tmp_path / "clip_durations.tsv").write_text("clip\tduration[ms]\na.wav\t2000\nb.wav\t2100\n")
    with pytest.raises(SaladError, match=r"holds several tables \(.*train.tsv\); give the path of one"):
        opened(tmp_path)
    assert [r.text for r in opened(tmp_path / "train.tsv")[1]] == ["one"]
    assert all("set text_field" in r.problem for r in opened(tmp_path / "clip_durations.tsv")[1])


def test_parts_of_one_table_are_read_together(tmp_path):
    recorded(tmp_path, "a.wav", "b.wav")
    for n, clip in enumerate("ab"):
        (tmp_path / f"part-{n}.csv").write_text(f"audio,text\n{clip}.wav,one\n")
    assert [r.problem for r in opened(tmp_path)[1]] == ["", ""]


def test_tars_that_were_joined_are_read_to_the_end(tmp_path):
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", [(f"{name}.wav", encoded(sound(1.0))), (f"{name}.txt", b"one")])
    both = [(tmp_path / f"{name}.tar").read_bytes() for name in "ab"]
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "all.tar").write_bytes(b"".join(both))
    rows = opened(tmp_path / "all")[1]
    assert [(r.id, r.problem) for r in rows] == [("all/a", ""), ("all/b", "")]
    from salad.data.readers.rows import read_row

    assert all(len(read_row(row, RATE_HZ, max_s=60)) == RATE_HZ for row in rows)
    (tmp_path / "all" / "all.tar").write_bytes(both[0] + b"no tar at all" * 100)
    assert any("is not a whole, uncompressed tar" in r.problem for r in opened(tmp_path / "all")[1])


def test_a_manifest_with_names_of_its_own_is_told(tmp_path):
    recorded(tmp_path / "clips", "a.wav", "b.wav")
    rows = [{"audio": "clips/a.wav", "text": "one"}, {"audio": {"path": "clips/b.wav", "bytes": None}, "text": "two"}]
    write_jsonl(tmp_path / "train.jsonl", rows)
    for place in (tmp_path, tmp_path / "train.jsonl"):
        found, read = opened(place)
        assert found == "nemo" and [(r.text, r.problem) for r in read] == [("one", ""), ("two", "")]
    (tmp_path / "train.jsonl").write_text(json.dumps(rows))
    assert opened(tmp_path / "train.jsonl")[0] == "nemo"
    write_jsonl(tmp_path / "text.jsonl", [{"path": "src/a.py", "text": "a text of a file"}])
    with pytest.raises(SaladError, match="of no known format"):
        opened(tmp_path / "text.jsonl")


def test_splits_that_are_read_together_are_told(tmp_path):
    data = tmp_path / "data"
    for split in ("train", "test"):
        recorded(data / split, "a.wav")
        (data / split / "metadata.csv").write_text("file_name,text\na.wav,one\n")
    assert "splits read together: test, train (give the path of one" in planned(data)[1]


def test_what_datasets_keeps_of_a_map_is_not_read_again(tmp_path):
    pyarrow = need_pyarrow()
    for name in ("my-train", "my-test", "cache-12ab34cd"):
        table = pyarrow.Table.from_pylist([{"audio": cell(), "text": name}])
        with pyarrow.ipc.new_stream(tmp_path / f"{name}.arrow", table.schema) as writer:
            writer.write_table(table)
    assert [r.text for r in opened(tmp_path)[1]] == ["my-train"]


@pytest.mark.parametrize(
    ("name", "head", "kind"), [("a.jsonl.zst", b"\x28\xb5\x2f\xfd", "zstd"), ("a.zip", b"PK\3\4", "zip")]
)
def test_what_is_packed_asks_to_be_unpacked(tmp_path, name, head, kind):
    (tmp_path / name).write_bytes(head + bytes(range(256)) * 20)
    with pytest.raises(SaladError, match=f"{name} is a packed file, which is not read; unpack it first"):
        opened(tmp_path)
    assert f"holds {kind}, expected JSON lines" in read_text(Text(path=tmp_path), lambda _: True)[1][0]["reason"]
    recorded(tmp_path / "more", "a.wav")
    (tmp_path / "more" / "a.txt").write_text("one")
    (tmp_path / "more" / name).write_bytes(head + bytes(100))
    assert name in planned(tmp_path / "more")[1]


def test_of_two_recordings_in_a_row_the_one_called_audio_is_read(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [{"noisy": cell(1), "audio": cell(0, 3.0), "text": "one"}])
    assert opened(path)[1][0].part[-1] == "audio"
    path = write_parquet(tmp_path / "b.parquet", [{"noisy": cell(1), "clean": cell(0, 3.0), "text": "one"}])
    with pytest.raises(SaladError, match="has the recordings noisy, clean in each row; set audio_field to one"):
        opened(path)
    assert opened(path, audio_field="clean")[1][0].part[-1] == "clean"


def test_a_sample_with_several_texts_has_none(tmp_path):
    wav = encoded(sound(1.0, 0))
    write_tar(tmp_path / "a.tar", [("b.wav", wav), ("b.normalized.txt", b"one"), ("b.raw.txt", b"ONE")])
    (row,) = opened(tmp_path)[1]
    assert (
        "has no .json or .txt beside .wav, .normalized.txt, .raw.txt; keep one text, by its name alone" in row.problem
    )


def test_sample_numbers_of_timit_are_no_words(tmp_path):
    data = tmp_path / "data"
    recorded(data, "SA1.wav")
    (data / "SA1.txt").write_text("0 46797 She had your dark suit.")
    assert "text: holds times ('0 46797 ')" in planned(data)[0][0].problem


def test_an_id_of_the_sentence_loses_no_reading_of_it(tmp_path):
    data = tmp_path / "data"
    write_parquet(data / "train.parquet", [{"id": 1, "audio": cell(n), "transcription": "one"} for n in range(3)])
    rows = planned(data)[0]
    assert [(r.id, r.problem) for r in rows] == [("1", ""), ("1~train-0-1", ""), ("1~train-0-2", "")]


def test_parquet_without_a_known_text_asks_for_it(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [{"audio": cell(), "txt": "one"}])
    assert "none of the columns audio, txt of" in opened(path)[1][0].problem
    assert opened(path, text_field="txt")[1][0].text == "one"


def test_libritts_as_it_ships(tmp_path):
    recorded(tmp_path, "a.wav")
    (tmp_path / "a.normalized.txt").write_text("one hundred")
    (tmp_path / "a.original.txt").write_text("100")
    assert [(r.text, r.problem) for r in opened(tmp_path)[1]] == [("one hundred", "")]


def test_nemo_in_tars_is_named(tmp_path):
    write_jsonl(tmp_path / "m.json", [{"audio_filepath": "u.wav", "duration": 1.0, "text": "one", "shard_id": 0}])
    assert (
        "'u.wav' lies in shard 0 of NeMo's tarred form, which is not read" in opened(tmp_path / "m.json")[1][0].problem
    )


def test_what_tells_about_text_is_no_text(tmp_path):
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", [{"text": "one"}])
    (tmp_path / "README.md").write_text("a card")
    (tmp_path / "LICENSE").write_text("a licence")
    (tmp_path / "paper.txt").write_bytes(b"%PDF-1.4 1 0 obj")
    documents, left = read_text(Text(path=tmp_path), lambda _: True)
    assert [d.text for d in documents] == ["one"] and {row["id"] for row in left} == {
        "README.md",
        "LICENSE",
        "paper.txt",
    }
