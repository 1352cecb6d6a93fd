"""What is measured on stays out of all that is trained on: speech, broad text and plain text, by whoever it is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from salad.config import Recipe, load_recipe
from salad.data.manifest import read_utterances
from salad.data.user_data import hold_out
from salad.files import read_json, read_jsonl
from salad.pipeline import corpus_needs, speech_jobs
from salad.pipeline.leakage import evaluation_texts, screen_of, without_leaks
from salad.pipeline.run import Run
from salad.pipeline.stages import align, corpus
from salad.select.screen import overlapping
from salad.synthesize import speak
from salad.testing.corpora import RATE_HZ, sound, write_jsonl
from salad.types import Document, SaladError

READERS = 6
RECIPES = Path(__file__).parents[2] / "recipes"


def text_of(book: int, words: int = 20) -> str:
    return " ".join(f"word{n} of{book}x{n}" for n in range(words // 2))


@pytest.fixture
def start(recipe_values, tmp_path):
    """The corpus stage on six readers, of whom each two read the same book; one of them is held out."""
    rows = []
    for reader in range(READERS):
        soundfile.write(tmp_path / f"{reader}.wav", sound(3.0, reader), RATE_HZ)
        about = {"audio_filepath": f"{reader}.wav", "duration": 3.0, "speaker": f"reader {reader}"}
        rows.append({**about, "text": text_of(reader // 2)})
    write_jsonl(tmp_path / "speech.json", rows)
    question = "which of the twelve grey boats that came home in the morning had a broken mast"
    item = {"id": "q", "context": question, "choices": ["the last", "the first"], "answer": 1}
    write_jsonl(tmp_path / "mine.jsonl", [item])
    copies = [{"id": f"copy{n}", "text": f"It begins: {text_of(n)}. It ends."} for n in range(READERS // 2)]
    others = [{"id": f"own{n}", "text": text_of(n)} for n in range(10, 15)]
    asked = [{"id": "asked", "text": f"A child asked: {question}? The first, they said."}]
    write_jsonl(tmp_path / "web.jsonl", [*copies, *others, *asked])
    write_jsonl(tmp_path / "plain.jsonl", [*copies, *others, *asked])

    def run(**corpus_keys):
        values = {
            **recipe_values,
            "assets": {"encoder": "log-mel"},
            "engine": {"workers": 1},
            "model": {"stride": 8},
            "select": {"evaluation": [str(tmp_path / "mine.jsonl")]},
            "corpus": {
                **recipe_values["corpus"],
                "web_documents_per_topic": 0,
                "speech_documents": 0,
                "heldout_per_domain": 0,
                "heldout_share": 0.2,
                "speech": [{"path": str(tmp_path / "speech.json"), "name": "books"}],
                "text": [{"path": str(tmp_path / "web.jsonl"), "name": "web"}],
                "plain_text": [{"path": str(tmp_path / "plain.jsonl"), "name": "plain", "max_documents": None}],
                **corpus_keys,
            },
        }
        run = Run(Recipe.model_validate(values))
        return run, corpus.run(run)

    return run


def reasons(run, stage):
    return {row["id"]: row["reason"] for row in read_jsonl(run.folder(stage) / "quarantine.jsonl")}


def test_the_same_book_by_another_reader_counts_as_seen(start, monkeypatch):
    run, _ = start()
    monkeypatch.setattr(align, "align", lambda run, folder, spoken, title: [utterance for utterance, _ in spoken])
    monkeypatch.setattr(align, "encode", lambda *_, **__: [])
    summary = align.run(run)
    speech, heldout = (read_utterances(run.folder("align") / f"{name}.jsonl") for name in ("speech", "heldout"))
    assert len(heldout) == 1 and len(speech) == READERS - 2  # the other reader of that book is gone
    assert not any(overlapping([u.text for u in speech], [u.text for u in heldout], 13))
    assert summary["leaked"] == summary["quarantined"] == 1
    [(_, reason)] = reasons(run, "align").items()
    assert reason.startswith("text: shares 13 words in a row with held-out document books-") and "measured on" in reason


def test_text_that_is_bought_or_read_against_forgetting_passes_the_same_screen(start, capsys):
    run, summary = start()
    held = read_jsonl(run.folder("corpus") / "heldout.jsonl")
    book = next(n for n in range(READERS // 2) if held[0]["text"] == text_of(n))
    gone = {f"copy{book}", "asked"}
    for source in ("web", "plain"):
        kept = {row["id"].removeprefix(f"{source}-") for row in read_jsonl(run.folder("corpus") / f"{source}.jsonl")}
        assert kept == {"copy0", "copy1", "copy2", *(f"own{n}" for n in range(10, 15)), "asked"} - gone
        told = reasons(run, "corpus")
        assert held[0]["id"] in told[f"{source}-copy{book}"] and "item q of mine" in told[f"{source}-asked"]
    assert summary["leaked"] == summary["quarantined"] == 4 and summary["web_documents"] == 7
    card = read_json(run.folder("corpus") / "data_card.json")
    assert "4 texts share words with what is measured on, and are set aside" in card["notes"]
    assert "D_web: 2 of 9 share 13 words in a row" in capsys.readouterr().err
    plain = next(row for row in card["text"] if row["name"] == "plain")
    assert (plain["documents"], plain["words"], plain["leaked"]) == (7, 2 * 24 + 5 * 20, 2)


def test_a_corpus_that_was_killed_does_not_read_the_text_against_forgetting_again(start, monkeypatch, capsys):
    run, summary = start()
    card, told = read_json(run.folder("corpus") / "data_card.json"), reasons(run, "corpus")
    inode = (run.folder("corpus") / "plain.jsonl").stat().st_ino
    capsys.readouterr()
    _, counts = start()
    assert "reads all of plain_text once" not in capsys.readouterr().err and counts == summary
    assert read_json(run.folder("corpus") / "data_card.json") == card and reasons(run, "corpus") == told
    assert (run.folder("corpus") / "plain.jsonl").stat().st_ino == inode
    for name in ("plain.jsonl", "plain.quarantine.jsonl"):  # removed by hand
        path = run.folder("corpus") / name
        before = path.read_text()
        path.unlink()
        assert start()[1] == summary and path.read_text() == before


def test_broad_text_is_held_out_spoken_and_neither_bought_nor_trained_on(start, monkeypatch, tmp_path):
    class Tone:
        sample_rate_hz = RATE_HZ

        def __init__(self, name):
            self.name = name

        def speak(self, text, speed=1.0):
            return np.sin(np.arange(4000) / 7).astype(np.float32)

    monkeypatch.setattr(speak, "load_voice", Tone)
    for module in (corpus_needs, speech_jobs):
        monkeypatch.setattr(module, "assets_of_voice", lambda name: ())
    run, summary = start(heldout_text=2, unseen_documents=1)
    folder = run.folder("corpus")
    held = [row for row in read_jsonl(folder / "heldout.jsonl") if row["source"] == "web"]
    assert len(held) == 2 and summary["heldout_documents"] == 3
    spoken = [row for path in folder.glob("heldout/shard-*") for row in read_jsonl(path / "utterances.jsonl")]
    said = {(row["document_id"], row["speaker"]) for row in spoken}
    assert {d["id"] for d in held} == {i for i, voice in said if voice == "first"}
    assert len([1 for _, voice in said if voice == "third"]) == 1
    for source in ("web", "plain"):
        assert not {row["text"] for row in held} & {row["text"] for row in read_jsonl(folder / f"{source}.jsonl")}
    card = read_json(folder / "data_card.json")
    assert any(note.startswith("web: 2 documents are held out") for note in card["notes"])
    with pytest.raises(SaladError, match=r"corpus.heldout_text: got 9, but there are 9 texts; keep fewer of them"):
        start(heldout_text=9)
    with pytest.raises(ValueError, match="heldout_text: got 3, but there is no text"):
        start(heldout_text=3, text=[], local_text=[str(tmp_path / "web.jsonl")])


def test_of_a_text_that_was_cut_one_part_is_measured_on_and_none_trained_on():
    documents = [Document(f"d{n}#{part}", f"text {n} {part}", "s") for n in range(9) for part in range(3)]
    heldout, spare = hold_out(documents, 4, seed=0)
    assert [d.id.partition("#")[2] for d in heldout] == ["0"] * 4 and len(spare) == 8
    assert {d.id.partition("#")[0] for d in heldout} == {d.id.partition("#")[0] for d in spare}
    assert hold_out(documents, 0, seed=0) == ([], [])
    assert {d.id for d in hold_out(documents, 4, seed=1)[0]} != {d.id for d in heldout}


def test_parts_of_a_text_whose_id_came_before_are_held_out_together():
    twice = [f"d0#{part}" for part in range(3)] + [f"d0#{part}~{place}" for place, part in enumerate(range(3), 37)]
    documents = [Document(name, "t", "s") for name in [*twice, "d1", "d2", "d3#0", "d3#1"]]
    for seed in range(9):
        heldout, spare = hold_out(documents, 2, seed=seed)
        cut = {d.id for d in (*heldout, *spare) if d.id.startswith("d0#")}
        assert cut in (set(), set(twice))  # else one is measured on, and its neighbours trained on


def test_short_texts_that_were_held_out_are_anybodys():
    recipe = load_recipe(RECIPES / "demo.yaml", ["select.evaluation=[]"])
    screen = screen_of(recipe, [Document("d", "Thank you very much.", "s")])
    said = [Document("e", "Well, thank you very much.", "s")]
    assert without_leaks(screen, said, "D_speech") == (said, [])


def test_items_are_found_in_the_folder_of_the_recipes_tasks(tmp_path):
    item = {"id": "q1", "context": "Bees make", "choices": ["wax", "oil"], "answer": 0}
    write_jsonl(tmp_path / "piqa.jsonl", [item])
    overrides = ["select.evaluation=[piqa]", f"evaluate.task_data={tmp_path}"]
    recipe = load_recipe(RECIPES / "demo.yaml", overrides)
    assert evaluation_texts(recipe, []) == [("item q1 of piqa", "Bees make wax")]
    with pytest.raises(SaladError, match="piqa has no items here"):
        evaluation_texts(load_recipe(RECIPES / "demo.yaml", overrides[:1]), [])
