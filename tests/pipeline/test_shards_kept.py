"""No data stage holds the corpus, and what changed alone is made anew: one recording more, or another interleaving."""

from __future__ import annotations

import weakref
from collections import Counter

import numpy as np
import pytest
import soundfile

from salad import engine
from salad.config import Recipe
from salad.data import ingest, manifest
from salad.data.manifest import read_utterances, write_utterances
from salad.files import read_json, read_jsonl
from salad.model.encoders import job
from salad.pipeline import speech_jobs
from salad.pipeline.run import Run, run_pipeline
from salad.pipeline.stages.align import load_aligned, load_frames
from salad.pipeline.up_to_date import stage_inputs
from salad.sequence.examples import all_pieces
from salad.synthesize import word_times
from salad.testing.corpora import RATE_HZ, sound, write_jsonl
from salad.types import Utterance, Word

NUM, WORDS, SECONDS = 40, 12, 3.0


def recording(folder, number):
    words = [f"word{n}of{number}" for n in range(WORDS)]
    path = folder / f"{number:03d}.wav"
    soundfile.write(path, sound(SECONDS, number), RATE_HZ)
    step = SECONDS / WORDS
    times = tuple(Word(word, n * step, (n + 1) * step) for n, word in enumerate(words))
    return Utterance(f"u{number:03d}", " ".join(words), str(path), RATE_HZ, round(SECONDS * RATE_HZ), times, score=1.0)


@pytest.fixture
def made(monkeypatch):
    """{job: items that were made since the last `clear`, shard by shard}."""
    found = {}

    def note(module, name):
        plain = getattr(module, name)

        def noted(shard, folder, **settings):
            found.setdefault(name, []).append(len(shard.items))
            plain(shard, folder, **settings)

        monkeypatch.setattr(module, name, noted)

    note(ingest, "ingest")
    note(word_times, "align_spoken")
    note(job, "encode_pieces")
    monkeypatch.setattr(ingest, "SHARD_DOCUMENTS", 8)
    monkeypatch.setattr(word_times, "SHARD_GIVEN", word_times.SHARD)
    return found


@pytest.fixture
def corpus(recipe_values, tmp_path):
    """Run the corpus and align stages on these recordings, in a run directory of this name; the run."""
    write_jsonl(tmp_path / "web.jsonl", [{"id": f"w{n}", "text": f"a text of {n} and more"} for n in range(9)])

    def run(utterances, name="run", stages=("corpus", "align"), **sequence):
        if "corpus" in stages:
            write_utterances(tmp_path / "speech.jsonl", utterances)
        spans = {"text_words": [1, 3], "speech_words": [2, 4], "layouts": 2}
        values = {
            **recipe_values,
            "run_dir": str(tmp_path / name),
            "assets": {"encoder": "log-mel"},
            "engine": {"workers": 1, "shard_items": 4},
            "model": {"stride": 8},
            "align": {"method": "given"},
            "select": {"evaluation": []},
            "sequence": spans | sequence,
            "corpus": {
                **recipe_values["corpus"],
                "web_documents_per_topic": 0,
                "speech_documents": 0,
                "heldout_per_domain": 0,
                "heldout_share": 0.1,
                "speech": [{"path": str(tmp_path / "speech.jsonl"), "name": "mine"}],
                "text": [{"path": str(tmp_path / "web.jsonl"), "name": "web"}],
            },
        }
        made = Run(Recipe.model_validate(values))
        for stage in stages:
            run_pipeline(made.recipe, only=stage)
        return made

    return run


def held(run):
    """All that the align stage leaves but where the audio lies: utterances, and the frames of their pieces."""
    out = {}
    for name, layouts in (("speech", run.recipe.sequence.layouts), ("heldout", 1)):
        own = load_aligned(run, name)
        frames = load_frames(run, name, own)
        pieces = [all_pieces(u, run.recipe.sequence, seed=run.recipe.seed, layouts=layouts) for u in own]
        heard = [[np.array(frames.get(p.key)).tobytes() for p in each] for each in pieces]
        out[name] = [(u.id, u.text, u.words, sound) for u, sound in zip(own, heard, strict=True)]
    return out


def test_an_update_of_a_library_keeps_what_was_spoken(monkeypatch):
    monkeypatch.setattr(speech_jobs.assets, "fingerprint", lambda name: name)
    voices = ["piper-joe", "openai:tts:alloy@http://localhost:1/v1"]
    before = speech_jobs.spoken_by(voices)
    monkeypatch.setattr(speech_jobs, "versions", lambda: {"torch": "99"})
    assert speech_jobs.spoken_by(voices) == before != speech_jobs.spoken_by(["kokoro:af_heart"])


def test_an_update_of_what_reads_manifests_keeps_what_was_aligned(monkeypatch, recipe_values):
    monkeypatch.setattr(speech_jobs.assets, "fingerprint", lambda name: name)
    found = []
    for versions in ({"torch": "1"}, {"torch": "1", "lhotse": "9"}, {"torch": "2"}):
        monkeypatch.setattr(speech_jobs, "versions", lambda own=versions: own)
        found.append(speech_jobs.aligned_with(Recipe(**recipe_values)))
    assert found[0] == found[1] != found[2]


