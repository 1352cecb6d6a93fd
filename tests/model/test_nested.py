"""LLMs whose sizes stand in a configuration inside their folder's: built from it, or refused with a cure that works."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration

from salad.model.check import load_llm
from salad.model.nested import causal_config
from salad.types import SaladError

TEXT = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128}  # fmt: skip
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}  # fmt: skip


@pytest.fixture
def gemma():
    torch.manual_seed(0)
    config = Gemma3Config(text_config=TEXT, vision_config=VISION, mm_tokens_per_image=4)
    return Gemma3ForConditionalGeneration(config).eval()


def test_an_llm_inside_another_configuration_is_refused_and_the_cure_works(gemma, tmp_path):
    gemma.save_pretrained(tmp_path / "whole")
    with pytest.raises(SaladError, match="check `configuration`: got gemma3, which nests .*language_model"):
        load_llm(tmp_path / "whole")
    with pytest.raises(SaladError, match="gemma3: its configuration nests the text LLM's"):
        causal_config(gemma.config)
    gemma.model.language_model.save_pretrained(tmp_path / "text")
    ids = torch.arange(2, 12)[None]
    with torch.no_grad():
        own, alone = gemma(input_ids=ids).logits, load_llm(tmp_path / "text")(input_ids=ids).logits
    torch.testing.assert_close(alone, own, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["qwen3_5", "llama4"])
def test_a_family_with_a_causal_llm_of_the_text_is_built_from_that_one_s_configuration(family):
    config = AutoConfig.for_model(family, text_config=TEXT)
    found = causal_config(config)
    assert found.hidden_size == 32 and found.model_type == f"{family}_text"
    with torch.device("meta"):
        assert type(AutoModelForCausalLM.from_config(found).config) is type(found)
