"""Streams: every document once an epoch over any processes, resumed anywhere as uninterrupted, mixed by weight."""

import itertools
import json
from collections import Counter
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from salad.config import Text, load_recipe
from salad.data.manifest import read_utterances, write_utterances
from salad.files import read_json, read_jsonl, sha256_file, write_json, write_jsonl
from salad.pipeline.run import Run
from salad.pipeline.speech_jobs import encode
from salad.pipeline.speechlm import speech_examples
from salad.pipeline.stages import stage1, stage2
from salad.pipeline.stages.align import load_frames, pieces_of, speech_stream
from salad.pipeline.streaming import open_stream, text_shards
from salad.sequence.stream import LeftOut, Lines, ShardSource, Stream, StreamBatches
from salad.testing.corpora import WORDS, make_utterances
from salad.testing.forks import Fork, run_alone, run_together
from salad.testing.small_run import work
from salad.training.checkpoint import Saved, latest_checkpoint
from salad.training.distributed import ProcessGroup
from salad.training.tasks import DistillTask
from salad.types import SaladError

SIZES = st.lists(st.integers(0, 7), min_size=1, max_size=9).filter(lambda sizes: sum(sizes) >= 6)


def make_source(name, sizes, share=1.0, positions=7, seen=None):
    """Documents are (source, shard, row); examples also tell their epoch."""

    def read(shard):
        if seen is not None:
            seen.append(shard)
        return [(name, shard, row) for row in range(sizes[shard])]

    return ShardSource(name, share, sizes, read, lambda document, epoch: ((*document, epoch), positions))


def make_streams(sources, size, lanes, **options):
    options = {"positions": 30, "seed": 0, "buffer": 2, **options}
    return [Stream(sources, lanes=lanes, rank=rank, size=size, **options) for rank in range(size)]


@given(SIZES, SIZES, st.integers(1, 3), st.integers(1, 2), st.integers(1, 4), st.integers(0, 99))
def test_every_document_once_an_epoch_over_any_processes(a, b, size, per_process, buffer, seed):
    sources = [make_source("a", a), make_source("b", b, positions=11)]
    streams = make_streams(sources, size, size * per_process, buffer=buffer, seed=seed)
    drawn = []
    while min(s["epoch"] for one in streams for lane in one.state_dict()["lanes"].values() for s in lane.values()) < 2:
        drawn += [example for stream in streams for example in stream.draw()]
    for epoch in (0, 1):
        counts = Counter(example[:3] for example in drawn if example[3] == epoch)
        expected = [(n, i, row) for n, sizes in (("a", a), ("b", b)) for i, k in enumerate(sizes) for row in range(k)]
        assert counts == Counter(expected)


@given(SIZES, st.integers(1, 3), st.integers(0, 25), st.integers(1, 3), st.integers(0, 9))
def test_resumed_anywhere_equals_uninterrupted(sizes, lanes, stop, buffer, seed):
    """The state is JSON, and few bytes whatever the corpus; most stops lie in the middle of a shard."""
    sources = [make_source("a", sizes, 0.7), make_source("b", [5, 4], 0.3, positions=11)]
    (one,) = make_streams(sources, 1, lanes, buffer=buffer, seed=seed, positions=20)
    for _ in range(stop):
        one.draw()
    text = json.dumps(one.state_dict())
    assert len(text) < 60 + 150 * lanes
    (again,) = make_streams(sources, 1, lanes, buffer=buffer, seed=seed, positions=20)
    again.load_state_dict(json.loads(text))
    assert [one.draw() for _ in range(8)] == [again.draw() for _ in range(8)]
    assert one.state_dict() == again.state_dict()


@given(SIZES, st.sampled_from([(1, 2), (1, 6), (2, 6), (3, 6)]), st.integers(0, 6))
def test_batches_do_not_depend_on_the_number_of_processes(sizes, processes, stop):
    """Also not where a training goes on with another number than it stopped with."""
    few, many = processes
    sources = [make_source("a", sizes)]
    left, right = make_streams(sources, few, 6), make_streams(sources, many, 6)
    for _ in range(stop):
        batches = [sorted(example for stream in streams for example in stream.draw()) for streams in (left, right)]
        assert batches[0] == batches[1]
    state = Stream.join([stream.state_dict() for stream in right])
    assert state == Stream.join([stream.state_dict() for stream in left])
    fresh = make_streams(sources, few, 6)
    for stream in fresh:
        stream.load_state_dict(json.loads(json.dumps(state)))
    batches = [sorted(example for stream in streams for example in stream.draw()) for streams in (fresh, right)]
    assert batches[0] == batches[1]


