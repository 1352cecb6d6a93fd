"""How training starts on many processes: one reads the weights, the hosts together hold about one copy."""

import pytest
import torch
from pair_worker import run_pair
from transformers import LlamaConfig, LlamaForCausalLM

from salad.model import SaladForConditionalGeneration
from salad.model.empty import WeightsOnMeta, build_from
from salad.model.llm import build_llm
from salad.testing.models import make_model
from salad.types import SaladError


def make_config(**changes):
    shape = {"vocab_size": 64, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "tie_word_embeddings": True}
    return LlamaConfig(**{**shape, **heads, "initializer_range": 0.1, **changes})


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    torch.manual_seed(5)
    LlamaForCausalLM(make_config()).bfloat16().save_pretrained(folder / "llm")  # as published ones
    return run_pair(folder, "started")["started"]


def test_two_processes_hold_one_copy_and_their_own_rows(started):
    """Memory of their own, in copies of the float32 weights: the first one holds what it reads and its rows, the other
    its rows alone; where each reads for itself it holds a copy as well."""
    copy, ways = started["copy"], started["ways"]
    first, second = (peak / copy for peak in ways["full"]["peak"])
    print("copies:", {way: [round(p / copy, 2) for p in own["peak"]] for way, own in ways.items()})
    assert 0.9 < first < 1.7 and 0.4 < second < 0.9
    assert ways["plain"]["peak"][1] > 1.2 * copy


@pytest.mark.parametrize("way", ["full", "lora"])
def test_what_arrives_is_what_a_plain_load_gives(started, way):
    (here, there), plain = started["ways"][way]["ranks"], started["ways"]["plain"]["ranks"][0]
    assert here == there  # weights, buffers, states, random numbers, packing
    if way == "full":
        assert here[:2] == plain[:2] and here[3] is True
    else:
        assert here[0].keys() > plain[0].keys() - {n for n in plain[0] if "proj" in n}
        assert any("lora_B" in name and value == 0 for name, value in here[0].items())
        assert any("lora_A" in name and value > 0 for name, value in here[0].items())


def test_weights_are_shared_and_draws_stay_what_they_were():
    """The adapter after an LLM without memory is the one that came after a random LLM: seeded runs stay as they are."""
    torch.manual_seed(3)
    llm = LlamaForCausalLM(make_config(num_hidden_layers=1))
    torch.manual_seed(4)
    built = build_from(llm, llm.config)
    after = torch.rand(3)
    torch.manual_seed(4)
    build_llm(llm.config)
    assert torch.equal(after, torch.rand(3))
    own, theirs = dict(built.named_parameters()), dict(llm.named_parameters())
    assert own.keys() == theirs.keys()
    assert all(own[name].data_ptr() == theirs[name].data_ptr() for name in own)
    assert not any(b.is_meta for b in built.buffers())
    with torch.no_grad():
        ids = torch.arange(20)[None]
        assert torch.allclose(built(ids).logits, llm(ids).logits, atol=1e-5)


def test_an_llm_of_another_shape_is_refused():
    llm = LlamaForCausalLM(make_config(num_hidden_layers=1))
    with pytest.raises(SaladError, match="do not fit"):
        build_from(llm, make_config(num_hidden_layers=2))
    with pytest.raises(SaladError, match=r"of another shape: .*mlp"):
        build_from(llm, make_config(num_hidden_layers=1, intermediate_size=64))


def test_without_draws_a_model_is_laid_out_at_once():
    model = make_model()
    state = torch.get_rng_state()
    with WeightsOnMeta(draw=False):
        empty = SaladForConditionalGeneration(model.config)
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.is_meta or p.ndim < 2 for p in empty.parameters())
    assert [(n, p.shape) for n, p in empty.named_parameters()] == [(n, p.shape) for n, p in model.named_parameters()]
