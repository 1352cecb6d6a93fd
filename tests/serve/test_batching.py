"""Continuous batching: a row's answer is what it is alone, whoever comes and goes beside it."""

from __future__ import annotations

import queue
import threading
import time

import pytest
import torch

from salad.serve import engine as engine_module
from salad.serve.engine import Engine, Finished, Slab, Started, Token, TokenSampling
from salad.testing.models import VOCABULARY, make_model

NEVER: frozenset[int] = frozenset()


class Asked:
    """A request, and what came of it."""

    def __init__(self, engine, prompt, limit, **sampling):
        self.events = queue.Queue()
        sampling = TokenSampling(**{"ends": NEVER, **sampling})
        self.generation = engine.submit(lambda: (prompt, limit), sampling, self.events.put)

    def all(self):
        found = []
        while True:
            event = self.events.get(timeout=30)
            if isinstance(event, Finished):
                return [e.id for e in found if isinstance(e, Token)], event.reason
            found.append(event)


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture
def engine(model):
    made = Engine(model, 4)
    yield made
    made.close()


def prompts(model, *lengths):
    draws = torch.Generator().manual_seed(0)
    table = model.get_input_embeddings().weight.detach()
    return [table[torch.randint(1, VOCABULARY, (n,), generator=draws)] for n in lengths]


