"""Options scored behind a shared prefix equal the one-by-one reference, in text and in speech."""

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from salad.evaluation import score as scoring
from salad.evaluation.prompt import Request, Sound
from salad.evaluation.score import score, score_one_by_one
from salad.evaluation.scorer_model import Reader
from salad.model.attention import read_head
from salad.model.llm import decoder_of, packs
from salad.testing.models import VOCABULARY, make_model
from salad.testing.requests import assert_equal, make_requests, sounds
from salad.types import SaladError

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}


def text_reader():
    torch.manual_seed(1)
    return Reader(LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False)), None)


@pytest.mark.parametrize("positions", [1, 64, 4096])
@pytest.mark.parametrize("head", [0, 5, 20])
def test_text_scores_equal_one_by_one(head, positions):
    reader = text_reader()
    requests = make_requests(0, head=tuple(range(1, head + 1)))
    assert packs(reader.llm)
    assert_equal(score(reader, requests, positions=positions), score_one_by_one(reader, requests))


@pytest.mark.parametrize("rate", ["fixed", "text"])
@pytest.mark.parametrize(("shared", "together"), [(False, 1), (True, 1), (False, 5)])
def test_speech_scores_equal_one_by_one(rate, shared, together):
    """Spoken few-shot examples in the head, sounds and text in the prefixes."""
    reader = Reader(make_model(rate, 30), None, together=together)
    head = ()
    if shared:
        first, second = sounds(np.random.default_rng(9), 2)
        head = (*range(1, 9), Sound("x", first.spans), *range(9, 15), Sound("y", second.spans), 4, 5)
    requests = make_requests(1, head=head, hears=True)
    assert reader.hears and packs(reader.llm)
    assert_equal(score(reader, requests), score_one_by_one(reader, requests))
    swapped = [Request(r.prefix[:-1], r.options) for r in requests]  # other prefixes give other scores
    assert abs(score(reader, swapped)[0][1].logprob - score(reader, requests)[0][1].logprob) > 1e-3


def test_options_do_not_see_each_other():
    """A cache that an option writes to shows here: order, company and repetition change nothing."""
    reader = text_reader()
    requests = make_requests(2, head=tuple(range(1, 21)))
    first = score(reader, requests)
    assert score(reader, requests) == first
    turned = [Request(r.prefix, r.options[::-1]) for r in requests]
    assert_equal([own[::-1] for own in score(reader, turned)], first, 1e-5)
    alone = [Request(r.prefix, r.options[1:2]) for r in requests]
    assert_equal(score(reader, alone), [own[1:2] for own in first], 1e-5)
    assert_equal(score(reader, requests[::-1])[::-1], first, 1e-5)


def test_head_is_only_read():
    reader = text_reader()
    with reader.reading():
        head = read_head(decoder_of(reader.llm), reader.embed_ids(range(1, 21)))
        before = [(key.clone(), value.clone()) for key, value in head]
        items = [(reader.embed_ids([3, 4]), [[5, 6, 7], [8]]), (reader.embed_ids([9]), [[1, 2]])]
        scoring._score_pack(reader, items, head)
        scoring._score_pack(reader, items[::-1], head)
    assert all(torch.equal(a, b) for old, new in zip(before, head, strict=True) for a, b in zip(old, new, strict=True))


def test_each_position_is_read_once(monkeypatch):
    """The whole gain: a prefix once for all its options, the common head once for all, no option's last token."""
    reader, read = text_reader(), []
    requests = make_requests(3, head=tuple(range(1, 21)))
    hidden = scoring.hidden_states
    assert packs(reader.llm)
    monkeypatch.setattr(scoring, "hidden_states", lambda llm, x, *rest: read.append(len(x)) or hidden(llm, x, *rest))
    monkeypatch.setattr(scoring, "read_head", lambda decoder, x: read.append(len(x)) or read_head(decoder, x))
    score(reader, requests)
    assert sum(read) == 20 + sum(len(r.prefix) - 20 + sum(len(o) - 1 for o in r.options) for r in requests)


def test_a_window_is_kept_when_options_are_packed():
    torch.manual_seed(0)
    windowed = Reader(MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4)), None)
    requests = make_requests(4, number=5, head=tuple(range(1, 21)))
    assert packs(windowed.llm)
    assert_equal(score(windowed, requests), score_one_by_one(windowed, requests))
    windowed.llm.config.sliding_window = None
    wide = score_one_by_one(windowed, requests)
    assert abs(wide[0][1].logprob - score(windowed, requests)[0][1].logprob) < 1e-4  # the window was what decided
    windowed.llm.config.sliding_window = 4
    assert abs(wide[0][1].logprob - score(windowed, requests)[0][1].logprob) > 1e-2


def test_a_model_that_cannot_be_packed_is_scored_one_by_one(caplog):
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
    bloom = Reader(BloomForCausalLM(BloomConfig(**shape)), None)
    assert not packs(bloom.llm)
    requests = make_requests(4, number=3)
    told = []
    assert score(bloom, requests, advance=told.append) == score_one_by_one(bloom, requests)
    assert sum(told) == 3
    assert caplog.text.count("bloom reads documents one by one") == 1


def test_a_text_model_cannot_hear():
    with pytest.raises(SaladError, match="cannot hear"):
        score(text_reader(), make_requests(5, number=2, hears=True))


def test_bf16_stays_close():
    reader = text_reader()
    rough = Reader(reader.model, None, bf16=True)
    requests = make_requests(6)
    for a, b in zip(score(reader, requests), score(rough, requests), strict=True):
        assert all(abs(x.logprob - y.logprob) < 0.05 * abs(x.logprob) + 0.3 for x, y in zip(a, b, strict=True))
