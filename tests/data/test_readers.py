"""Every layout that people have is told from its content and gives the same plain rows."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from salad.audio import read_audio
from salad.config import Speech, Text
from salad.data.ingest_plan import IngestLimits, make_plan, read_plan
from salad.data.ingest_plan import rows_of as rows_of_plan
from salad.data.plan_stamps import stamp_recordings
from salad.data.readers.columns import need_pyarrow
from salad.data.readers.detect import find_files, kind_of
from salad.data.readers.registry import open_source
from salad.data.readers.rows import Row, check_text, locate, read_row
from salad.data.readers.text import cut_text, read_text
from salad.testing.corpora import (
    RATE_HZ,
    TEXTS,
    audiofolder,
    emilia,
    encoded,
    fineweb_edu,
    folder_with_texts,
    libriheavy,
    nemo,
    smollm_corpus,
    sound,
    web_rows,
    write_jsonl,
    write_tar,
)
from salad.types import SaladError


def rows_of(path, **settings):
    found, rows = open_source(Speech(path=path, **settings))
    return found, list(rows)


def heard(row):
    return read_row(row, RATE_HZ, max_s=60)


# Speech


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"id": 1.5, "book": 0, "source": "talks"}, ("1.5", "0", "talks", None)),
        ({"id": "", "book": ["b"], "source": 3, "duration": -1.0}, ("", "", "", None)),
    ],
)
def test_the_same_fields_say_the_same_in_every_layout(tmp_path, told, expected):
    write_parquet = pytest.importorskip("pyarrow.parquet").write_table
    import pyarrow

    audio, told = encoded(sound(1.0)), {"text": "hello there", "spk": 7, "license": "CC0", "lang": "en", **told}
    for name in ("folder", "nemo", "tar", "parquet"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.flac").write_bytes(audio) if name in ("folder", "nemo") else None
    write_jsonl(tmp_path / "folder" / "metadata.jsonl", [{"file_name": "a.flac", **told}])
    write_jsonl(tmp_path / "nemo" / "m.json", [{"audio_filepath": "a.flac", **told, "duration": 1.0}])
    write_tar(tmp_path / "tar" / "0.tar", [("a.json", json.dumps(told).encode()), ("a.flac", audio)])
    table = pyarrow.Table.from_pylist([{"audio": {"bytes": audio, "path": None}, **told}])
    write_parquet(table, tmp_path / "parquet" / "a.parquet")
    for name in ("folder", "nemo", "tar", "parquet"):
        (row,) = rows_of(tmp_path / name, recording_field="book")[1]
        assert not row.problem and (row.text, row.speaker, row.licence, row.language) == (
            "hello there", "7", "CC0", "en"), name  # fmt: skip
        own_id = row.id if expected[0] else "" if row.id else "none"  # of the file where it tells none
        found = (own_id, row.recording, row.source, None if name == "nemo" else row.duration_s)
        assert found == expected, name


def test_libriheavy_is_lhotse_with_the_texts_of_its_books(tmp_path):
    found, rows = rows_of(libriheavy(tmp_path))
    assert found == "lhotse" and len(rows) == 12 and not any(row.problem for row in rows)
    assert rows[0].text == TEXTS[0] and rows[0].speaker == "100" and rows[1].offset_s == 2.5
    assert len({row.recording for row in rows}) == 3
    whole, _ = soundfile.read(rows[1].audio, dtype="float32")
    assert np.array_equal(heard(rows[1]), whole[40_000:72_000])


def test_lhotse_shar_as_lhotse_writes_it(tmp_path):
    from lhotse import CutSet
    from lhotse.shar import SharWriter

    cuts = CutSet.from_file(libriheavy(tmp_path / "lh")).with_recording_path_prefix(tmp_path / "lh").to_eager()
    (tmp_path / "shar").mkdir()
    with SharWriter(str(tmp_path / "shar"), fields={"recording": "flac"}, shard_size=5) as writer:
        for cut in cuts:
            writer.write(cut)
    found, rows = rows_of(tmp_path / "shar")
    assert found == "shar" and [row.text for row in rows] == [row.text for row in rows_of(tmp_path / "lh")[1]]
    for row, cut in zip(rows, cuts, strict=True):
        assert np.abs(heard(row) - cut.load_audio()[0]).max() < 1e-4
    assert len({row.recording for row in rows}) == 3


def test_lhotse_alignments_come_along_and_count_from_the_row(tmp_path):
    path = libriheavy(tmp_path, books=1, cuts=2)
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    words = TEXTS[1].split()
    aligned = [[word, round(0.1 * n, 3), 0.1, 1.0] for n, word in enumerate(words)]
    rows[1]["supervisions"][0]["alignment"] = {"word": aligned}
    write_jsonl(path, rows)
    row = rows_of(tmp_path)[1][1]
    assert [word for word, *_ in row.words] == words
    assert row.words[3][1:3] == pytest.approx((0.3, 0.4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": [{"type": "command", "channels": [0], "source": "touch /tmp/x"}]}, "commands and addresses"),
        ({"sources": [{"type": "url", "channels": [0], "source": "http://example.org/a.wav"}]}, "are not followed"),
        ({"sources": [{"type": "file", "channels": [0], "source": "../../../etc/passwd"}]}, "lies outside"),
        ({"transforms": [{"name": "Speed", "kwargs": {"factor": 1.1}}]}, "changed on the fly"),
    ],
)
def test_a_cut_that_would_run_or_fetch_something_is_refused(tmp_path, change, message):
    path = libriheavy(tmp_path, books=1, cuts=2)
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    rows[0]["recording"] |= change
    write_jsonl(path, rows)
    first, second = rows_of(tmp_path)[1]
    assert message in first.problem and not second.problem


def test_emilia(tmp_path):
    found, rows = rows_of(emilia(tmp_path))
    assert found == "webdataset" and len(rows) == 9
    assert rows[4].id == "EN_B00000_S00001_W000001" and rows[4].recording == "EN_B00000_S00001"
    assert rows[4].language == "en" and rows[4].text.strip() == TEXTS[2]
    assert abs(len(heard(rows[4])) - 2 * RATE_HZ) < 200


def test_webdataset_with_text_files(tmp_path):
    write_tar(tmp_path / "0.tar", [("a/1.txt", b"hello there"), ("a/1.flac", encoded(sound(1.0)))])
    (row,) = rows_of(tmp_path)[1]
    assert row.text == "hello there" and row.recording == "" and len(heard(row)) == RATE_HZ


def test_nemo(tmp_path):
    found, rows = rows_of(nemo(tmp_path))
    assert found == "nemo" and [row.text for row in rows] == list(TEXTS)
    assert len(heard(rows[0])) == 2 * RATE_HZ and rows[0].recording == ""


def test_a_rounded_duration_cuts_no_recording(tmp_path):
    for name in ("a.wav", "b.wav", "c.wav"):
        soundfile.write(tmp_path / name, sound(2.4), RATE_HZ)
    told = {"a.wav": {"duration": 2}, "b.wav": {"duration": 1.0}, "c.wav": {"duration": 2, "offset": 0}}
    write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": n, "text": "hello", **more} for n, more in told.items()])
    rows = rows_of(tmp_path / "m.jsonl")[1]
    assert [len(heard(row)) / RATE_HZ for row in rows] == [2.4, 1.0, 2.0]  # one of 2 s; cut at 1 s; a part of 2 s
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "x.tar").write_bytes(data)
    member = Row("m", str(tmp_path / "x.tar"), "hello", ("bytes", 0, len(data)), duration_s=1.0, file_s=1.0)
    assert len(heard(member)) / RATE_HZ == 2.4  # a member is all there is, whatever the row says of its length
    with pytest.raises(SaladError, match="but the manifest says 5.00 s"):
        heard(replace(member, duration_s=5.0, file_s=5.0))


def test_nemo_offsets_are_parts_of_their_file(tmp_path):
    soundfile.write(tmp_path / "long.wav", sound(6.0), RATE_HZ)
    lines = [
        {"audio_filepath": "long.wav", "offset": o, "duration": 1.5, "text": t}
        for o, t in zip((0, 2, 4), TEXTS, strict=False)
    ]
    _, rows = rows_of(write_jsonl(tmp_path / "m.json", lines))
    assert {row.recording for row in rows} == {"long.wav"} and len({row.id for row in rows}) == 3
    whole, _ = soundfile.read(tmp_path / "long.wav", dtype="float32")
    assert np.array_equal(heard(rows[1]), whole[32_000:56_000])


@pytest.mark.parametrize("metadata", ["csv", "jsonl"])
def test_audiofolder(tmp_path, metadata):
    found, rows = rows_of(audiofolder(tmp_path, metadata=metadata))
    assert found == "table" and [row.text for row in rows] == list(TEXTS)
    assert len(heard(rows[0])) == 2 * RATE_HZ


def test_tables_of_common_voice_and_ljspeech(tmp_path):
    for name in ("cv/clips/a.mp3", "lj/wavs/LJ001-0001.wav"):
        (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / "cv/clips/a.mp3").write_bytes(encoded(sound(1.0), kind="MP3"))
    soundfile.write(tmp_path / "lj/wavs/LJ001-0001.wav", sound(1.0), RATE_HZ)
    (tmp_path / "cv/validated.tsv").write_text('client_id\tpath\tsentence\tage\nc1\ta.mp3\t"Yes," he said.\t\n')
    (tmp_path / "lj/metadata.csv").write_text("LJ001-0001|Printing, in 1455|Printing, in fourteen fifty-five\n")
    (found, (common,)), (_, (lj,)) = rows_of(tmp_path / "cv"), rows_of(tmp_path / "lj")
    assert found == "table" and (common.text, common.speaker) == ('"Yes," he said.', "c1")
    assert lj.text == "Printing, in 1455" and lj.audio.endswith("LJ001-0001.wav")


def test_a_folder_of_audio_and_texts(tmp_path):
    found, rows = rows_of(folder_with_texts(tmp_path / "own"))
    assert found == "folder" and [row.text for row in rows] == list(TEXTS[:4])


def test_hugging_face_datasets_on_disk_without_decoding(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = {
        "audio": datasets.Audio(decode=False),
        "text": datasets.Value("string"),
        "book": datasets.Value("int64"),
    }
    rows = [
        {"audio": {"bytes": encoded(sound(1.0, n)), "path": f"{n}.flac"}, "text": TEXTS[n], "book": n % 2}
        for n in range(5)
    ]
    table = datasets.Dataset.from_list(rows).cast(datasets.Features(features))
    table.to_parquet(tmp_path / "parquet" / "train-00000-of-00001.parquet", batch_size=2)
    table.select([0]).to_parquet(tmp_path / "parquet" / "test-00000-of-00001.parquet")
    table.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": table}).save_to_disk(tmp_path / "dictionary")
    for name, kind in (("parquet", "parquet"), ("saved", "arrow"), ("dictionary", "arrow")):
        found, own = rows_of(tmp_path / name, recording_field="book")
        assert found == kind and [row.text for row in own] == list(TEXTS[:5])
        assert [row.recording for row in own] == ["0", "1", "0", "1", "0"]
        for n in (4, 0, 3):
            assert np.abs(heard(own[n]) - sound(1.0, n)).max() < 1e-4
    with pytest.raises(SaladError, match="has the splits .'train'., but split is 'dev'"):
        rows_of(tmp_path / "dictionary", split="dev")


def test_a_dataset_whose_audio_are_paths(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    soundfile.write(tmp_path / "a.wav", sound(1.0), RATE_HZ)
    table = pyarrow.Table.from_pylist(
        [
            {"audio": {"bytes": None, "path": "a.wav"}, "sentence": "one"},
            {"audio": {"bytes": None, "path": "/etc/b"}, "sentence": "two"},
        ],
        schema=pyarrow.schema(
            [
                ("audio", pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])),
                ("sentence", pyarrow.string()),
            ]
        ),
    )
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    one, two = rows_of(tmp_path / "x.parquet")[1]
    assert len(heard(one)) == RATE_HZ and "lies outside" in two.problem


def test_a_hub_dataset_is_read_only_when_named_and_says_why_not(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SaladError, match="hub: 'nobody/nothing' .*cannot be loaded"):
        open_source(Speech(hub="nobody/nothing"))
    with pytest.raises(SaladError, match="slices are not read"):
        open_source(Speech(hub="nobody/nothing", split="train[:10]"))


# Detection


def test_content_decides_not_the_name(tmp_path):
    libriheavy(tmp_path / "lh").rename(tmp_path / "lh" / "manifest.txt.gz")
    nemo(tmp_path / "nemo").rename(tmp_path / "nemo" / "data.csv")
    write_tar(tmp_path / "t" / "data.bin", [("1.txt", b"hello"), ("1.flac", encoded(sound(0.5)))])
    assert [find_files(tmp_path / name)[0] for name in ("lh", "nemo", "t")] == ["lhotse", "nemo", "webdataset"]


def test_a_format_can_be_forced_and_a_pattern_given(tmp_path):
    nemo(tmp_path).rename(tmp_path / "a.odd")
    assert rows_of(tmp_path / "a.odd", format="nemo")[0] == "nemo"
    emilia(tmp_path / "e")
    assert len(rows_of(tmp_path / "e" / "**" / "EN-*.tar")[1]) == 9


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing", None, "holds no file"),
        ("a.md", b"# A page\n", "of no known format .found 1 text.*expected one of shar, lhotse"),
        ("r.jsonl", b'{"id": "r", "sources": [], "sampling_rate": 16000}\n', "make cuts of both"),
        ("t.tar.gz", None, "gunzip it first"),
    ],
)
def test_what_is_not_known_is_named(tmp_path, name, content, message):
    if name == "t.tar.gz":
        content = gzip.compress(write_tar(tmp_path / "x", [("1.txt", b"hello")]).read_bytes())
        (tmp_path / "x").unlink()
    with pytest.raises(SaladError, match="in does not exist"):
        find_files(tmp_path / "in")
    folder = tmp_path / "in"
    folder.mkdir()
    if content:
        (folder / name).write_bytes(content)
    with pytest.raises(SaladError, match=message):
        find_files(folder)


MARKS = [b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n", b"\xff\xfe", b"\xfe\xff", b"\xc2\xa0\n", b"\x1f"]


@pytest.mark.parametrize("data", MARKS)
def test_a_mark_or_white_space_alone_is_an_empty_file(tmp_path, data):
    (tmp_path / "a.txt").write_bytes(data)
    assert kind_of(tmp_path / "a.txt") == "empty" and read_text(Text(path=tmp_path), lambda text: True) == ([], [])
    with pytest.raises(SaladError, match="of no known format .found 1 empty"):
        find_files(tmp_path)


def test_half_of_a_mark_is_a_text_that_is_not_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff")
    documents, [aside] = read_text(Text(path=tmp_path), lambda text: True)
    assert not documents and "is not UTF-8" in aside["reason"]


@pytest.mark.parametrize("name", ["../x.wav", "a/../../x.wav", "/etc/passwd", "a/\0b.wav", "", 3])
def test_no_path_leads_out_of_its_folder(tmp_path, name):
    with pytest.raises(SaladError, match="lies outside|expected the path"):
        locate(name, tmp_path, trusted=False)


def test_a_trusted_manifest_may_name_any_file(tmp_path):
    assert locate("../x.wav", tmp_path / "a", trusted=True) == str(tmp_path / "x.wav")
    assert locate("b/../c.wav", tmp_path, trusted=False) == str(tmp_path / "c.wav")


# Folders as they come from a disk


def recorded(folder, *names, text=None):
    """Recordings that can be told apart, with or without a text beside each."""
    for n, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(sound(1.0, n), kind="MP3" if name.endswith(".mp3") else "WAV"))
        if text is not None:
            path.with_suffix(".txt").write_text(text)
    return folder


def texts_of(folder, **settings):
    """Id -> text, or the problem."""
    return {row.id: row.problem or row.text for row in rows_of(folder, **settings)[1]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README.md", "# Recordings, by me\nmade in 2020, at home\n"),
        ("notes.csv", "date,mood\n2020,good\n"),
        ("settings.json", '{"gain": 3}\n'),
        ("prices.csv", "when;how much\nMay;3\n"),
    ],
)
def test_a_page_or_list_beside_recordings_does_not_hide_them(tmp_path, name, content):
    recorded(tmp_path, "a.wav", "b.wav", text="hello")
    (tmp_path / name).write_text(content)
    assert rows_of(tmp_path)[0] == "folder" and texts_of(tmp_path) == {"a.wav": "hello", "b.wav": "hello"}
    (tmp_path / "list.csv").write_text("path,text\na.wav,good morning\n")
    found, rows = rows_of(tmp_path)
    assert found == "table" and [row.text for row in rows] == ["good morning"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", "path;text\na.wav;well, hello\nb.wav;good night\n"),
        ("m.csv", "a.wav;well, hello\nb.wav;good night\n"),
        ("m.csv", 'wav_file,words\na.wav,"well, hello"\nb.wav,good night\n'),
        ("m.csv", 'words,wav_file\n"well, hello",a.wav\ngood night,b.wav\n'),
        ("m.tsv", "speaker\trecording\ttext\nme\ta.wav\twell, hello\nme\tb.wav\tgood night\n"),
        ("m.csv", "path|text\n.\\a.wav|well, hello\nb.wav|good night\n"),
        ("m.csv", "\ufeffpath\ttext\na.wav\twell, hello\nb.wav\tgood night\n"),
        ("m.txt", "path\ttext\na.wav\twell, hello\nb.wav\tgood night\n"),
        ("m.json", '[{"audio_filepath": "a.wav", "text": "well, hello"},\n'
                   ' {"audio_filepath": "b.wav", "text": "good night"}]'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_tables_as_spreadsheets_and_windows_write_them(tmp_path, name, content, encoding):
    (recorded(tmp_path, "a.wav", "b.wav") / name).write_text(content.removeprefix("\ufeff" * (encoding == "utf-16")),
                                                             encoding=encoding)  # fmt: skip
    rows = rows_of(tmp_path)[1]
    assert [row.text for row in rows] == ["well, hello", "good night"] and not any(row.problem for row in rows)
    assert [len(heard(row)) for row in rows] == [RATE_HZ] * 2


def note_of(place, **settings):
    entry = Speech(path=place, **settings)
    make_plan(place.parent / "plan", [(entry, *open_source(entry))], IngestLimits(0.1, 60, 1000, 10, 0.6))
    return read_plan(place.parent / "plan")[1][0].note


def test_data_of_another_format_in_a_folder_are_named(tmp_path):
    pytest.importorskip("pyarrow")
    folder, audio = tmp_path / "d", encoded(sound(0.5))
    write_parquet(folder / "b.parquet", [{"audio": {"bytes": audio, "path": ""}, "text": "p"}])
    (folder / "README.md").write_text("# Recordings, by me\n")
    assert note_of(folder) == ""
    write_tar(folder / "a.tar", [("k.flac", audio), ("k.txt", b"x")])
    told = "data of another format (give it an entry of its own), not read: 1 (b.parquet)"
    assert note_of(folder) == told and note_of(folder, format="webdataset") == ""
    recorded(folder, "x/0.wav", text="hello")
    assert note_of(folder) == f"{told}; recordings that no row names, not read: 1 (0.wav)"


def test_recordings_that_a_table_does_not_list_are_counted(tmp_path):
    folder = recorded(tmp_path / "d", *(f"{n}.wav" for n in range(6)), "sub/ü.wav")
    (folder / "metadata.csv").write_text("path,text\n0.wav,hi\nsub/ü.wav,ho\n", encoding="utf-8")
    told = "recordings that no row names, not read: 5 (1.wav, 2.wav, 3.wav, ...)"
    assert note_of(folder) == note_of(folder, format="table") == told
    assert note_of(folder, max_hours=1e-9) == "stopped after max_hours: 1e-09"


def test_a_table_without_a_known_text_says_so_and_guesses_nothing(tmp_path):
    (recorded(tmp_path, "a.wav") / "m.csv").write_text("clip,who,words\na.wav,Anna Lee,hello\n")
    assert "none of the columns audio, who, words" in texts_of(tmp_path)["a.wav"]
    assert texts_of(tmp_path, text_field="words") == {"a.wav": "hello"}


def test_a_json_array_cut_in_the_middle_or_with_other_things_is_named(tmp_path):
    folder = recorded(tmp_path / "d", "a.wav")
    (folder / "m.json").write_text('[{"audio_filepath": "a.wav", "text": "hello"}, 3]')
    first, second = rows_of(folder)[1]
    assert first.text == "hello" and not first.problem
    assert second.problem.endswith("m.json item 2: expected a JSON object, got 3")
    (folder / "m.json").write_text('[{"audio_filepath": "a.wav", "text": "hel')
    (row,) = rows_of(folder)[1]
    assert "is not whole JSON" in row.problem


def test_windows_paths_lead_no_further_than_others(tmp_path):
    assert locate("clips\\a.wav", tmp_path, trusted=False) == str(tmp_path / "clips" / "a.wav")
    with pytest.raises(SaladError, match="lies outside"):
        locate("..\\..\\etc\\passwd", tmp_path, trusted=False)
    (tmp_path / "a\\b.wav").touch()
    assert locate("a\\b.wav", tmp_path, trusted=False) == str(tmp_path / "a\\b.wav")


def test_librispeech_as_it_is_shipped(tmp_path):
    recorded(tmp_path, "dev/84/121/84-121-0000.wav", "dev/84/121/84-121-0001.wav", "dev/84/122/84-122-0000.wav")
    (tmp_path / "README.TXT").write_text("LibriSpeech, a corpus of read speech\n")
    (tmp_path / "SPEAKERS.TXT").write_text(";ID |SEX| SUBSET\n84 | F | dev-clean\n")
    (tmp_path / "dev/84/121/84-121.trans.txt").write_text("84-121-0000 GO DO YOU HEAR\n84-121-0001 BUT IN LESS\n")
    (tmp_path / "dev/84/122/84-122.trans.txt").write_text("84-122-0001 ANOTHER\n")
    found, rows = rows_of(tmp_path)
    assert found == "folder" and [row.text for row in rows] == ["GO DO YOU HEAR", "BUT IN LESS", ""]
    assert [row.speaker for row in rows[:2]] == ["84", "84"] and "no 84-122-0000.txt or .lab" in rows[2].problem


def test_vctk_as_it_is_shipped(tmp_path):
    names = [f"wav48_silence_trimmed/p225/p225_00{n}_mic{m}.wav" for n in (1, 2) for m in (1, 2)]
    recorded(tmp_path, *names)
    for n in (1, 2):
        path = tmp_path / f"txt/p225/p225_00{n}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"Please call Stella {n}.")
    (tmp_path / "speaker-info.txt").write_text("ID  AGE  GENDER  ACCENTS\np225  23  F  English\n")
    found, rows = rows_of(tmp_path)
    assert found == "folder" and {row.speaker for row in rows} == {"p225"}
    first, second = rows[::2], rows[1::2]
    assert [row.text for row in first] == ["Please call Stella 1.", "Please call Stella 2."]
    assert all("is of p225_00" in row.problem for row in second)


def test_one_text_is_of_one_recording_and_the_lossless_one_is_kept(tmp_path):
    recorded(tmp_path, "a.mp3", "a.wav", "b.mp3", text="hello")
    found = texts_of(tmp_path)
    assert found["a.wav"] == found["b.mp3"] == "hello" and "a.txt is of a.wav already" in found["a.mp3"]


@pytest.mark.parametrize(
    ("audio", "text", "data"),
    [
        ("A.WAV", "A.TXT", b"hello"),
        ("a.wav", "a.LAB", b"hello"),
        ("a.wav", "a.txt", "hello".encode("utf-16")),
        ("a.wav", "a.txt", b"\xfe\xff" + "hello".encode("utf-16-be")),
        ("a.wav", "a.txt", b"\xef\xbb\xbfhello"),
    ],
)
def test_texts_as_windows_writes_them(tmp_path, audio, text, data):
    (recorded(tmp_path, audio) / text).write_bytes(data)
    assert texts_of(tmp_path) == {audio: "hello"}


def test_every_recording_has_a_row_also_behind_links_and_of_kinds_nobody_reads(tmp_path):
    recorded(tmp_path / "disk", "s/a.wav", text="hello")
    folder = recorded(tmp_path / "own", "b.wav", text="hello")
    (folder / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(folder)  # round in a circle
    for name, head in (("c.wma", b"\x30\x26\xb2\x75"), ("d.amr", b"#!AMR\n"), ("e.ape", b"MAC ")):
        (folder / name).write_bytes(head + bytes(100))
        (folder / name).with_suffix(".txt").write_text("hello")
    for name in ("__MACOSX/x.wav", "._b.wav"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"\0\5\26\7")
    rows = {row.id: row for row in rows_of(folder)[1]}
    assert set(rows) == {"b.wav", "link/s/a.wav", "c.wma", "d.amr", "e.ape"}
    assert len(heard(rows["link/s/a.wav"])) == RATE_HZ
    for name in ("c.wma", "d.amr", "e.ape"):
        with pytest.raises(SaladError, match=f"{name} .*(cannot be decoded|holds no audio|needs PyAV)"):
            heard(rows[name])


# Tables and manifests that others reported


def folder_of(tmp_path, number=8):
    return recorded(tmp_path / "d", *(f"{n}.wav" for n in range(number)))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize(
    ("spoilt", "read"),
    [
        ({1: '"Begin of a quotation', 3: 'its end" he said'}, {1: '"Begin of a quotation', 3: 'its end" he said'}),
        ({1: '"Begin of it', 3: 'and the end"'}, {1: '"Begin of it', 3: 'and the end"'}),
        ({1: '"Yes" he said', 2: '"No" she said', 7: '"'}, {1: '"Yes" he said', 2: '"No" she said', 7: '"'}),
        ({0: '"Go', 7: '"and', 5: '6" of snow'}, {0: '"Go', 7: '"and', 5: '6" of snow'}),
        ({2: '"She said ""go"", twice"'}, {2: 'She said "go", twice'}),
        ({2: '"first line\nsecond, ""line"""'}, {2: 'first line second, "line"'}),
    ],
)
def test_a_quote_that_begins_a_text_swallows_no_row(tmp_path, delimiter, header, spoilt, read):
    folder = folder_of(tmp_path)
    texts = [f"text {n}" for n in range(8)]
    lines = [f"{n}.wav{delimiter}{spoilt.get(n, text)}" for n, text in enumerate(texts)]
    (folder / "m.csv").write_text("\n".join([f"path{delimiter}text"] * header + lines) + "\n")
    found = {row.id: row for row in rows_of(folder)[1]}
    assert set(found) == {f"{n}.wav" for n in range(8)} and not any(row.problem for row in found.values())
    assert [" ".join(found[f"{n}.wav"].text.split()) for n in range(8)] == [
        read.get(n, text) for n, text in enumerate(texts)
    ]