def test_one_recording_more_makes_one_shard_of_each_job_anew(corpus, made, tmp_path):
    recordings = [recording(tmp_path, number) for number in range(NUM + 1)]
    first = corpus(recordings[:7] + recordings[8:])
    assert made["ingest"] == [8, 8, 8, 8, 4, 4] and sum(made["align_spoken"]) == sum(made["encode_pieces"]) == NUM
    before = {path: path.stat().st_ino for path in first.dir.rglob("*.flac")}
    made.clear()
    again = corpus(recordings)
    assert {job: len(shards) for job, shards in made.items()} == {"ingest": 1, "align_spoken": 1, "encode_pieces": 1}
    assert made["ingest"] == [9] and made["align_spoken"] == [9] and made["encode_pieces"] == [5]
    kept = [path for path in again.dir.glob("corpus/**/*.flac") if before.get(path) == path.stat().st_ino]
    assert len(kept) == NUM - 8  # hard links: they take no disk
    made.clear()
    fresh = corpus(recordings, "fresh")
    assert held(again) == held(fresh) and sum(made["align_spoken"]) == NUM + 1
    summaries = [read_json(run.folder("align") / "stage.json")["summary"] for run in (again, fresh)]
    assert summaries[0] == summaries[1] and summaries[0]["utterances"] == NUM + 1 - 4
    rows = [read_jsonl(run.folder("align") / "quarantine.jsonl") for run in (again, fresh)]
    assert rows[0] == rows[1]


def test_another_sound_under_the_same_name_is_aligned_and_heard_again(corpus, made, tmp_path):
    recordings = [recording(tmp_path, number) for number in range(NUM)]
    corpus(recordings)
    soundfile.write(recordings[20].audio, sound(SECONDS, 999), RATE_HZ)
    made.clear()
    assert held(corpus(recordings)) == held(corpus(recordings, "fresh"))
    assert [len(made[job]) for job in ("ingest", "align_spoken", "encode_pieces")] == [1 + 6, 1 + 6, 1 + 10]


def test_rows_return_to_their_own_shards_where_numbers_outgrow_their_digits(corpus, made, monkeypatch, tmp_path):
    for module in (engine.shards, engine.run):
        monkeypatch.setattr(module, "shard_name", "shard-{}".format)
    monkeypatch.setattr(word_times, "SHARD_GIVEN", 3)
    recordings = [recording(tmp_path, number) for number in range(NUM)]
    corpus(recordings[:-1])
    made.clear()
    again = corpus(recordings)
    assert len(list((again.folder("align") / "speech").glob("shard-*"))) > 10 and len(made["align_spoken"]) == 1
    assert held(again) == held(corpus(recordings, "fresh"))


def test_other_layouts_align_nothing_again(corpus, made, tmp_path):
    recordings = [recording(tmp_path, number) for number in range(NUM)]
    first = corpus(recordings)
    made.clear()
    three = corpus(recordings, stages=("align",), layouts=3)
    assert stage_inputs("corpus", three.recipe) == stage_inputs("corpus", first.recipe)
    assert set(made) == {"encode_pieces"} and sum(made["encode_pieces"]) == NUM - 4  # what is measured on hears one
    made.clear()
    assert held(three) == held(corpus(recordings, "fresh", layouts=3))
    made.clear()
    corpus(recordings, layouts=3, speech_words=[2, 5])  # a setting of the corpus, too: how long a document is
    assert "align_spoken" not in made and sum(made["encode_pieces"]) == NUM


def test_no_stage_holds_the_utterances_of_the_corpus(corpus, monkeypatch, tmp_path):
    alive = Counter()
    plain = manifest.utterance_from_dict

    def counted(*arguments):
        utterance = plain(*arguments)
        alive["now"] += 1
        alive["most"] = max(alive["most"], alive["now"])
        weakref.finalize(utterance, lambda: alive.subtract({"now": 1}))
        return utterance

    recordings = [recording(tmp_path, number) for number in range(NUM)]
    corpus(recordings, stages=("corpus",))
    monkeypatch.setattr(manifest, "utterance_from_dict", counted)
    run = corpus(recordings, stages=("align",))
    assert 0 < alive["most"] <= word_times.SHARD + 4 < NUM / 2
    assert len(read_utterances(run.folder("align") / "speech.jsonl")) == NUM - 4


def test_a_recording_whose_twin_is_gone_comes_back_though_its_shard_stays(corpus, made, tmp_path):
    recordings = [recording(tmp_path, number) for number in range(NUM)]
    soundfile.write(recordings[30].audio, sound(SECONDS, 3), RATE_HZ)

    def found(run):
        folder = run.folder("corpus")
        shards = [path for name in ("own", "own-heldout") for path in sorted((folder / name).glob("shard-*"))]
        kept = [u.id for path in shards for u in read_utterances(path / "utterances.jsonl")]
        return sorted(kept), [row["reason"] for row in read_jsonl(folder / "quarantine.jsonl")]

    kept, reasons = found(corpus(recordings, stages=("corpus",)))
    assert len(kept) == NUM - 1 and [reason[:24] for reason in reasons] == ["audio: the same sound as"]
    made.clear()
    twin = next(n for n in (3, 30) if f"mine-u{n:03d}" in kept)
    again = corpus([u for n, u in enumerate(recordings) if n != twin], stages=("corpus",))
    assert found(again) == (sorted([*(set(kept) - {f"mine-u{twin:03d}"}), f"mine-u{33 - twin:03d}"]), [])
    assert len(made["ingest"]) == 1
