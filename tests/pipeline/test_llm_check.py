"""An LLM that training would refuse is refused by the first stage, before anything is written with it."""

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from salad.config import load_recipe
from salad.data.generate_text import _name_padding
from salad.pipeline.run import Run
from salad.pipeline.stages import assets as stage
from salad.types import SaladError

TEXT = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128}  # fmt: skip


def test_the_assets_stage_refuses_an_llm_with_fewer_rows_than_tokens(
    recipe_values, write_recipe, tmp_path, tokenizer, monkeypatch
):
    llm = tmp_path / "llm"
    tokenizer.bos_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.save_pretrained(llm)
    LlamaForCausalLM(LlamaConfig(**TEXT)).save_pretrained(llm)
    monkeypatch.setattr(stage.assets, "get", lambda name: tmp_path)
    monkeypatch.setattr(stage, "assets_of_voice", lambda voice: [])
    recipe = load_recipe(write_recipe({**recipe_values, "assets": {"llm": str(llm)}, "precision": "fp32"}))
    with pytest.raises(SaladError, match="check `token ids`: got .* tokens, expected at most the table's 64 rows"):
        stage.run(Run(recipe))


def test_a_tokenizer_pads_with_what_opens_a_document_where_it_names_nothing_else(tokenizer):
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend.add_special_tokens(["<|endoftext|>"])
    bare = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert bare.pad_token_id is bare.eos_token_id is bare.bos_token_id is None
    _name_padding(bare)
    assert bare.pad_token == "<|endoftext|>" and len(bare(["the sea", "a"], padding=True)["input_ids"]) == 2
