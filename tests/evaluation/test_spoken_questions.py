"""`salad eval --questions`: what is a question, when two answers are the same, and who answers what."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from salad.audio import write_flac
from salad.cli import app
from salad.evaluation.spoken_benchmark import SpeechInput
from salad.evaluation.spoken_questions import (
    EXAMPLES,
    TOKENS,
    QuestionRow,
    ask_spoken,
    first_sentence,
    followed,
    holds,
    load_questions,
)
from salad.files import read_json, read_jsonl, write_jsonl
from salad.model import SaladForConditionalGeneration, SaladProcessor
from salad.testing.listeners import save_listener, save_recogniser
from salad.types import SaladError


def test_ours_are_a_hundred_with_their_answers():
    found, skipped = load_questions(["salad_questions"])
    assert len(found) == len({q.text for q in found}) == 100 and not skipped
    assert all(q.text.endswith("?") and q.answers for q in found)
    assert not {q.text for q in found} & {asked for asked, _ in EXAMPLES}


def test_a_benchmarks_items_are_questions_where_they_ask():
    found, skipped = load_questions(["salad_howto", "salad_science"], limit=3)
    assert len(found) == 6 and all(q.text.endswith("?") for q in found)
    assert {row["id"] for row in skipped} >= {"howto-1", "howto-3"}
    assert load_questions(["salad_science"], 1)[0][0].answers == ("gravity",)


@pytest.mark.parametrize("row", [{"id": "a"}, {"id": "a", "question": " "}, {"question": "w1?"},
                                 {"id": "a", "question": "w1?", "answers": "w2"}, ["a"]])  # fmt: skip
def test_a_line_that_is_none_is_named(tmp_path, row):
    write_jsonl(tmp_path / "q.jsonl", [{"id": "good", "question": "w1 w2"}, row])
    with pytest.raises(SaladError, match="line 2: .*expected"):
        load_questions([str(tmp_path / "q.jsonl")])
    with pytest.raises(SaladError, match="nowhere.jsonl cannot be read"):
        load_questions(["nowhere.jsonl"])


@pytest.mark.parametrize("right", [[1, 3, 2], ["A", "c", "B"], ["1", "3", "2"], ["red", "blue", "green"]])
def test_a_benchmarks_answers_are_read_as_in_tasks(tmp_path, right):
    rows = [
        {"id": f"q{n}", "context": "Which colour is it?", "choices": ["red", "green", "blue"], "answer": answer}
        for n, answer in enumerate([*right, "purple", None])
    ]
    write_jsonl(tmp_path / "q.jsonl", rows)
    found, skipped = load_questions([str(tmp_path / "q.jsonl")])
    assert [q.answers for q in found] == [("red",), ("blue",), ("green",), ()]
    assert [row["id"] for row in skipped] == ["q3"] and "answer: got 'purple'" in skipped[0]["reason"]


def test_a_lone_benchmark_row_that_is_bad_costs_itself(tmp_path):
    bad = {"id": "a", "context": "Who?", "choices": ["x", "y"], "answer": "z"}
    write_jsonl(tmp_path / "q.jsonl", [bad, {"id": "b", "question": "How many?", "answers": [3.5]}])
    found, skipped = load_questions([str(tmp_path / "q.jsonl")])
    assert [(q.id, q.answers) for q in found] == [("b", ("3.5",))]
    assert [row["id"] for row in skipped] == ["a"] and "answer: got 'z'" in skipped[0]["reason"]
    write_jsonl(tmp_path / "q.jsonl", [bad])
    with pytest.raises(SaladError, match=r"hold no question that can be used \(a: answer: got 'z'"):
        load_questions([str(tmp_path / "q.jsonl")])


@pytest.mark.parametrize(("answer", "right"), [("Paris", ("Paris",)), (["Paris", "Lutetia"], ("Paris", "Lutetia")),
                                               (8, ("8",)), ("", ()), (None, ())])  # fmt: skip
def test_an_answer_without_choices_is_a_text(tmp_path, answer, right):
    write_jsonl(tmp_path / "q.jsonl", [{"id": "a", "question": "What is it?", "answer": answer}])
    [found], skipped = load_questions([str(tmp_path / "q.jsonl")])
    assert found.answers == right and not skipped
    write_jsonl(tmp_path / "q.jsonl", [{"id": "a", "question": "What is it?", "answer": {"text": "Paris"}}])
    with pytest.raises(SaladError, match="line 1: expected"):
        load_questions([str(tmp_path / "q.jsonl")])


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"answer": True}, "answer: got true, expected"),
        ({"answer": float("nan")}, "answer: got NaN, expected"),
        ({"answers": ["Paris", False], "choices": ["Paris", "Rome"]}, "answers: got false, expected"),
        (
            {"choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"},
            "choices: this is a line of another",
        ),
        ({"choices": ["a", "b"], "answerKey": "B"}, "answerKey: this is a line of another form"),
    ],
)
def test_what_only_looks_like_an_answer_is_set_aside(tmp_path, odd, reason):
    good = {"id": "good", "question": "Is it?", "choices": ["no", "yes"], "answer": True}
    write_jsonl(tmp_path / "q.jsonl", [good, {"id": "odd", "question": "What is it?", **odd}])
    [found], [skipped] = load_questions([str(tmp_path / "q.jsonl")])
    assert found.answers == ("yes",)
    assert skipped["id"] == "odd" and skipped["reason"].startswith(reason)


def test_half_a_letter_is_set_aside(tmp_path):
    half = r'{"id": "a", "question": "Who \ud83d?"}' + "\n" + r'{"id": "b", "question": "w?", "answers": ["\ude00"]}'
    (tmp_path / "q.jsonl").write_text(half + '\n{"id": "c", "question": "w1?"}\n')
    found, skipped = load_questions([str(tmp_path / "q.jsonl")])
    assert [q.id for q in found] == ["c"] and [row["id"] for row in skipped] == ["a", "b"]
    assert all("half of a letter" in row["reason"] for row in skipped)


def test_answers_by_hand():
    assert first_sentence(" The Nile. It is long.") == "The Nile." and first_sentence("3.5\nmore") == "3.5"
    assert holds("It is the Indian Ocean.", ["indian ocean"]) and not holds("Indianapolis", ["Indian"])
    assert holds("A", ["a"]) is False or holds("An A", ["A"]) is False  # an article alone is no word
    rows = [
        QuestionRow("1", "?", ("Nile",), {"read": "The Nile.", "heard": "nile"}),
        QuestionRow("2", "?", ("Rome",), {"read": "Paris", "heard": "Rome"}),
        QuestionRow("3", "?", (), {"read": "Six", "heard": "Six"}),
    ]
    found = followed(rows, "heard")
    assert found.same.value == pytest.approx(2 / 3) and found.same.low < 2 / 3 < found.same.high
    assert (found.right.value, found.right.n) == (1.0, 2) and found.f1 == pytest.approx(2 / 3)
    read = followed(rows, "read")
    assert (read.same.value, read.right.value) == (1.0, 0.5)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A model whose LLM was trained, its text base, questions, and a recording of all but the last."""
    folder = tmp_path_factory.mktemp("questions")
    model, base = save_listener(folder, change=0.5)
    rows = [{"id": f"q{i}", "question": f"w{i + 1} w{i + 20}", "answers": [f"w{i}"]} for i in range(5)]
    write_jsonl(folder / "q.jsonl", rows)
    for i in range(4):
        sound = 0.1 * np.random.default_rng(i).normal(size=8000 + 3000 * i)
        write_flac(folder / "sounds" / f"q{i}.flac", sound.astype(np.float32), 16_000)
    return folder, model, base