@pytest.mark.parametrize("header", ["", "path;text\n"])
def test_what_stands_in_many_lines_of_quotes_is_no_row(tmp_path, header):
    """Lines of a text that hold as many delimiters as a row, without a row that stands on one line."""
    folder = recorded(tmp_path / "d", "a.wav", "b.wav", "c.wav")
    (folder / "m.csv").write_text(header + 'a.wav;"0\n\n0;0;\n0"\nb.wav;";\n\n;;;0"\nc.wav;"0;\n0"\n')
    found = {row.id: row.problem or check_text(row.text) for row in rows_of(folder, format="table")[1]}
    assert found == {"a.wav": "0 0;0; 0", "b.wav": "; ;;;0", "c.wav": "0; 0"}


def test_a_row_whose_recording_is_missing_is_a_row(tmp_path):
    """Ids without an ending: what names no file here still looks like the row before."""
    folder = folder_of(tmp_path, 3)
    (folder / "m.csv").write_text('0,"He said\n77,and left"\n2,c\n')
    found = {row.id: row.problem or row.text for row in rows_of(folder)[1]}
    assert found == {"0": '"He said', "77": 'and left"', "2": "c"}


def test_the_delimiter_that_a_spreadsheet_names_is_no_row(tmp_path):
    folder = folder_of(tmp_path, 2)
    (folder / "m.csv").write_bytes('sep=;\r\npath;text\r\n0.wav;a\r\n1.wav;"b; c"\r\n'.encode("utf-8-sig"))
    assert texts_of(folder) == {"0.wav": "a", "1.wav": "b; c"}


