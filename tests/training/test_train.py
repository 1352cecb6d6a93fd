"""The loop: interrupted and resumed equals uninterrupted, losses are divided once, damaged checkpoints are refused."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from salad.config import Stage, WarmStart
from salad.files import read_jsonl, sha256_file
from salad.measure.divergence import forgetting, summary
from salad.model.freeze import freeze
from salad.model.teacher import Teacher
from salad.objective.ctc import ctc, ctc_fits
from salad.testing.forks import Fork, run_alone, run_together
from salad.testing.models import make_examples, make_model
from salad.testing.small_run import work
from salad.training.checkpoint import Saved, latest_checkpoint, load_weights, trainable
from salad.training.loop import Schedule, train
from salad.training.schedule import before_decay, wsd
from salad.training.tasks import CTCTask, DistillTask, OneBatch, Side, Source, Together, plan_batches
from salad.types import Example, SaladError, Span, Stopped

SCHEDULE = Schedule(steps=9, lr={"adapter": 1e-2, "ctc": 1e-2, "llm": 1e-3}, warmup_steps=2, checkpoint_every=2)


class Stop(Exception):
    pass


def make_task(model, stop_at=None, context=2048):
    for parameter in model.llm.parameters():
        parameter.requires_grad_(False)
    examples = make_examples(5, num=6)
    source = Source("speech", 1.0, [[e] for e in examples], [20] * len(examples))
    task = DistillTask(
        model, Teacher(model, cache=True), plan_batches([source], 9, 60, seed=3), alpha=1.0, context=context
    )
    packs = task.packs

    def stopping(step):
        if step == stop_at:
            raise Stop
        return packs(step)

    task.packs = stopping
    return task


def run(folder, stop_at=None, start_from=None, context=2048):
    model = make_model("text", 30)
    task = make_task(model, stop_at, context)
    return train(model, task, SCHEDULE, folder, title="t", bf16=False, start_from=start_from)


def metrics(folder):
    """All but what depends on the machine's speed."""
    rows = read_jsonl(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "seconds" and not k.startswith("perf/")} for row in rows]


def test_training_lowers_the_loss(tmp_path):
    run(tmp_path)
    losses = [row["loss"] for row in read_jsonl(tmp_path / "metrics.jsonl")]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


@pytest.mark.parametrize("stops", [[1], [4], [2, 5, 8]])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, stops):
    whole = run(tmp_path / "whole")
    for stop in stops:
        with pytest.raises(Stop):
            run(tmp_path / "parts", stop)
    parts = run(tmp_path / "parts")
    for name in ("weights.safetensors", "optimizer.safetensors"):
        assert sha256_file(whole / name) == sha256_file(parts / name)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_sigterm_writes_a_checkpoint_and_says_how_to_go_on(tmp_path):
    """After the step in flight, whatever `checkpoint_every`; what follows equals a training that nobody stopped."""
    whole = run(tmp_path / "whole")
    before = signal.getsignal(signal.SIGTERM)
    model = make_model("text", 30)
    task = make_task(model)
    packs = task.packs
    task.packs = lambda step: (step == 2 and signal.raise_signal(signal.SIGTERM)) or packs(step)
    with pytest.raises(Stopped, match="SIGTERM after step 3 of 9.*checkpoint-000003"):
        train(model, task, SCHEDULE, tmp_path / "parts", title="t", bf16=False)
    assert signal.getsignal(signal.SIGTERM) == before
    parts = run(tmp_path / "parts")
    for name in ("weights.safetensors", "optimizer.safetensors"):
        assert sha256_file(whole / name) == sha256_file(parts / name)


def test_keeps_the_checkpoint_before_the_decay(tmp_path):
    run(tmp_path)
    kept = sorted(p.name for p in tmp_path.glob("checkpoint-*"))
    assert f"checkpoint-{before_decay(9, 0.2):06d}" in kept and kept[-1] == "checkpoint-000009" and len(kept) <= 3


def test_the_number_of_packs_does_not_change_the_update(tmp_path):
    """Losses are sums, divided once by the targets of the global batch (invariant 7)."""
    one, many = run(tmp_path / "one"), run(tmp_path / "many", context=24)
    a, b = make_model("text", 30), make_model("text", 30)
    load_weights(one, a)
    load_weights(many, b)
    for (name, x), y in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.allclose(x, y, atol=2e-3), name
    losses = [[row["loss"] for row in read_jsonl(tmp_path / f / "metrics.jsonl")] for f in ("one", "many")]
    assert np.allclose(*losses, rtol=1e-2)
    assert np.isclose(losses[0][0], losses[1][0], rtol=1e-5)