@given(st.floats(0.1, 0.9), st.integers(1, 30), st.integers(1, 30), st.integers(1, 4))
def test_sources_are_mixed_by_their_share_of_positions(share, long, short, lanes):
    sources = [make_source("a", [4] * 5, share, long), make_source("b", [9] * 3, 1 - share, short)]
    (stream,) = make_streams(sources, 1, lanes, positions=200)
    for step in range(1, 6):
        stream.draw()
        lanes_given = [{n: s["given"] for n, s in lane.items()} for lane in stream.state_dict()["lanes"].values()]
        for given_ in lanes_given:
            total = sum(given_.values())
            assert total >= step * 200 / lanes
            assert abs(given_["a"] - share * total) <= max(long, short)


def test_a_batch_has_the_positions_asked_for():
    (stream,) = make_streams([make_source("a", [9] * 9, positions=7)], 1, 1, positions=100)
    assert [len(stream.draw()) for _ in range(4)] == [15] * 4


def test_seed_decides_and_epochs_differ():
    def order(seed, num=60):
        (stream,) = make_streams([make_source("a", [5] * 6)], 1, 1, seed=seed, positions=7)
        return [stream.draw()[0] for _ in range(num)]

    assert order(0) == order(0) != order(1)
    first, second = ([example[1:3] for example in order(0) if example[3] == epoch] for epoch in (0, 1))
    assert sorted(first) == sorted(second) and first != second and first != sorted(first)


def test_shards_are_read_once_an_epoch_and_few_are_held():
    seen = []
    (stream,) = make_streams([make_source("a", [5] * 20, seen=seen)], 1, 1, positions=7, buffer=3)
    rows = [stream.draw()[0] for _ in range(100)]
    assert sorted(seen) == list(range(20))
    for start in range(0, 90, 15):  # a window of three shards, shuffled together
        assert len({row[1] for row in rows[start : start + 15]}) == 3
    assert any(a[1] != b[1] for a, b in itertools.pairwise(rows[:15]))


def test_what_is_left_out_is_told_and_the_rest_is_given():
    told = []

    def build(document, epoch):
        if document[2] == 0:
            raise LeftOut(str(document), "too long")
        return (*document, epoch), 7

    source = make_source("a", [3, 3, 1])
    source = ShardSource("a", 1.0, source.sizes, source.read, build)
    (stream,) = make_streams([source], 1, 1, positions=7 * 4, left_out=told.append)
    assert len({example for example in stream.draw()}) == 4
    stream.draw()
    assert {one.id for one in told} == {str(("a", shard, 0)) for shard in range(3)}
    (hopeless,) = make_streams([ShardSource("a", 1.0, [1, 1], source.read, build)], 1, 1)
    with pytest.raises(SaladError, match="every document of 'a' was left out"):
        hopeless.draw()


def test_refusals_name_the_setting():
    source = make_source("a", [2, 2])
    with pytest.raises(SaladError, match="sequence.lanes: 3, but 2 processes"):
        Stream([source], positions=9, seed=0, lanes=3, size=2)
    with pytest.raises(SaladError, match="sequence.lanes: 5, but 'a' has only 4 documents"):
        Stream([source], positions=9, seed=0, lanes=5)
    with pytest.raises(SaladError, match="no examples left"):
        Stream([make_source("a", [0])], positions=9, seed=0)
    state = Stream([source], positions=9, seed=0).state_dict()
    for other in (
        {"sources": [make_source("a", [2, 3])]},
        {"sources": [make_source("a", [2, 2], 0.5)]},
        {"seed": 1},
        {"lanes": 2},
    ):
        stream = Stream(**{"sources": [source], "positions": 9, "seed": 0, **other})
        with pytest.raises(SaladError, match="other shards, shares, lanes"):
            stream.load_state_dict(state)
    with pytest.raises(SaladError, match="other shards"):
        stream.load_state_dict({})


def test_a_checkpoint_goes_on_with_the_lanes_it_was_begun_with(tmp_path):
    sources, stage = [make_source("a", [5] * 6)], SimpleNamespace(positions=56, steps=4)

    def opened(lanes):
        layout = SimpleNamespace(lanes=lanes, buffer_shards=2)
        return open_stream(tmp_path, stage, layout, sources, ProcessGroup(), seed=1)

    batches = opened(2)
    first, state = batches[0], batches.state_dict()
    write_json(tmp_path / "checkpoint-000001" / "state.json", {"stream": state})
    again = opened(4)
    again.load_state_dict(state)
    assert first and [again[step] for step in (1, 2, 3)] == [batches[step] for step in (1, 2, 3)]