def test_texts_over_many_lines_do_not_hide_what_parts_the_columns(tmp_path):
    folder = folder_of(tmp_path, 2)
    (folder / "m.csv").write_text('0.wav,"a\tb\nc"\n1.wav,"d\ne"\n')
    assert {row.id: row.text for row in rows_of(folder)[1]} == {"0.wav": "a\tb\nc", "1.wav": "d\ne"}


def test_a_row_with_too_many_columns_is_named_and_not_cut(tmp_path):
    folder = folder_of(tmp_path, 4)
    (folder / "m.csv").write_text('path,text\n0.wav,well, hello\n1.wav,"Yes," he said\n2.wav,"a\n3.wav,b,\n')
    found = {row.id: row.problem or row.text for row in rows_of(folder)[1]}
    assert found.pop("m.csv:2").endswith("line 2: 3 columns, expected 2; put a text that holds ',' in quotes, and "
                                         "double the quotes in it")  # fmt: skip
    assert found == {"1.wav": '"Yes," he said', "2.wav": '"a', "3.wav": "b"}
    (folder / "m.csv").write_text('path,text\n0.wav,"a\nno row\n1.wav,b\n')
    first, second, third = rows_of(folder)[1]
    assert "a quote begins a cell of this line" in first.problem and "1 columns" in second.problem and third.text == "b"


