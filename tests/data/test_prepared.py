"""A corpus that was written before: the shipped one keeps its promises, and a recipe takes it without an LLM."""

from __future__ import annotations

import gzip
import importlib.util
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from salad import assets
from salad.audio import read_audio, write_opus
from salad.config import Recipe, load_recipe
from salad.data.prepared import GROUPS, PreparedRecording, chosen_documents, read_prepared
from salad.data.withheld import base_form, has_withheld, read_withheld, word_forms
from salad.evaluation.benchmark_task import find_task, load_items
from salad.files import read_jsonl, write_jsonl, write_text
from salad.pipeline import corpus_needs
from salad.pipeline import speech_jobs as speech
from salad.pipeline.run import Run
from salad.pipeline.stages import corpus
from salad.pipeline.up_to_date import stage_inputs
from salad.select.screen import near_duplicates, overlapping
from salad.synthesize import speak
from salad.types import Document, SaladError, Utterance, Word

RECIPES = Path(__file__).parents[2] / "recipes"
spec = importlib.util.spec_from_file_location("maker", Path(__file__).parents[2] / "scripts/make_demo_corpus.py")
maker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(maker)
RATE_HZ = 16_000


@pytest.fixture(scope="module")
def shipped():
    return read_prepared("demo-corpus")


def test_the_package_holds_what_is_pinned(tmp_path, monkeypatch):
    """With an empty cache and without a network."""
    monkeypatch.setenv("SALAD_CACHE", str(tmp_path))
    monkeypatch.setenv("SALAD_ASSETS_SOURCE", "local")
    monkeypatch.delenv("SALAD_ASSETS_DIR", raising=False)
    assets.get("demo-corpus", kind="corpus")
    states = assets.verify("demo-corpus")
    assert {state for _, state in states} == {"ok"} and len(states) == len(assets.ASSETS["demo-corpus"].files)
    assert assets.ASSETS["demo-corpus"].num_bytes < 10_000_000


def test_the_shipped_documents_are_as_many_and_as_long_as_said(shipped):
    documents = shipped.documents
    assert len(documents["web"]) >= 2000 and len(documents["speech"]) >= 400
    assert set(Counter(d.domain for d in documents["heldout"]).values()) == {6}
    assert len({d.domain for d in documents["heldout"]}) == 16
    assert {d.domain for d in documents["speech"]} == {"stories", "everyday"}
    everyone = [d for group in GROUPS for d in documents[group]]
    assert len({d.id for d in everyone}) == len({d.text for d in everyone}) == len(everyone)
    assert all(40 <= len(d.words) <= 90 and d.text == " ".join(d.words) for d in everyone)


def test_withheld_words_are_held_out_alone(shipped):
    withheld = {base_form(word) for word in shipped.withheld}
    assert list(shipped.withheld) == sorted(set(shipped.withheld))
    assert all(word.isalpha() and word == word.lower() and len(word) >= 5 for word in shipped.withheld)
    training = [d.text for name in ("web", "speech") for d in shipped.documents[name]]
    assert not [text for text in training if has_withheld(text, withheld)]
    heldout = [d.text for d in shipped.documents["heldout"]]
    figures = maker.exposure(heldout, training, shipped.withheld)
    assert 150 <= figures["withheld"] <= figures["in_none"]
    assert figures["words"] == sum(n for name, n in figures.items() if name.startswith("in_"))
    assert withheld <= set(maker.documents_with(heldout))


def test_training_documents_overlap_with_nothing_that_is_measured(shipped):
    evaluation = [d.text for d in shipped.documents["heldout"]]
    for name in ("salad_science", "salad_howto"):
        items = load_items(*find_task(name)).items
        evaluation += [f"{item.context} {item.choices[item.answer]}" for item in items]
    training = [d.text for name in ("web", "speech") for d in shipped.documents[name]]
    assert not any(overlapping(training, evaluation, 13))
    assert not any(place is not None for place in near_duplicates([*evaluation, *training][-500:], 0.5))