def test_batches_ahead_do_not_show_in_the_state():
    sources = [make_source("a", [5] * 6)]
    expected = [make_streams(sources, 1, 1)[0].draw() for _ in range(1)]
    batches = StreamBatches(make_streams(sources, 1, 1)[0], 4)
    assert batches[0] == expected[0] == batches[0]
    state = json.loads(json.dumps(batches.state_dict()))
    rest = [batches[step] for step in (1, 2, 3)]
    again = StreamBatches(make_streams(sources, 1, 1)[0], 4)
    again.load_state_dict(state)
    assert [again[step] for step in (1, 2, 3)] == rest
    with pytest.raises(AssertionError, match="step 9"):
        again[9]


@given(st.lists(st.sampled_from(["", " ", "{}", '{"a": "ü"}', '{"b": 1}']), max_size=12), st.integers(1, 4))
def test_lines_are_cut_without_loss(tmp_path_factory, lines, per_shard):
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    path.write_bytes("\n".join(lines).encode())
    shards = Lines(path, per_shard)
    found = [shards.read(i) for i in range(len(shards.sizes))]
    assert [json.loads(x) for shard in found for x in shard] == [json.loads(x) for x in lines if x.strip()]
    assert [len(x) for x in found] == shards.sizes and all(len(x) <= per_shard for x in found)
    again = Lines(path, shards.sizes[::-1])
    assert again.sizes == shards.sizes[::-1]
    assert [x for i in range(len(again.sizes)) for x in again.read(i)] == [x for shard in found for x in shard]


# In the stages


@pytest.fixture
def make_run(recipe_values, write_recipe, tmp_path, tokenizer):
    """A run that has come to stage1: a tiny LLM in a folder, log-mel frames, a few documents."""
    llm = tmp_path / "llm"
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.3, bos_token_id=0, eos_token_id=0,
        pad_token_id=None,
    )  # fmt: skip
    tokenizer.bos_token = tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
    LlamaForCausalLM(config).save_pretrained(llm)
    tokenizer.save_pretrained(llm)
    utterances = make_utterances(tmp_path, 21)
    model = {"adapter_layers": 1, "adapter_width": 16, "adapter_mlp": 24, "adapter_heads": 2, "adapter_kv_heads": 1}
    spans = {"text_words": [1, 3], "speech_words": [2, 4], "layouts": 2, "stream": True, "buffer_shards": 2}
    stage = {"steps": 7, "positions": 150, "checkpoint_every": 2, "keep": 9, "probe_every": 7, "warmup_steps": 2,
             "lr_llm": 1e-3}  # fmt: skip

    def make(name, **sequence):
        values = recipe_values | {
            "run_dir": str(tmp_path / name),
            "assets": {"encoder": "log-mel", "llm": str(llm)},
            "engine": {"workers": 1, "shard_items": 4},
            "sequence": spans | sequence,
            "model": model | {"stride": 8},
            "stage1": stage,
            "precision": "fp32",
            "threads": 1,
        }
        run = Run(load_recipe(write_recipe(values, f"{name}.yaml")))
        align = run.folder("align")
        for group, own in (("speech", utterances[:17]), ("heldout", utterances[17:])):
            write_utterances(align / f"{group}.jsonl", own)
            encode(run, align / f"frames-{group}", own, "t", **pieces_of(run, group))
        rows = [{"id": f"t{i}", "text": " ".join(WORDS[i:]), "source": "s", "domain": "d"} for i in range(9)]
        write_jsonl(run.folder("corpus") / "web.jsonl", rows)
        return run

    return make


class Stop(Exception):
    pass


def stop_at(monkeypatch, step):
    packs = DistillTask.packs

    def stopping(self, at):
        if at == step:
            raise Stop
        return packs(self, at)

    monkeypatch.setattr(DistillTask, "packs", stopping)


def metrics(run):
    rows = read_jsonl(run.folder("stage1") / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "seconds" and not k.startswith("perf/")} for row in rows]


