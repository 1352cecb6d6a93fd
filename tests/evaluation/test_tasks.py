"""Task files, prompts in both versions, `salad eval` from items to tables, and what it refuses."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from salad.cli import app
from salad.cli.common import names
from salad.evaluation.benchmark import BenchmarkOptions, Prepared, System, _fit, _load, infer, score_samples
from salad.evaluation.benchmark_task import Say, Task, find_task, items_of, load_items, task_names
from salad.evaluation.prompt import Segment, Sound, num_shots, request, segments
from salad.evaluation.results import comparisons, gap_interval, results_table, sample_row
from salad.evaluation.rows import read_rows
from salad.evaluation.sample import PlannedSystem, SpokenInputs
from salad.evaluation.score import OptionScore
from salad.evaluation.scorer_model import Reader
from salad.evaluation.spoken_benchmark import SpeechInput
from salad.evaluation.spoken_questions import ask_spoken
from salad.evaluation.spoken_results import spoken_figures, spoken_tables
from salad.evaluation.task_items import TaskItem
from salad.files import read_json, read_jsonl, write_jsonl
from salad.measure.results import McNemar, PairedGap
from salad.testing.tokenizers import prepending
from salad.types import SaladError

NAMES = [
    "arc_challenge",
    "arc_easy",
    "boolq",
    "hellaswag",
    "openbookqa",
    "piqa",
    "sciq",
    "storycloze",
    "voicebench_mmsu",
    "voicebench_openbookqa",
]
OURS = ["salad_howto", "salad_science"]
# A row as the hub has it, and the prompt that lm-eval's own template makes of it (VoiceBench: as its data has it).
HUB_ROWS = {
    "arc_easy": (
        {
            "id": "A1",
            "question": "What falls?",
            "choices": {"text": ["rain", "sky"], "label": ["1", "2"]},
            "answerKey": "2",
        },
        ("Question: What falls?\nAnswer:", ["rain", "sky"], 1),
    ),
    "openbookqa": (
        {
            "id": "7",
            "question_stem": "Bees make",
            "choices": {"text": ["wax", "oil"], "label": ["A", "B"]},
            "answerKey": "A",
        },
        ("Bees make", ["wax", "oil"], 0),
    ),
    "piqa": (
        {"goal": "Open a jar", "sol1": "Turn it.", "sol2": "Eat it.", "label": 0},
        ("Question: Open a jar\nAnswer:", ["Turn it.", "Eat it."], 0),
    ),
    "hellaswag": (
        {
            "ind": 24,
            "activity_label": "Roof",
            "ctx_a": "A man sits [header] on it.",
            "ctx_b": "he starts",
            "endings": ["to go [title] On", "[step] to sing."],
            "label": "1",
        },
        ("Roof: A man sits on it. He starts", ["to go. On", " to sing."], 1),
    ),
    "sciq": (
        {
            "question": "What burns?",
            "support": " Wood burns.",
            "distractor1": "ice",
            "distractor2": "tin",
            "distractor3": "sea",
            "correct_answer": "wood",
        },
        ("Wood burns.\nQuestion: What burns?\nAnswer:", ["ice", "tin", "sea", "wood"], 3),
    ),
    "boolq": (
        {"idx": 3, "passage": "Cats purr.", "question": "do cats purr", "label": 1},
        ("Cats purr.\nQuestion: do cats purr?\nAnswer:", ["no", "yes"], 1),
    ),
    "storycloze": (
        {
            "story_id": "s",
            **{f"input_sentence_{i}": f"{i}." for i in range(1, 5)},
            "sentence_quiz1": "a",
            "sentence_quiz2": "b",
            "answer_right_ending": 2,
        },
        ("1. 2. 3. 4.", ["a", "b"], 1),
    ),
    "voicebench_mmsu": (
        {"prompt": "Which? A. one B. two C. three D. four", "reference": "C"},
        ("Which? A. one B. two C. three D. four\nAnswer:", ["A", "B", "C", "D"], 2),
    ),
}
STORY = (
    "The boat came home at last. A man waited on the shore with a lamp, and the sea was calm. Question: who waited? "
    "Answer: the man with the lamp did, for he had seen the boat. They pulled it up the sand and went to sleep."
)


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level BPE: a space belongs to the word after it, as in most LLMs."""
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    model.train_from_iterator([STORY, "\n\nQuestion: \nAnswer: "] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


def make_llm(size, seed=0):
    import torch

    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=size, num_key_value_heads=2, max_position_embeddings=512, **shape)
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def llm_folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llm")
    make_llm(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows(number=6, start=0):
    words = STORY.split()
    return [
        {
            "id": f"q{i}",
            "context": " ".join(words[i : i + 4 + i % 3]),
            "choices": [words[i + 5], f"{words[i + 6]} and {words[i + 7]}", "the sea"][: 2 + i % 2],
            "answer": i % 2,
        }
        for i in range(start, start + number)
    ]


@pytest.fixture
def items_file(tmp_path):
    write_jsonl(tmp_path / "mine.jsonl", rows())
    return tmp_path / "mine.jsonl"


def run(*arguments):
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


# Task files


def test_the_tasks_are_there_by_lm_evals_names():
    assert task_names() == sorted([*NAMES, *OURS])
    for name in NAMES:
        task, path = find_task(name)
        assert task.task == name and path is None
        assert task.source.hub and task.source.licence and task.description
        assert any(isinstance(part, Say) for part in task.prompt)


@pytest.mark.parametrize(("name", "options"), [("salad_science", 4), ("salad_howto", 2)])
def test_our_own_items_come_along_and_give_no_place_away(name, options):
    task, path = find_task(name)
    found = load_items(task, path)
    assert len(found.items) == 60 and not found.skipped
    assert all(len(set(item.choices)) == options for item in found.items)
    assert len({item.context for item in found.items}) == 60
    places = [item.answer for item in found.items]
    assert {places.count(place) for place in range(options)} == {60 // options}


@pytest.mark.parametrize("name", HUB_ROWS)
def test_a_hub_row_makes_lm_evals_prompt(name):
    row, (prompt, choices, answer) = HUB_ROWS[name]
    task, _ = find_task(name)
    [item] = items_of(task, [row], "here").items
    [segment] = segments(task, item, "text")
    assert (segment.text, list(task.answers(item)), item.answer) == (prompt, choices, answer)


def test_voicebench_reads_out_the_options_of_a_plain_row():
    task, _ = find_task("voicebench_openbookqa")
    [item] = items_of(task, [{"id": "1", "context": "Bees make", "choices": ["wax", "oil"], "answer": 1}], "here").items
    said, asked = segments(task, item, "speech")
    assert said == Segment("speech", "Bees make A. wax B. oil") and asked == Segment("text", "\nAnswer:")
    assert task.answers(item) == ("A", "B")


def test_a_users_own_task_file(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "task: mine\nsource: {path: rows.jsonl}\nfields: {context: q, choices: '[a, b]', answer: right}\n"
        "prompt: [{say: '{{ context }}'}, ' is']\nmetric: acc\n"
    )
    write_jsonl(tmp_path / "rows.jsonl", [{"q": "Water", "a": "wet", "b": "dry", "right": "wet"}])
    task, _ = find_task(str(tmp_path / "mine.yaml"))
    [item] = load_items(task).items
    assert item == TaskItem("0", "Water", ("wet", "dry"), 0)
    (tmp_path / "mine.yaml").write_text("task: mine\nprompts: []\n")
    with pytest.raises(SaladError, match="prompts"):
        find_task(str(tmp_path / "mine.yaml"))


def test_answers_may_be_an_index_a_letter_or_the_choice():
    task = Task(task="t")
    given = [1, "B", "dry", "1"]
    made = [{"id": i, "context": "c", "choices": ["wet", "dry"], "answer": a} for i, a in enumerate(given)]
    assert [item.answer for item in items_of(task, made, "here").items] == [1] * 4


def test_parquet_gives_the_rows_of_json_lines(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows()), tmp_path / "mine.parquet")
    write_jsonl(tmp_path / "mine.jsonl", rows())
    loaded = [load_items(Task(task="mine"), tmp_path / f"mine.{suffix}") for suffix in ("parquet", "jsonl")]
    assert loaded[0] == loaded[1]


# Prompts


def test_a_float32_of_parquet_is_as_short_as_it_was_written(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    inner = pyarrow.struct({"text": pyarrow.list_(pyarrow.float32())})
    table = pyarrow.table(
        {
            "context": ["How much?", "How much?"],
            "choices": pyarrow.array([[0.1, 0.2], [1e10, None]], pyarrow.list_(pyarrow.float32())),
            "answer": pyarrow.array([0.2, None], pyarrow.float32()),
            "nested": pyarrow.array([{"text": [0.1]}, None], inner),
        }
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    first, second = read_rows(tmp_path / "t.parquet")
    assert (first["choices"], first["answer"], first["nested"]) == ([0.1, 0.2], 0.2, {"text": [0.1]})
    assert (second["choices"], second["answer"], second["nested"]) == ([1e10, None], None, None)
    assert items_of(Task(task="t"), [first], "mine").items[0].choices == ("0.1", "0.2")


def test_text_and_speech_are_made_from_one_template():
    task, _ = find_task("arc_easy")
    item, shot = (TaskItem(str(i), f"What is {i}?", ("this", "that"), 1) for i in range(2))
    [text] = segments(task, item, "text", [shot])
    spoken = segments(task, item, "speech", [shot])
    assert text.text == "Question: What is 1?\nAnswer: that\n\nQuestion: What is 0?\nAnswer:"
    assert "".join(s.text for s in spoken) == text.text
    assert [s.modality for s in spoken] == ["text", "speech", "text", "speech", "text"]


@pytest.mark.parametrize("context", ["The man", "The man ", "Question: who?\nAnswer:", "The sea\n\n", "\n", "A  "])
@pytest.mark.parametrize("continuation", [" waited", " the lamp", "the lamp", "\n\nQuestion", "ed"])
def test_options_are_tokenised_with_the_prompt(tokenizer, context, continuation):
    """lm-eval's rule, written out: white space moves to the continuation, both are encoded, the front is cut off."""
    spaces = len(context) - len(context.rstrip())
    front = context[: len(context) - spaces]
    whole = tokenizer(front + context[len(front) :] + continuation)["input_ids"]
    length = len(tokenizer(front)["input_ids"])
    made = request(tokenizer, [Segment("text", context)], [continuation])
    if front:
        assert list(made.prefix) == whole[:length] or whole[:length] != tokenizer(front)["input_ids"]
        assert list(made.prefix) == tokenizer(front)["input_ids"]
        assert list(made.options[0]) == whole[length:]
    else:
        assert made.prefix == (tokenizer.bos_token_id,) and list(made.options[0]) == whole
    opened = request(tokenizer, [Segment("text", context)], [continuation], start="document")
    assert opened.prefix[0] == tokenizer.convert_tokens_to_ids("<|endoftext|>") and opened.options == made.options


def test_text_around_a_sound_keeps_no_loose_space(tokenizer):
    sound = Sound("x", ())
    prompt = [Segment("text", "Question: "), Segment("speech", "who waited?"), Segment("text", "\nAnswer:")]
    made = request(tokenizer, prompt, [" the man"], sound=lambda _: sound)
    ids = tokenizer("Question:")["input_ids"]
    assert list(made.prefix) == [*ids, sound, *tokenizer("\nAnswer:")["input_ids"]]
    assert list(made.options[0]) == tokenizer("\nAnswer: the man")["input_ids"][len(made.prefix) - len(ids) - 1 :]
    last = request(tokenizer, prompt[:2], [" the man"], start="document", sound=lambda _: sound)
    assert last.prefix[-1] is sound and list(last.options[0]) == tokenizer(" the man")["input_ids"]


def test_as_many_shots_as_fit_the_spoken_version():
    task = Task(task="t")
    shots = [TaskItem(f"s{i}", "one two", ("a", "b"), 0) for i in range(9)]
    item = TaskItem("i", "three four five", ("a", "bb"), 0)

    def length(own):  # ten positions a spoken word, one a written character
        return sum(10 * len(s.text.split()) if s.modality == "speech" else len(s.text) for s in own)

    alone = 30 + 3
    assert num_shots(task, shots, item, length, 10_000) == 5
    assert [num_shots(task, shots, item, length, alone + n) for n in (-1, 0, 23, 24, 48)] == [None, 0, 0, 1, 2]


# What is refused, and what is skipped and counted


def item(**changes):
    return {"id": "1", "context": "c", "choices": ["a", "b"], "answer": 0} | changes


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([{"id": "1", "context": "c", "choices": ["a", "b"]}], "no row of FILE has an answer"),
        ([item(), item(answer=1)], "1 ids more than once ('1')"),
        ([{"id": "1", "question": "c"}], "no field 'context', only id, question"),
        ([item(choices=["a", " "])], "no row of FILE can be used; the first one: choices: number 2 is empty"),
        ([], "holds no rows"),
        (["a string"], "line 1: expected one JSON object, got 'a string'"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path, bad, words):
    path = tmp_path / "bad.jsonl"
    write_jsonl(path, bad)
    result = run("nowhere", "--tasks", path, "--out", tmp_path / "out")
    assert result.exit_code == 2 and words.replace("FILE", str(path)) in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["m", "--tasks", "mmsu"], "'mmsu', expected one of arc_challenge"),
        (["m", "--tasks", "piqa"], "piqa has no items here"),
        (["m", "--tasks", "piqa=gone.jsonl"], "gone.jsonl is no file"),
        (["m"], "expected MODEL and --tasks or --questions, or --score-only"),
        (["m", "--tasks", "piqa", "--score-only"], "expected MODEL and --tasks or --questions, or --score-only"),
        (["m", "--tasks", "piqa", "--start", "bos"], "'bos' is not one of"),
        (["--score-only", "--out", "gone"], "gone holds no eval.json"),
    ],
)
def test_bad_arguments(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2 and words in result.stderr and not (tmp_path / "gone").exists()


def test_what_cannot_be_written_is_said_before_anything_is_scored(items_file, tmp_path):
    (tmp_path / "taken").write_text("a file")
    result = run("m", "--tasks", items_file, "--out", tmp_path / "taken")
    assert result.exit_code == 2 and "--out: " in result.stderr and "taken is no folder that can be" in result.stderr
    with pytest.raises(SaladError, match="--out: .*taken is no folder"):
        ask_spoken(tmp_path / "m", ["salad_questions"], tmp_path / "taken", SpeechInput(recordings=tmp_path))
    (tmp_path / "t.yaml").write_text(f"task: a/b\nsource: {{path: {items_file}}}\n")
    long = tmp_path / f"{'x' * 216}.jsonl"
    long.write_bytes(items_file.read_bytes())
    for spec in (tmp_path / "t.yaml", long):
        result = run("m", "--tasks", spec, "--out", tmp_path / "out")
        assert result.exit_code == 2 and "becomes a part of the samples' file name" in " ".join(result.stderr.split())


def test_a_line_that_is_no_json_is_named(tmp_path):
    (tmp_path / "bad.jsonl").write_text(json.dumps(item()) + "\n{oops\n")
    with pytest.raises(SaladError, match="line 2"):
        load_items(Task(task="bad"), tmp_path / "bad.jsonl")


@pytest.mark.parametrize(
    "window, told",
    [
        (128, "fits the 128 positions that the LLM reads; take shorter items, or another LLM"),
        (4096, "fits the context of 2048 positions; raise --context"),
    ],
)
def test_what_is_too_short_is_named(monkeypatch, window, told):
    """A larger --context does not help where the LLM's own window is the limit."""
    monkeypatch.setattr("salad.evaluation.benchmark._longest_length", lambda systems: lambda segments: 5000)
    long = TaskItem("1", "c", ("a", "b"), 0)
    systems = [SimpleNamespace(reader=SimpleNamespace(window=window))]
    with pytest.raises(SaladError, match=f"context: no item of salad_howto {told}"):
        _fit(Prepared(find_task("salad_howto")[0], (long,), (), (), 1, ()), systems, BenchmarkOptions())


def test_rows_that_cannot_be_used_are_counted(llm_folder, tmp_path):
    bad = [
        item(id="empty", choices=["a", ""]),
        item(id="one", choices=["a"]),
        item(id="far", answer=2),
        item(id="none", answer=None),
        item(id="blank", context=" "),
        item(id="long", context="sea " * 400),
    ]
    write_jsonl(tmp_path / "mine.jsonl", [*rows(), *bad])
    result = run(llm_folder, "--tasks", tmp_path / "mine.jsonl", "--out", tmp_path / "out", "--context", 300)
    assert result.exit_code == 0, result.output
    aside = {row["id"]: row["reason"] for row in read_jsonl(tmp_path / "out" / "quarantine.jsonl")}
    assert set(aside) == {f"mine/{row['id']}" for row in bad}
    assert "number 2 is empty" in aside["mine/empty"] and "context of 300 positions" in aside["mine/long"]
    told = "mine: 6 of 12 rows are not scored, the first of them 'empty' (choices: number 2 is empty)"
    assert told in result.output and told in (tmp_path / "out" / "table.md").read_text()
    [path] = (tmp_path / "out" / "text_base").glob("results_*.json")
    assert read_json(path)["n-samples"] == {"mine": {"original": 12, "effective": 6}}


# The command, from items to tables


def files_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_run_gives_the_same_bytes_and_scoring_needs_no_model(llm_folder, items_file, tmp_path):
    arguments = [llm_folder, "--tasks", f"{items_file},arc_easy={items_file}", "--resamples", 200, "--num-fewshot", 2]
    assert run(*arguments, "--out", tmp_path / "a").exit_code == 0
    assert run(*arguments, "--out", tmp_path / "b", "--infer-only").exit_code == 0
    assert not list((tmp_path / "b").rglob("results_*")) and not (tmp_path / "b" / "table.md").exists()
    result = run("--score-only", "--out", tmp_path / "b")
    assert result.exit_code == 0, result.output
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    table = (tmp_path / "a" / "table.md").read_text()
    assert result.stdout == table and re.search(r"\| mine \| acc_norm \| 4 \| 41.7 \| [\d.]+ \[", table)
    assert (tmp_path / "a" / "table.tex").read_text().count(r"\\") == 3


def test_samples_that_are_there_are_not_made_again(llm_folder, items_file, tmp_path, monkeypatch):
    arguments = [llm_folder, "--tasks", items_file, "--out", tmp_path / "out", "--resamples", 200]
    assert run(*arguments).exit_code == 0
    before = files_of(tmp_path / "out")
    monkeypatch.setattr("salad.evaluation.benchmark.score", None)
    assert run(*arguments).exit_code == 0 and files_of(tmp_path / "out") == before
    assert run(*arguments, "--start", "document").exit_code == 1  # other prompts: these must be scored


def test_samples_and_results_are_laid_out_as_lm_evals(llm_folder, items_file, tmp_path):
    assert run(llm_folder, "--tasks", items_file, "--out", tmp_path / "out", "--resamples", 200).exit_code == 0
    folder = tmp_path / "out" / "text_base"
    [samples] = folder.glob("samples_mine_*.jsonl")
    row = read_jsonl(samples)[0]
    theirs = ["doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash",
              "prompt_hash", "target_hash"]  # fmt: skip
    assert (
        list(row)[: len(theirs)] == theirs
        and row["target"] == "0"
        and row["resps"] == [[r] for r in row["filtered_resps"]]
    )
    assert row["arguments"]["gen_args_1"] == {"arg_0": rows()[0]["context"], "arg_1": " " + rows()[0]["choices"][1]}
    [path] = folder.glob("results_*.json")
    results = read_json(path)
    own = results["results"]["mine"]
    right = [r["acc_norm"] for r in read_jsonl(samples)]
    assert own["acc_norm,none"] == pytest.approx(sum(right) / 6) and "acc_norm_stderr,none" in own
    for key in ("configs", "versions", "n-shot", "higher_is_better", "n-samples", "config", "group_subtasks"):
        assert key in results
    assert results["config"]["fingerprint"] and "date" not in results


def test_normalisation_by_hand():
    task, scores = (
        Task(task="t"),
        [OptionScore(-6.0, 1, False), OptionScore(-7.0, 4, False), OptionScore(-6.5, 2, True)],
    )
    row = sample_row(0, task, TaskItem("1", "c", ("abc", "abcd", "äää"), 2), [Segment("text", "c")], scores)
    # sums -6, -7, -6.5; a character -2, -1.75, -2.17; a byte -2, -1.75, -1.08; a token -6, -1.75, -3.25
    assert {m: getattr(row, m) for m in ("acc", "acc_norm", "acc_bytes", "acc_token")} == {
        "acc": 0.0, "acc_norm": 0.0, "acc_bytes": 1.0, "acc_token": 0.0
    }  # fmt: skip


def test_a_model_against_itself_loses_nothing(llm_folder, items_file, tmp_path):
    arguments = ["--tasks", f"{items_file},piqa={items_file}", "--out", tmp_path / "out", "--resamples", 200]
    assert run(llm_folder, *arguments, "--base", llm_folder).exit_code == 0
    lost = read_json(tmp_path / "out" / "figures.json")["lost"]["text_adapted"]
    for own in (*lost["tasks"].values(), lost["all items"], lost["mean of tasks"]):
        assert (own["value"], own["low"], own["high"]) == (0.0, 0.0, 0.0)
    assert lost["all items"]["n"] == 12 and lost["all items"]["mcnemar"]["p"] == 1.0


def test_speech_joins_the_table_beside_text(tokenizer, tmp_path):
    """The seam for voices: a system with a modality and something that gives each segment's sound."""
    import numpy as np

    from salad.model import SaladConfig, SaladForConditionalGeneration

    config = SaladConfig(
        llm_config=make_llm(len(tokenizer)).config, frame_dim=6, stride=2, adapter_layers=1, adapter_width=16,
        adapter_mlp=24, adapter_heads=2, adapter_kv_heads=1,
    )  # fmt: skip
    model = SaladForConditionalGeneration.from_llm(make_llm(len(tokenizer)), config)
    reader = Reader(model, tokenizer, name=str(tmp_path))

    def sound(segment):
        seed = sum(segment.text.encode())
        return Sound(segment.text, (np.random.default_rng(seed).normal(size=(9, 6)).astype(np.float32),))

    write_jsonl(tmp_path / "mine.jsonl", rows())
    settings = BenchmarkOptions(num_fewshot=2, resamples=100)
    task = _load(find_task("arc_easy")[0], None, False, tmp_path / "mine.jsonl", settings)
    systems = [System("text_base", reader), System("speech_adapted/noise", reader, "speech", sound, inputs="noise")]
    infer(systems, [task], tmp_path / "out", settings)
    table = score_samples(tmp_path / "out")
    assert "text_base - speech_adapted/noise" in table
    [path] = (tmp_path / "out" / "speech_adapted" / "noise").glob("samples_*.jsonl")
    spoken = read_jsonl(path)
    assert len(spoken[0]["said"]) == 3 and spoken[0]["arguments"]["gen_args_0"]["arg_0"].count("<|audio|>") == 3
    assert {row["num_shots"] for row in spoken} == {2}


def test_systems_are_compared_on_the_items_that_both_have():
    task = Task(task="t")

    def sample(i, right):
        scores = [OptionScore(-1.0, 1, False), OptionScore(-2.0 + 2 * (not right), 1, False)]
        return sample_row(i, task, TaskItem(str(i), "c", ("a", "b"), 0), [Segment("text", "c")], scores)

    base = [sample(i, True) for i in range(8)]
    own = [sample(i, i > 4) for i in range(1, 8)]
    figures = comparisons({"text_base": {"t": base}, "speech": {"t": own}}, {"t": "acc"}, 200, 0)
    lost = figures.lost["speech"].tasks["t"]
    assert (lost.n, lost.value) == (7, pytest.approx(4 / 7))
    assert lost.mcnemar == McNemar(only_first=4, only_second=0, p=0.125)
    assert figures.chance == {"t": 0.5}
    assert figures.json()["lost"]["speech"].keys() == {"tasks", "all items", "mean of tasks"}


def test_a_pooled_gap_has_one_length_normalisation():
    """One task is told by acc, one by acc_norm; long right answers are lost by acc alone."""
    task = Task(task="t")

    def sample(i, logprobs):
        scores = [OptionScore(logprob, 1, False) for logprob in logprobs]
        return sample_row(i, task, TaskItem(str(i), "c", ("a" * 8, "b"), 0), [Segment("text", "c")], scores)

    base = [sample(i, (-1.0, -2.0)) for i in range(4)]  # right by both
    own = [sample(i, (-3.0, -2.0)) for i in range(4)]  # right by acc_norm, wrong by acc
    samples = {"text_base": {"one": base, "two": base}, "speech": {"one": own, "two": own}}
    figures = comparisons(samples, {"one": "acc", "two": "acc_norm"}, 200, 0)
    lost = figures.lost["speech"]
    assert (lost.tasks["one"].value, lost.tasks["two"].value) == (1.0, 0.0)
    assert (lost.all_items.value, lost.all_items.metric) == (0.0, "acc_norm")
    assert (lost.mean_of_tasks.value, lost.mean_of_tasks.metric) == (0.0, "acc_norm")
    assert "| all items | acc_norm | 8 |" in results_table(figures)
    alike = comparisons(samples, {"one": "acc", "two": "acc"}, 200, 0).lost["speech"].all_items
    assert (alike.value, alike.metric) == (1.0, "acc")
    base = PlannedSystem("model", "fingerprint", "text", "document", "fp32", None)
    systems = {"text_base": base, "speech": replace(base, inputs=SpokenInputs("joe", True, ""))}
    spoken = spoken_figures(systems, samples, {"one": "acc", "two": "acc_norm"}, 200, 0)
    assert spoken.metric == "acc_norm" and spoken.systems["speech"].accuracy.value == 1.0
    assert spoken.systems["speech"].gap.value == 0.0 and "all items, acc_norm" in spoken_tables(spoken)


def test_a_gap_that_cannot_be_told_names_the_one_that_could():
    open_ = PairedGap(0.05, -0.05, 0.15, mcnemar=McNemar(3, 1, 0.4), minimum_detectable=0.142)
    assert gap_interval(open_) == "5.0 [-5.0, 15.0], cannot tell (14.2 could be, power 0.8), p 0.4"
    assert gap_interval(PairedGap(0.05, 0.01, 0.09)) == "5.0 [1.0, 9.0]" and gap_interval(None) == ""


@pytest.mark.parametrize("num_fewshot", [0, 2])
def test_scores_on_text_equal_lm_evals(llm_folder, tmp_path, monkeypatch, num_fewshot):
    """The same items through lm-eval's own model and through ours registered there: acc and acc_norm item by item."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    import salad.evaluation.lm_eval_model  # noqa: F401

    write_jsonl(tmp_path / "arc_easy.jsonl", rows(10, start=2))
    write_jsonl(tmp_path / "arc_easy_fewshot.jsonl", rows(2))
    files = {"test": str(tmp_path / "arc_easy.jsonl"), "train": str(tmp_path / "arc_easy_fewshot.jsonl")}
    config = {
        "task": "local",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "output_type": "multiple_choice",
        "test_split": "test",
        "fewshot_split": "train",
        "fewshot_config": {"sampler": "first_n"},
        "doc_to_text": "Question: {{context}}\nAnswer:",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": name} for name in ("acc", "acc_norm", "acc_bytes")],
        "metadata": {"version": 1},
    }
    (tmp_path / "local.yaml").write_text(json.dumps(config))
    metrics = ("acc", "acc_norm")
    theirs = {}
    for name in ("hf", "salad"):
        found = lm_eval.simple_evaluate(
            model=name,
            model_args={"pretrained": str(llm_folder), **({"dtype": "float32"} if name == "hf" else {})},
            tasks=["local"],
            num_fewshot=num_fewshot,
            task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
            device="cpu",
            batch_size=4,
            log_samples=True,
        )
        theirs[name] = sorted(found["samples"]["local"], key=lambda row: row["doc_id"])
    arguments = ["--tasks", "arc_easy", "--data", tmp_path, "--out", tmp_path / "out", "--num-fewshot", num_fewshot]
    result = run(llm_folder, *arguments, "--resamples", 100)
    assert result.exit_code == 0, result.output
    [path] = (tmp_path / "out" / "text_base").glob("samples_*.jsonl")
    ours = read_jsonl(path)
    assert len(ours) == 10 and {row["num_shots"] for row in ours} == {num_fewshot}
    for own, hf, registered in zip(ours, theirs["hf"], theirs["salad"], strict=True):
        assert own["arguments"]["gen_args_0"]["arg_0"] == hf["arguments"][0][0]
        assert [own[m] for m in metrics] == [hf[m] for m in metrics] == [registered[m] for m in metrics]
        assert own["acc_bytes"] == hf["acc_bytes"]
        for (mine, greedy), other, third in zip(
            own["filtered_resps"], hf["filtered_resps"], registered["filtered_resps"], strict=True
        ):
            assert float(mine) == pytest.approx(other[0], abs=1e-4) and third[0] == pytest.approx(other[0], abs=1e-4)
            assert (greedy == "True") == other[1] == third[1]


def test_control_tokens_in_the_data_of_lm_evals_tasks_are_characters(llm_folder):
    pytest.importorskip("lm_eval")
    from salad.evaluation.lm_eval_model import SaladLM

    lm = SaladLM(str(llm_folder))
    control, text = lm.tokenizer.eos_token_id, "He typed <|endoftext|> into the box."
    assert control in lm.tokenizer.encode(text)  # what lm-eval's own model reads
    assert control not in lm.tok_encode(text) and lm.tok_decode(lm.tok_encode(text)) == text
    batch, mask = lm.tok_batch_encode([text, "short"])
    assert control not in batch[0] and batch.shape == mask.shape and int(mask[1].sum()) == len(lm.tok_encode("short"))
    context, option = lm._encode_pair(text, " <|endoftext|>")
    assert control not in context + option and lm.tok_decode(context + option) == text + " <|endoftext|>"
    assert lm.tok_encode(text, left_truncate_len=3) == lm.tok_encode(text)[-3:]
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<|endoftext|>{% endfor %}"
    prompt = lm.apply_chat_template([{"role": "user", "content": text}])
    assert list(lm.tok_encode(prompt)).count(control) == 1 and lm.tok_encode(prompt)[-1] == control
    context, option = lm._encode_pair(prompt, " <|endoftext|>")
    assert (context.count(control), option.count(control)) == (1, 0)


# Files that people have


def choices(*rows):
    return [item(id=str(n), choices=list(own), answer=answer) for n, (own, answer) in enumerate(rows)]


def test_answers_that_count_from_one_are_found_by_the_whole_file(tmp_path):
    four, rows = ["a", "b", "c", "d"], []
    for answer in (1, 4, 2, "3", 4):
        rows.append((four, answer))
    loaded = items_of(Task(task="t"), choices(*rows), "mine")
    assert [i.answer for i in loaded.items] == [0, 3, 1, 2, 3] and not loaded.skipped
    assert "answers are taken to count from 1" in loaded.notes[0] and "answers: one-based" in loaded.notes[0]
    zero = items_of(Task(task="t"), choices(*rows, (four, 0)), "mine")  # one row speaks against it
    assert [i.answer for i in zero.items] == [1, 2, 3, 0]
    assert "2 answers are the number of choices" in zero.notes[0] and "left out" in zero.notes[0]
    assert [row["id"] for row in zero.skipped] == ["1", "4"] and "0 to 3" in zero.skipped[0]["reason"]
    few = choices((four, 1), (four, 2))
    assert [i.answer for i in items_of(Task(task="t"), few, "mine").items] == [1, 2]
    (tmp_path / "t.yaml").write_text("task: t\nanswers: one-based\n")
    told, _ = find_task(str(tmp_path / "t.yaml"))
    assert [i.answer for i in items_of(told, few, "mine").items] == [0, 1]
    (tmp_path / "t.yaml").write_text("task: t\nanswers: from-seven\n")
    with pytest.raises(SaladError, match="one-based"):
        find_task(str(tmp_path / "t.yaml"))


def test_numbers_are_options_like_any_others():
    found = items_of(
        Task(task="t"),
        choices(([1, 2, 3], "3"), ([2, 4, 8], 8), ([1.5, 2.5], 0), ([1, 2, 3], 2), ([1, None], 0), ([1, ["x"]], 0)),
        "mine",
    )
    assert [(i.choices, i.answer) for i in found.items] == [
        (("1", "2", "3"), 2), (("2", "4", "8"), 2), (("1.5", "2.5"), 0)
    ]  # fmt: skip
    reasons = {row["id"]: row["reason"] for row in found.skipped}
    assert "a choice and a choice's number too" in reasons["3"]
    assert reasons["4"] == "choices: number 2 is empty" and "expected a text or a number" in reasons["5"]


def test_numbers_as_texts_are_numbers_of_choices_or_choices():
    """Where a file writes the numbers of choices as texts, a text may be a choice and its number."""
    found = items_of(Task(task="t"), choices((["2", "3", "4", "5"], "2"), ("abc", "2"), ("abc", "0")), "mine")
    assert [(i.id, i.answer) for i in found.items] == [("1", 2), ("2", 0)]
    assert "a choice and a choice's number too; write the answer as the letter" in found.skipped[0]["reason"]
    found = items_of(Task(task="t"), choices((["2", "3"], "3"), ("abc", "C"), ("abc", " (b). ")), "mine")
    assert [i.answer for i in found.items] == [1, 2, 1] and not found.skipped
    never = items_of(Task(task="t"), choices(*[("abcd", str(1 + n % 3)) for n in range(10)]), "mine")
    assert "no answer is 0" in never.notes[0]


def test_equal_options_are_right_together():
    found = items_of(Task(task="t"), choices((["blue.", "blue. ", "square."], 1), (["a", "b"], 0)), "mine")
    assert "in 1 items the right choice stands there more than once" in found.notes[0]
    same, other = found.items
    scores = [OptionScore(-2.0000001, 1, False), OptionScore(-2.0, 1, False), OptionScore(-3.0, 1, False)]
    made = sample_row(0, Task(task="t"), same, [Segment("text", "c")], scores)
    assert made.acc == made.acc_norm == 1.0
    lost = sample_row(0, Task(task="t"), same, [Segment("text", "c")], [*scores[:2], OptionScore(-1.0, 1, False)])
    assert lost.acc == 0.0
    letters = sample_row(0, Task(task="t", options="letters"), same, [Segment("text", "c")], scores[::-1])
    assert letters.options == ("A", "B", "C") and letters.acc == 1.0
    rows = [made, sample_row(1, Task(task="t"), other, [Segment("text", "c")], scores[:2])]
    figures = comparisons({"text_base": {"t": rows}}, {"t": "acc"}, 10, 0)
    assert figures.chance["t"] == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_options_that_differ_in_spaces_alone_are_right_together():
    found = items_of(Task(task="t"), choices((["New York", "New  York", "Paris"], 0)), "mine")
    assert "in 1 items the right choice stands there more than once" in found.notes[0]
    scores = [OptionScore(-5.0, 1, False), OptionScore(-1.0, 1, False), OptionScore(-9.0, 1, False)]
    made = sample_row(0, Task(task="t"), found.items[0], [Segment("text", "c")], scores)
    assert made.acc == 1.0
    figures = comparisons({"text_base": {"t": [made]}}, {"t": "acc"}, 10, 0)
    assert figures.chance["t"] == pytest.approx(2 / 3)


def test_an_answer_that_differs_in_spaces_alone_is_its_choice():
    given = choices((["red ", "blue"], "red"), (["red", "blue"], " blue"), (["New  York", "Rome"], "New York"),
                    (["2 ", "4", "8"], "2"), (["red", "blue"], "green"))  # fmt: skip
    found = items_of(Task(task="t"), given, "mine")
    assert [item.answer for item in found.items] == [0, 1, 0, 0]
    assert found.skipped[0]["reason"].endswith("2 choices, 0 to 1, its letter, A to B, or its text")


def test_as_many_letters_as_the_alphabet_has():
    task = Task(task="t", options="letters")
    many = [[f"c{n}" for n in range(number)] for number in (11, 26, 27)]
    found = items_of(task, choices((many[0], 10), (many[1], "Z"), (many[2], 0)), "mine")
    assert [(task.answers(i)[-1], i.answer) for i in found.items] == [("K", 10), ("Z", 25)]
    assert found.skipped[0]["id"] == "2" and "choices: got 27, expected at most 26" in found.skipped[0]["reason"]
    scores = [OptionScore(-1.0, 1, False)] * 11
    assert len(sample_row(0, task, found.items[0], [Segment("text", "c")], scores).options) == 11
    assert len(items_of(Task(task="t"), choices((many[2], 0)), "mine").items) == 1


def test_a_letter_that_is_also_a_choice():
    blood = ["O", "A", "B", "AB"]
    found = items_of(
        Task(task="t"), choices((blood, "A"), (blood, "AB"), (blood, 1), ("ABC", "B"), (["None", "b"], None)), "mine"
    )
    assert [(i.id, i.answer) for i in found.items] == [("1", 3), ("2", 1), ("3", 1)]
    reasons = {row["id"]: row["reason"] for row in found.skipped}
    assert "a choice and a choice's letter too; write the answer as the number" in reasons["0"]
    assert "got None, expected the number" in reasons["4"]


def test_few_answers_that_never_name_the_first_choice_are_told():
    four = ["a", "b", "c", "d"]
    never = items_of(Task(task="t"), choices(*[(four, n) for n in (1, 2, 3, 2, 1)]), "mine")
    assert "no answer is 0" in never.notes[0] and "answers: one-based" in never.notes[0]
    assert not items_of(Task(task="t"), choices((four, 1), (four, 2)), "mine").notes


def test_true_and_false_name_a_yes_and_a_no():
    row = {"question": "is it", "passage": "It is."}
    found = items_of(
        find_task("boolq")[0], [row | {"answer": True}, row | {"answer": False}, row | {"label": 1}], "mine"
    )
    assert [found.items[0].choices[item.answer] for item in found.items] == ["yes", "no", "yes"]
    plain = items_of(
        Task(task="t"), choices((["no", "yes"], True), (["True ", "False"], False), (["a", "b"], True)), "mine"
    )
    assert [item.answer for item in plain.items] == [1, 1]
    assert "answer: got true, which names a choice only where" in plain.skipped[0]["reason"]
    with pytest.raises(SaladError, match="as label if label is defined else answer, but the .* are question, passage"):
        items_of(find_task("boolq")[0], [row], "mine")


@pytest.mark.parametrize("name", ["sciq", "arc_easy", "openbookqa", "storycloze", "voicebench_mmsu"])
def test_what_a_task_of_ours_computes_counts_from_0(name):
    """Its last choice is always right here; plain rows by the same task tell themselves how they count."""
    task, _ = find_task(name)
    row = HUB_ROWS[name][0] | {
        "answerKey": {"arc_easy": "2"}.get(name, "B"),
        "answer_right_ending": 2,
        "reference": "D",
    }
    own = {task.fields.get("id", "id"): None}
    hub = items_of(task, [row | own for _ in range(5)], "mine")
    assert len({item.answer for item in hub.items}) == 1 and hub.items[0].answer > 0 and not hub.notes
    plain = items_of(task, choices(*((["a", "b", "c", "d"], answer) for answer in (1, 4, 2, 4))), "mine")
    assert [item.answer for item in plain.items] == [0, 3, 1, 3] and "count from 1" in plain.notes[0]


@pytest.mark.parametrize("name", ["a=b.jsonl", "a,b.jsonl", "a, b=c,d.jsonl"])
def test_a_path_may_hold_what_parts_names(tmp_path, name):
    write_jsonl(tmp_path / name, rows())
    for spec in (f"{tmp_path / name}", f"arc_easy={tmp_path / name}"):
        listed = names(f"boolq, {spec},piqa")
        assert listed == ("boolq", spec, "piqa") and names(f"{spec},{spec}") == (spec, spec)
        task, data = find_task(spec)
        assert (data, bool(task.fields)) == (tmp_path / name, spec.startswith("arc"))
    assert names("a,,b, c") == ("a", "b", "c")


def test_more_shots_than_other_items_is_one_clear_error(llm_folder, tmp_path):
    write_jsonl(tmp_path / "mine.jsonl", rows(5))
    arguments = ["--tasks", tmp_path / "mine.jsonl", "--out", tmp_path / "out", "--num-fewshot"]
    result = run(llm_folder, *arguments, 5)
    assert (
        result.exit_code == 2 and "--num-fewshot (evaluate.num_fewshot): got 5, but mine has 5 items" in result.stderr
    )
    assert "give 4 or less" in result.stderr
    told = run(llm_folder, *arguments, 4)
    assert told.exit_code == 0, told.output
    assert len(read_jsonl(tmp_path / "out" / "quarantine.jsonl")) == 4


def test_a_control_token_in_an_item_is_characters(tokenizer):
    made = request(tokenizer, [Segment("text", "He typed <|endoftext|>")], [" <|endoftext|> twice", " it"])
    assert tokenizer.eos_token_id not in [*made.prefix, *made.options[0]]
    assert tokenizer.decode(made.options[0]) == " <|endoftext|> twice"


def test_an_eos_that_the_tokenizer_puts_behind_every_text_is_no_option():
    tokenizer, sound = prepending(), Sound("x", ())
    bare = request(tokenizer, [Segment("text", "who")], [" yes", " who"]).options
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    made = request(tokenizer, [Segment("text", "who")], [" yes", " who"])
    assert made.options == bare and made.prefix[0] == 1 and 2 not in made.prefix
    assert request(tokenizer, [Segment("text", "")], [" yes"]).prefix == (1,)
    assert request(tokenizer, [Segment("speech", "who")], [" yes"], sound=lambda _: sound).prefix == (1, sound)


def test_options_are_the_same_after_text_and_after_sound():
    tokenizer, sound = prepending(), Sound("x", ())
    after_text = request(tokenizer, [Segment("text", "who")], [" yes", " who yes"])
    after_sound = request(tokenizer, [Segment("speech", "who")], [" yes", " who yes"], sound=lambda _: sound)
    assert after_text.options == after_sound.options
    between = [Segment("text", "who "), Segment("speech", "x"), Segment("text", "\nwho yes")]
    made = request(tokenizer, between, [" yes"], sound=lambda _: sound)
    whole = request(tokenizer, [Segment("text", "who\nwho yes")], [" yes"])
    assert [u for u in made.prefix if u != sound] == list(whole.prefix) and made.options == whole.options


def test_texts_come_in_one_form():
    import unicodedata

    given = [unicodedata.normalize("NFD", text) for text in ("Où est le café ?", "là", "ça")]
    [found] = items_of(
        Task(task="t"), [{"id": 1, "context": given[0], "choices": given[1:], "answer": given[2]}], "x"
    ).items
    assert (found.context, found.choices, found.answer) == ("Où est le café ?", ("là", "ça"), 1)


def test_examples_count_their_answers_as_the_items_do(tmp_path):
    """Three examples cannot tell from where their answers count; the file of items can."""
    four = ["a", "b", "c", "d"]
    write_jsonl(tmp_path / "arc_easy.jsonl", choices(*((four, answer) for answer in (1, 4, 2, 4))))
    write_jsonl(tmp_path / "arc_easy_fewshot.jsonl", choices(*((four, answer) for answer in (1, 2, 3))))
    task, _ = find_task("arc_easy")
    prepared = _load(task, tmp_path, False, None, BenchmarkOptions(num_fewshot=3))
    assert [item.answer for item in prepared.items] == [0, 3, 1, 3]
    assert [shot.answer for shot in prepared.shots] == [0, 1, 2]


@pytest.mark.parametrize("answer", [10**400, "9" * 5000, float("inf"), float("nan"), [1], {}, True])
def test_an_answer_of_any_kind_costs_its_row_alone(answer):
    found = items_of(Task(task="t"), choices((["a", "b"], 0), (["a", "b"], answer), ([10**400, "b"], 1)), "mine")
    assert [item.id for item in found.items] == ["0", "2"] and [row["id"] for row in found.skipped] == ["1"]
    assert len(found.skipped[0]["reason"]) < 200


@pytest.mark.parametrize("change", [{"context": "a \ud83d"}, {"choices": ["a", "\udc00"]}])
def test_half_a_letter_costs_its_row(change):
    found = items_of(Task(task="t"), [item(id="0"), item(id="1", **change)], "mine")
    assert [row["id"] for row in found.skipped] == ["1"] and "half of a letter" in found.skipped[0]["reason"]


@pytest.mark.parametrize(("context", "reason"), [(7, "context: got 7, expected a text"), (" ", "the context is empty")])
def test_what_is_wrong_with_a_context_is_said(context, reason):
    found = items_of(Task(task="t"), [item(id="0"), item(id="1", context=context)], "mine")
    assert found.skipped == ({"id": "1", "reason": reason},)


def test_answers_from_one_are_found_beside_one_that_is_none():
    four = ["a", "b", "c", "d"]
    found = items_of(Task(task="t"), choices((four, 1), (four, 4), (four, 5)), "mine")
    assert [i.answer for i in found.items] == [0, 3] and [row["id"] for row in found.skipped] == ["2"]
    never = items_of(Task(task="t"), choices(*[(four, 1 + n % 3) for n in range(10)]), "mine")
    assert len(never.items) == 10 and "no answer is 0" in never.notes[0] and "answers: one-based" in never.notes[0]


def test_rows_without_ids_are_numbered():
    rows = [item(id=None), item(id=None)]
    assert [i.id for i in items_of(Task(task="t"), rows, "mine").items] == ["0", "1"]


@pytest.mark.parametrize("name", ["arc_easy", "boolq", "hellaswag", "openbookqa", "storycloze"])
@pytest.mark.parametrize("null", [False, True])
def test_rows_of_a_named_task_without_ids_are_numbered(name, null):
    task, _ = find_task(name)
    own = {key: value for key, value in HUB_ROWS[name][0].items() if key != task.fields["id"]}
    row = {**own, task.fields["id"]: None} if null else own
    assert [i.id for i in items_of(task, [row, row], "mine").items] == ["0", "1"]


def test_a_field_that_a_row_lacks_costs_its_row_alone():
    task = Task(task="t", fields={"context": "q", "choices": "options", "answer": "right"})
    rows = [{"q": "c", "options": ["a", "b"], "right": 1}, {"q": "c", "options": ["a", "b"]}, {"q": "c", "right": 0}]
    found = items_of(task, rows, "mine")
    assert [i.id for i in found.items] == ["0"] and [row["id"] for row in found.skipped] == ["1", "2"]
    with pytest.raises(SaladError, match="no row of mine has an answer"):
        items_of(task, rows[1:2], "mine")


@pytest.mark.parametrize(("text", "wrong"), [
    ("task: mmlu\ndataset_path: a/b\ndoc_to_text: '{{q}}'\n", "unknown: dataset_path, doc_to_text; expected"),
    ("dataset_path: a/b\n", "unknown: dataset_path; task is missing; expected"),
    ("# nothing\n", "got nothing; expected"),
    ("- task\n", r"got \['task'\]; expected"),
])  # fmt: skip
def test_what_a_task_file_needs_is_said_in_one_line(tmp_path, text, wrong):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(SaladError, match=f"t.yaml is no task file: {wrong}") as caught:
        find_task(str(tmp_path / "t.yaml"))
    told = str(caught.value)
    assert "\n" not in told and "expected `task: NAME`" in told and "fields, prompt" in told and "answers" in told


def test_a_null_costs_its_row_alone():
    for name, field in (("sciq", "support"), ("hellaswag", "ctx_b")):
        task, _ = find_task(name)
        good = {**HUB_ROWS[name][0], "ind": 1}
        found = items_of(task, [good, {**good, "ind": 2, field: None}], "mine")
        [skipped] = found.skipped
        assert len(found.items) == 1 and f"{name}: field context (" in skipped["reason"]
        assert "cannot be read from row 2: " in skipped["reason"] and f"{field}," in skipped["reason"]
        with pytest.raises(SaladError, match="(?s)no row of mine can be read; the first one: .* from row 1"):
            items_of(task, [{**good, field: None}], "mine")
    found = items_of(Task(task="t"), [item(id="0"), {"id": "x", "choices": ["a", "b"], "answer": 1}], "mine")
    assert [row["id"] for row in found.skipped] == ["x"] and len(found.items) == 1
    assert "row 2 has no field 'context', only id, choices, answer" in found.skipped[0]["reason"]


@pytest.mark.parametrize("text", ["task: 2024-13-45\n", "[1, 2]", "task: null\n", "a: &a [*a]\n", "task: [" * 3000,
                                  "task: a\nmetric: acc\ntask: b\n"])  # fmt: skip
def test_a_file_that_is_no_task_is_named(tmp_path, text):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(SaladError, match=r"tasks: .*t.yaml is no task file"):
        find_task(str(tmp_path / "t.yaml"))
