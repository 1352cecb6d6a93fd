"""vLLM's side of a model: how it is found, what is heard before vLLM sees the prompt; with vLLM itself where it is."""

import sys
import tomllib
import types
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from salad.model import SaladConfig, SaladForConditionalGeneration, SaladProcessor
from salad.model.processor import AUDIO
from salad.serve import vllm_plugin
from salad.testing.listeners import RATE_HZ, save_listener, tokenizer
from salad.testing.models import VOCABULARY

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def noise(seconds, seed=0):
    return 0.1 * np.random.default_rng(seed).normal(size=int(seconds * RATE_HZ)).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_listener(tmp_path_factory.mktemp("saved"), rate="text", ctc=20)[0]


def test_registration_is_lazy_and_may_come_again(monkeypatch):
    known = {}
    registry = types.SimpleNamespace(get_supported_archs=known.keys, register_model=known.__setitem__)
    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(ModelRegistry=registry))
    monkeypatch.delitem(sys.modules, "salad.serve.vllm", raising=False)
    vllm_plugin.register()
    vllm_plugin.register()
    assert known == {SaladForConditionalGeneration.__name__: "salad.serve.vllm:Model"}
    assert "salad.serve.vllm" not in sys.modules  # the model is imported when vLLM asks for it
    group = tomllib.loads(PROJECT.read_text())["project"]["entry-points"]["vllm.general_plugins"]
    module, name = group["salad"].split(":")
    assert module == vllm_plugin.__name__ and getattr(vllm_plugin, name) is vllm_plugin.register


def test_what_is_heard_is_what_generate_reads_and_no_more_than_was_planned(saved):
    listener = vllm_plugin.listener(str(saved))
    assert listener is vllm_plugin.listener(str(saved))
    recordings = [noise(1.0), noise(14.0, 1)]
    heard = listener.embeddings(recordings)
    model = SaladForConditionalGeneration.from_pretrained(saved).eval()
    batch = listener.processor(f"{AUDIO} {AUDIO}", recordings)
    with torch.no_grad():
        wanted = torch.cat(model.get_audio_features(batch["frames"]))
    torch.testing.assert_close(torch.cat(heard), wanted)
    assert int((batch["input_ids"] == model.config.audio_token_id).sum()) == sum(map(len, heard)) == len(wanted)
    for seconds, one in zip((1.0, 14.0), heard, strict=True):
        assert 0 < len(one) <= listener.most(seconds)


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed; docs/vllm.md says how it was run")
@pytest.mark.slow
def test_vllm_writes_what_generate_writes(tmp_path, monkeypatch):
    """With heads of 32, which vLLM's kernels for a CPU ask for at least."""
    from vllm import LLM, SamplingParams

    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    llm = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, initializer_range=0.3, **shape))
    ears = {"adapter_layers": 2, "adapter_width": 576, "adapter_mlp": 1536, "adapter_heads": 9, "adapter_kv_heads": 3}
    config = SaladConfig(llm_config=llm.config, frame_dim=80, stride=4, rate="text", ctc_vocab_size=20, **ears)
    model = SaladForConditionalGeneration.from_llm(llm, config).eval()
    model.ctc.token_ids.copy_(torch.arange(1, 21))
    model.save_pretrained(tmp_path)
    processor = SaladProcessor(tokenizer(), "log-mel", VOCABULARY, 0, model)
    processor.save_pretrained(tmp_path)
    few = {"max_model_len": 256, "max_num_seqs": 4}
    engine = LLM(str(tmp_path), dtype="float32", enforce_eager=True, distributed_executor_backend="uni", **few)
    prompts, wanted = [], []
    for seed, seconds in enumerate((1.0, 8.0)):
        sound = noise(seconds, seed)
        read = processor(f"w3 {AUDIO} w4", sound)
        ids = model.generate(**read, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
        wanted.append(ids[0, read["input_ids"].shape[1] :].tolist())
        prompts.append({"prompt_token_ids": [0, 3, VOCABULARY, 4], "multi_modal_data": {"audio": (sound, RATE_HZ)}})
    made = engine.generate(prompts, SamplingParams(temperature=0, max_tokens=8, ignore_eos=True))
    assert [list(one.outputs[0].token_ids) for one in made] == wanted
