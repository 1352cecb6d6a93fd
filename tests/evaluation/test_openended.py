"""Answers to open prompts, read and heard: overlap, draws that do not depend on the batch, divergences by hand."""

import json
import re
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from salad.cli import app
from salad.evaluation.answers import answer_prompts, load_prompts
from salad.evaluation.open_ended import (
    Sampling,
    answer,
    answer_alike,
    answer_divergence,
    exact_match,
    normalise_answer,
    token_f1,
)
from salad.files import read_jsonl, write_jsonl
from salad.records import to_json
from salad.testing.listeners import save_corpus, save_listener
from salad.testing.models import make_model
from salad.types import SaladError

WORDS = st.lists(st.sampled_from("the Seine a river, flows through Paris. an".split()), max_size=8).map(" ".join)


def prompts(model, lengths, seed=0):
    torch.manual_seed(seed)
    return [torch.randn(n, model.config.llm_config.hidden_size) * 0.3 for n in lengths]


def test_a_placeholder_with_a_row_of_its_own_is_no_answer():
    """As where a padded table has a row for it."""
    model = make_model().eval()
    given = prompts(model, [5, 3])
    first = answer(model, given[:1], Sampling(1), [])[0][0]
    model.config.audio_token_id = first
    for found in (
        answer(model, given[:1], Sampling(4), []),
        answer(model, given[:1], Sampling(4, top_k=5), []),
        answer_alike(model, given[:1], 4, []),
    ):
        assert len(found[0]) == 4 and first not in found[0]


def test_overlap_by_hand():
    assert normalise_answer("The  Seine, an old River!") == "seine old river"
    assert exact_match("the Seine.", ["Rhine", "Seine"]) == 1.0 and exact_match("Seine river", ["Seine"]) == 0.0
    assert token_f1("the river Seine", ["Seine"]) == pytest.approx(2 / 3)
    assert token_f1("Seine Seine", ["Seine Rhine"]) == pytest.approx(0.5)
    assert token_f1("the", ["a"]) == 1.0 and token_f1("", ["Seine"]) == 0.0


@given(WORDS, WORDS)
def test_overlap_is_symmetric_and_within_bounds(one, other):
    assert token_f1(one, [other]) == pytest.approx(token_f1(other, [one]))
    assert 0 <= exact_match(one, [other]) <= token_f1(one, [other]) <= 1
    assert exact_match(one, [one]) == token_f1(one, [one]) == 1


@pytest.mark.parametrize("top_k", [0, 1, 20])
def test_a_batch_answers_as_each_prompt_alone(top_k):
    model, sampling = make_model(), Sampling(max_new_tokens=9, top_k=top_k, temperature=1.5, seed=4)
    embeds = prompts(model, [5, 11, 2, 7])
    together = answer(model, embeds, sampling, [3])
    assert together == [answer(model, [e], sampling, [3], [i])[0] for i, e in enumerate(embeds)]
    if top_k == 1:
        assert together == answer(model, embeds, Sampling(max_new_tokens=9), [3])  # the first of one is the greedy one


def test_what_prompts_begin_with_is_read_once_and_changes_no_answer():
    model = make_model()
    first, rest = prompts(model, [12, 5, 11, 2])[0], prompts(model, [5, 11, 2, 7], seed=1)
    for embeds in ([torch.cat([first, own]) for own in rest], rest, [first, first[:7]], rest[:1]):
        wanted = answer(model, embeds, Sampling(9), [3])
        assert answer_alike(model, embeds, 9, [3]) == wanted
        stop = wanted[0][4]
        assert answer_alike(model, embeds, 9, [stop]) == answer(model, embeds, Sampling(9), [stop])


def test_draws_follow_their_seed_and_the_models_distribution():
    model, embeds = make_model(), prompts(make_model(), [6])
    draws = [answer(model, embeds * 500, Sampling(1, 5, 0.7, seed), []) for seed in (0, 1, 0)]
    assert draws[0] == draws[2] != draws[1]
    first = [ids[0] for ids in draws[0] + draws[1]]
    with torch.no_grad():
        hidden = model.hidden_states(embeds[0], [0, 6])[-1]
        top, ids = (model.get_output_embeddings()(hidden) / 0.7).topk(5)
    for share, token in zip(top.softmax(-1).tolist(), ids.tolist(), strict=True):
        assert first.count(token) / 1000 == pytest.approx(share, abs=4 * (share * (1 - share) / 1000) ** 0.5 + 1e-3)
    assert set(first) <= set(ids.tolist())


def test_an_answer_ends_before_its_end_token():
    model, embeds = make_model(), prompts(make_model(), [6, 4])
    free = answer(model, embeds, Sampling(8), [])
    assert all(len(ids) == 8 for ids in free)
    end = free[0][3]
    assert answer(model, embeds, Sampling(8), [end])[0] == free[0][: free[0].index(end)]


def test_divergence_is_zero_between_equal_prompts_and_else_as_by_hand():
    model = make_model()
    one, other = prompts(model, [5, 8]), prompts(model, [3, 9], seed=1)
    ids = [[4, 9, 2], []]
    assert [kl for kl, _ in answer_divergence(model, one, one, ids, 0)] == pytest.approx([0, 0], abs=1e-6)
    assert answer_divergence(model, one, other, ids)[1] == (0.0, 0)
    found = answer_divergence(model, one, other, ids, 0)
    assert [n for _, n in found] == [4, 1]
    for first, second, tokens, (kl, _) in zip(one, other, ids, found, strict=True):
        logs = []
        for prompt in (first, second):
            embeds = torch.cat([prompt, model.get_input_embeddings()(torch.tensor(tokens, dtype=torch.long))])
            with torch.no_grad():
                logits = model.llm(inputs_embeds=embeds[None]).logits[0, len(prompt) - 1 :]
            logs.append(logits.log_softmax(-1))
        assert kl == pytest.approx(float((logs[0].exp() * (logs[0] - logs[1])).sum()), rel=1e-3)