@pytest.mark.parametrize("damage", ["truncate", "flip", "no state", "foreign"])
def test_damaged_and_foreign_checkpoints_are_refused(tmp_path, damage):
    last = run(tmp_path)
    weights, state = last / "weights.safetensors", last / "state.json"
    raw = weights.read_bytes()
    model = make_model("text", 30)
    if damage == "truncate":
        weights.write_bytes(raw[: len(raw) // 2])
    elif damage == "flip":
        weights.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    elif damage == "no state":
        state.unlink()
    else:
        model = make_model("text", 20)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(SaladError, match="checkpoint"):
        load_weights(last, model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_stage_two_takes_weights_and_moments(tmp_path):
    run(tmp_path / "one")
    resume = tmp_path / "one" / f"checkpoint-{before_decay(9, 0.2):06d}"
    two = run(tmp_path / "two", start_from=resume)
    state = json.loads((two / "state.json").read_text())
    assert state["step"] == 9
    assert set(state["adam_steps"].values()) == {9.0 + before_decay(9, 0.2)}


def test_a_loss_that_is_not_finite_stops_with_its_step(tmp_path):
    model = make_model("text", 30)
    task = make_task(model)
    loss = task.loss
    task.loss = lambda pack: (loss(pack)[0] * float("nan"), {})
    with pytest.raises(SaladError, match="nan at step 0"):
        train(model, task, SCHEDULE, tmp_path, title="t", bf16=False)
    assert latest_checkpoint(tmp_path) is None


def test_ctc_learns_and_counts_what_is_impossible(tmp_path):
    model = make_model("text", 30)
    rng = np.random.default_rng(0)
    spans = [(rng.normal(size=(24, 6)).astype(np.float16), rng.integers(1, 31, 4)) for _ in range(4)]
    task = CTCTask(model, [*spans, (spans[0][0][:4], rng.integers(1, 31, 9))], steps=9, batch=4, seed=0)
    assert task.impossible == 1
    train(model, task, SCHEDULE, tmp_path, title="t", bf16=False)
    losses = [row["loss"] for row in read_jsonl(tmp_path / "metrics.jsonl")]
    assert losses[-1] < losses[0]


@given(st.integers(1, 500), st.integers(0, 50), st.floats(0, 1))
def test_wsd_warms_up_stays_and_decays_to_zero(steps, warmup, decay):
    factors = [wsd(s, steps, warmup, decay) for s in range(steps + 1)]
    assert all(0 <= f <= 1 for f in factors)
    start = before_decay(steps, decay)
    assert all(f == 1.0 for f in factors[warmup:start])
    if start < steps:
        assert factors[steps] == 0.0
        assert all(
            a >= b for a, b in zip(factors[max(start, warmup) : -1], factors[max(start, warmup) + 1 :], strict=True)
        )


@given(st.integers(1, 6), st.integers(1, 5), st.integers(10, 100), st.integers(0, 9))
def test_plan_is_fair_and_repeats_nothing_within_a_pass(num_a, num_b, positions, seed):
    a = Source("a", 2 / 3, [[f"a{i}-{layout}" for layout in range(2)] for i in range(num_a)], [7] * num_a)
    b = Source("b", 1 / 3, [[f"b{i}"] for i in range(num_b)], [11] * num_b)
    plan = plan_batches([a, b], 20, positions, seed)
    assert plan == plan_batches([a, b], 20, positions, seed)
    drawn = [e for batch in plan for e in batch]
    from_a = [e for e in drawn if e.startswith("a")]
    for start in range(0, len(from_a) - num_a + 1, num_a):
        assert len({e.split("-")[0] for e in from_a[start : start + num_a]}) == num_a
    share = 7 * len(from_a) / (7 * len(from_a) + 11 * (len(drawn) - len(from_a)))
    assert abs(share - 2 / 3) < 15 / (20 * positions) + 0.05


def test_ctc_beside_distillation_is_its_own_mean(tmp_path):
    """loss = mean KL + weight * mean CTC, each over its own targets."""
    model = make_model("text", 30)
    task = make_task(model)
    rng = np.random.default_rng(0)
    spans = [(rng.normal(size=(24, 6)).astype(np.float16), rng.integers(1, 31, 4)) for _ in range(4)]
    beside = CTCTask(model, spans, steps=9, batch=3, seed=0)
    both = Together(task, [Side("ctc", beside, 0.5)])
    packs = both.packs(0)
    total = sum(both.loss(pack)[0] for pack in packs) / sum(both.count(pack) for pack in packs)
    kl = sum(task.loss(pack)[0] for pack in task.packs(0)) / sum(task.count(pack) for pack in task.packs(0))
    (pieces,) = beside.packs(0)
    ctc_mean = beside.loss(pieces)[0] / beside.count(pieces)
    assert torch.allclose(total, kl + 0.5 * ctc_mean, rtol=1e-5)
    train(model, both, SCHEDULE, tmp_path, title="t", bf16=False)
    assert {"ctc_sum", "ctc_targets"} <= set(read_jsonl(tmp_path / "metrics.jsonl")[0])


@pytest.mark.parametrize(
    ("positions", "classes", "fits"), [(3, [1, 2, 3], True), (3, [1, 1, 2], False), (0, [], False)]
)
def test_ctc_fits(positions, classes, fits):
    assert ctc_fits(positions, classes) == fits


def test_a_span_too_short_for_ctc_adds_nothing():
    logits = torch.randn(7, 5)
    both = ctc(logits, [5, 2], [[1, 2], [1, 1, 3]])
    alone = ctc(logits[:5], [5], [[1, 2]])
    assert both[1] == 2 and torch.equal(both[0], alone[0])
    assert ctc(logits, [7], [[]])[1] == 0


@pytest.mark.parametrize("llm", ["lora", "full"])
def test_the_llm_learns_while_the_teacher_stays(tmp_path, llm):
    """With LoRA or all weights trained: the loss falls, only what should move moves, and F becomes positive."""
    base, model = make_model(), make_model(lora=2 if llm == "lora" else 0)
    freeze(base, "frozen", bf16=False)
    freeze(model, llm, bf16=False)
    names = [name for name in trainable(model) if name.startswith("llm.")]
    assert names and all("lora_" in name for name in names) == (llm == "lora")
    examples = make_examples(5, num=6)
    plan = plan_batches([Source("speech", 1.0, [[e] for e in examples], [20] * 6)], 9, 60, seed=3)
    teacher = Teacher(base, cache=True)
    task = DistillTask(model, teacher, plan, alpha=1.0, context=2048)
    assert not task.llm_frozen
    before = {name: p.clone() for name, p in model.named_parameters()}
    texts = [
        Example(e.id, (Span("text", 0, len(e.token_ids)),), e.token_ids, ((0, len(e.token_ids)),), 0) for e in examples
    ]
    assert summary(forgetting(model, teacher, texts)).all < 1e-9
    schedule = Schedule(steps=9, lr={"adapter": 1e-2, "llm": 1e-2}, warmup_steps=2, checkpoint_every=3)
    last = train(model, task, schedule, tmp_path, title="t", bf16=False)
    losses = [row["loss"] for row in read_jsonl(tmp_path / "metrics.jsonl")]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(trainable(model))
    assert summary(forgetting(model, teacher, texts)).all > 1e-6
    again = make_model(lora=2 if llm == "lora" else 0)
    load_weights(last, again)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


def test_a_leap_of_the_loss_stops_and_keeps_its_batch(tmp_path):
    model = make_model("text", 30)
    task = make_task(model)
    plain, calls = task.loss, []

    def leaping(pack):
        calls.append(1)
        loss, logs = plain(pack)
        return (loss * 100, logs) if len(calls) > 24 else (loss * 0 + 1.0, logs)

    task.loss = leaping
    task.batches = [task.batches[0]] * 40
    schedule = Schedule(steps=40, lr={"adapter": 1e-3}, warmup_steps=0, spike_factor=5.0, checkpoint_every=40)
    with pytest.raises(SaladError, match="spike_factor 5"):
        train(model, task, schedule, tmp_path, title="t", bf16=False)
    saved = json.loads((tmp_path / "bad-batch.json").read_text())
    assert saved["step"] == 24 and {m["id"] for m in saved["members"]} == {e.id for e in task.batches[0]}
    assert (tmp_path / "bad-batch.safetensors").stat().st_size > 100


def test_averages_follow_the_weights_and_survive_an_interruption(tmp_path):
    schedule = replace(SCHEDULE, ema=0.5)

    def go(folder, stop_at=None):
        model = make_model("text", 30)
        return train(model, make_task(model, stop_at), schedule, folder, title="t", bf16=False)

    whole = go(tmp_path / "whole")
    with pytest.raises(Stop):
        go(tmp_path / "parts", 5)
    assert sha256_file(whole / "averages.safetensors") == sha256_file(go(tmp_path / "parts") / "averages.safetensors")
    last, averaged = make_model("text", 30), make_model("text", 30)
    load_weights(whole, last)
    load_weights(whole, averaged, averaged=True)
    name = next(n for n, _ in last.named_parameters() if n.startswith("adapter"))
    assert not torch.equal(last.get_parameter(name), averaged.get_parameter(name))


def test_the_log_tells_rates_and_norms_of_every_group(tmp_path):
    run(tmp_path)
    row = read_jsonl(tmp_path / "metrics.jsonl")[-1]
    assert row["grad_norm"] == pytest.approx(np.hypot(row["grad_norm_adapter"], row["grad_norm_ctc"]), rel=1e-4)
    assert 0 <= row["perf/data_wait_share"] < 1 and row["perf/memory_gb"] > 0 and 0 < row["perf/floor"] < 2
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_one_batch_is_overfitted(tmp_path):
    model = make_model("text", 30)
    schedule = Schedule(
        steps=60, lr={"adapter": 1e-2, "ctc": 1e-2}, warmup_steps=0, decay_share=0.0, checkpoint_every=60
    )
    train(model, OneBatch(make_task(model)), schedule, tmp_path, title="t", bf16=False)
    losses = [row["loss"] for row in read_jsonl(tmp_path / "metrics.jsonl")]
    assert losses[-1] < 0.3 * losses[0]


def test_activations_formed_again_give_the_same_gradients():
    grads = []
    for again in (False, True):
        model = make_model("text", 30)
        task = make_task(model)
        if again:
            model.llm.gradient_checkpointing_enable({"use_reentrant": False})
            model.llm.train()
        (pack,) = task.packs(0)
        task.loss(pack)[0].backward()
        grads.append(torch.cat([p.grad.flatten() for p in trainable(model).values() if p.grad is not None]))
    assert torch.equal(*grads)


def test_the_teacher_reads_in_packs_of_its_own():
    model = make_model("text", 30)
    examples = make_examples(5, num=6)
    whole = Teacher(model, cache=False)
    small = Teacher(model, cache=True, context=40)
    expected = whole.hidden(examples)
    assert torch.allclose(expected, small.hidden(examples), atol=1e-5)
    read = small.positions_read
    assert torch.allclose(expected, small.hidden(examples[:]), atol=1e-5) and small.positions_read == read


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_equal_one_and_resume_as_one(tmp_path, shard):
    """Invariant 6; and a checkpoint of two processes goes on with one."""
    run_alone(work, tmp_path / "one", shard)
    if shard:  # once as a user starts them
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
        worker = ["salad.testing.small_run", "1", str(tmp_path / "two")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*torchrun, *worker], env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    else:
        run_together(work, tmp_path / "two", shard)
    a, b = (latest_checkpoint(tmp_path / name) for name in ("one", "two"))
    left, right = (Saved(path, ["weights"]) for path in (a, b))
    assert set(left) == set(right)
    for name in left:
        assert torch.allclose(left.read(name).float(), right.read(name).float(), atol=2e-4), name
    logs = [read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    for key in ("loss", "misalignment", "grad_norm"):
        assert np.allclose(*([row[key] for row in rows if key in row] for rows in logs), rtol=1e-3), key
    for path in sorted((tmp_path / "two").glob("checkpoint-*"))[1:]:
        shutil.rmtree(path)  # back to the step before the last, and on with one process
    run_alone(work, tmp_path / "two", shard)
    again = Saved(latest_checkpoint(tmp_path / "two"), ["weights"])
    for name in left:
        assert torch.allclose(left.read(name).float(), again.read(name).float(), atol=2e-4), name


@pytest.mark.slow
def test_killed_twenty_times_equals_uninterrupted(tmp_path):
    """SIGKILL at random moments, the writing of a checkpoint among them."""
    slow = {"steps": 120, "pause_s": 0.02}
    run_alone(partial(work, **slow), tmp_path / "whole")
    rng, kills = random.Random(0), 0
    while kills < 20:
        process = Fork(partial(work, **slow), tmp_path / "parts")
        process.wait_ready()  # set up; the training begins
        if process.wait(rng.uniform(0.0, 0.25)) is not None:
            break  # it finished before the last kill
        process.kill()
        kills += 1
    assert kills == 20
    run_alone(partial(work, **slow), tmp_path / "parts")
    whole, parts = latest_checkpoint(tmp_path / "whole"), latest_checkpoint(tmp_path / "parts")
    assert sha256_file(whole / "weights.safetensors") == sha256_file(parts / "weights.safetensors")


def test_a_schedule_of_its_own_has_the_defaults_of_a_stage():
    assert Schedule(steps=1, lr={"llm": 1e-4}) == Schedule.of(Stage(steps=1), {"llm": 1e-4})


def test_a_schedule_takes_every_setting_of_its_section():
    settings = Stage(steps=7, warmup_steps=3, probe_every=4, keep=5, ema=0.5, spike_factor=9, optimizer="muon")
    made = Schedule.of(settings, {"llm": 1e-4})
    names = {own.name for own in dataclasses.fields(Schedule)} - {"lr"}
    assert {name: getattr(made, name) for name in names} == {name: getattr(settings, name) for name in names}
    part = Schedule.of(WarmStart(warmup_steps=2), {"adapter": 1e-3}, weight_decay=0.01)
    assert (part.steps, part.warmup_steps, part.weight_decay, part.probe_every) == (
        400,
        2,
        0.01,
        Stage(steps=1).probe_every,
    )
    assert part.grad_clip == Stage(steps=1).grad_clip  # the section has none: a stage's default
