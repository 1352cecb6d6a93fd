"""Your own data through the corpus stage: joined, held out, counted, and what is broken kept aside with its reason."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import shutil
import sqlite3
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from typer.testing import CliRunner

from salad.audio import resample
from salad.cli import app
from salad.config import Recipe, Speech, load_recipe
from salad.data import ingest, ingest_plan
from salad.data.card import is_non_commercial
from salad.data.ingest_plan import Planned, choose_heldout, num_positions
from salad.data.manifest import load_spoken
from salad.files import read_json, read_jsonl, write_json
from salad.pipeline.model_card import write_model_card
from salad.pipeline.run import Run, check_above, run_pipeline
from salad.pipeline.stages import corpus
from salad.pipeline.stages.align import load_aligned
from salad.synthesize.voices import load_voice
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
)
from salad.types import SaladError

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def prepare(recipe_values, tmp_path):
    """Run the corpus stage on `speech` entries (no weights are needed) and return the run and its summary."""

    def start(*speech, corpus_keys=None, **changes):
        if not (tmp_path / "web.jsonl").exists():
            write_jsonl(tmp_path / "web.jsonl", web_rows(10))
        values = {
            **recipe_values,
            "assets": {"encoder": "log-mel"},
            "engine": {"workers": 1},
            "model": {"stride": 8},
            "corpus": {
                **recipe_values["corpus"],
                "web_documents_per_topic": 0,
                "speech_documents": 0,
                "heldout_per_domain": 0,
                "heldout_share": 0.2,
                "speech": list(speech),
                "text": [{"path": str(tmp_path / "web.jsonl"), "licence": "CC0"}],
                **(corpus_keys or {}),
            },
            **changes,
        }
        run = Run(Recipe.model_validate(values))
        return run, corpus.run(run)

    return start


def spoken(run, name="own"):
    return load_spoken(sorted((run.folder("corpus") / name).glob("shard-*")))


def both(run):
    return spoken(run) + spoken(run, "own-heldout")


def aside(run):
    return {row["id"]: row["reason"] for row in read_jsonl(run.folder("corpus") / "quarantine.jsonl")}


# Long documents


def test_libriheavy_is_joined_held_out_and_counted(prepare, tmp_path):
    entry = {"path": str(libriheavy(tmp_path / "lh")), "licence": "CC BY 4.0", "name": "libriheavy"}
    run, summary = prepare(entry)
    train, heldout = spoken(run), spoken(run, "own-heldout")
    assert len(train) == 2 and len(heldout) == 1
    assert {u.speaker for u, _ in train}.isdisjoint({u.speaker for u, _ in heldout})
    utterance, sentences = train[0]
    book = int(utterance.speaker) - 100
    assert utterance.text == " ".join(TEXTS[k % 6] for k in range(book, book + 4))
    assert [s[2:] for s in sentences] == [(0.0, 2.0), (2.5, 4.5), (5.0, 7.0), (7.5, 9.5)]
    assert sentences[0][0] == 0 and sentences[-1][1] == len(utterance.text.split())
    whole, _ = soundfile.read(next((tmp_path / "lh").rglob(f"0{book + 1}_*.flac")), dtype="float32")
    kept, _ = soundfile.read(utterance.audio, dtype="float32")
    assert np.abs(kept - whole[: len(kept)]).max() < 1e-4 and len(kept) == round(
        9.5 * RATE_HZ
    )  # the real silence stays
    card = read_json(run.folder("corpus") / "data_card.json")
    assert card["speech"][0]["speakers"] == 3 and card["speech"][0]["heldout_by"] == "speaker"
    assert summary["speech_documents"] == 2 and summary["simulated"] is False
    assert [d.id for d in corpus.load_documents(run, "heldout")] == [u.document_id for u, _ in heldout]


def test_documents_end_where_the_context_does(prepare, tmp_path):
    entry = {"path": str(libriheavy(tmp_path / "lh", books=2, cuts=8))}
    run, _ = prepare(entry, sequence={"context": 110})
    share = 15 / (15 + 10)
    for utterance, _ in both(run):
        assert num_positions(utterance.duration_s, utterance.text, 100 / 8, share) <= 110
    assert sum(len(u.text.split()) for u, _ in both(run)) == sum(
        len(TEXTS[(book + n) % 6].split()) for book in range(2) for n in range(8)
    )
    assert 4 <= len(both(run)) < 16


def test_a_long_gap_or_a_broken_cut_parts_a_recording(prepare, tmp_path):
    soundfile.write(
        tmp_path / "long.wav",
        np.r_[sound(11.0), np.full(16_000, np.nan, np.float32), sound(8.0)],
        RATE_HZ,
        subtype="FLOAT",
    )
    starts = (0.0, 2.5, 9.0, 11.2, 12.5, 14.5)  # a gap of 4.5 s after the second; the fourth is not a number
    lines = [
        {"audio_filepath": "long.wav", "offset": s, "duration": 1.5 if s != 11.2 else 0.5, "text": TEXTS[n]}
        for n, s in enumerate(starts)
    ]
    manifest = write_jsonl(tmp_path / "m" / "m.json", lines)
    run, _ = prepare(
        {"path": str(manifest), "audio_root": str(tmp_path)}, {"path": str(folder_with_texts(tmp_path / "more"))}
    )
    texts = [u.text for u, _ in both(run) if u.source == "m"]
    assert sorted(texts) == sorted([f"{TEXTS[0]} {TEXTS[1]}", TEXTS[2], f"{TEXTS[4]} {TEXTS[5]}"])
    assert "NaN or infinite" in aside(run)["long.wav@11.200"] and len(aside(run)) == 1


def test_emilia_is_joined_with_short_silences_and_is_not_commercial(prepare, tmp_path):
    run, summary = prepare(
        {"path": str(emilia(tmp_path / "e")), "licence": "CC BY-NC 4.0", "name": "emilia", "language": "en"}
    )
    utterance, sentences = both(run)[0]
    assert len(sentences) == 3 and sentences[1][2] - sentences[0][3] == pytest.approx(0.3, abs=1e-6)
    assert summary["non_commercial"] == ["emilia"] and utterance.licence == "CC BY-NC 4.0"
    assert "**Not for commercial use**: emilia" in (run.folder("corpus") / "data_card.md").read_text()


def test_another_language_is_left_out_and_said(prepare, tmp_path):
    with pytest.raises(SaladError, match="no recording is left to train on"):
        prepare({"path": str(emilia(tmp_path / "e")), "language": "de"})
    reasons = {row["reason"] for row in read_jsonl(tmp_path / "run" / "corpus" / "quarantine.jsonl")}
    assert reasons == {"language: 'en', and the recipe asks for 'de'"}


@pytest.mark.slow
def test_joined_books_are_aligned(tmp_path, monkeypatch):
    """LibriHeavy's layout with real speech (Piper) through its recipe up to the word times."""
    voice = load_voice("piper-joe")
    clips = {t: resample(voice.speak(t), voice.sample_rate_hz, RATE_HZ) for t in TEXTS}
    monkeypatch.chdir(tmp_path)
    fineweb_edu(tmp_path / "data" / "fineweb-edu")
    manifest = libriheavy(tmp_path / "data" / "libriheavy", books=3, cuts=3)
    rows = [json.loads(line) for line in gzip.decompress(manifest.read_bytes()).splitlines()]
    books = {}
    for row in rows:
        parts = books.setdefault(row["recording"]["sources"][0]["source"], [sound(0.25)])
        clip = clips[row["supervisions"][0]["custom"]["texts"][0]]
        row["start"], row["duration"] = sum(map(len, parts)) / RATE_HZ, len(clip) / RATE_HZ
        row["supervisions"][0]["duration"] = row["duration"]
        parts += [clip, np.zeros(RATE_HZ // 2, np.float32)]
    for name, parts in books.items():
        soundfile.write(manifest.parent / name, np.concatenate(parts), RATE_HZ)
    for row in rows:
        row["recording"]["num_samples"] = sum(map(len, books[row["recording"]["sources"][0]["source"]]))
        row["recording"]["duration"] = row["recording"]["num_samples"] / RATE_HZ
    write_jsonl(manifest, rows)
    run = Run(load_recipe(RECIPES / "libriheavy.yaml", ["engine.workers=1", "corpus.heldout_share=0.3", *AGAIN]))
    for stage in ("corpus", "align"):
        run_pipeline(run.recipe, only=stage)
    aligned = load_aligned(run, "speech") + load_aligned(run, "heldout")
    assert len(aligned) == 3 and all(len(u.words) == len(u.text.split()) for u in aligned)
    sentences = {u.id: times for u, times in both(run)}
    for utterance in aligned:
        for start, end, start_s, end_s in sentences[utterance.id]:
            assert start_s - 0.01 <= utterance.words[start].start_s and utterance.words[end - 1].end_s <= end_s + 0.01


# Held out


@pytest.mark.parametrize(
    ("speakers", "recordings", "level"),
    [
        ([n % 10 for n in range(40)], range(40), "speaker"),
        ([1] * 40, [n // 4 for n in range(40)], "recording"),
        ([1] * 40, [1] * 40, "document"),
    ],
)
def test_what_is_held_out_shares_no_speaker_or_else_no_recording(speakers, recordings, level):
    documents = [Planned(n, "s", f"r{r}", f"p{p}") for n, (p, r) in enumerate(zip(speakers, recordings, strict=True))]
    chosen, by = choose_heldout(documents, 0.2, 100, seed=1)
    assert by == {"s": level} and 4 <= len(chosen) <= 10
    key = {"speaker": lambda d: d.speaker, "recording": lambda d: d.recording, "document": lambda d: d.number}[level]
    assert {key(d) for d in documents if d.number in chosen}.isdisjoint(
        key(d) for d in documents if d.number not in chosen
    )
    assert choose_heldout(documents, 0.2, 100, seed=1)[0] == chosen
    assert len(choose_heldout(documents, 0.2, 4, seed=1)[0]) <= 5


def test_recordings_are_grouped_only_where_speakers_do_not_part_them(monkeypatch):
    monkeypatch.setattr(ingest_plan, "_by_recording", None)
    documents = [Planned(n, "s", f"r{n}", f"p{n % 10}") for n in range(40)]
    assert choose_heldout(documents, 0.2, 100, seed=1)[1] == {"s": "speaker"}


# Faults


def patch_flac_length(data: bytes, num_samples: int) -> bytes:
    """A FLAC whose header promises so many samples: 36 bits of STREAMINFO, from bit 4 of byte 21 on."""
    head = bytearray(data)
    head[21] = (head[21] & 0xF0) | (num_samples >> 32)
    head[22:26] = (num_samples & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(head)


def _audio(data):
    return lambda folder: (folder / "wavs" / "000.wav").write_bytes(data())


def _line(change):
    def edit(folder):
        path = folder / "train_manifest.json"
        rows = read_jsonl(path)
        rows[0] = change(rows[0])
        write_jsonl(path, rows)

    return edit


def _not_utf8(folder):
    path = folder / "train_manifest.json"
    path.write_bytes(path.read_bytes().replace(b"fairies", b"f\xe9es", 1))


def _not_json(folder):
    path = folder / "train_manifest.json"
    path.write_bytes(b'{"audio_filepath": "wavs/000.wav", "te\n' + path.read_bytes().split(b"\n", 1)[1])


with_bad = {"kind": "WAV", "subtype": "FLOAT"}
FAULTS = {
    "empty file": (_audio(lambda: b""), "000.wav cannot be decoded"),
    "zero length": (_audio(lambda: encoded(sound(0.0), kind="WAV")), "holds no samples|before|says 2.00 s"),
    "not audio": (_audio(lambda: b"hello" * 99), "cannot be decoded"),
    "truncated FLAC": (_audio(lambda: encoded(sound(2.0))[:12_000]), "cannot be decoded .*cut off"),
    "truncated WAV": (_audio(lambda: encoded(sound(2.0), kind="WAV")[:30_000]), "is cut off: 0.94 s of 2.00 s can be"),
    "silence": (_audio(lambda: encoded(np.zeros(32_000))), "2.00 s of digital silence with 11 words"),
    "inverted stereo": (_audio(lambda: encoded(np.stack([sound(2.0), -sound(2.0)], 1))), "cancel each other out"),
    "7 Hz": (_audio(lambda: encoded(sound(1.0), 7, "WAV")), "a rate of 7 Hz, expected at least 4000"),
    "same sound": (
        lambda d: _audio(lambda: encoded(soundfile.read(d / "wavs/001.wav", dtype="int16")[0], 8_000))(d),
        "the same sound as .*, which is kept",
    ),
    "subtitles": (_line(lambda row: {**row, "text": "1\n00:00:01,000 --> 00:00:03,000\nhello"}), "holds times .*words"),
    "labels": (_line(lambda row: {**row, "text": "0 1200 sil\n1200 2400 h\n2400 3000 i\n"}), "holds times .*labels"),
    "too many words": (_line(lambda row: {**row, "text": "hello " * 25}), "25 words in 2.00 s are 12.5 a second"),
    "NaN": (_audio(lambda: encoded(np.full(32_000, np.nan), **with_bad)), "NaN or infinite"),
    "infinity": (_audio(lambda: encoded(np.r_[sound(1.9), np.full(1600, np.inf)], **with_bad)), "NaN or infinite"),
    "no text": (_line(lambda row: {**row, "text": " "}), "text: is missing or empty"),
    "no text field": (_line(lambda row: {"audio_filepath": row["audio_filepath"]}), "expected a string, got None"),
    "0.02 s": (_line(lambda row: {**row, "duration": 0.02}), "lasts 0.020 s, expected at least corpus.min_utterance_s"),
    "3 h": (
        lambda folder: (
            _audio(lambda: patch_flac_length(encoded(sound(2.0, 0, 8_000), 8_000), 3 * 3600 * 8_000))(folder),
            _line(lambda row: {**row, "duration": 10_800.0})(folder),
        ),
        "lasts 10800.0 s, expected at most 1200 s",
    ),
    "path traversal": (_line(lambda row: {**row, "audio_filepath": "../../etc/passwd"}), "lies outside .*audio_root"),
    "absolute path": (_line(lambda row: {**row, "audio_filepath": "/etc/passwd"}), "lies outside"),
    "missing file": (_line(lambda row: {**row, "audio_filepath": "wavs/none.wav"}), "cannot be opened"),
    "not UTF-8": (_not_utf8, "text: is not UTF-8"),
    "not JSON": (_not_json, "train_manifest.json line 1: expected one JSON object"),
    "duplicate id": (_line(lambda row: {**row, "audio_filepath": "wavs/001.wav"}), "'wavs/001.wav' is there before"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_costs_one_row(prepare, tmp_path, fault):
    spoil, message = FAULTS[fault]
    manifest = nemo(tmp_path / "nemo")
    spoil(manifest.parent)
    run, summary = prepare({"path": str(manifest)})
    (reason,) = aside(run).values()
    assert re.search(message, reason), reason
    assert len(both(run)) == 5 and summary["quarantined"] == 1
    assert TEXTS[5] in {u.text for u, _ in both(run)}
    assert read_json(run.folder("corpus") / "data_card.json")["speech"][0]["quarantined"] == 1


def test_a_wrong_ending_is_no_fault(prepare, tmp_path):
    manifest = nemo(tmp_path / "nemo")
    _audio(lambda: encoded(sound(2.0), kind="MP3"))(manifest.parent)
    run, summary = prepare({"path": str(manifest)})
    assert len(both(run)) == 6 and summary["quarantined"] == 0


def _cut_tar(folder):
    path = emilia(folder, speakers=4, utterances=1) / "Emilia" / "EN" / "EN-B000000.tar"
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"EN_B00000_S00003_W000000.mp3\0") + 2000])
    return path, "cut off in the middle of EN_B00000_S00003", 3


def _cut_tar_at_a_member(folder):
    path = emilia(folder, speakers=4, utterances=1) / "Emilia" / "EN" / "EN-B000000.tar"
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"EN_B00000_S00003_W000000.mp3\0")])
    return path, "no end mark", 3


def _cut_gzip(folder):
    path = libriheavy(folder, books=30, cuts=1)
    rows = gzip.decompress(path.read_bytes())
    flushed = zlib_of(rows[: rows.index(b"\n", 4000) + 1])
    path.write_bytes(flushed)
    return path, "is cut off or damaged in the middle", rows[: rows.index(b"\n", 4000) + 1].count(b"\n")


def zlib_of(data: bytes) -> bytes:
    """A gzip file that ends before its end: all of `data` can be read, then nothing."""
    pack = zlib.compressobj(wbits=31)
    return pack.compress(data) + pack.flush(zlib.Z_SYNC_FLUSH)


def _cut_parquet(folder):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    folder.mkdir()
    rows = [{"audio": {"bytes": encoded(sound(1.0, n)), "path": ""}, "text": TEXTS[n]} for n in range(4)]
    for n in range(2):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[2 * n : 2 * n + 2]), folder / f"{n}.parquet")
    data = (folder / "1.parquet").read_bytes()
    (folder / "1.parquet").write_bytes(data[: len(data) // 2])
    return folder, "1.parquet: cannot be read: .*is it cut off", 2


@pytest.mark.parametrize("cut", [_cut_tar, _cut_tar_at_a_member, _cut_gzip, _cut_parquet])
def test_a_shard_cut_in_the_middle_gives_what_is_whole(prepare, tmp_path, cut):
    path, message, whole = cut(tmp_path / "data")
    run, _ = prepare({"path": str(path), "name": "cut"})
    assert len(both(run)) == whole
    assert any(re.search(message, reason) for reason in aside(run).values()), aside(run)


def test_a_folder_with_broken_texts_loses_nothing(prepare, tmp_path):
    own = folder_with_texts(tmp_path / "own", 5)
    for name, text in (("empty", b" \n"), ("latin", b"caf\xe9"), ("alone", None)):
        soundfile.write(own / f"{name}.wav", sound(1.0), RATE_HZ)
        if text is not None:
            (own / f"{name}.txt").write_bytes(text)
    run, _summary = prepare(corpus_keys={"speech_folders": [str(own)]})
    reasons = aside(run)
    assert "no alone.txt or .lab" in reasons["alone.wav"]
    assert "empty" in reasons["empty.wav"] and "UTF-8" in reasons["latin.wav"]
    assert len(both(run)) + len(reasons) == 8


def test_a_name_that_is_not_utf8_is_kept_and_can_be_written_down(prepare, tmp_path):
    own = folder_with_texts(tmp_path / "own", 5)
    for n, name in enumerate((b"/\xff", b"/\xfe")):
        path = os.fsencode(own) + name
        with open(path + b".wav", "wb") as audio, open(path + b".txt", "wb") as text:
            audio.write(encoded(sound(1.2, 9), kind="WAV")[: -1 if n == 0 else 9000])
            text.write(b"hello there")
    run, summary = prepare(corpus_keys={"speech_folders": [str(own)]})
    assert len(both(run)) == 6 and summary["quarantined"] == 1
    assert "udcfe.wav is cut off" in aside(run)["\\udcfe.wav"]


def test_the_same_sound_is_never_on_both_sides(prepare, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    for n in range(40):  # each sound under two names, in two kinds of file
        suffix, kind = (".wav", "WAV") if n % 2 else (".flac", "FLAC")
        (own / f"{n:02d}{suffix}").write_bytes(encoded((sound(1.5, n // 2) * 32767).astype(np.int16), kind=kind))
        (own / f"{n:02d}.txt").write_text(TEXTS[n % 6])
    run, summary = prepare(corpus_keys={"speech_folders": [str(own)]})
    kept = both(run)
    assert len(kept) == 20 and summary["quarantined"] == 20 and len(spoken(run, "own-heldout")) >= 4
    assert len({soundfile.read(u.audio)[0].tobytes() for u, _ in kept}) == 20
    assert read_json(run.folder("corpus") / "data_card.json")["speech"][0]["quarantined"] == 20
    again = corpus.run(run)
    assert again == summary and len(aside(run)) == 20


def test_a_full_disk_stops_the_run_and_keeps_finished_shards(prepare, tmp_path, monkeypatch):
    monkeypatch.setattr(ingest, "SHARD_DOCUMENTS", 2)
    written, write = [], ingest.write_flac

    def full(path, samples, rate):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        write(path, samples, rate)

    entry = {"path": str(nemo(tmp_path / "nemo"))}
    monkeypatch.setattr(ingest, "write_flac", full)
    with pytest.raises(SaladError, match="disk: no space left .*finished shards stay"):
        prepare(entry)
    first = tmp_path / "run" / "corpus" / "own" / "shard-00000" / "utterances.jsonl"
    before = first.stat().st_mtime_ns
    monkeypatch.setattr(ingest, "write_flac", write)
    run, _ = prepare(entry)
    assert len(both(run)) == 6 and first.stat().st_mtime_ns == before


# Accounts


def test_max_hours_stops_and_is_said(prepare, tmp_path):
    run, _ = prepare({"path": str(nemo(tmp_path / "nemo")), "max_hours": 7 / 3600})
    assert len(both(run)) == 4
    assert "train_manifest: stopped after max_hours" in (run.folder("corpus") / "data_card.md").read_text()


def test_same_data_same_files(prepare, tmp_path):
    entry = {"path": str(libriheavy(tmp_path / "lh"))}
    found = []
    for _ in range(2):
        run, _ = prepare(entry)
        folder = run.folder("corpus")
        found.append(
            {
                str(p.relative_to(folder)): p.read_bytes()
                for p in folder.rglob("*")
                if p.is_file() and p.suffix != ".sqlite" and p.name != "plan.txt"
            }
        )
        shutil.rmtree(folder)
    assert found[0] == found[1] and any(name.endswith(".flac") for name in found[0])


@pytest.mark.parametrize(
    ("licence", "nc"),
    [
        ("CC BY-NC 4.0", True),
        ("cc-by-nc-sa-4.0", True),
        ("Non-commercial use only", True),
        ("CC BY 4.0", False),
        ("", False),
        ("NCSA", False),
    ],
)
def test_non_commercial_licences_are_known(licence, nc):
    assert is_non_commercial(licence) == nc


def test_a_model_card_says_what_went_in(prepare, tmp_path):
    run, _ = prepare({"path": str(emilia(tmp_path / "e")), "licence": "CC BY-NC 4.0", "name": "emilia"})
    write_model_card(run)
    page = run.folder("stage2") / "model" / "README.md"
    head = yaml.safe_load(page.read_text().split("---")[1])
    assert head["license"] == "cc-by-nc-4.0" and head["base_model"] == "smollm2-135m-instruct"
    assert "**Not for commercial use**: emilia" in page.read_text() and "Not measured yet." in page.read_text()
    write_jsonl(run.folder("stage2") / "metrics.jsonl", [{"step": 2, "misalignment": 0.5, "forgetting": 0.0}])
    write_model_card(run)
    assert "at step 2 on a few held-out documents: M 0.500" in page.read_text()
    heard, gap = {"value": 0.6, "low": 0.5, "high": 0.7}, {"value": 0.1, "low": -0.02, "high": 0.2, "n": 50}
    tasks = [{"task": "mine", "speech_adapted": heard, "chance": 0.25, "n": 50, "gap": gap}]  # no next sentences
    tasks += [{"task": "all items", "n": 50, "gap": gap}]
    figures = {"misalignment": {"stage2": {"all": 0.4}}, "accuracy": {"tasks": tasks}}
    write_json(run.folder("evaluate") / "figures.json", figures)
    write_model_card(run)
    assert "| misalignment M, nats per token | 0.400 |" in page.read_text()
    assert "| mine | 50 | 25 | 60 [50, 70] | 10 [-2, 20] |" in page.read_text()
    assert "| all items | 50 |  |  | 10 [-2, 20] |" in page.read_text()


def test_a_pattern_is_called_by_its_folder(tmp_path):
    assert Speech(path="data/emilia/*.tar").title == "emilia" and Speech(hub="a/b").title == "b"


def test_ids_are_safe_names_and_stay_apart():
    names = [ingest.utterance_id("s", name) for name in ("a/b", "a-b", "a b", "../../x", "ü", "x" * 300, "x" * 301)]
    assert len(set(names)) == len(names)
    assert all("/" not in name and not name.startswith(".") and len(name) < 120 for name in names)


# The shipped recipes


LAYOUTS = {
    "libriheavy": lambda data: (libriheavy(data / "libriheavy", books=6), fineweb_edu(data / "fineweb-edu")),
    "emilia": lambda data: (emilia(data / "emilia", speakers=5), smollm_corpus(data / "smollm-corpus")),
    "fineweb-edu": lambda data: fineweb_edu(data / "fineweb-edu"),
    "smollm-corpus": lambda data: smollm_corpus(data / "smollm-corpus"),
    "audiofolder": lambda data: audiofolder(data / "audiofolder"),
    "nemo": lambda data: nemo(data / "nemo"),
}
AGAIN = ["select.overlap_words=99"]  # the readers of these books say the same sentences
NO_WEIGHTS = ["assets.encoder=log-mel", "model.stride=8", "engine.workers=1"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_shipped_recipe_prepares_its_layout(tmp_path, monkeypatch, name):
    """What would need weights is replaced: the encoder by log-mel; what the teacher writes and speaks by small data."""
    if name not in ("audiofolder", "nemo"):
        pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    LAYOUTS[name](tmp_path / "data")
    overrides = list(NO_WEIGHTS)
    settings = load_recipe(RECIPES / f"{name}.yaml").corpus
    overrides += ['corpus.prepared=""'] if settings.prepared else []
    if settings.speech_documents:
        folder_with_texts(tmp_path / "own", 6)
        overrides += [
            "corpus.speech_documents=0",
            "corpus.heldout_per_domain=0",
            "corpus.heldout_share=0.2",
            "corpus.speech_folders=[own]",
        ]
    if not settings.text:
        write_jsonl(tmp_path / "web.jsonl", web_rows(10))
        overrides += ["corpus.text=[{path: web.jsonl}]"]
    arguments = [part for override in overrides for part in ("--set", override)]
    result = CliRunner().invoke(app, ["prepare", str(RECIPES / f"{name}.yaml"), *arguments, "--debug"])
    assert result.exit_code == 0, result.output
    run = Run(load_recipe(RECIPES / f"{name}.yaml", overrides))
    assert "# Data card" in result.output
    summary = run.done("corpus").summary
    assert summary["quarantined"] == 0 and summary["speech_documents"] > 0 and summary["heldout_documents"] > 0
    assert summary["web_documents"] == (30 if settings.text else 10)
    assert summary["non_commercial"] == (["emilia"] if name == "emilia" else [])
    again = CliRunner().invoke(app, ["prepare", str(RECIPES / f"{name}.yaml"), *arguments, "--debug"])
    assert again.exit_code == 0 and run.done("corpus").summary == summary


def test_changed_data_are_read_again(tmp_path, monkeypatch, recipe_values):
    monkeypatch.chdir(tmp_path)
    nemo(tmp_path / "data" / "nemo")
    write_jsonl(tmp_path / "web.jsonl", web_rows(10))
    overrides = [*NO_WEIGHTS, 'corpus.prepared=""', "corpus.text=[{path: web.jsonl}]"]
    arguments = ["prepare", str(RECIPES / "nemo.yaml"), *(p for o in overrides for p in ("--set", o))]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    nemo(tmp_path / "data" / "nemo", lines=4)
    assert CliRunner().invoke(app, arguments).exit_code == 0
    summary = Run(load_recipe(RECIPES / "nemo.yaml", overrides)).done("corpus").summary
    assert summary["speech_documents"] + summary["heldout_documents"] == 4


def test_another_sound_behind_the_same_manifest_is_read(tmp_path, monkeypatch):
    """The row names its file, and the manifest stays as it is; what is gone counts as it was."""
    monkeypatch.chdir(tmp_path)
    manifest = nemo(tmp_path / "data" / "nemo")
    write_jsonl(tmp_path / "web.jsonl", web_rows(10))
    data = ['corpus.prepared=""', "corpus.text=[{path: web.jsonl}]", f"corpus.speech=[{{path: {manifest}}}]"]
    recipe = load_recipe(RECIPES / "nemo.yaml", [*NO_WEIGHTS, "precision=fp32", *data])
    run, read = Run(recipe), []
    monkeypatch.setattr(corpus, "run", lambda run, real=corpus.run: read.append(run) or real(run))
    run_pipeline(recipe, until="corpus")
    run_pipeline(recipe, until="corpus")
    assert len(read) == 1
    *_, first, last = sorted(manifest.parent.rglob("*.wav"))
    want = sound(2.0, 77)
    soundfile.write(last, want, RATE_HZ)
    run_pipeline(recipe, until="corpus")
    assert len(read) == 2 and "your recordings" in read_json(run.folder("corpus") / "stage.json")["inputs"]
    heard = [soundfile.read(u.audio, dtype="float32")[0] for u, *_ in both(run)]
    assert [len(one) == len(want) and np.abs(one - want).max() < 1e-3 for one in heard].count(True) == 1
    run_pipeline(recipe, until="corpus")
    first.unlink()
    run_pipeline(recipe, until="corpus")
    assert len(read) == 2
    other = recipe.model_copy(update={"run_dir": tmp_path / "other"})
    run_pipeline(other, until="corpus", reuse=[run.dir])
    assert len(read) == 2 and Run(other).finished("corpus")
    soundfile.write(last, sound(2.0, 78), RATE_HZ)
    with pytest.raises(SaladError, match="corpus in .* no longer fits the recipe .your recordings changed"):
        check_above(run, "align")


def test_a_recording_exported_again_after_it_was_read_is_read_by_the_next_run(tmp_path, monkeypatch):
    """The stage still speaks for days then; what it is stamped with is what it read, also after a kill."""
    monkeypatch.chdir(tmp_path)
    manifest = nemo(tmp_path / "data" / "nemo", lines=4)
    write_jsonl(tmp_path / "web.jsonl", web_rows(10))
    data = ['corpus.prepared=""', "corpus.text=[{path: web.jsonl}]", f"corpus.speech=[{{path: {manifest}}}]"]
    recipe = load_recipe(RECIPES / "nemo.yaml", [*NO_WEIGHTS, "precision=fp32", *data])
    read, texts, last = [], corpus.user_text, max(manifest.parent.rglob("*.wav"))
    monkeypatch.setattr(corpus, "run", lambda run, real=corpus.run: read.append(run) or real(run))

    def killed(*arguments):
        soundfile.write(last, sound(2.0, 77), RATE_HZ)
        raise KeyboardInterrupt

    def exported(*arguments):
        soundfile.write(last, sound(2.5, 78), RATE_HZ)
        return texts(*arguments)

    monkeypatch.setattr(corpus, "user_text", killed)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(recipe, until="corpus")
    for now, num in ((texts, 2), (texts, 2), (exported, 2)):  # the second attempt reads it as it is by then
        monkeypatch.setattr(corpus, "user_text", now)
        run_pipeline(recipe, until="corpus")
        assert len(read) == num
    soundfile.write(last, sound(2.0, 79), RATE_HZ)
    for now, num in ((exported, 3), (texts, 4), (texts, 4)):
        monkeypatch.setattr(corpus, "user_text", now)
        run_pipeline(recipe, until="corpus")
        assert len(read) == num


def test_recordings_added_after_a_kill_are_read(tmp_path, monkeypatch):
    """The plan of a stage that was cut off is of the files that were there then."""
    monkeypatch.chdir(tmp_path)
    nemo(tmp_path / "data" / "nemo", lines=4)
    write_jsonl(tmp_path / "web.jsonl", web_rows(10))
    overrides = [*NO_WEIGHTS, 'corpus.prepared=""', "corpus.text=[{path: web.jsonl}]"]
    recipe = load_recipe(RECIPES / "nemo.yaml", overrides)
    write = ingest.write_flac
    monkeypatch.setattr(ingest, "write_flac", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(recipe, until="corpus")
    assert (recipe.run_dir / "corpus" / "plan.sqlite").exists()
    monkeypatch.setattr(ingest, "write_flac", write)
    nemo(tmp_path / "data" / "nemo", lines=6)
    run_pipeline(recipe, until="corpus")
    summary = Run(recipe).done("corpus").summary
    assert summary["speech_documents"] + summary["heldout_documents"] == 6


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"speech": [{}]}, "either path .* or hub"),
        ({"speech": [{"path": "a", "hub": "b"}]}, "either path .* or hub"),
        ({"speech_documents": 0}, "no speech"),
        ({"web_documents_per_topic": 0}, "no broad text"),
        ({"heldout_per_domain": 0}, "nothing to measure on"),
        ({"speech": [{"path": "x/a.json"}, {"path": "y/a.json"}]}, "called 'a'; give each its own name"),
        ({"speech": [{"path": "a", "formatt": "nemo"}]}, "formatt"),
    ],
)
def test_a_corpus_that_lacks_something_is_refused(recipe_values, tmp_path, keys, message):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({**recipe_values, "corpus": {**recipe_values["corpus"], **keys}}))
    with pytest.raises(SaladError, match=message):
        load_recipe(path)


def test_the_plan_is_data_not_code(prepare, tmp_path):
    run, _ = prepare({"path": str(nemo(tmp_path / "nemo"))})
    with sqlite3.connect(run.folder("corpus") / "plan.sqlite") as plan:
        (row,) = plan.execute("SELECT row FROM rows LIMIT 1").fetchone()
    assert json.loads(row)["text"] == TEXTS[0]
