"""`salad data inspect`: every fault planted here must be found, counted and named; a clean set raises no alarm."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from salad.cli import app
from salad.config import Speech
from salad.data.inspect.audio_stats import measure_audio
from salad.data.inspect.inspection import inspect_data as inspect
from salad.data.inspect.result import Histogram, Inspection, Looked
from salad.data.inspect.summary import FAULTS, Summary
from salad.data.inspect.text_checks import failed_text_checks
from salad.data.manifest import write_lhotse, write_utterances
from salad.data.readers.registry import open_source
from salad.data.readers.rows import read_row
from salad.files import read_json, write_jsonl
from salad.records import from_json, to_json
from salad.report.data_page import draw_histogram
from salad.report.data_page import write_data_page as write_page
from salad.testing.corpora import audiofolder, emilia, encoded, folder_with_texts, libriheavy, nemo
from salad.types import SaladError, Utterance, Word

RATE = 16_000
TEXTS = (
    "the heat of the sun warms the old stones",
    "no engine that works in a circle can turn it",
    "she sold the last boat",
)


def inspect_data(*place: Path, **options: Any) -> dict[str, Any]:
    """As the file has it."""
    return to_json(inspect(*place, **options))


def write_data_page(result: dict[str, Any], path: Path) -> None:
    write_page(from_json(Inspection, result, "inspection"), path)


def noise(seed: int, duration_s: float = 3.0, level: float = 0.1) -> np.ndarray:
    samples = np.random.default_rng(seed).normal(0, level, int(duration_s * RATE))
    return np.clip(samples, -0.9, 0.9).astype(np.float32)


def plant(folder: Path, name: str, samples: np.ndarray | None = None, text: str | bytes | None = TEXTS[0], **more: Any):
    """A recording with its text beside it; returns the audio's path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = noise(sum(name.encode()) * 31 + len(name)) if samples is None else samples
    soundfile.write(path, samples, RATE, **more)
    if text is not None:
        path.with_suffix(".txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def plant_clean(folder: Path, num: int = 12) -> None:
    for i in range(num):
        plant(folder, f"reader-{i % 3}/clip-{i:02d}.{('wav', 'flac', 'ogg')[i % 3]}", noise(i), TEXTS[i % 2])


def found(result: dict[str, Any]) -> dict[str, set[str]]:
    """fault -> names, and the counts must agree with them."""
    named = {}
    for name, fault in result["faults"].items():
        if fault["count"]:
            named[name] = {Path(row["id"].split(" (")[0]).name for row in fault["worst"]}
            assert fault["count"] == len(fault["worst"]), name
    return named


def utterance(folder: Path, name: str, seed: int, **more: Any) -> Utterance:
    path = folder / "audio" / f"{name}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(seed), RATE)
    text = more.pop("text", TEXTS[seed % 2])
    words = tuple(Word(word, 0.3 * i, 0.3 * i + 0.25) for i, word in enumerate(text.split()))
    values = {"words": words, "score": 0.9, "speaker": "ann", "source": "tales", "licence": "CC0"} | more
    return Utterance(
        name, text, str(path), values.pop("sample_rate_hz", RATE), values.pop("num_samples", 3 * RATE), **values
    )


# A folder of audio


def test_a_clean_set_raises_no_alarm(tmp_path):
    plant_clean(tmp_path)
    result = inspect_data(tmp_path)
    assert found(result) == {} and set(result["faults"]) == set(FAULTS)
    assert (result["utterances"], result["heard"], result["num_speakers"]) == (12, 12, 3)
    assert result["hours"] == pytest.approx(36 / 3600, rel=1e-4)
    assert result["formats"].keys() == {"WAV", "FLAC", "OGG"}
    assert sum(result["histograms"]["length"]["counts"]) == 12
    assert result["histograms"]["words_per_s"]["p50"] == pytest.approx(19 / 2 / 3, rel=0.1)
    assert result["histograms"]["score"] is None  # nothing is aligned yet


def test_every_planted_fault_is_found_and_nothing_else(tmp_path):
    plant_clean(tmp_path)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "empty.txt").write_text(TEXTS[0])
    plant(tmp_path, "no-samples.wav", noise(1)[:0])
    (plant(tmp_path, "half.flac", noise(40))).write_bytes((tmp_path / "half.flac").read_bytes()[:30_000])
    (plant(tmp_path, "cut.wav", noise(41))).write_bytes((tmp_path / "cut.wav").read_bytes()[:60_000])
    half_mp3 = plant(tmp_path, "half-song.mp3", noise(42), None)
    half_mp3.write_bytes(half_mp3.read_bytes()[: half_mp3.stat().st_size // 2])
    plant(tmp_path, "nan.wav", np.where(np.arange(48_000) == 7, np.nan, noise(43)), subtype="FLOAT")
    (tmp_path / "speech.wav").write_text("not a recording at all, only named like one")
    (tmp_path / "speech.txt").write_text(TEXTS[0])
    plant(tmp_path, "silent.wav", np.zeros(48_000, np.float32))
    plant(tmp_path, "silent-too.wav", np.zeros(48_000, np.float32))
    plant(tmp_path, "faint.wav", noise(44, level=1e-4))
    plant(tmp_path, "clipped.wav", np.clip(noise(45, level=0.3) * 8, -1, 1))
    plant(tmp_path, "inverted.wav", np.stack([noise(46), -noise(46)], axis=1))
    plant(tmp_path, "blip.wav", noise(47, 0.02), "no")
    plant(tmp_path, "long.flac", noise(48, 9.0), " ".join(TEXTS[:2] + TEXTS))
    plant(tmp_path, "named.wav", noise(49), format="MP3")
    shutil.copy(tmp_path / "reader-0" / "clip-00.wav", tmp_path / "copy.wav")
    (tmp_path / "copy.txt").write_text(TEXTS[0])
    samples, _ = soundfile.read(tmp_path / "reader-0" / "clip-03.wav", dtype="int16")
    plant(tmp_path, "as-flac.flac", samples)
    plant(tmp_path, "lost.wav", noise(50), None)
    plant(tmp_path, "latin.wav", noise(51), "caf\xe9".encode("latin-1"))
    plant(tmp_path, "blank.wav", noise(52), " \n")
    plant(tmp_path, "marks.wav", noise(53), "?! ... -- ?! ... -- ?!")
    plant(tmp_path, "russian.wav", noise(54), "над седой равниной моря ветер тучи собирает гордо")
    plant(tmp_path, "link.wav", noise(55), "see www.example.org for the heat of the sun")
    plant(tmp_path, "tags.wav", noise(56), "the heat <i>of</i> the sun [laughs] &amp; more")
    plant(tmp_path, "emoji.wav", noise(57), "the heat of the sun \U0001f600 warms the stones")
    plant(tmp_path, "broken.wav", noise(58), "the cafÃ© that warms the old stones again")
    plant(tmp_path, "shout.wav", noise(59), TEXTS[0].upper())
    plant(tmp_path, "year.wav", noise(60), "in 1984 the heat of the sun warmed stones")
    plant(tmp_path, "loop.wav", noise(61), "thank you so thank you so thank you so much")
    plant(tmp_path, "stammer.wav", noise(62), "the the the the heat of the sun")
    plant(tmp_path, "fast.wav", noise(63), " ".join(TEXTS * 3))
    plant(tmp_path, "slow.wav", noise(64), "no engine")
    (tmp_path / "notes.pdf").write_text("is not audio and is not looked at")
    result = inspect_data(tmp_path, max_s=8.0)
    assert found(result) == {
        "unreadable": {"empty.wav", "no-samples.wav", "half.flac", "nan.wav", "speech.wav"},
        "truncated": {"cut.wav", "half-song.mp3"},
        "silent": {"silent.wav", "silent-too.wav", "faint.wav"},
        "cancels": {"inverted.wav"},
        "clipped": {"clipped.wav"},
        "too_short": {"blip.wav"},
        "too_long": {"long.flac"},
        "extension": {"named.wav"},
        "duplicate_audio": {"clip-00.wav", "clip-03.wav"},  # in the order of names, the copies come first
        "text_missing": {"lost.wav", "latin.wav", "half-song.mp3"},
        "text_empty": {"blank.wav"},
        "no_letters": {"marks.wav"},
        "other_script": {"russian.wav"},
        "urls": {"link.wav"},
        "markup": {"tags.wav"},
        "unusual_characters": {"emoji.wav", "broken.wav"},
        "all_caps": {"shout.wav"},
        "digits": {"year.wav"},
        "repeated_words": {"loop.wav", "stammer.wav"},
        "words_per_s": {"fast.wav", "slow.wav", "blip.wav"},
    }
    seen = {row["id"]: row["seen"] for fault in result["faults"].values() for row in fault["worst"]}
    assert seen["reader-0/clip-00.wav"] == "as copy.wav" and seen["reader-0/clip-03.wav"] == "as as-flac.flac"
    assert "MP3" in seen["named.wav"]
    assert result["utterances"] == 12 + 32 and result["utterances"] - result["heard"] == 5
    assert result["faults"]["words_per_s"]["worst"][0]["id"] in {"blip.wav", "fast.wav"}


def test_headers_alone_tell_lengths_and_texts(tmp_path):
    plant_clean(tmp_path, 3)
    plant(tmp_path, "silent.wav", np.zeros(48_000, np.float32), TEXTS[0].upper())
    result = inspect_data(tmp_path, decode=False)
    assert found(result) == {"all_caps": {"silent.wav"}}
    assert result["hours"] == pytest.approx(12 / 3600, rel=1e-4) and result["histograms"]["level"] is None


def test_two_processes_see_what_one_sees(tmp_path):
    utterances = [utterance(tmp_path, f"u{i % 3}", i % 3) for i in range(64 * 9)]
    write_utterances(tmp_path / "utterances.jsonl", utterances)
    one, two = (inspect_data(tmp_path, workers=n) for n in (1, 2))
    assert one == two
    assert one["faults"]["duplicate_id"]["count"] == one["faults"]["duplicate_audio"]["count"] == 64 * 9 - 3
    assert len(one["faults"]["duplicate_id"]["worst"]) == 20


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "holds no utterances.jsonl"),
        (lambda p: (p / "a.txt").write_text("text alone"), "holds no utterances.jsonl"),
        (lambda p: (p / "utterances.jsonl").write_text("\n\n"), "no rows"),
    ],
)
def test_a_folder_with_nothing_in_it_is_named(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(SaladError, match=message) as caught:
        inspect_data(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_place_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SaladError, match="nowhere does not exist"):
        inspect_data(tmp_path / "nowhere")


# Manifests


def test_faults_of_a_manifest(tmp_path):
    shard = tmp_path / "own" / "shard-00000"
    rows = [utterance(shard, f"good-{i}", i) for i in range(9)]
    rows.append(utterance(shard, "longer", 20, num_samples=5 * RATE))
    rows.append(utterance(shard, "faster", 21, sample_rate_hz=8_000, num_samples=3 * 8_000))
    rows.append(utterance(shard, "twice", 22))
    rows.append(utterance(shard, "twice-file", 23))
    rows.append(utterance(shard, "late", 24, words=(Word("the", 0.0, 0.2), Word("heat", 2.9, 3.4))))
    rows.append(utterance(shard, "mixed-up", 25, words=(Word("the", 1.0, 1.2), Word("heat", 0.2, 0.4))))
    write_utterances(shard / "utterances.jsonl", rows)
    (shard / "audio" / "good-8.flac").unlink()
    lines = (shard / "utterances.jsonl").read_bytes().splitlines()
    lines[12] = lines[12].replace(b'"twice-file"', b'"twice"')
    lines += [b'{"id": "torn", "te', b'{"id": "bare", "num_samples": 3}', b'{"id": "caf\xe9"}']
    (shard / "utterances.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    (tmp_path / "own" / "shard-00001").mkdir()
    result = inspect_data(tmp_path)
    assert found(result) == {
        "unreadable": {"good-8"},
        "told_length": {"longer"},
        "told_rate": {"faster"},
        "duplicate_id": {"twice"},
        "word_times": {"late", "mixed-up"},
        "row": {"utterances.jsonl:16", "utterances.jsonl:17", "utterances.jsonl:18", "shard-00001"},
    }
    assert result["parts"][0]["name"] == "own" and result["parts"][0]["utterances"] == 15
    assert result["sources"] == [{"source": "tales", "licence": "CC0", "utterances": 14, "seconds": 42.0}]
    assert result["histograms"]["score"]["n"] == 14 and result["aligned"] == 14


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", 7), ("text", None), ("text", ["a"]), ("audio", 3), ("audio", None), ("speaker", 12),
        ("sample_rate_hz", 0),
        ("num_samples", "many"), ("num_samples", float("nan")), ("words", [["a", 0.0]]), ("words", [["a", "b", "c"]]),
        ("words", [["a", 0.0, float("inf")]]), ("score", "good"),
    ],
)  # fmt: skip
def test_a_row_of_wrong_types_is_counted_not_raised(tmp_path, name, value):
    write_utterances(tmp_path / "utterances.jsonl", [utterance(tmp_path, "a", 1), utterance(tmp_path, "b", 2)])
    rows = [json.loads(line) for line in (tmp_path / "utterances.jsonl").read_text().splitlines()]
    rows[1][name] = value
    write_jsonl(tmp_path / "utterances.jsonl", rows)
    assert found(inspect_data(tmp_path)) == {"row": {"utterances.jsonl:2"}}


