"""The probe finds what was planted, and chance where nothing was; retention tells how much is left."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from salad.cli import app
from salad.evaluation.probing import layer_states, probe, retention
from salad.evaluation.retention import measure_retention
from salad.evaluation.saved_model import load_saved
from salad.files import read_json, read_jsonl, sha256_file, write_json
from salad.measure.results import Interval
from salad.records import to_json
from salad.testing.listeners import save_corpus, save_listener
from salad.testing.models import make_examples, make_model
from salad.types import SaladError


def planted(strength, n=160, d=24, voices=2, seed=0):
    """States [n, d] with a direction for the voice and one for the rate, 4 rows a document, one voice a document."""
    rng = np.random.default_rng(seed)
    group = np.arange(n) // 4
    voice = rng.permutation(np.arange(n // 4) % voices)[group]
    rate = rng.normal(size=n)
    states = rng.normal(size=(n, d))
    states[:, 0] += strength * voice
    states[:, 1] += strength * rate
    return states * rng.uniform(0.1, 9, d), np.array([f"v{v}" for v in voice]), rate, [f"d{g}" for g in group]


def test_a_planted_voice_and_rate_are_found():
    states, voice, rate, documents = planted(5.0)
    found = probe(states, voice, documents, recordings=documents)
    assert found.value > 0.95 and abs(found.chance - 0.5) < 0.1 and found.interval[0] > found.chance_high
    pace = probe(states, rate, documents)
    assert pace.value > 0.85 and pace.chance < 0.05


@pytest.mark.parametrize("voices", [2, 4])
def test_where_nothing_is_planted_the_probe_is_at_chance(voices):
    values, paces, chances = [], [], []
    for seed in range(8):
        states, voice, rate, documents = planted(0.0, voices=voices, seed=seed)
        found = probe(states, voice, documents, recordings=documents, shuffles=10, resamples=50, seed=seed)
        values.append(found.value)
        chances.append(found.chance)
        paces.append(probe(states, rate, documents, shuffles=2, resamples=50, seed=seed).value)
    assert abs(np.mean(values) - np.mean(chances)) < 0.06 and abs(np.mean(chances) - 1 / voices) < 0.07
    assert np.mean(paces) < 0.03


def test_a_document_known_by_heart_does_not_help():
    """States that name their document, and nothing else, tell no voice: documents are kept apart."""
    _, voice, _, documents = planted(0.0)
    rng = np.random.default_rng(0)
    signs = {d: rng.normal(size=200) * 10 for d in documents}
    states = np.stack([signs[d] for d in documents]) + rng.normal(size=(len(documents), 200)) * 0.01
    found = probe(states, voice, documents, recordings=documents)
    assert found.value < 0.75 and found.interval[0] <= 0.5 <= found.interval[1]


def test_a_rare_voice_counts_as_much_as_a_common_one():
    rng = np.random.default_rng(1)
    n = 400
    voice = np.where(np.arange(n) // 4 % 10 == 0, "rare", "common")
    documents = [f"d{i // 4}" for i in range(n)]
    states = rng.normal(size=(n, 8))
    assert abs(probe(states, voice, documents, recordings=documents).value - 0.5) < 0.15
    states[:, 0] += 4.0 * (voice == "rare")
    assert probe(states, voice, documents, recordings=documents).value > 0.9


def test_more_rows_than_columns_or_fewer_give_the_same_probe():
    states, voice, _, documents = planted(1.0, n=80, d=24)
    wide = np.concatenate([states, np.zeros((80, 200))], axis=1)  # columns that never move change nothing
    one, other = (probe(x, voice, documents, recordings=documents, resamples=50) for x in (states, wide))
    assert one.value == other.value and np.array_equal(one.draws, other.draws)


def test_retention_is_one_where_nothing_is_lost_and_zero_where_all_is():
    strong, voice, _, documents = planted(4.0)
    gone, *_ = planted(0.0, seed=9)
    faint, *_ = planted(1.2)
    full, none, part = (probe(x, voice, documents, recordings=documents) for x in (strong, gone, faint))
    assert retention(full, full) == Interval(1.0, 1.0, 1.0)
    left = retention(none, full)
    assert abs(left.value) < 0.25 and left.high < 0.6
    some = retention(part, full)
    assert left.high < some.value < 1.0 and some.low < some.value < some.high
    assert retention(full, none) is None  # nothing was there to be kept


def test_bad_labels():
    with pytest.raises(SaladError, match="every span is of the voice 'a'"):
        probe(np.zeros((4, 2)), ["a"] * 4, list("wxyz"))
    with pytest.raises(SaladError, match="of 1 documents"):
        probe(np.zeros((4, 2)), ["a", "b"] * 2, ["d"] * 4)
    with pytest.raises(SaladError, match="at most 2 of one voice"):
        probe(np.zeros((4, 2)), ["a", "b"] * 2, list("wxyz"))


@pytest.mark.parametrize(("rate", "ctc"), [("fixed", 0), ("text", 30)])
def test_states_of_a_pack_are_those_of_its_documents_alone(rate, ctc):
    model, examples = make_model(rate, ctc), make_examples(4)
    together = layer_states(model, examples)
    assert list(together) == ["encoder", "adapter", "llm-00", "llm-01", "llm-02"]
    spans = [f for e in examples for f in e.speech_frames]
    assert all(len(states) == len(spans) for states in together.values())
    assert np.allclose(together["encoder"], [f.astype(np.float32).mean(0) for f in spans], atol=1e-3)
    alone = [layer_states(model, [e]) for e in examples if e.speech_frames]
    for name, states in together.items():
        assert np.allclose(states, np.concatenate([one[name] for one in alone]), atol=1e-4)


def test_states_stand_at_the_speech_positions():
    """Only what was heard moves the LLM's input there; what was read before moves its layers."""
    model, example = make_model(), next(e for e in make_examples(2) if e.spans[0].modality == "text")
    before = layer_states(model, [example])
    ids = example.token_ids.copy()
    ids[0] = ids[0] % 60 + 1
    after = layer_states(model, [type(example)(**{**vars(example), "token_ids": ids})])
    assert np.array_equal(before["llm-00"], after["llm-00"])
    assert not np.allclose(before["llm-02"], after["llm-02"], atol=1e-5)