def test_what_the_demo_measures_on_comes_recorded(shipped):
    settings = load_recipe(RECIPES / "demo.yaml").corpus
    assert settings.prepared == "demo-corpus" and settings.unseen_documents == 16
    said = Counter(recording.utterance.speaker for recording in shipped.recordings)
    number = 16 * settings.heldout_per_domain
    assert (
        said == {settings.heldout_voice: number, **{voice: 16 for voice in settings.unseen_voices}} and len(said) == 3
    )
    for recording in shipped.recordings:
        own = recording.utterance
        samples, rate_hz = read_audio(own.audio)
        assert rate_hz == own.sample_rate_hz == RATE_HZ and len(samples) == own.num_samples
        assert [word.text for word in own.words] == own.text.split() and own.score > 0.3
        times = [t for word in own.words for t in (word.start_s, word.end_s)]
        assert times == sorted(times) and times[0] >= 0 and times[-1] <= own.duration_s
        assert [start for start, *_ in recording.sentences][1:] == [end for _, end, *_ in recording.sentences][:-1]
        assert recording.sentences[-1][1] == len(own.words)


def test_the_demo_lets_no_kokoro_voice_speak_what_is_recorded(shipped):
    for name in ("demo", "demo-short"):
        recipe = load_recipe(RECIPES / f"{name}.yaml")
        assert "kokoro:af_heart" not in corpus_needs.voices_needed(recipe)
        needed = corpus_needs.assets_needed(recipe)
        assert "demo-corpus" in needed and not {recipe.assets.llm, "kokoro-voices"} & needed


# A small one


def document(name: str, text: str = "", domain: str = "") -> Document:
    return Document(name, text or f"The text of {name} has a few words.", "written by nobody", domain)


@pytest.fixture
def own(tmp_path):
    """A folder in the layout: 9 web, 5 speech, 2 x 3 held-out documents, one recording of them in the voice `third`."""
    folder = tmp_path / "own"
    groups = {
        "web": [document(f"web-{n}") for n in range(9)],
        "speech": [document(f"speech-{n}") for n in range(5)],
        "heldout": [document(f"heldout-{domain}-{n}", "", domain) for n in range(3) for domain in ("a", "b")],
    }
    for name, group in groups.items():
        write_jsonl(folder / f"{name}.jsonl.gz", map(asdict, group))
    write_text(folder / "withheld.txt", "glacier\nmoraine\n")
    text = groups["heldout"][0].text
    samples = np.sin(np.arange(RATE_HZ) / 9).astype(np.float32) / 2
    write_opus(folder / "audio" / "said.opus", samples, RATE_HZ)
    words = tuple(Word(word, n / 10, n / 10 + 0.1, 0.9) for n, word in enumerate(text.split()))
    audio = str(folder / "audio" / "said.opus")
    said = Utterance("heldout-a-0--third", text, audio, RATE_HZ, RATE_HZ, words, "third", score=0.9)
    said = replace(said, document_id="heldout-a-0", licence="CC0-1.0")
    maker.write_recordings(folder, [PreparedRecording(said, ((0, len(words), 0.0, 0.9),))])
    return folder


class Tone:
    name, sample_rate_hz = "first", RATE_HZ

    def speak(self, text: str, speed: float = 1.0) -> np.ndarray:
        return np.sin(np.arange(4000) / 7).astype(np.float32)


def recipe_of(recipe_values, folder, **keys) -> Recipe:
    own = {
        **recipe_values["corpus"],
        "prepared": str(folder),
        "web_documents_per_topic": 0,
        "speech_documents": 2,
        "heldout_per_domain": 2,
        "unseen_documents": 1,
        **keys,
    }
    values = {**recipe_values, "assets": {"encoder": "log-mel"}, "engine": {"workers": 1}, "corpus": own}
    return Recipe.model_validate(values)