def test_each_answers_what_it_gets(asked):
    folder, model, base = asked
    speech = SpeechInput((), folder / "sounds", asr=str(save_recogniser(folder / "asr")), audio_cache=folder / "cache")
    figures = ask_spoken(model, [str(folder / "q.jsonl")], folder / "out", speech, base=str(base))
    assert (figures.questions, figures.skipped, figures.voice) == (4, 1, "recordings")
    assert list(figures.systems) == ["read", "heard", "cascade", "silence"]
    assert figures.systems["read"].same.value == 1 > figures.systems["silence"].same.value
    rows = read_jsonl(folder / "out" / "questions.jsonl")
    hears, processor = (
        SaladForConditionalGeneration.from_pretrained(model).eval(),
        SaladProcessor.from_pretrained(model),
    )
    shown = "".join(f"Question: {q}\nAnswer: {a}\n\n" for q, a in EXAMPLES)

    def alone(llm, question, audio=()):
        inputs = processor(f"{shown}Question: {question}\nAnswer:", list(audio))
        with torch.no_grad():
            ids = llm.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, eos_token_id=[0, 2], pad_token_id=0)
        told = ids[0, inputs["input_ids"].shape[1] :].tolist()
        return processor.decode([token for token in told if token != 2])  # which the LLM's own config calls an end

    reads = SaladForConditionalGeneration.from_pretrained(model).eval()
    reads.llm = type(reads.llm).from_pretrained(base)
    for i, row in enumerate(rows):
        wanted = {
            "read": alone(reads, f"w{i + 1} w{i + 20}"),
            "heard": alone(hears, "<|audio|>", [folder / "sounds" / f"q{i}.flac"]),
            "cascade": alone(reads, row["transcript"]),
            "silence": alone(hears, "<|audio|>", [np.zeros(8000 + 3000 * i, np.float32)]),
        }
        assert row["answers"] == wanted
    assert read_jsonl(folder / "out" / "questions-quarantine.jsonl")[0]["id"] == "q4"


def test_the_command_prints_shares_with_intervals(asked):
    folder, model, base = asked
    command = ["eval", model, "--questions", folder / "q.jsonl", "--recordings", folder / "sounds", "--asr", "none"]
    done = CliRunner().invoke(app, [*map(str, command), "--base", str(base), "--out", str(folder / "told")])
    assert done.exit_code == 0, done.output
    assert "| read | the question in text | 100.0 [51.0, 100.0] | 1.00 |" in done.output
    assert "cascade" not in done.output
    assert read_json(folder / "told" / "questions.json")["systems"]["heard"]["same"]["n"] == 4
    refused = CliRunner().invoke(app, ["eval", str(model), "--questions", "none.jsonl"])
    assert refused.exit_code == 2 and "none.jsonl cannot be read" in refused.output