def test_stage1_killed_and_resumed_from_the_stream_equals_uninterrupted(make_run, monkeypatch):
    """Weights, optimiser and the stream's state, bit for bit; the stops lie between checkpoints and within shards."""
    whole, parts = make_run("whole"), make_run("parts")
    summary = stage1.run(whole)
    for step in (3, 6):
        with monkeypatch.context() as patch, pytest.raises(Stop):
            stop_at(patch, step)
            stage1.run(parts)
    assert stage1.run(parts) == summary and summary["left_out"] == 0
    last = [latest_checkpoint(run.folder("stage1")) for run in (whole, parts)]
    for name in ("weights.safetensors", "optimizer.safetensors"):
        assert sha256_file(last[0] / name) == sha256_file(last[1] / name)
    states = [read_json(path / "state.json")["stream"] for path in last]
    assert states[0] == states[1] and states[0]["step"] == 7
    assert sum(source["documents"] for source in states[0]["lanes"]["0"].values()) == summary["documents"]
    assert metrics(whole) == metrics(parts)


def test_stage2_streams_old_and_bought_speech_and_text(make_run, monkeypatch):
    """A third of the positions each, whatever the sizes of the sources."""
    run = make_run("run")
    stage = run.recipe.stage1.model_copy(update={"steps": 3, "warmup_steps": 0})
    run = Run(run.recipe.model_copy(update={"stage2": stage}))
    stage1.run(run)
    own = read_utterances(run.folder("align") / "heldout.jsonl")
    write_utterances(run.folder("synthesize") / "bought.jsonl", own)
    encode(run, run.folder("synthesize") / "frames", own, "t", layouts=2)
    monkeypatch.setattr(stage2, "_save", lambda run: None)  # its model card tells of a corpus stage, which was not run
    summary = stage2.run(run)
    lane = read_json(latest_checkpoint(run.folder("stage2")) / "state.json")["stream"]["lanes"]["0"]
    assert set(lane) == {"speech", "bought", "text"} and summary["documents"] == sum(
        s["documents"] for s in lane.values()
    )
    given_ = [source["given"] for source in lane.values()]
    assert max(given_) - min(given_) < 40 and sum(given_) >= 3 * 150


def test_stage2_has_an_order_of_its_own(make_run, monkeypatch):
    """It would begin with the documents that Stage I began with, and see the later ones never."""
    run = make_run("run")
    stage = run.recipe.stage1.model_copy(update={"steps": 1, "warmup_steps": 0, "decay_share": 0.0})
    run = Run(run.recipe.model_copy(update={"stage1": stage, "stage2": stage}))
    drawn, draw = [], Stream.draw
    monkeypatch.setattr(Stream, "draw", lambda self: drawn.append(draw(self)) or drawn[-1])
    stage1.run(run)
    own = read_utterances(run.folder("align") / "heldout.jsonl")
    write_utterances(run.folder("synthesize") / "bought.jsonl", own)
    encode(run, run.folder("synthesize") / "frames", own, "t", layouts=2)
    monkeypatch.setattr(stage2, "_save", lambda run: None)
    stage2.run(run)
    speech = [[e.id for e in batch if e.speech_frames and int(e.id[1:]) < 17] for batch in drawn]
    text = [[e.id for e in batch if e.id.startswith("t")] for batch in drawn]
    for first, second in (speech, text):
        least = min(len(first), len(second))
        assert least >= 2 and first[:least] != second[:least]


def test_plain_text_of_its_own_is_what_a_stage_reads_against_forgetting(make_run, monkeypatch):
    run = make_run("run")
    corpus = run.recipe.corpus.model_copy(update={"plain_text": (Text(path="plain"),)})
    run = Run(run.recipe.model_copy(update={"corpus": corpus}))
    rows = [{"id": f"p{i}", "text": " ".join(WORDS[i:]), "source": "s", "domain": "d"} for i in range(6)]
    write_jsonl(run.folder("corpus") / "plain.jsonl", rows)
    drawn, draw = [], Stream.draw
    monkeypatch.setattr(Stream, "draw", lambda self: drawn.append(draw(self)) or drawn[-1])
    stage1.run(run)
    read = {example.id for batch in drawn for example in batch if not example.speech_frames}
    assert read and read <= {row["id"] for row in rows}


def test_cache_and_fly_train_the_same_weights(make_run):
    cache, fly = make_run("cache"), make_run("fly", features="fly")
    stage1.run(cache)
    stage1.run(fly)
    assert not (fly.folder("align") / "frames-speech").exists()
    a, b = (latest_checkpoint(run.folder("stage1")) / "weights.safetensors" for run in (cache, fly))
    assert sha256_file(a) == sha256_file(b) and metrics(cache) == metrics(fly)