@pytest.mark.parametrize(
    ("texts", "read"),
    [
        (["Yes, I know.", "No, I do not.", "Well, maybe.", "Fine."], ["", "", "", "Fine."]),
        (["Yes, I know.", "No, I do not."], ["", ""]),  # all alike: a further cell begins with a space
        (["Yes,I know.", "No,I do not.", "Fine."], ["", "", "Fine."]),  # rows differ
        (["Yes,me", "No,you", "Fine,me,too"], ["Yes", "No", ""]),  # a third column that no text spills into
        (["Yes,", "No,", "Fine"], ["Yes", "No", "Fine"]),
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_text_that_spills_over_its_column_is_named_without_a_header_too(tmp_path, texts, read, delimiter):
    folder = folder_of(tmp_path, len(texts))
    lines = [f"{n}.wav{delimiter}{text.replace(',', delimiter)}" for n, text in enumerate(texts)]
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    rows = rows_of(folder)[1]
    assert [row.text for row in rows] == read
    assert all(("columns, expected" in row.problem) == (not row.text) for row in rows)
    assert all("or name the columns in the first line" in row.problem for row in rows if row.problem)


def test_the_third_column_of_ljspeech_is_no_text_that_spilled(tmp_path):
    folder = folder_of(tmp_path, 2)
    (folder / "m.csv").write_text("0|In 1866| In eighteen sixty-six\n1|Yes| Yes\n")
    assert [(row.text, row.problem) for row in rows_of(folder)[1]] == [("In 1866", ""), ("Yes", "")]


@pytest.mark.parametrize(
    "lines",
    [
        ["0.wav, hello world, speaker1", "1.wav, good bye, speaker1"],
        ["0.wav,hello world,speaker1", "1.wav,good bye,speaker1", "2.wav,yes"],
    ],
)
def test_a_speaker_behind_the_text_is_no_text_that_spilled(tmp_path, lines):
    folder = folder_of(tmp_path, len(lines))
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    rows = rows_of(folder)[1]
    assert [(row.text, row.problem) for row in rows][:2] == [("hello world", ""), ("good bye", "")]


def test_an_empty_line_may_stand_above_a_manifest(tmp_path):
    (recorded(tmp_path, "a.wav") / "metadata.jsonl").write_text('\n \n{"file_name": "a.wav", "text": "hello"}\n')
    assert texts_of(tmp_path) == {"a.wav": "hello"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", "path,text,offset,duration\na.wav,one,0.25,0.5\na.wav,two,0.75,0.25\na.wav,all,,\n"),
        ("metadata.jsonl", '{"file_name": "a.wav", "text": "one", "offset": 0.25, "duration": 0.5}\n'
                           '{"file_name": "a.wav", "text": "two", "offset": 0.75, "duration": 0.25}\n'
                           '{"file_name": "a.wav", "text": "all"}\n'),
    ],
)  # fmt: skip
def test_times_in_a_table_are_those_of_nemo(tmp_path, name, content):
    (recorded(tmp_path, "a.wav") / name).write_text(content)
    rows = rows_of(tmp_path)[1]
    assert [(row.id, row.offset_s, row.start_s, row.duration_s, row.recording) for row in rows] == [
        ("a.wav@0.250", 0.25, 0.25, 0.5, "a.wav"),
        ("a.wav@0.750", 0.75, 0.75, 0.25, "a.wav"),
        ("a.wav", 0.0, None, None, ""),
    ]
    assert [len(heard(row)) / RATE_HZ for row in rows] == [0.5, 0.25, 1.0]


def test_a_time_in_a_table_that_is_no_number_costs_its_row(tmp_path):
    (recorded(tmp_path, "a.wav") / "m.csv").write_text("path,text,offset\na.wav,one,0:25\na.wav,two,0.5\n")
    one, two = rows_of(tmp_path)[1]
    assert one.problem.startswith("offset: '0:25', expected seconds as a number") and not two.problem


@pytest.mark.parametrize("duration", ["00:01", "1.0s", "nan", "1000"])
def test_a_length_in_a_unit_of_its_own_costs_nothing(tmp_path, duration):
    (recorded(tmp_path, "a.wav") / "m.csv").write_text(f"path,text,duration\na.wav,one,{duration}\n")
    (row,) = rows_of(tmp_path)[1]
    assert (row.text, row.problem, row.duration_s) == ("one", "", None)


def test_a_json_array_may_begin_with_what_is_no_row(tmp_path):
    (recorded(tmp_path, "a.wav") / "m.json").write_text(
        '[null, {"audio_filepath": "a.wav", "text": "hi", "offset": 0.25, "duration": 0.5}]'
    )
    found, (first, second) = rows_of(tmp_path)
    assert found == "nemo" and "expected a JSON object, got None" in first.problem
    assert (second.offset_s, second.duration_s, second.problem) == (0.25, 0.5, "")


def test_a_name_with_dots_is_a_column_before_it_is_a_path(tmp_path):
    (recorded(tmp_path / "csv", "a.wav") / "m.csv").write_text("path,meta.text\na.wav,hello\n")
    assert texts_of(tmp_path / "csv", text_field="meta.text") == {"a.wav": "hello"}
    write_jsonl(nemo(tmp_path / "nemo"), [{"audio_filepath": "0.flac", "a.b": "whole", "a": {"b": "part"}}])
    assert [row.text for row in rows_of(tmp_path / "nemo", text_field="a.b")[1]] == ["whole"]
    write_jsonl(tmp_path / "t.jsonl", [{"meta": {"text": "in it"}}])
    assert [d.text for d in read_text(Text(path=tmp_path / "t.jsonl", text_field="meta.text"), bool)[0]] == ["in it"]


@pytest.mark.parametrize("inner", [True, False])
def test_a_column_of_parquet_may_have_dots_in_its_name(tmp_path, inner):
    pytest.importorskip("pyarrow")
    pyarrow = need_pyarrow()
    table = {"meta": [{"text": "One", "kind": "x"}]} if inner else {"meta.text": ["One"], "meta.kind": ["x"]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "text.parquet")
    entry = Text(path=tmp_path / "text.parquet", text_field="meta.text", domain_field="meta.kind")
    assert [(d.text, d.domain) for d in read_text(entry, bool)[0]] == [("One", "x")]
    table["audio"] = [{"bytes": encoded(sound(0.5)), "path": None}]
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "speech.parquet")
    assert [row.text for row in rows_of(tmp_path / "speech.parquet", text_field="meta.text")[1]] == ["One"]