def test_figures_of_a_saved_model(tmp_path):
    model, llm = save_listener(tmp_path)
    corpus = save_corpus(tmp_path / "corpus", documents=12, voices=("a", "b"), num_words=60)
    figures = measure_retention(model, corpus, tmp_path / "out", before="init", teacher=str(llm), workers=1)
    rows = read_jsonl(tmp_path / "out" / "retention.jsonl")
    assert {row["layer"] for row in rows} == {"encoder", "adapter", "llm-00", "llm-01", "llm-02"}
    voice = {row["layer"]: row for row in rows if row["of"] == "voice"}
    assert voice["encoder"]["after"]["value"] > 0.95 and voice["encoder"]["retention"]["value"] == 1.0
    assert all(row["of_encoder"]["value"] <= 1.01 for row in voice.values())
    assert voice["adapter"]["before"] is not None and 0.3 < voice["adapter"]["chance"] < 0.7
    assert to_json(figures) == read_json(tmp_path / "out" / "retention.json") and figures.voices == {"a": 6, "b": 6}
    again = measure_retention(model, corpus, tmp_path / "out", before="init", teacher=str(llm), workers=1)
    assert again == figures


def test_before_may_be_a_model_or_a_checkpoint(tmp_path):
    model, llm = save_listener(tmp_path)
    corpus = save_corpus(tmp_path / "corpus", documents=8, voices=("a", "b"), num_words=40)

    def measure(before):
        out = tmp_path / "out"
        measure_retention(model, corpus, out, before=str(before), teacher=str(llm), workers=1, layouts=1)
        return read_jsonl(out / "retention.jsonl")

    rows = measure(model)
    assert all(row["before"]["value"] == row["after"]["value"] for row in rows)  # a model before itself loses nothing
    checkpoint = tmp_path / "checkpoint-000001"
    checkpoint.mkdir()

    def save(weights):
        save_file(weights, checkpoint / "weights.safetensors")
        sums = {"weights.safetensors": sha256_file(checkpoint / "weights.safetensors")}
        write_json(checkpoint / "state.json", {"step": 1, "sha256": sums})

    weights = {n: p.detach().clone() for n, p in load_saved(model).named_parameters() if n.startswith("adapter")}
    save(weights)
    assert [r["before"] for r in measure(checkpoint)] == [r["before"] for r in rows]
    save({n: torch.randn_like(p) for n, p in weights.items()})
    other = [r["before"]["value"] for r in measure(checkpoint) if r["layer"] == "llm-01"]
    assert other != [r["before"]["value"] for r in rows if r["layer"] == "llm-01"]


def test_one_voice_is_refused_and_a_voice_with_one_document_is_set_aside(tmp_path):
    model, _llm = save_listener(tmp_path)
    corpus = save_corpus(tmp_path / "one", documents=4)
    result = CliRunner().invoke(app, ["retention", str(model), "--corpus", str(corpus), "--out", str(tmp_path / "o")])
    assert result.exit_code == 2 and "two voices" in result.output and "a (4 documents)" in result.output
    corpus = save_corpus(tmp_path / "three", documents=7, voices=("a", "b", "c", "a", "b", "d"), num_words=40)
    figures = measure_retention(model, corpus, tmp_path / "p", workers=1, layouts=1)
    assert set(figures.voices) == {"a", "b"} and figures.quarantined == 2
