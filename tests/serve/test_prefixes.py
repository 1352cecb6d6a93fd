"""A beginning that prompts share is read once, and what follows is as if it had been read each time."""

from __future__ import annotations

import queue
import threading

import pytest
import torch

from salad.serve.engine import Engine, Finished, Token, TokenSampling
from salad.serve.prefixes import LEAST, Prefixes, shared
from salad.testing.models import VOCABULARY, make_model


@pytest.fixture(scope="module")
def model():
    return make_model()


def rows(model, *ids):
    return model.get_input_embeddings().weight.detach()[torch.tensor(ids)]


def drawn(seed, n):
    return torch.randint(1, VOCABULARY, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def asked(engine, prompt, limit=20):
    events: queue.Queue = queue.Queue()
    engine.submit(lambda: (prompt, limit), TokenSampling(frozenset(), top=1), events.put)
    found = []
    while not isinstance(event := events.get(timeout=30), Finished):
        found += [event] if isinstance(event, Token) else []
    return found


def test_answers_are_those_of_the_whole_and_the_beginning_is_read_once(model):
    system = drawn(0, 40)
    prompts = [rows(model, *system, *drawn(i, n)) for i, n in enumerate((9, 1, 30), start=1)]
    prompts += [rows(model, *system), prompts[0], rows(model, *system[:10], *drawn(4, 40))]
    wanted = []
    for prompt in prompts:
        fresh = Engine(model, 2)
        wanted.append(asked(fresh, prompt))
        fresh.close()
    engine, read = Engine(model, 2), []
    decoder = engine._decoder
    engine._decoder = lambda **kwargs: read.append(kwargs["inputs_embeds"].shape[1]) or decoder(**kwargs)
    for prompt, told in zip(prompts, wanted, strict=True):
        found = asked(engine, prompt)
        assert [t.id for t in found] == [t.id for t in told]
        assert [t.logprob for t in found] == pytest.approx([t.logprob for t in told], abs=1e-4)
    assert [n for i, n in enumerate(read) if i % 20 == 0] == [49, 1, 30, 1, 1, 50]  # 20 forward passes an answer
    ahead = rows(model, *drawn(5, 50))
    assert engine.read_ahead(lambda: ahead[:45]).result(timeout=30) == 45 == read[-1]
    assert len(asked(engine, ahead)) == 20 and read[-20] == 5
    with pytest.raises(ZeroDivisionError):
        engine.read_ahead(lambda: 1 / 0).result(timeout=30)
    engine.close()
    assert engine.read_ahead(lambda: ahead).cancelled()


def test_who_asks_goes_before_what_is_read_ahead(model):
    engine, order, held = Engine(model, 2), [], threading.Event()
    engine.call(held.wait)
    prompt, done = rows(model, *drawn(0, 20)), queue.Queue()

    def told(what):
        order.append(what)
        return prompt

    dropped = engine.read_ahead(lambda: told("dropped"))
    last = engine.read_ahead(lambda: told("ahead"))
    engine.submit(lambda: (told("asked"), 3), TokenSampling(frozenset()), done.put)
    engine.call(lambda: order.append("heard"))
    assert dropped.cancel()
    held.set()
    assert last.result(timeout=30) == 1 and order == ["asked", "heard", "ahead"]  # all but one position was known
    engine.close()


def test_no_more_is_kept_than_there_is_room(model):
    kept = Prefixes(room=100)
    for seed in range(8):
        prompt = rows(model, *drawn(seed, 45))
        cache, known = kept.begin(prompt)
        assert known == 0
        model.decoder()(inputs_embeds=prompt[None], past_key_values=cache, use_cache=True)
        kept.keep(prompt, cache)
    assert [kept.begin(rows(model, *drawn(seed, 45)))[1] for seed in (5, 6, 7)] == [0, 44, 44]
    long = rows(model, *drawn(9, 300))
    cache, _ = kept.begin(long)
    model.decoder()(inputs_embeds=long[None], past_key_values=cache, use_cache=True)
    kept.keep(long, cache)
    assert kept.begin(long)[1] == 100 and kept.begin(rows(model, *drawn(7, 45)))[1] == 0


def test_too_little_in_common_is_nothing(model):
    kept = Prefixes()
    one, other = rows(model, *range(1, 40)), rows(model, *range(1, LEAST), *range(30, 50))
    cache, _ = kept.begin(one)
    model.decoder()(inputs_embeds=one[None], past_key_values=cache, use_cache=True)
    kept.keep(one, cache)
    assert kept.begin(other)[1] == 0 and shared(one, other) == LEAST - 1
    assert shared(one, one[:20]) == 20 and shared(one, one.flip(0)) in (0, 1)