def test_names_that_are_not_utf8_and_names_that_lead_nowhere(tmp_path):
    odd = plant(tmp_path / "data", "odd.wav", text=TEXTS[0].upper())
    for suffix in (".wav", ".txt"):
        os.rename(odd.with_suffix(suffix), os.fsencode(tmp_path / "data") + b"/caf\xe9" + suffix.encode())
    plant(tmp_path / "data", "line\nbreak <b>.wav")
    (tmp_path / "data" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    result = inspect_data(tmp_path / "data")
    assert found(result) == {
        "all_caps": {"caf\\udce9.wav"}, "unreadable": {"gone.wav"}, "text_missing": {"gone.wav"}
    }  # fmt: skip
    write_data_page(result, tmp_path / "page.html")
    (tmp_path / "nul.json").write_text(json.dumps({"audio_filepath": "a\0b.wav", "text": "a", "duration": 1}) + "\n")
    assert inspect_data(tmp_path / "nul.json")["faults"]["unreadable"]["count"] == 1


def test_cuts_and_nemo_lines_are_heard_from_their_own_start(tmp_path):
    quiet, loud = noise(1, 2.0, level=1e-5), noise(2, 2.0)
    soundfile.write(tmp_path / "book.wav", np.concatenate([quiet, loud]), RATE)
    segments = [{"audio_filepath": "book.wav", "offset": o, "duration": 2.0, "text": TEXTS[0]} for o in (0.0, 2.0, 3.0)]
    (tmp_path / "train.json").write_text("".join(json.dumps(row) + "\n" for row in segments))
    result = inspect_data(tmp_path / "train.json")
    assert {name: fault["worst"][0]["id"] for name, fault in result["faults"].items() if fault["count"]} == {
        "silent": "book.wav@0.000 (book.wav)",
        "truncated": "book.wav@3.000 (book.wav)",
    }
    lhotse = pytest.importorskip("lhotse")
    utterances = [utterance(tmp_path / "cuts", f"u{i}", i) for i in range(3)]
    write_lhotse(utterances, tmp_path / "cuts" / "x.cuts.jsonl.gz")
    cuts = lhotse.CutSet.from_file(tmp_path / "cuts" / "x.cuts.jsonl.gz")
    lhotse.CutSet.from_cuts(cut.truncate(offset=1.0, duration=1.5) for cut in cuts).to_file(
        tmp_path / "cuts" / "y.jsonl.gz"
    )
    result = inspect_data(tmp_path / "cuts")
    assert [(part["name"], part["seconds"]) for part in result["parts"]] == [
        ("x", 9.0),
        ("y", 9.0),
    ]  # a text is of its whole supervision
    assert result["sources"][0]["licence"] == "CC0" and result["num_speakers"] == 1
    whole = (tmp_path / "cuts" / "x.cuts.jsonl.gz").read_bytes()
    (tmp_path / "cuts" / "x.cuts.jsonl.gz").write_bytes(whole[: len(whole) - 30])
    result = inspect_data(tmp_path / "cuts" / "x.cuts.jsonl.gz")
    assert "is cut off" in result["faults"]["row"]["worst"][0]["seen"]


def test_a_run_counts_nothing_twice(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    spoken = utterance(tmp_path / "corpus" / "speech" / "shard-00000", "a", 1)
    dropped = utterance(tmp_path / "corpus" / "speech" / "shard-00000", "b", 2)
    bought = utterance(tmp_path / "synthesize" / "speech" / "shard-00000", "c", 3)
    for folder, group in (
        ("corpus/speech", [spoken, dropped]),
        ("align/speech", [spoken]),
        ("align/frames-speech", [spoken]),  # as a run of an older version left it
        ("probe/speech", [bought]),
        ("synthesize/speech", [bought]),
        ("synthesize/aligned", [bought]),
    ):
        write_utterances(tmp_path / folder / "shard-00000" / "utterances.jsonl", group)
    write_utterances(tmp_path / "align" / "speech.jsonl", [spoken])
    reasons = [{"stage": "align", "id": f"b{i}", "reason": f"score 0.{i} under 0.3: /data/{i}.wav"} for i in range(7)]
    write_jsonl(tmp_path / "align" / "quarantine.jsonl", reasons)
    write_jsonl(tmp_path / "align" / "speech" / "shard-00000" / "quarantine.jsonl", reasons)
    result = inspect_data(tmp_path)
    assert [(part["name"], part["utterances"]) for part in result["parts"]] == [
        ("align/speech", 1),
        ("synthesize/aligned", 1),
    ]
    assert found(result) == {}
    write_utterances(tmp_path / "synthesize" / "bought.jsonl", [bought])
    assert [part["name"] for part in inspect_data(tmp_path)["parts"]] == ["align/speech", "synthesize/bought"]
    [row] = result["quarantine"]
    assert (row["stage"], row["reason"], row["count"]) == ("align", "score # under #: …", 7)
    assert row["ids"] == [f"b{i}" for i in range(5)]
    stage = inspect_data(tmp_path / "corpus")
    assert stage["utterances"] == 2 and stage["parts"][0]["name"] == "speech"


# The same readers as `salad prepare`


LAYOUTS = {
    "audiofolder, csv": audiofolder,
    "audiofolder, jsonl": lambda folder: audiofolder(folder, metadata="jsonl"),
    "webdataset": emilia,
    "nemo": nemo,
    "lhotse": libriheavy,
    "folder": folder_with_texts,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_is_inspected_as_it_is_prepared(tmp_path, layout):
    place = LAYOUTS[layout](tmp_path / "data")
    rows = [row for row in open_source(Speech(path=place))[1] if not row.problem]
    result = inspect_data(place)
    assert result["utterances"] == result["heard"] == result["rows"] == len(rows)
    assert result["words"] == sum(len(row.text.split()) for row in rows)
    seconds = sum(len(read_row(row, RATE, max_s=60)) for row in rows) / RATE
    assert result["hours"] == pytest.approx(seconds / 3600, rel=0.06)  # an MP3 is padded
    assert set(found(result)) <= {"duplicate_audio", "told_length", "words_per_s"}, found(result)


def test_cells_of_parquet_are_heard(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [{"audio": {"bytes": encoded(noise(n)), "path": "a.flac"}, "text": TEXTS[n % 2]} for n in range(3)]
    rows[2]["audio"]["bytes"] = b"no sound"
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    result = inspect_data(tmp_path)
    assert (result["utterances"], result["heard"]) == (3, 2) and found(result) == {"unreadable": {"train-000002"}}
    assert result["formats"]["FLAC"]["utterances"] == 2


def test_folders_behind_links_are_inspected(tmp_path):
    plant_clean(tmp_path / "disk", 3)
    plant(tmp_path / "own", "b.wav", text=TEXTS[1])
    (tmp_path / "own" / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(tmp_path / "own")
    assert inspect_data(tmp_path / "own")["utterances"] == 4


def test_a_manifest_with_a_mark_at_its_beginning_and_a_path_that_leads_out(tmp_path):
    write_utterances(
        tmp_path / "own" / "utterances.jsonl", [utterance(tmp_path / "own", "a", 1), utterance(tmp_path, "b", 2)]
    )
    text = (tmp_path / "own" / "utterances.jsonl").read_text()
    (tmp_path / "own" / "utterances.jsonl").write_text("\ufeff" + text)
    result = inspect_data(tmp_path / "own")
    assert (result["utterances"], result["heard"]) == (2, 1) and found(result) == {"unreadable": {"b"}}
    assert "lies outside" in result["faults"]["unreadable"]["worst"][0]["seen"]
    assert inspect_data(tmp_path / "own", trusted=True)["heard"] == 2


# Texts


@pytest.mark.parametrize(
    "text",
    [
        "Plain prose, with a comma; and an em dash — so “quoted” it is… isn’t it?",
        "No, no, no! It was a very, very fine day, he said, he said.",
        "The naïve café owner from Kraków met Mr. O'Neil-Smith.",
        "OK",
        "It was 10° cold".replace("10", "ten"),
        "I am, you are, he is; I do, you do, he does.",
    ],
)
def test_plain_text_is_not_odd(text):
    assert failed_text_checks(text) == {}


# Bounded memory


def test_a_long_recording_is_heard_in_blocks(tmp_path):
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 8_000, 1) as file:
        for seed in range(20):
            file.write(np.random.default_rng(seed).normal(0, 0.1, 8_000 * 60).astype(np.float32))
    tracemalloc.start()
    heard = measure_audio(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert heard.duration_s == 1200 and peak < 6e6 < 1200 * 8_000 * 4


def test_an_utterance_costs_few_bytes(tmp_path):
    def row(i: int) -> dict[str, Any]:
        values = {"words": 9, "id_hash": i, "speaker_hash": 1, "part": "p", "faults": {"digits": (1.0, "1984")}}
        values |= {"id": f"utterance-{i}", "speaker": "ann", "source": f"/data/{i % 2}/{i}.flac", "licence": ""}
        sound = {"s": 3.0, "rate_hz": RATE, "channels": 1, "format": "FLAC", "digest": f"{i:x}", "level_db": -20.0}
        return values | sound | {"score": 0.5, "aligned": True}

    summary = Summary(tmp_path)
    tracemalloc.start()
    for i in range(20_000):
        summary.add(Looked(**row(i)))
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size / 20_000 < 80
    assert summary.faults["digits"] == 20_000 and len(summary.sources) == 2


# The page and the command


class _Page(HTMLParser):
    VOID = {"meta", "br", "link", "img", "hr", "input"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.counts: dict[str, str] = {}
        self.drawings = 0
        self._fault: str | None = None

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        assert not any(str(v).startswith(("http:", "https:", "//")) for v in values.values()) and tag != "script"
        if tag not in self.VOID:
            self.open.append(tag)
        self._fault = values.get("data-fault")
        self.drawings += tag == "svg" and len(values["aria-label"]) > 20

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self._fault:
            self.counts[self._fault], self._fault = data, None


def test_the_page_holds_the_figures(tmp_path):
    data = tmp_path / "data"
    plant_clean(data)
    plant(data, "<b>shout & cry.wav", noise(70), TEXTS[0].upper())
    plant(data, "year.wav", noise(71), "in 1984 the heat of the sun warmed <stones>")
    result = inspect_data(data)
    write_data_page(result, tmp_path / "page.html")
    page = _Page()
    page.feed((tmp_path / "page.html").read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    assert page.counts == {"all_caps": "1", "digits": "1", "markup": "1"}
    text = " ".join(page.text)
    assert "<b>shout & cry.wav" in text and "<stones>" in text and "14 utterances" in text
    assert page.drawings == 3
    assert "nothing is aligned yet" in text


def test_a_histogram_draws_every_count_once():
    edges = [0.0, 1.0, 2.0, 4.0, 8.0]
    histogram = {"unit": "seconds", "edges": edges, "counts": [0, 5, 0, 2], "below": 1, "above": 3}
    rest = dict.fromkeys([one.name for one in fields(Histogram)], 0.0)  # it draws none of them
    [axis] = draw_histogram(from_json(Histogram, {**rest, **histogram}, "histogram")).axes
    drawn = [(bar.get_x(), bar.get_height()) for bar in axis.patches if bar.get_height()]
    assert drawn == [
        (0, 1),
        (2, 5),
        (4, 2),
        (5, 3),
    ]
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert labels == ["", "0", "1", "2", "4", "8", ""] and axis.get_xlabel() == "seconds"


def test_the_command_prints_tables_and_writes_files(tmp_path):
    data = tmp_path / "data"
    plant_clean(data)
    plant(data, "shout.wav", noise(72), TEXTS[0].upper())
    files = tmp_path / "page.html", tmp_path / "data.json"
    done = CliRunner().invoke(app, ["data", "inspect", str(data), "--html", str(files[0]), "--json", str(files[1])])
    assert done.exit_code == 0, done.output
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert ["utterances", "13"] in rows
    assert ["all capitals", "1", f"shout.wav: {TEXTS[0].upper()}", FAULTS["all_caps"][1]] in rows
    assert read_json(files[1])["faults"]["all_caps"]["count"] == 1
    assert "<svg" in files[0].read_text(encoding="utf-8")


def test_the_command_refuses_a_folder_with_nothing_in_it(tmp_path):
    done = CliRunner().invoke(app, ["data", "inspect", str(tmp_path)])
    assert done.exit_code == 2 and str(tmp_path) in done.stderr and "Traceback" not in done.output


@pytest.mark.parametrize("field", ["--json", "--html"])
def test_what_cannot_be_written_is_said_before_anything_is_read(tmp_path, monkeypatch, field):
    monkeypatch.setattr("salad.data.inspect.inspection.inspect_data", lambda *_, **__: pytest.fail("it was read"))
    (tmp_path / "file").touch()
    for target, words in ((tmp_path, "is a folder; name a file"), (tmp_path / "file" / "x", "is no folder that can")):
        done = CliRunner().invoke(app, ["data", "inspect", str(tmp_path), field, str(target)])
        assert done.exit_code == 2 and f"{field}: " in done.stderr and words in " ".join(done.stderr.split())
