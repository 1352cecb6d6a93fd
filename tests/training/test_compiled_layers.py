"""Decoder layers compiled by torch.compile: no break of the graph, few graphs for packs of any documents."""

from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from transformers import AutoModel, LlamaConfig, MistralConfig

from salad.model import attention
from salad.training import compiled_layers
from salad.training.compiled_layers import compile_layers

PACKS = [0, 50, 130, 200], [0, 10, 300], [0, 7, 20, 21, 90, 257], [0, 400], [0, 31], [0, 90, 1200]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 64,
    "attn_implementation": attention.NAME,
}


def read(decoder, starts):
    """States of random embeddings; a CPU has FlexAttention's forward pass alone."""
    embeddings = torch.randn(1, starts[-1], 32, generator=torch.Generator().manual_seed(starts[-1]))
    with torch.no_grad():
        arguments = attention.packed_arguments(starts, torch.device("cpu"))
        return decoder(inputs_embeds=embeddings, **arguments).last_hidden_state


@pytest.fixture
def blocks(monkeypatch):
    """Attention by blocks, as on a GPU."""
    yes = lambda *_: True  # noqa: E731
    monkeypatch.setattr(attention, "by_blocks", yes)
    monkeypatch.setattr(compiled_layers, "by_blocks", yes)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("config", [LlamaConfig(**SIZES), MistralConfig(**SIZES, sliding_window=64)])
def test_layers_and_packs_share_graphs_and_give_what_they_gave(blocks, config):
    torch.manual_seed(0)
    decoder = AutoModel.from_config(config).eval()
    wanted = [read(decoder, starts) for starts in PACKS]
    counter = CompileCounter()
    assert compile_layers(SimpleNamespace(decoder=lambda: decoder), backend=counter)
    found = [read(decoder, starts) for starts in PACKS]
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert 1 <= counter.frame_count <= 3  # of the first pack, and of any


def test_on_a_cpu_layers_stay_as_they_are():
    """There a document is a call of a kernel: each pack would be a new graph."""
    decoder = AutoModel.from_config(LlamaConfig(**SIZES))
    assert not compile_layers(SimpleNamespace(decoder=lambda: decoder))
    assert all("forward" not in vars(layer) for layer in decoder.layers)


@pytest.mark.gpu
def test_compiled_layers_train_as_others_on_a_gpu():
    gradients = []
    for compiles in (False, True):
        torch.manual_seed(0)
        decoder = AutoModel.from_config(LlamaConfig(**SIZES)).cuda().train()
        if compiles:
            assert compile_layers(SimpleNamespace(decoder=lambda decoder=decoder: decoder))
        for starts in PACKS:
            embeddings = torch.randn(1, starts[-1], 32, generator=torch.Generator().manual_seed(0)).cuda()
            arguments = attention.packed_arguments(starts, torch.device("cuda"))
            decoder(inputs_embeds=embeddings, **arguments).last_hidden_state.square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in decoder.layers.parameters()]))
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 1e-2