def generated(model, prompt, limit):
    out = model.llm.generate(
        inputs_embeds=prompt[None], attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=limit, min_new_tokens=limit, do_sample=False, pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    return out[0].tolist()


def test_each_as_alone_whoever_comes_and_goes(model, engine):
    """Short and long prompts, answers of many lengths, more requests than rows: as `generate` answers each alone."""
    lengths, limits = (3, 40, 9, 21, 2, 33, 5, 64), (30, 5, 90, 12, 70, 1, 25, 8)
    wanted = [generated(model, p, n) for p, n in zip(prompts(model, *lengths), limits, strict=True)]
    asked = [Asked(engine, p, n) for p, n in zip(prompts(model, *lengths), limits, strict=True)]
    assert [a.all() for a in asked] == [(ids, "length") for ids in wanted]
    assert engine.steps < sum(limits) / 2  # they went together
    assert engine.call(lambda: engine.load).result(timeout=30) == (0, 0)


def test_who_waits_together_begins_together(model, engine):
    """Four questions at once take as many steps as one, not one more for each that joins."""
    held = threading.Event()
    engine.call(held.wait)
    asked = [Asked(engine, p, 6) for p in prompts(model, 3, 8, 5, 4)]
    held.set()
    assert [len(a.all()[0]) for a in asked] == [6] * 4
    assert engine.steps <= 6


def test_logits_of_a_batch_are_those_of_its_rows(model, engine):
    """Not only the likeliest token: log-probabilities, within float tolerance, through a regrown cache."""
    one, *others = prompts(model, 17, 4, 50)
    events: list = [queue.Queue() for _ in range(2)]
    for found, beside in zip(events, ([], others), strict=True):
        rest = [Asked(engine, p, 150) for p in beside]
        engine.submit(lambda: (one, 150), TokenSampling(NEVER, top=3), found.put)
        for asked in rest:
            asked.all()
        while not isinstance(found.queue[-1] if found.queue else None, Finished):
            time.sleep(0.01)
    alone, together = ([e for e in list(found.queue) if isinstance(e, Token)] for found in events)
    assert len(alone) == len(together) == 150
    for a, b in zip(alone, together, strict=True):
        assert a.id == b.id and a.logprob == pytest.approx(b.logprob, abs=1e-4)


def test_draws_are_the_row_s_own(model, engine):
    one, other = prompts(model, 5, 11)
    alone = Asked(engine, one, 20, temperature=1.0, seed=3).all()
    beside = Asked(engine, other, 40, temperature=2.0, seed=4)
    assert Asked(engine, one, 20, temperature=1.0, seed=3).all() == alone
    beside.all()


def test_an_end_token_ends(model, engine):
    (prompt,) = prompts(model, 6)
    ids = generated(model, prompt, 10)
    at = next(i for i in range(1, 10) if ids[i] not in ids[:i])
    assert Asked(engine, prompt, 10, ends=frozenset({ids[at]})).all() == (ids[:at], "stop")


def test_a_placeholder_with_a_row_of_its_own_is_not_written(model, engine, monkeypatch):
    (prompt,) = prompts(model, 6)
    (first,), _ = Asked(engine, prompt, 1).all()
    monkeypatch.setattr(model.config, "audio_token_id", first)
    ids, _ = Asked(engine, prompt, 5).all()
    assert len(ids) == 5 and first not in ids


def test_who_is_cancelled_leaves_and_the_others_stay_right(model, engine):
    first, second = prompts(model, 60, 7)
    wanted = generated(model, second, 60)
    leaving, staying = Asked(engine, first, 5000), Asked(engine, second, 60)
    assert isinstance(staying.events.get(timeout=30), Started)
    leaving.generation.cancel()
    assert staying.all() == (wanted, "length")
    assert leaving.all()[1] == "cancelled"


def test_a_fault_ends_in_an_error_not_in_silence(model, engine):
    def broken():
        raise KeyError("no")

    events: queue.Queue = queue.Queue()
    engine.submit(broken, TokenSampling(NEVER), events.put)
    found = events.get(timeout=30)
    assert found.reason == "error" and isinstance(found.error, KeyError)
    with pytest.raises(KeyError):
        engine.call(broken).result(timeout=30)
    assert engine.call(lambda: 3).result(timeout=30) == 3
    (prompt,) = prompts(model, 6)
    assert Asked(engine, prompt, 3).all()[1] == "length"


def test_a_step_that_fails_ends_all_and_the_next_lives(model, engine, monkeypatch):
    (prompt,) = prompts(model, 6)
    monkeypatch.setattr(Slab, "update", lambda *a, **k: 1 / 0)
    asked = Asked(engine, prompt, 9)
    events = [asked.events.get(timeout=30) for _ in range(3)]
    assert isinstance(events[-1], Finished) and isinstance(events[-1].error, ZeroDivisionError)
    monkeypatch.undo()
    assert Asked(engine, prompt, 3).all() == (generated(model, prompt, 3), "length")


def test_one_row_that_cannot_choose_ends_alone(model, engine, monkeypatch):
    """And the smallest temperature is no fault at all: it draws the likeliest."""
    one, other = prompts(model, 6, 9)
    wanted = generated(model, one, 12)
    for least in ({"temperature": 1e-310}, {"temperature": 1.0, "top_p": 1e-320}):
        assert Asked(engine, one, 12, seed=1, **least).all() == (wanted, "length")
    whole, left = engine_module.draw, [3]

    def broken(logits, sampling, draws):
        if draws is not None:
            left[0] -= 1
        return whole(logits * (float("nan") if draws is not None and left[0] < 0 else 1.0), sampling, draws)

    monkeypatch.setattr(engine_module, "draw", broken)
    beside, faulty = Asked(engine, one, 12), Asked(engine, other, 12, temperature=1.0)
    ids, reason = faulty.all()
    assert len(ids) == 3 and reason == "error" and beside.all() == (wanted, "length")


def test_who_waits_and_is_cancelled_goes_at_once(model):
    """With what it holds, though every row is taken; and so do calls that nobody waits for any more."""
    engine = Engine(model, 1)
    (prompt,) = prompts(model, 6)
    busy = Asked(engine, prompt, 5000)
    busy.events.get(timeout=30)
    waiting = [Asked(engine, prompt, 3) for _ in range(3)]
    waiting[0].generation.cancel()
    waiting[2].generation.cancel()
    assert [waiting[i].all() for i in (0, 2)] == [([], "cancelled")] * 2 and engine.load == (1, 1)
    held = threading.Event()
    engine.call(held.wait)
    called = [engine.call(lambda: None) for _ in range(50)]
    assert all(future.cancel() for future in called[:-1])
    held.set()
    steps = engine.steps
    called[-1].result(timeout=30)
    assert engine.steps - steps < 25  # one call a turn, and those that were cancelled take none
    busy.generation.cancel()
    assert waiting[1].all()[1] == "length"
    engine.close()


def test_a_fault_between_two_steps_ends_no_thread(model, engine, monkeypatch):
    (prompt,) = prompts(model, 6)
    monkeypatch.setattr(engine_module, "_moved", lambda *given: 1 / 0)
    asked = [Asked(engine, prompt, limit) for limit in (5, 5000)]
    ends = [a.all() for a in asked]
    assert ends[0] == (generated(model, prompt, 5), "length") and ends[1][1] == "error"
    monkeypatch.undo()
    assert engine.alive and Asked(engine, prompt, 3).all() == (generated(model, prompt, 3), "length")
    end = time.monotonic() + 20
    while engine.load != (0, 0):  # a slot is free just behind the last event
        assert time.monotonic() < end, engine.load
        time.sleep(0.01)


def test_what_is_left_is_told_when_it_closes(model):
    engine = Engine(model, 1)
    (prompt,) = prompts(model, 6)
    asked = [Asked(engine, prompt, 10_000) for _ in range(2)]
    time.sleep(0.2)
    engine.close()
    assert [a.all()[1] for a in asked] == ["error", "error"]
    assert Asked(engine, prompt, 1).all()[1] == "error"