@pytest.fixture
def tones(monkeypatch):
    asked = []

    def load(name):
        asked.append(name)
        voice = Tone()
        voice.name = name
        return voice

    monkeypatch.setattr(speak, "load_voice", load)
    for module in (corpus_needs, speech):
        monkeypatch.setattr(module, "assets_of_voice", lambda name: ())
    monkeypatch.setattr(corpus, "generate_corpus", lambda *_, **__: pytest.fail("the teacher was asked to write"))
    return asked


def test_a_recipe_takes_it_without_the_teacher(recipe_values, own, tones):
    run = Run(recipe_of(recipe_values, own, web_documents=4, voices={"shares": {"first": 1.0}}))
    summary = corpus.run(run)
    assert summary["web_documents"] == 4 and summary["heldout_documents"] == 4
    assert summary["withheld_words"] == 2 and summary["heldout_recordings_ready"] == 1
    assert set(tones) == {"first"}  # the only recording of the unseen voice was there
    folder = run.folder("corpus")
    assert read_withheld(folder / "withheld.txt") == {"glacier", "moraine"}
    assert [row["id"] for row in read_jsonl(folder / "heldout.jsonl")] == [
        f"heldout-{domain}-{n}" for n in range(2) for domain in ("a", "b")
    ]
    spoken = read_jsonl(folder / corpus_needs.PREPARED_HELDOUT / "shard-00000" / "utterances.jsonl")
    assert [row["speaker"] for row in spoken] == ["third"] and spoken[0]["audio"] == "audio/heldout-a-0--third.opus"
    assert "prepared: " in (folder / "data_card.md").read_text()


def test_told_times_of_a_recording_need_no_aligner(recipe_values, own, tones, monkeypatch):
    run = Run(recipe_of(recipe_values, own, voices={"shares": {"first": 1.0}}))
    corpus.run(run)
    shard = run.folder("corpus") / corpus_needs.PREPARED_HELDOUT / "shard-00000"
    monkeypatch.setattr("salad.assets.store.collect", lambda *_: pytest.fail("an asset was fetched"))
    aligned = speech.align(run, run.folder("align") / "heldout", speech.spoken_in([shard]), "align")
    told = read_prepared(own).recordings[0].utterance
    assert [(u.id, u.words, u.score) for u in aligned] == [(told.id, told.words, told.score)]


def test_the_seed_draws_and_the_order_is_kept_without_a_cap(recipe_values, own, tones):
    drawn = []
    for seed in (0, 0, 1):
        recipe = recipe_of({**recipe_values, "seed": seed}, own, web_documents=4, speech_documents=3)
        documents = chosen_documents(read_prepared(own), recipe.corpus, seed)
        drawn.append([d.id for name in ("web", "speech") for d in documents[name]])
    assert drawn[0] == drawn[1] != drawn[2]
    whole = chosen_documents(read_prepared(own), recipe_of(recipe_values, own).corpus, 0)["web"]
    assert [d.id for d in whole] == [f"web-{n}" for n in range(9)]
    none = recipe_of(recipe_values, own, web_documents=0, local_text=["a"]).corpus
    assert not chosen_documents(read_prepared(own), none, 0)["web"]


def test_other_bytes_are_another_corpus(recipe_values, own):
    before = stage_inputs("corpus", recipe_of(recipe_values, own))["prepared corpus"]
    write_text(own / "withheld.txt", "glacier\n")
    assert stage_inputs("corpus", recipe_of(recipe_values, own))["prepared corpus"] != before


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"prepared": "demo-corpse"}, r"corpus.prepared: got 'demo-corpse', expected one of demo-corpus, or the path"),
        ({"prepared": "piper-joe"}, "is of kind 'voice', expected 'corpus'; use one of demo-corpus"),
        ({"speech_documents": 6}, "corpus.speech_documents: got 6, but the prepared corpus holds 5"),
        ({"heldout_per_domain": 4}, "corpus.heldout_per_domain: got 4, the prepared corpus holds 3 of a"),
    ],
)
def test_what_it_does_not_hold_is_refused(recipe_values, own, keys, message):
    with pytest.raises(SaladError, match=message):
        corpus.run(Run(recipe_of(recipe_values, own, **keys)))


