"""What the probe spoke is bought, counts in the budget, and is not spoken again."""

from collections import Counter
from contextlib import nullcontext
from string import ascii_lowercase
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from salad.config import Recipe
from salad.data.manifest import write_utterances
from salad.files import read_json, read_jsonl, write_json, write_jsonl
from salad.model import SaladConfig, SaladForConditionalGeneration
from salad.model.ears import Lexicon
from salad.pipeline import buying
from salad.pipeline.buying import excluded, market_of
from salad.pipeline.ears_data import text_weights
from salad.pipeline.prober import kept_speech, probed_speech
from salad.pipeline.run import Run
from salad.pipeline.stages import select, synthesize
from salad.select.prices import Price, Prices
from salad.sequence import examples
from salad.text.phonemes import Symbols
from salad.types import Document, SaladError, Utterance, Word

SECONDS = 5.0  # of a document of ten words


def utterance(document, folder):
    words = tuple(Word(w, 0.5 * i, 0.5 * i + 0.4, 1.0) for i, w in enumerate(document.words))
    audio = str(folder / f"{document.id}.flac")
    num = round(SECONDS * 16000)
    return Utterance(f"{document.id}--v", document.text, audio, 16000, num, words, "v", "s", "", document.id, score=1.0)


@pytest.fixture
def make_run(recipe_values, tmp_path):
    """A run that is finished up to the probe, whose two looks spoke four documents, one of them in vain."""

    def make(**settings):
        values = {**recipe_values, "select": {"budget_share": 1.0, "gamma": 0.0, **settings}}
        run = Run(Recipe.model_validate(values))
        texts = [" ".join(f"{'ab'[i // 20]}w{(3 * i + k) % 97}x{i}" for k in range(10)) for i in range(40)]
        documents = [Document(f"d{i}", text, "s", "x") for i, text in enumerate(texts)]
        for name, own in (("web", documents), ("heldout", [Document("h", texts[7], "s")]), ("speech", [])):
            write_jsonl(run.folder("corpus") / f"{name}.jsonl", [vars(d) for d in own])
        write_json(run.folder("align") / "stage.json", {"status": "done", "summary": {"hours": 60 / 3600}})
        write_utterances(run.folder("align") / "speech.jsonl", [])
        write_json(run.folder("cluster") / "top_words.json", [["a"], ["b"]])
        labels = np.array([i // 20 for i in range(40)])
        tensors = {"labels": labels, "centroids": np.zeros((2, 3), np.float32)}
        save_file(tensors, run.folder("cluster") / "clusters.safetensors")
        for look, spoken in enumerate(((3, 7, 25), (30,))):
            folder = run.folder("probe") / f"look-{look:02d}" / "aligned" / "shard-00000"
            audio = run.folder("probe") / f"look-{look:02d}" / "speech"
            write_utterances(folder / "utterances.jsonl", [utterance(documents[i], audio) for i in spoken])
        rows = [{"id": f"d{i}", "cluster": i // 20} for i in (3, 7, 30)]  # of the fourth nothing could be measured
        write_jsonl(run.folder("probe") / "documents.jsonl", rows)
        clusters = [{"id": c, "misalignment": 0.5, "misalignment_se": 0.1, "cer": 0.1} for c in (0, 1)]
        found = {"clusters": clusters, "seconds_per_word": 0.5, "decision": "active", "reliability": 0.9}
        write_json(run.folder("probe") / "probe.json", found)
        return run

    return make


def test_the_market_keeps_what_the_probe_could_measure(make_run):
    run = make_run()
    assert [[u.document_id for u in own] for _, own in probed_speech(run)] == [["d3", "d7", "d25"], ["d30"]]
    market = market_of(run, excluded(run))
    assert market.kept == {"d3": SECONDS, "d7": SECONDS, "d30": SECONDS} and market.taken == {"d7"}  # as held out
    assert kept_speech(make_run(keep_probed=False)) == []


@pytest.mark.parametrize("score", ["uniform", "misalignment", "coverage"])
def test_select_buys_it_first_and_for_the_rest_of_the_budget(make_run, score):
    run = make_run(score=score)
    summary = select.run(run)
    ids = [row["id"] for row in read_jsonl(run.folder("select") / "documents.jsonl")]
    assert ids[:2] == ["d3", "d30"] and len(set(ids)) == len(ids) == 12 and "d7" not in ids
    assert summary["probed"] == 2 and summary["documents"] == 12
    quotas = [row["quota_s"] for row in read_jsonl(run.folder("select") / "clusters.jsonl")]
    assert sum(quotas) == pytest.approx(60)
    again = make_run(score=score, keep_probed=False)
    assert "probed" not in select.run(again)


def test_synthesize_speaks_the_others_alone(make_run, monkeypatch):
    run = make_run()
    select.run(run)
    asked, encoded = [], []

    def speak(run, folder, spoken, title, **how):
        asked.extend(document.id for document, _ in spoken)
        return [(utterance(document, folder), None) for document, _ in spoken]

    monkeypatch.setattr(synthesize, "speak", speak)
    monkeypatch.setattr(synthesize, "align", lambda run, folder, spoken, title: [u for u, _ in spoken])
    monkeypatch.setattr(synthesize, "encode", lambda run, folder, kept, title, **how: encoded.extend(kept))
    summary = synthesize.run(run)
    bought = synthesize.load_bought(run)
    assert len(asked) == 10 and not {"d3", "d30"} & set(asked)
    assert [u.document_id for u in bought[:2]] == ["d3", "d30"] and len(bought) == len(encoded) == 12
    assert bought[0].audio == str(run.folder("probe") / "look-00" / "speech" / "d3.flac")
    assert summary["probed"] == 2 and summary["hours"] == pytest.approx(60 / 3600)


def test_two_prices_need_ears_of_two_parts(make_run):
    with pytest.raises(ValueError, match="two_prices needs model.ears: symbols"):
        make_run(score="two_prices")
    with pytest.raises(ValueError, match="random reads no score"):
        make_run(score="coverage", draw="random")


def test_two_prices_buys_speech_and_text(make_run, recipe_values, monkeypatch):
    recipe_values |= {
        "model": {"ears": "symbols", "rate": "text"},
        "warm_start": {"enabled": True},
    }
    run = make_run(score="two_prices", keep_probed=False)
    prices = {0: Price(0.4, 0.1, 0.05, speech=1e-6, text=3e-6), 1: Price(0.1, 0.4, 0.2, speech=3e-6, text=1e-6)}
    words = {c: {f"{c}-{i}": 2 for i in range(5)} for c in (0, 1)}
    monkeypatch.setattr(select, "price", lambda run, market: Prices(prices, words, {}, 1e-3, 0.1, 0.1, 2.0))
    select.run(run)
    assert [row["quota_s"] for row in read_jsonl(run.folder("select") / "clusters.jsonl")] == pytest.approx(
        [12, 48], abs=1
    )
    saved = read_json(run.folder("select") / "prices.json")
    assert saved["clusters"]["1"]["speech"] == 3e-6 and saved["fall_speech"] == 0.1
    weights = text_weights(run)  # d7 is held out: it is not read
    assert len(weights) == 39 and weights[0] == pytest.approx(1.25) and weights[-1] == pytest.approx(0.75)
    assert text_weights(make_run()) is None


def test_units_of_the_speech_are_a_set_and_are_read_one_recording_at_a_time(make_run, monkeypatch):
    run, asked = make_run(), []
    monkeypatch.setattr(buying, "_all_speech", lambda run: [SimpleNamespace(text="a b a"), SimpleNamespace(text="b c")])
    plain = buying.units_of
    monkeypatch.setattr(buying, "units_of", lambda texts, symbols: plain(asked.append(t) or t for t in texts))
    found, heard = buying.units_of_run(run)
    assert heard == {"a", "b", "c"} and len(found) == 40
    calls = []
    monkeypatch.setattr(buying, "units_of", lambda texts, symbols: calls.append(len(list(texts))) or [Counter()])
    buying.units_of_run(run)
    assert calls == [1, 1, 40]


def test_nothing_is_bought_from_an_empty_probe(make_run):
    run = make_run()
    write_json(
        run.folder("probe") / "probe.json",
        {"clusters": [{"id": 0}, {"id": 1}], "seconds_per_word": 0.5, "decision": "active", "reliability": 0.0},
    )
    with pytest.raises(SaladError, match="select.max_cer"):
        select.run(run)


class Noise:
    """Frames of noise for every piece that is asked for."""

    def get(self, key):
        return np.random.default_rng(key[1]).normal(size=(40 * (key[2] - key[1]), 6)).astype(np.float16)


def small_ears(tokenizer):
    """Untrained ears of two parts that hear letters."""
    symbols = Symbols("letters", ("#", *ascii_lowercase))
    llm = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), hidden_size=24, intermediate_size=40, num_hidden_layers=2,
                    num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.3)
    )  # fmt: skip
    shape = {"lower_layers": 2, "lower_width": 16, "upper_layers": 1, "upper_width": 16, "upper_heads": 2, "depth": 5}
    config = SaladConfig(llm_config=llm.config, frame_dim=6, frame_rate_hz=50.0, stride=1, rate="text", ears="symbols",
                         symbols=symbols.to_dict(), ears_shape=shape, causal=False)  # fmt: skip
    model = SaladForConditionalGeneration.from_llm(llm, config)
    model.adapter.learn_lexicon(Lexicon.of_tokenizer(tokenizer, symbols, llm.config.vocab_size, shape["depth"]))
    return model.eval()


def test_prices_are_measured_on_the_recordings_of_the_probe(make_run, recipe_values, tokenizer, monkeypatch):
    recipe_values |= {
        "model": {"ears": "symbols", "rate": "text"}, "warm_start": {"enabled": True}, "precision": "fp32",
        "sequence": {"text_words": [2, 3], "speech_words": [2, 3], "first": "speech"},
    }  # fmt: skip
    run = make_run(score="two_prices", keep_probed=False)
    torch.manual_seed(0)
    model = small_ears(tokenizer)
    reader = SimpleNamespace(tokenizer=tokenizer, load=lambda: (model, model), reading=nullcontext)
    monkeypatch.setattr(examples, "start_token_id", lambda tokenizer: 0)
    monkeypatch.setattr(buying, "Prober", lambda run: reader)
    monkeypatch.setattr(buying, "open_frames", lambda run, folder, own, layouts: Noise())
    rows = buying._priced(run, {"aw0x0": 3}, Counter({"bw93x30": 4}))
    assert [row.cluster for row in rows] == [0, 0, 1]  # d25 was spoken in vain
    assert all(row.misalignment > 0 and row.known > 0 and row.phone_error > 0 for row in rows)  # it hears noise
    assert rows[2].read == pytest.approx(np.log2(1 + 3) / 10)  # of ten words one was read in three other places
    prices = buying.price(run, market_of(run, excluded(run)))
    assert set(prices.clusters) == {0, 1} and prices.heard == {} and sum(prices.words[0].values()) == 200
    single = SimpleNamespace(config=SimpleNamespace())
    monkeypatch.setattr(buying, "Prober", lambda run: SimpleNamespace(load=lambda: (single, single)))
    with pytest.raises(SaladError, match="needs model.ears: symbols"):
        buying.price(run, market_of(run, []))