def test_a_stream_gives_the_examples_that_a_plan_has(make_run, tokenizer):
    run = make_run("run")
    utterances = read_utterances(run.folder("align") / "speech.jsonl")
    source = speech_stream(run, tokenizer, 1.0, ProcessGroup())
    assert sum(source.sizes) == 17 and len(source.sizes) == 5
    frames = load_frames(run, "speech", utterances)
    for epoch in (0, 1, 2):
        expected = {e.id: e for e in speech_examples(run, tokenizer, utterances, frames, epoch % 2)}
        found = [source.build(document, epoch) for shard in range(5) for document in source.read(shard)]
        assert {example.id for example, _ in found} == set(expected)
        for example, positions in found:
            other = expected[example.id]
            assert example.spans == other.spans and np.array_equal(example.token_ids, other.token_ids)
            assert len(example.speech_frames) == len(other.speech_frames) and positions > len(example.spans)
            pairs = zip(example.speech_frames, other.speech_frames, strict=True)
            assert all(np.array_equal(x, y) for x, y in pairs)


def test_documents_over_the_context_are_set_aside_once(make_run):
    run = make_run("long", context=64)
    rows = read_jsonl(run.folder("corpus") / "web.jsonl")
    write_jsonl(run.folder("corpus") / "web.jsonl", [*rows, {**rows[0], "id": "long", "text": "the boats " * 200}])
    summary = stage1.run(run)
    aside = read_jsonl(run.folder("stage1") / "quarantine.jsonl")
    assert summary["left_out"] == len(aside) >= 1
    assert any(row["id"] == "long" and "more than sequence.context 64" in row["reason"] for row in aside)


def test_a_shard_broken_before_training_is_mended(make_run):
    whole, broken = make_run("whole"), make_run("broken")
    path = broken.folder("align") / "frames-speech" / "shard-00002" / "frames.safetensors"
    path.write_bytes(path.read_bytes()[:999])
    stage1.run(whole)
    stage1.run(broken)
    a, b = (latest_checkpoint(run.folder("stage1")) / "weights.safetensors" for run in (whole, broken))
    assert sha256_file(a) == sha256_file(b)


def test_text_shards_read_lines(make_run, tokenizer):
    run = make_run("run")
    source = text_shards(run, tokenizer, 1.0, run.folder("corpus") / "web.jsonl")
    assert source.sizes == [4, 4, 1]
    example, positions = source.build(source.read(2)[0], 0)
    assert example.id == "t8" and positions == 1 + len(example.token_ids) and not example.speech_frames


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_stream_as_one_and_resume_as_one(tmp_path, shard):
    def go(folder, run):
        run(work, tmp_path / folder, shard, True)
        saved = Saved(latest_checkpoint(tmp_path / folder), ["weights"])
        return {name: saved.read(name) for name in saved}

    one, two = go("one", run_alone), go("two", run_together)
    states = [read_json(latest_checkpoint(tmp_path / name) / "state.json")["stream"] for name in ("one", "two")]
    assert states[0] == states[1] and set(states[0]["lanes"]) == {"0", "1"}
    for path in sorted((tmp_path / "two").glob("checkpoint-*"))[1:]:
        path.rename(tmp_path / path.name)  # back to an earlier step, and on with one process
    again = go("two", run_alone)
    for name in one:
        assert np.allclose(one[name].float(), two[name].float(), atol=2e-4), name
        assert np.allclose(one[name].float(), again[name].float(), atol=2e-4), name


@pytest.mark.slow
def test_a_stream_killed_equals_uninterrupted(tmp_path):
    """SIGKILL, with a batch drawn ahead and a checkpoint perhaps half written."""
    slow = {"streamed": True, "steps": 40, "pause_s": 0.02}
    run_alone(partial(work, **slow), tmp_path / "whole")
    for wait_s in (0.2, 0.35, 0.3):
        process = Fork(partial(work, **slow), tmp_path / "parts")
        process.wait_ready()  # set up; the training begins
        assert process.wait(wait_s) is None
        process.kill()
    run_alone(partial(work, **slow), tmp_path / "parts")
    whole, parts = latest_checkpoint(tmp_path / "whole"), latest_checkpoint(tmp_path / "parts")
    for name in ("weights.safetensors", "optimizer.safetensors"):
        assert sha256_file(whole / name) == sha256_file(parts / name)
    assert read_json(whole / "state.json")["stream"] == read_json(parts / "state.json")["stream"]