def test_prepared_text_and_written_text_exclude_each_other(recipe_values, own):
    with pytest.raises(ValueError, match="prepared '.*' and web_documents_per_topic 2 exclude each other"):
        recipe_of(recipe_values, own, web_documents_per_topic=2)


@pytest.mark.parametrize("row", ["{", "[]", '{"id": "a"}', '{"id": 1, "text": "a", "source": "", "domain": ""}'])
def test_a_broken_row_is_named(own, row):
    (own / "speech.jsonl.gz").write_bytes(gzip.compress(f"\n{row}\n".encode()))
    with pytest.raises(SaladError, match=r"speech.jsonl.gz line 2: "):
        read_prepared(own)
    (own / "speech.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(SaladError, match=r"speech.jsonl.gz line 1: "):
        read_prepared(own)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio": "../x.flac"}, "lies outside"),
        ({"audio": "/etc/hostname"}, "lies outside"),
        ({"audio": "gone.flac"}, "without its audio"),
        ({"audio": "x" * 300}, "without its audio"),
        ({"audio": None}, "expected the path of a file, got None"),
        ({"document_id": []}, "a field is not as expected"),
        ({"sentences": 3}, "a field is not as expected"),
    ],
)
def test_a_recording_stays_inside_the_folder_and_a_broken_one_is_named(own, change, message):
    path = own / "heldout.recordings.jsonl"
    rows = read_jsonl(path)
    write_jsonl(path, [*rows, {**rows[0], **change}])
    with pytest.raises(SaladError, match=rf"heldout.recordings.jsonl line {len(rows) + 1}: .*{message}"):
        read_prepared(own)


def test_same_documents_same_bytes(tmp_path, monkeypatch):
    documents = [document(f"web-{n}") for n in range(50)]
    write_jsonl(tmp_path / "one.jsonl.gz", map(asdict, documents))
    monkeypatch.setattr("time.time", lambda: 4_000_000_000.0)
    write_jsonl(tmp_path / "two.jsonl.gz", map(asdict, documents))
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "two.jsonl.gz").read_bytes()


# Withheld words


def test_forms_of_a_word_are_one():
    forms = ["Glacier", "glaciers", "glacier's", "Glacier’s", "glaciers'"]
    assert {base_form(form) for form in forms} == {"glacier"} and base_form("glass") == "glass"
    assert word_forms("The sand-dunes' end, isn't it? 3 “Moons”") == [
        "the",
        "sand",
        "dunes",
        "end",
        "isn't",
        "it",
        "moons",
    ]
    assert has_withheld("Two GLACIERS melt.", {"glacier"}) and not has_withheld("Glacial ice.", {"glacier"})


def test_rare_words_are_withheld_and_their_texts_dropped():
    heldout = ["The glacier and the moraine.", "Glaciers carve; a fjord. Rocks, cats."]
    training = ["A glacier's ice.", "Old rocks.", "Big rocks.", "More rock.", "A moraine here.", "moraines", "moraine"]
    assert maker.choose_withheld(heldout, training, occurrences=0) == (["carve", "fjord"], [])
    words, dropped = maker.choose_withheld(heldout, training, occurrences=4)
    assert words == ["carve", "fjord", "glacier", "glaciers"] and dropped == [0]
    left = [text for place, text in enumerate(training) if place not in dropped]
    figures = maker.exposure(heldout, left, words)
    assert (figures["withheld"], figures["in_1_to_2"], figures["in_3_to_9"]) == (4, 1, 2)