LICENCES, LANGUAGES = ("license", "licence"), ("language", "lang", "locale")


@pytest.mark.parametrize("licence", LICENCES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_licence_and_language_are_known_by_every_spelling(tmp_path, licence, language):
    pytest.importorskip("pyarrow")
    pyarrow = need_pyarrow()
    told, audio = {licence: "CC0", language: "de"}, encoded(sound(0.5))
    write_tar(tmp_path / "tar" / "s.tar", [("a.flac", audio), ("a.json", json.dumps({"text": "a", **told}).encode())])
    row = {"audio": {"bytes": audio, "path": None}, "text": "a", **told}
    (tmp_path / "parquet").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "parquet" / "a.parquet")
    recorded(tmp_path / "table", "a.wav")
    (tmp_path / "table" / "m.csv").write_text(f"path,text,{licence},{language}\na.wav,a,CC0,de\n")
    write_jsonl(tmp_path / "nemo" / "m.jsonl", [{"audio_filepath": "a.wav", "text": "a", **told}])
    for kind in ("tar", "parquet", "table", "nemo"):
        assert [(own.licence, own.language) for own in rows_of(tmp_path / kind)[1]] == [("CC0", "de")], kind


@pytest.mark.parametrize("licence", LICENCES)
def test_lhotse_names_a_licence_by_every_spelling(tmp_path, licence):
    path = libriheavy(tmp_path, books=1, cuts=1)
    [cut] = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    cut["supervisions"][0].setdefault("custom", {})[licence] = "CC0"
    write_jsonl(path, [cut])
    assert [row.licence for row in rows_of(tmp_path)[1]] == ["CC0"]