@pytest.fixture(scope="module")
def listener(tmp_path_factory):
    folder = tmp_path_factory.mktemp("listener")
    model, _ = save_listener(folder)
    corpus = save_corpus(folder / "corpus", documents=3, num_words=12)
    rows = [
        {"id": row["id"], "text": row["text"], "audio": row["audio"], "answers": ["w1 w2"] if i else []}
        for i, row in enumerate(read_jsonl(corpus))
    ]
    rows[2]["prompt"] = "w5 <|audio|> w6"
    write_jsonl(corpus.parent / "prompts.jsonl", rows)
    return model, corpus.parent / "prompts.jsonl"


def test_figures_are_means_of_the_rows(listener, tmp_path):
    figures = to_json(answer_prompts(*listener, tmp_path / "a", Sampling(6, 20, 0.7, 1)))
    rows = read_jsonl(tmp_path / "a" / "answers.jsonl")
    assert [row["f1_text"] is None for row in rows] == [True, False, False]
    assert figures["f1_speech"]["n"] == 2 and figures["kl_text_speech"]["n"] == 3
    for name in ("kl_text_speech", "kl_speech_text", "agreement_f1"):
        assert figures[name]["value"] == pytest.approx(sum(row[name] for row in rows) / 3)
    assert figures["kl_text_speech"]["value"] > 0 and rows[0]["text"] != rows[0]["speech"]
    answer_prompts(*listener, tmp_path / "b", Sampling(6, 20, 0.7, 1))
    for name in ("answers.jsonl", "answers.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": ""}, "line 1: expected"),
        ({"prompt": "no place"}, "holds 0"),
        ({"answers": "w1"}, "expected a list"),
        ({"answers": [""]}, "none of them empty"),
    ],
)
def test_bad_prompts_are_named(listener, tmp_path, change, message):
    rows = read_jsonl(listener[1])
    write_jsonl(tmp_path / "p.jsonl", [{**rows[0], **change}, *rows[1:]])
    with pytest.raises(SaladError, match=message):
        answer_prompts(listener[0], tmp_path / "p.jsonl", tmp_path, Sampling(2))


def test_what_cannot_be_written_is_said_before_anything_is_answered(listener, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setattr("salad.evaluation.answers.load_saved", lambda _: pytest.fail("the model was loaded"))
    done = CliRunner().invoke(app, ["answer", str(listener[0]), "--prompts", str(listener[1]),
                                    "--out", str(tmp_path / "taken")])  # fmt: skip
    assert done.exit_code == 2 and "--out: " in done.stderr and "taken is no folder" in done.stderr


def test_the_command_counts_what_it_sets_aside(listener, tmp_path):
    model, own = listener
    shutil.copytree(own.parent, tmp_path / "p")
    with open(tmp_path / "p" / "prompts.jsonl", "a") as file:
        for row in (read_jsonl(own)[0], {"id": "gone", "text": "w1", "audio": "gone.wav"}):
            file.write(json.dumps(row) + "\n")
    arguments = [model, "--prompts", tmp_path / "p" / "prompts.jsonl", "--out", tmp_path / "o", "--max-new-tokens", 4]
    done = CliRunner().invoke(app, ["answer", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    assert "kl_text_speech" in done.output and "2 prompts set aside" in done.output
    assert {row["id"] for row in read_jsonl(tmp_path / "o" / "quarantine.jsonl")} == {"u0", "gone"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": 3}, "prompt 3 holds 0 "),
        ({"prompt": ["<|audio|>", "<|audio|>"]}, "holds 2 "),
        ({"answers": 3}, "answers is 3, expected a list of texts"),
        ({"answers": [None]}, "expected a list of texts"),
        ({"text": {"a": 1}}, "line 2: expected"),
        ({"id": None}, "line 2: expected"),
    ],
)
def test_prompts_of_another_kind_are_named_by_line(tmp_path, change, words):
    """An evaluation that cannot be read whole is none: its lines are repaired, not passed over."""
    (tmp_path / "a.wav").touch()
    good = {"id": "a", "text": "t", "audio": "a.wav", "prompt": None, "answers": None}
    write_jsonl(tmp_path / "p.jsonl", [good, {**good, "id": "b", **change}])
    with pytest.raises(SaladError, match=re.escape(words)):
        load_prompts(tmp_path / "p.jsonl")
    write_jsonl(tmp_path / "p.jsonl", [good, {**good, "id": "b", "audio": "none.wav"}, {**good, "audio": "../a.wav"}])
    found, aside = load_prompts(tmp_path / "p.jsonl")
    assert [p.id for p in found] == ["a"] and [row["id"] for row in aside] == ["b", "a"]


def test_a_prompt_whose_audio_no_disk_could_name_is_set_aside(tmp_path):
    (tmp_path / "a.wav").touch()
    good = {"id": "a", "text": "t", "audio": "a.wav"}
    write_jsonl(tmp_path / "p.jsonl", [good, {**good, "id": "b", "audio": "x" * 300 + ".wav"}])
    found, aside = load_prompts(tmp_path / "p.jsonl")
    assert [p.id for p in found] == ["a"] and [row["id"] for row in aside] == ["b"]
    assert aside[0]["reason"].endswith("does not exist")
