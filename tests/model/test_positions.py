"""LLMs with a table of positions: what goes beyond it is refused with both figures, not with an IndexError."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from salad.config import load_recipe
from salad.evaluation.open_ended import Sampling, answer, answer_alike
from salad.model import SaladConfig, SaladForConditionalGeneration
from salad.model.llm import hidden_states, layer_states, most_positions, window_of
from salad.pipeline.run import Run
from salad.pipeline.speechlm import build_model
from salad.types import SaladError

SIZES = {"vocab_size": 400, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "max_position_embeddings": 32, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}  # fmt: skip
OWN = {
    "gpt2": {},
    "gpt_bigcode": {},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "gpt_neo": {"num_layers": 1, "num_heads": 2, "attention_types": [[["global"], 1]]},
    "gptj": {"rotary_dim": 4},
    "codegen": {"num_attention_heads": 4, "rotary_dim": 4},
    "mpt": {"max_seq_len": 32},
    "llama": {"intermediate_size": 32},
}


def make_llm(family, **settings):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES | OWN[family] | settings)).eval()


@pytest.mark.parametrize("family", OWN)
def test_a_document_may_fill_the_table_and_no_more(family):
    llm = make_llm(family)
    rows = llm.get_input_embeddings().weight[:34].detach()
    assert most_positions(llm) == (None if family == "llama" else 32)
    assert window_of(llm) == 32
    with torch.no_grad():
        assert hidden_states(llm, rows, [0, 32, 34]).isfinite().all()
        if family == "llama":
            assert len(hidden_states(llm, rows, [0, 34])) == 34
            return
        for read in (hidden_states, layer_states):
            with pytest.raises(SaladError, match=f"a document: 33 positions, but {family} has a table of 32; give"):
                read(llm, rows[:33], [0, 33])
        with pytest.raises(SaladError, match="33 positions"):  # of which 31 are read before
            hidden_states(llm, rows[:33], [0, 31, 33], [(0, 0), (0, 31)])


@pytest.mark.parametrize("ask", [lambda *a: answer(*a[:2], Sampling(a[2]), a[3]), answer_alike])
def test_an_answer_fits_behind_its_prompt(ask):
    llm = make_llm("gpt2")
    config = SaladConfig(llm_config=llm.config, frame_dim=6, stride=2, adapter_layers=1, adapter_width=16,
                         adapter_mlp=24, adapter_heads=2, adapter_kv_heads=1)  # fmt: skip
    model = SaladForConditionalGeneration.from_llm(llm, config).eval()
    prompt = llm.get_input_embeddings().weight[:30].detach()
    assert len(ask(model, [prompt], 3, [])[0]) == 3
    with pytest.raises(SaladError, match=r"a prompt of 30 and max_new_tokens=4: 33 positions, .* table of 32; ask"):
        ask(model, [prompt], 4, [])


@pytest.mark.parametrize("empty", [False, True])
def test_a_model_is_built_only_where_its_llm_reads_the_context(recipe_values, write_recipe, tmp_path, tokenizer, empty):
    llm = tmp_path / "llm"
    tokenizer.bos_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.save_pretrained(llm)
    make_llm("gpt2", max_position_embeddings=64).save_pretrained(llm)
    values = recipe_values | {
        "assets": {"encoder": "log-mel", "llm": str(llm)},
        "warm_start": {"enabled": False},
        "model": {"ears": "single", "rate": "fixed"},
    }
    with pytest.raises(SaladError, match=r"sequence.context: 2048 positions, .* table of 64; set sequence.context=64"):
        build_model(Run(load_recipe(write_recipe(values))), empty=empty)
    recipe = load_recipe(write_recipe(values | {"sequence": {"context": 64}}))
    assert build_model(Run(recipe), empty=empty).config.llm_config.model_type == "gpt2"