def write_parquet(path, rows):
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    audio = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("audio", audio), ("text", pyarrow.string())])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)


@pytest.mark.parametrize(
    ("names", "split", "read"),
    [
        (["trains-and-stations", "birds", "rivers"], "train", {0, 1, 2}),
        (["trains-and-stations", "testimony", "devices"], "test", {0, 1, 2}),
        (["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"], "train", {0, 1}),
        (["data/training", "data/validation-0", "data/dev_1"], "validation", {1, 2}),
        (["train/a", "test/trains", "b"], "train", {0, 2}),
        (["clean/train.100-00000", "eval/x", "clean/test"], "test", {1, 2}),
        (["my-split-00000-of-00001", "other"], "my-split", {0}),
    ],
)
def test_parquet_files_are_of_a_split_by_the_rules_of_datasets(tmp_path, names, split, read):
    pytest.importorskip("pyarrow")
    for n, name in enumerate(names):
        write_parquet(tmp_path / f"{name}.parquet", [{"audio": {"bytes": b"x", "path": ""}, "text": str(n)}])
    assert {int(row.text) for row in rows_of(tmp_path, split=split)[1]} == read


@pytest.mark.parametrize(
    ("names", "split", "left"),
    [
        (["test-drives", "birds", "rivers"], "test", ["birds", "rivers"]),
        (["test-drives", "birds", "rivers"], "train", ["test-drives"]),
        (["train-00000-of-00001-a1b2c3", "test-00000-of-00001", "dev/birds"], "test", []),
    ],
)
def test_files_that_a_split_passes_over_are_named(tmp_path, names, split, left):
    pytest.importorskip("pyarrow")
    for name in names:
        write_parquet(tmp_path / "d" / f"{name}.parquet", [{"audio": {"bytes": b"x", "path": ""}, "text": "a"}])
    note = note_of(tmp_path / "d", split=split)
    told = f"not read: {len(left)} ({', '.join(f'{name}.parquet' for name in left)})"
    assert told in note if left else note == ""


def test_a_split_that_is_not_there_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    write_parquet(tmp_path / "test.parquet", [{"audio": {"bytes": b"x", "path": ""}, "text": "a"}])
    with pytest.raises(SaladError, match="has the splits test, but split is 'train'"):
        rows_of(tmp_path)
    assert len(rows_of(tmp_path / "test.parquet")[1]) == 1


@pytest.mark.parametrize("inside", [True, False])
def test_null_rows_of_parquet_cost_only_themselves(tmp_path, inside):
    pytest.importorskip("pyarrow")
    soundfile.write(tmp_path / "a.wav", sound(1.0), RATE_HZ)
    audio = {"bytes": encoded(sound(1.0)) if inside else None, "path": "a.wav"}
    rows = [
        {"audio": audio, "text": "one"},
        {"audio": None, "text": "two"},
        {"audio": audio, "text": None},
        {"audio": audio, "text": "four"},
    ]
    write_parquet(tmp_path / "x.parquet", rows)
    one, two, three, four = rows_of(tmp_path / "x.parquet")[1]
    assert len(heard(one)) == len(heard(four)) == RATE_HZ and (one.text, three.text, four.text) == ("one", None, "four")
    if inside:
        with pytest.raises(SaladError, match="holds no bytes"):
            heard(two)
    else:
        assert "expected the path of a file, got None" in two.problem


def test_parquet_whose_text_nobody_knows_keeps_its_rows(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    for more in ({}, {"words_said": "hello"}):
        row = {"audio": {"bytes": encoded(sound(0.5)), "path": None}, **more}
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row] * 3), tmp_path / "x.parquet")
        assert [row.text for row in rows_of(tmp_path / "x.parquet")[1]] == [None] * 3


@pytest.mark.parametrize("name", ["\\ud800.wav", "a\\u0000b.wav", "\\udcff.wav", "x" * 400])
def test_a_name_that_no_file_can_have_costs_its_row(tmp_path, name):
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(f'{{"audio_filepath": "{name}", "text": "hi"}}\n')
    entry = Speech(path=manifest)
    make_plan(tmp_path / "plan", [(entry, *open_source(entry))], IngestLimits(0.1, 60, 1000, 10, 0.6))
    assert len(read_plan(tmp_path / "plan")[0]) == 1 and len(stamp_recordings(tmp_path / "plan")) == 16


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "NaN", "1e400", "-1", "0", '"long"', "1" + "0" * 400])
@pytest.mark.parametrize("field", ["duration", "offset"])
def test_a_time_that_is_none_costs_its_row(tmp_path, field, value):
    manifest = nemo(tmp_path)
    lines = manifest.read_text().splitlines()
    lines[2] = (
        lines[2]
        .replace("{", f'{{"{field}": {value}, ', 1)
        .replace(', "duration": 2.0', "" if field == "duration" else ', "duration": 2.0')
    )
    manifest.write_text("\n".join(lines) + "\n")
    make_plan(
        tmp_path / "plan", [(entry := Speech(path=manifest), *open_source(entry))], IngestLimits(0.1, 60, 1000, 10, 0.6)
    )
    documents, _ = read_plan(tmp_path / "plan")
    rows = [row for document in documents for row in rows_of_plan(tmp_path / "plan", document.number)]
    assert (
        len(rows) == 6 and [row.text for row in rows if not row.problem] == [t for n, t in enumerate(TEXTS) if n != 2]
    ) or (field == "offset" and value == "0")
    (told,) = [row.problem for row in rows if row.problem] or ["offset 0 is none"]
    assert field in told or "as expected" in told


def test_the_first_lines_of_a_manifest_may_be_damaged(tmp_path):
    manifest = nemo(tmp_path)
    manifest.write_text('null\n{"text": "no audio"}\n' + manifest.read_text() + "[1]\n")
    found, rows = rows_of(tmp_path)
    assert found == "nemo" and [row.text for row in rows if not row.problem] == list(TEXTS)
    assert [row.id for row in rows if row.problem] == [
        "train_manifest.json:1",
        "train_manifest.json:2",
        "train_manifest.json:9",
    ]


@pytest.mark.parametrize("pack", [lzma.compress, bz2.compress, gzip.compress])
def test_packed_manifests_and_those_with_a_mark_at_their_beginning(tmp_path, pack):
    for n, name in enumerate(("nemo", "lhotse", "table")):
        folder = tmp_path / name
        path = (
            nemo(folder)
            if n == 0
            else libriheavy(folder)
            if n == 1
            else audiofolder(folder, metadata="jsonl") / "data/train/metadata.jsonl"
        )
        data = path.read_bytes()
        data = gzip.decompress(data) if n == 1 else data
        path.unlink()
        path.with_name("metadata.jsonl.xz").write_bytes(pack(b"\xef\xbb\xbf" + data))
        found, rows = rows_of(folder)
        assert found == name and len(rows) in (6, 12) and not any(row.problem for row in rows)


# WebDataset


def members(*names, json_of=lambda name: {"text": f"text of {name}"}):
    """A recording, or a description, for each name."""
    return [
        (name, json.dumps(json_of(name)).encode() if name.endswith(".json") else encoded(sound(0.5, n)))
        for n, name in enumerate(names)
    ]


@pytest.mark.parametrize(
    ("names", "texts"),
    [
        (["u.001.flac", "u.001.json", "u.002.flac", "u.002.json"], {"s/u.001": "u.001.json", "s/u.002": "u.002.json"}),
        (["v1.2/u.0.flac", "v1.2/u.0.json"], {"s/v1.2/u.0": "v1.2/u.0.json"}),
        (["a.flac", "b.flac", "a.json", "b.json"], {"s/a": "a.json", "s/b": "b.json"}),
        (["u.1.flac", "u.2.flac", "u.1.json", "u.2.json"], {"s/u.1": "u.1.json", "s/u.2": "u.2.json"}),
        (["a.flac", "a.json", "a.more.json"], {"s/a": "a.json"}),
        (["a.mic1.flac", "a.json", "a.mic2.flac"], {"s/a.mic1": "a.json", "s/a.mic2": "a.json"}),
        (["a.audio.flac", "a.json"], {"s/a": "a.json"}),
        (["a.audio.flac", "a.more.json", "b.audio.flac", "b.more.json"], {"s/a": "a.more.json", "s/b": "b.more.json"}),
        (["._a.flac", "a.FLAC", "a.JSON.json"], {}),
    ],
)
def test_keys_with_dots_and_members_apart(tmp_path, names, texts):
    write_tar(tmp_path / "s.tar", members(*names))
    rows = rows_of(tmp_path)[1]
    assert {row.id: row.text for row in rows if not row.problem} == {
        k: f"text of {v}" for k, v in texts.items()
    } or not texts
    assert len(rows) == (len(texts) or 1) and all(len(heard(row)) == RATE_HZ // 2 for row in rows if not row.problem)


@pytest.mark.parametrize("fields", [{"speaker": "me"}, {"speaker": "me", "text": " "}, {"speaker": "me", "text": None}])
@pytest.mark.parametrize("ending", ["txt", "lab"])
def test_a_text_beside_a_description_without_one(tmp_path, fields, ending):
    [flac] = members("k.flac")
    write_tar(tmp_path / "s.tar", [flac, ("k.json", json.dumps(fields).encode()), (f"k.{ending}", b"hello")])
    assert [(row.text, row.speaker) for row in rows_of(tmp_path)[1]] == [("hello", "me")]
    write_tar(tmp_path / "s.tar", [flac, ("k.json", b'{"text": "of the json"}'), (f"k.{ending}", b"hello")])
    assert texts_of(tmp_path) == {"s/k": "of the json"}


def test_texts_of_a_tar_in_other_encodings(tmp_path):
    [flac, _] = members("a.flac", "a.json")
    both = [("u.1.flac", flac[1]), ("u.1.txt", "One".encode("utf-16")), ("u.2.flac", flac[1])]
    write_tar(tmp_path / "s.tar", [*both, ("u.2.json", json.dumps({"text": "Two"}).encode("utf-8-sig"))])
    assert texts_of(tmp_path) == {"s/u.1": "One", "s/u.2": "Two"}


def test_members_without_a_partner_and_twice_are_named_each(tmp_path):
    write_tar(tmp_path / "s.tar", members("u.1.flac", "u.2.json", "u.3.flac", "u.3.json", "b.flac", "b.flac", "b.json"))
    found = {row.id: row.problem for row in rows_of(tmp_path)[1]}
    assert set(found) == {"s/u.1", "s/u.2", "s/u.3", "s/b", "s/b.flac (again)"}
    assert not found["s/u.3"] and not found["s/b"]
    assert (
        "has no .json or .txt" in found["s/u.1"]
        and "has no audio" in found["s/u.2"]
        and "twice" in found["s/b.flac (again)"]
    )


# Names


@pytest.mark.parametrize(("disk", "told"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_are_found_however_their_letters_are_composed(tmp_path, disk, told):
    def on_disk(name):
        return unicodedata.normalize(disk, name)

    name, folder = "Ärger/café", tmp_path / "d"
    recorded(folder, on_disk(f"{name}.wav"))
    row = {"audio_filepath": unicodedata.normalize(told, f"{name}.wav"), "text": unicodedata.normalize("NFD", "café")}
    (first,) = rows_of(write_jsonl(folder / "m.json", [row]))[1]
    assert len(heard(first)) == RATE_HZ
    (folder / "m.json").unlink()
    (folder / "m.csv").write_text(f"path,text\n{unicodedata.normalize(told, name)},hello\n")
    (row,) = rows_of(folder)[1]
    assert len(heard(row)) == RATE_HZ
    (folder / "m.csv").unlink()
    (folder / f"{on_disk('Ärger')}/{unicodedata.normalize(told, 'café')}.txt").write_text("hello")
    assert list(texts_of(folder).values()) == ["hello"]
    assert check_text(unicodedata.normalize("NFD", "café")) == "café"


# Audio


@pytest.mark.parametrize(("kind", "subtype"), [("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", None)])
def test_bytes_and_parts_of_every_kind(kind, subtype):
    samples = sound(2.0, 3, 48_000)
    data = encoded(samples, 48_000, kind, subtype)
    whole, rate = read_audio(data, RATE_HZ)
    part, _ = read_audio(data, RATE_HZ, offset_s=0.5, duration_s=1.0)
    assert rate == RATE_HZ and abs(len(whole) - 2 * RATE_HZ) < 1200 and len(part) == RATE_HZ


def test_m4a_by_pyav(tmp_path):
    av = pytest.importorskip("av")
    samples = sound(2.0, 1, 44_100)
    with av.open(str(tmp_path / "x.m4a"), "w") as file:
        stream = file.add_stream("aac", rate=44_100, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = 44_100
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    (tmp_path / "x.m4a").rename(tmp_path / "x.wav")  # the bytes decide
    whole, _ = read_audio(tmp_path / "x.wav", RATE_HZ)
    part, _ = read_audio((tmp_path / "x.wav").read_bytes(), RATE_HZ, offset_s=0.5, duration_s=1.0)
    assert abs(len(whole) - 2 * RATE_HZ) < 0.1 * RATE_HZ and len(part) == RATE_HZ
    with pytest.raises(SaladError, match="lasts 2.0 s, expected at most 1 s"):
        read_audio(tmp_path / "x.wav", max_s=1.0)
    (tmp_path / "cut.m4a").write_bytes((tmp_path / "x.wav").read_bytes()[:3000])
    with pytest.raises(SaladError, match="cut.m4a cannot be decoded"):
        read_audio(tmp_path / "cut.m4a")


def test_one_channel_of_two():
    left, right = sound(1.0, 1), sound(1.0, 2)
    data = encoded(np.stack([left, right], 1))
    assert np.abs(read_audio(data, channel=1)[0] - right).max() < 1e-4
    with pytest.raises(SaladError, match="channel 2 of .* but it has 2"):
        read_audio(data, channel=2)


def test_a_playlist_is_not_opened_as_audio(tmp_path):
    (tmp_path / "x.m4a").write_text("#EXTM3U\nhttp://example.org/a.ts\n")
    with pytest.raises(SaladError, match="cannot be decoded"):
        read_audio(tmp_path / "x.m4a")


# Text


@pytest.mark.parametrize(
    ("write", "domains"), [(fineweb_edu, {"web"}), (smollm_corpus, {"khanacademy", "auto_math_text"})]
)
def test_parquet_of_fineweb_edu_and_smollm_corpus(tmp_path, write, domains):
    pytest.importorskip("pyarrow")
    entry = Text(path=write(tmp_path / "web"), domain_field="seed_data" if len(domains) == 2 else "")
    documents, aside = read_text(entry, lambda text: True)
    assert len(documents) == 30 and not aside and len({d.id for d in documents}) == 30
    assert {d.text for d in documents} == {row["text"] for row in web_rows(30)}
    assert {d.domain for d in documents} == domains
    few, _ = read_text(Text(path=tmp_path / "web", max_documents=7), lambda text: True)
    assert len(few) == 7


def test_text_of_every_kind_and_what_is_broken(tmp_path):
    folder = tmp_path / "t"
    write_jsonl(folder / "a.jsonl.gz", [{"text": "Good one."}, {"body": "no text"}])
    (folder / "b.txt").write_bytes(b"A paragraph\nof two lines.\n\ncaf\xe9 in latin\n")
    documents, aside = read_text(Text(path=folder), lambda text: True)
    assert [d.text for d in documents] == ["Good one.", "A paragraph of two lines."]
    assert ["is missing" in row["reason"] or "expected a string" in row["reason"] for row in aside[:1]] == [True]
    assert "is not UTF-8" in aside[1]["reason"]


@pytest.mark.parametrize("begin", ["FORMER", "RIFFRAFF", "ID3", "OggS", ".snd", "#!AMR", "fLaC"])
def test_prose_may_begin_with_the_letters_of_a_recording(tmp_path, begin):
    (tmp_path / "a.txt").write_text(f"{begin} PRESIDENT says no.")
    documents, aside = read_text(Text(path=tmp_path), lambda text: True)
    assert [d.text for d in documents] == [f"{begin} PRESIDENT says no."] and not aside


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "FLAC", "OGG", "AU", "MP3"])
def test_recordings_are_told_by_what_they_hold(tmp_path, kind):
    (tmp_path / "a").write_bytes(encoded(sound(0.5), kind=kind))
    assert kind_of(tmp_path / "a") == "folder"
    (tmp_path / "a").write_bytes(b"ID3\4\0\0\0\0\0\0")
    assert kind_of(tmp_path / "a") == "folder"


def test_a_long_text_is_cut_between_sentences_and_keeps_every_word():
    text = " ".join(row["text"] for row in web_rows(5))
    parts = cut_text(text, lambda part: len(part.split()) <= 40)
    assert " ".join(parts) == text and all(len(part.split()) <= 40 for part in parts)
    assert all(part.endswith(".") for part in parts)
    assert cut_text("a b c", lambda part: False) == ["a", "b", "c"]


def test_texts_and_names_of_files_come_in_either_unicode_form(tmp_path):
    import unicodedata

    from salad.data.readers.rows import check_text, locate

    one, other = (unicodedata.normalize(form, "é/café.wav") for form in ("NFC", "NFD"))
    assert one != other and check_text(unicodedata.normalize("NFD", "Un  café")) == "Un café"
    assert check_text("a\x01b\0c\x1b[0m\x7f") == "a b c [0m"  # espeak takes \x012S for an order to speak slowly
    for made, asked in ((one, other), (other, one)):
        root = tmp_path / str(len(made))
        (root / made).parent.mkdir(parents=True)
        (root / made).write_bytes(b"x")
        assert locate(asked, root, False) == str(root / made) and locate(made, root, False) == str(root / made)
        assert locate("gone.wav", root, False) == str(root / "gone.wav")


# Other inputs of the kinds above


@pytest.mark.parametrize(
    ("table", "texts"),
    [
        ("path,text\r" + "".join(f"c{n}.wav,Text {n}\r" for n in range(3)), ["Text 0", "Text 1", "Text 2"]),
        ("path , text\n" + "".join(f" c{n}.wav ,  Text {n} \n" for n in range(3)), ["Text 0", "Text 1", "Text 2"]),
        ('path,text\nc0.wav,"He said \\"hi, you\\" then"\nc1.wav,"Two, three"\nc2.wav,Four\n',
         ['He said "hi, you" then', "Two, three", "Four"]),
        ('c0.wav,"\nText 0"\nc1.wav,Text 1\nc2.wav,Text 2\n', ["Text 0", "Text 1", "Text 2"]),
    ],
)  # fmt: skip
def test_tables_of_other_programs(tmp_path, table, texts):
    for n in range(3):
        soundfile.write(tmp_path / f"c{n}.wav", sound(1.0, n), RATE_HZ)
    (tmp_path / "metadata.csv").write_bytes(table.encode())
    _, rows = rows_of(tmp_path)
    assert [check_text(row.text) for row in rows] == texts and not any(row.problem for row in rows)
    assert all(len(heard(row)) == RATE_HZ for row in rows)


def test_numbers_of_another_kind_in_a_shar_cost_their_row(tmp_path):
    from lhotse import CutSet
    from lhotse.shar import SharWriter

    cuts = CutSet.from_file(libriheavy(tmp_path / "lh")).with_recording_path_prefix(tmp_path / "lh").to_eager()
    (tmp_path / "shar").mkdir()
    with SharWriter(str(tmp_path / "shar"), fields={"recording": "flac"}, shard_size=100) as writer:
        for cut in cuts:
            writer.write(cut)
    [manifest] = (tmp_path / "shar").glob("cuts.*.jsonl.gz")
    values = [json.loads(line) for line in gzip.decompress(manifest.read_bytes()).splitlines()]
    values[1]["duration"] = []
    manifest.write_bytes(gzip.compress("".join(json.dumps(value) + "\n" for value in values).encode()))
    source = Speech(path=tmp_path / "shar")
    make_plan(tmp_path / "plan", [(source, *open_source(source))], IngestLimits(0.1, 60, 1000, 10, 0.6))
    rows = [
        row for document in read_plan(tmp_path / "plan")[0] for row in rows_of_plan(tmp_path / "plan", document.number)
    ]
    assert [bool(row.problem) for row in rows].count(True) == 1 and len(rows) == len(values)
    (tmp_path / "shar" / manifest.name.replace("cuts", "recording").replace(".jsonl.gz", ".tar")).write_bytes(
        bytes(10240)
    )
    _, rows = rows_of(tmp_path / "shar", format="shar")  # an empty tar
    assert len(rows) == len(values) and all("holds no audio" in row.problem for row in rows)


@pytest.mark.parametrize("note", [b"{", b"null", b'{"info": null}', b'{"info": {"features": 3}}', b"[]"])
def test_a_damaged_note_in_a_parquet_does_not_keep_it_from_being_read(tmp_path, note):
    pyarrow = pytest.importorskip("pyarrow")
    audio = [{"bytes": encoded(sound(1.0, 0)), "path": None}]
    struct = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"audio": pyarrow.array(audio, struct), "text": ["One"]})
    pyarrow.parquet.write_table(table.replace_schema_metadata({b"huggingface": note}), tmp_path / "a.parquet")
    _, [row] = rows_of(tmp_path)
    assert row.text == "One" and len(heard(row)) == RATE_HZ
