"""Text LLMs of many families, small and random: packed, one by one or refused, and in all of them right."""

import dataclasses
import itertools
import re
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from salad.data.generate_text import _chat_prompt
from salad.evaluation.open_ended import answer_alike
from salad.evaluation.score import score, score_one_by_one
from salad.evaluation.scorer_model import Reader
from salad.measure.divergence import divergence, token_divergence
from salad.model import SaladConfig, SaladForConditionalGeneration, SaladProcessor, attention, cache_check, check
from salad.model.cache_check import goes_on
from salad.model.check import check_folder, check_llm, load_llm
from salad.model.freeze import freeze
from salad.model.llm import EXACT, as_inputs, build_llm, decoder_of, hidden_states, measure_packing, packs
from salad.model.teacher import Teacher
from salad.serve.served_model import ServedModel
from salad.testing.models import DIM, make_examples
from salad.testing.requests import assert_equal, make_requests
from salad.training.tasks import DistillTask
from salad.types import SaladError

ROWS = 64
SHAPE = {
    "vocab_size": ROWS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
HEADS = {"num_key_value_heads": 4}
HEAD_DIM = {"head_dim": 16}
LAYERED = {"layer_types": ["sliding_attention", "full_attention"], **HEAD_DIM}
# Family: (its settings beside SHAPE, whether it is packed).
FAMILIES = {
    "llama": ({}, True),
    "qwen2": ({}, True),
    "qwen3": (HEAD_DIM, True),
    "gemma": (HEAD_DIM, True),
    "gemma2": ({**LAYERED, "sliding_window": 8, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0}, True),
    "gemma3_text": ({**LAYERED, "sliding_window": 8}, True),
    "mistral": ({"sliding_window": 8}, True),
    "phi": ({}, True),
    "phi3": ({}, True),
    "olmo2": ({}, True),
    "cohere": ({"logit_scale": 0.0625}, True),
    "granite": ({"logits_scaling": 8.0, "embedding_multiplier": 3.0}, True),
    "gpt_neox": ({}, True),
    "gpt2": ({}, True),
    "opt": ({"ffn_dim": 96, "word_embed_proj_dim": 32, "dropout": 0.0}, True),
    "stablelm": ({}, True),
    "nemotron": (HEAD_DIM, True),
    "gpt_oss": ({**LAYERED, "sliding_window": 8, "num_local_experts": 2, "num_experts_per_tok": 1}, True),
    "smollm3": ({"use_sliding_window": False}, True),
    "falcon": ({"new_decoder_architecture": False, "multi_query": True}, False),
    "bloom": ({}, False),
    "mpt": ({"n_layers": 2, "n_heads": 4, "d_model": 64, "max_seq_len": 512}, False),
    "gpt_neox_japanese": ({}, False),
}


def make_llm(family, **settings):
    from transformers import AutoConfig

    torch.manual_seed(0)
    own = {**SHAPE, **FAMILIES.get(family, ({}, True))[0], **settings}
    llm = build_llm(AutoConfig.for_model(family, **own))
    with torch.no_grad():
        for name, parameter in llm.named_parameters():
            if parameter.dim() == 1 and ("bias" in name or "sinks" in name):  # families begin with none
                parameter.normal_(std=0.3)
            elif parameter.dim() > 1 and float(parameter.std()) < 0.1:  # those that have no initializer_range
                parameter.normal_(std=0.2)
    return llm.eval()


def make_model(family, **settings):
    llm = make_llm(family, **settings)
    config = SaladConfig(
        llm_config=llm.config, frame_dim=DIM, stride=2, adapter_layers=1, adapter_width=16, adapter_mlp=24,
        adapter_heads=2, adapter_kv_heads=1, ctc_vocab_size=30,
    )  # fmt: skip
    model = SaladForConditionalGeneration.from_llm(llm, config)
    model.ctc.token_ids.copy_(torch.arange(1, 31))
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_scored_trained_generates_and_loads_again(family, tmp_path):
    model, packed = make_model(family), FAMILIES[family][1]
    figures = measure_packing(model.llm)
    assert packs(model.llm) is packed
    if packed:
        assert max(figures.kl, figures.window_kl or 0) <= EXACT
    ids = torch.arange(2, 40)[None]
    with torch.no_grad():  # logits and states as the LLM itself forms them
        own = model.llm(input_ids=ids, use_cache=False).logits[0]
        hidden = model.text_hidden_states(torch.cat([ids[0], ids[0, 5:]]), [0, 38, 71])
        torch.testing.assert_close(model.head.logits(hidden[:38]), own, atol=2e-4, rtol=1e-4)
        alone = model.llm(input_ids=ids[:, 5:], use_cache=False).logits[0]
        torch.testing.assert_close(model.head.logits(hidden[38:]), alone, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(model(ids).logits[0], own, atol=2e-4, rtol=1e-4)
    # eval
    reader = Reader(model.llm, None)
    requests = make_requests(1, number=2, head=tuple(range(1, 21)))
    assert_equal(score(reader, requests), score_one_by_one(reader, requests), 1e-3)
    # two steps of training
    examples = make_examples(4, num=3)
    teacher = Teacher(make_model(family), cache=True)
    task = DistillTask(model, teacher, [examples] * 2, alpha=0.5, context=512)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for step in range(2):
        total = sum(task.loss(pack)[0] / task.count(pack) for pack in task.packs(step))
        optimiser.zero_grad()
        total.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimiser.step()
        losses.append(float(total))
    assert losses[1] < losses[0]
    # generate, alone and in a batch
    audio = model.config.audio_token_id
    frames = [torch.randn(5, DIM), torch.randn(14, DIM)]
    both = torch.tensor([[0, 0, 5, audio], [0, 9, 9, audio]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    batch = model.generate(both, attention_mask=mask, frames=frames, **options)
    assert torch.equal(batch[:1, 1:], model.generate(both[:1, 1:], frames=frames[:1], **options))
    # save and load
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(model(both, mask, frames).logits, again(both, mask, frames).logits)
    assert packs(again.llm) is packed


@pytest.mark.parametrize("family", FAMILIES)
def test_perfect_ears_have_no_misalignment(family):
    """A position that is sure of a token is to the LLM the token that it read."""
    model, examples = make_model(family), make_examples(5, num=3)

    def perfect(part):
        spans = [ids for e in part for ids in e.speech_tokens]
        flat = torch.tensor([int(i) for ids in spans for i in ids])
        rows = model.get_input_embeddings().weight[flat]
        return as_inputs(model.llm, rows), [len(ids) for ids in spans]

    teacher = Teacher(model, cache=False)
    rows = divergence(model, teacher, examples, perfect)
    assert sum(row.kl for row in rows) / sum(row.count for row in rows) < EXACT
    tokens = token_divergence(model, teacher, examples, perfect)
    assert max(float(np.abs(t.kl).max()) for t in tokens) < 1e-4
    loss = [row.nll for row in rows]
    assert loss == pytest.approx([float(t.nll.sum()) for t in tokens], rel=1e-4)
    nll = 0.0  # the LLM's own loss on the same tokens
    for example in examples:
        ids = torch.tensor([example.start_id, *example.token_ids.tolist()])
        with torch.no_grad():
            logits = model.llm(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)
        for span, (a, b) in zip(example.spans, example.token_bounds, strict=True):
            if span.modality == "text":
                nll -= float(logits[a:b].gather(1, ids[a + 1 : b + 1, None]).sum())
    assert sum(loss) == pytest.approx(nll, rel=1e-4)


# --- the self-check, and a planted fault for each of its figures ---------------------------------------------


def tokenizer_of(words, *, start=True):
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({f"w{i}": i for i in range(words)}, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="w0", bos_token="w1" if start else None)


def verdicts(found):
    return {c.name: c.verdict for c in found.checks}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_check_finds_each_family_as_it_is(family):
    llm = make_llm(family)
    assert goes_on(llm)
    found = check_llm(llm, tokenizer_of(ROWS))
    assert found.how == ("packed" if FAMILIES[family][1] else "one by one"), found.table()
    assert found.packs is FAMILIES[family][1]
    windowed = "sliding_window" in FAMILIES[family][0]
    assert ("beyond the window" in verdicts(found)) == windowed or family in ("phi3", "smollm3")


MORE_FAMILIES = {  # as the check finds them, without a training
    "xglm": ({"d_model": 64, "num_layers": 2, "attention_heads": 4, "ffn_dim": 96}, "one by one"),
    "biogpt": ({}, "packed"),
    "recurrent_gemma": (
        {"lru_width": 64, "block_types": ["recurrent", "attention"], "attention_window_size": 8},
        "one by one",
    ),
    "llama4_text": (
        {
            "num_local_experts": 2,
            "intermediate_size_mlp": 96,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 8,
        },
        "one by one",
    ),
    "modernbert-decoder": ({"pad_token_id": 0}, "refused"),  # a layer lies between its states and its logits
    "mixtral": ({"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 8}, "packed"),
    "jamba": (
        {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
        "one by one",
    ),
}


@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_scales_caps_chunks_and_mixed_layers_of_other_families(family):
    settings, how = MORE_FAMILIES[family]
    found = check_llm(make_llm(family, **HEAD_DIM, **settings))
    assert found.how == how, found.table()


ROPES = {
    "phi3": {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
             "original_max_position_embeddings": 32},
    "llama": {"rope_type": "dynamic", "factor": 4.0},
}  # fmt: skip


@pytest.mark.parametrize("family", ROPES)
def test_a_document_beside_one_that_turns_otherwise_is_what_it_is_alone(family):
    """Positions of long documents have other angles, which transformers takes for all that is read at once."""
    settings = {"rope_parameters": {"rope_theta": 10_000.0, **ROPES[family]}}
    settings["max_position_embeddings"] = 32 if family == "llama" else 512
    llm, ids = make_llm(family, **settings), torch.arange(130) % (ROWS - 2) + 2
    assert check_llm(llm).how == "packed" and packs(llm)
    rows = as_inputs(llm, llm.get_input_embeddings().weight)
    for lengths in ([80, 50], [20, 80, 30], [10, 31, 32, 8], [31, 8], [20, 12]):
        starts = [0, *itertools.accumulate(lengths)]
        with torch.no_grad():
            found = hidden_states(llm, rows[ids[: starts[-1]]], starts)
            for start, end in itertools.pairwise(starts):
                alone = make_llm(family, **settings).get_decoder()(input_ids=ids[None, start:end], use_cache=False)
                torch.testing.assert_close(found[start:end], alone.last_hidden_state[0], atol=2e-4, rtol=1e-3)
    if family == "phi3":  # "dynamic" says of a prefix alone other things than of one that goes on
        reader, requests = Reader(llm, None), make_requests(1, number=2, head=tuple(range(1, 41)))
        assert_equal(score(reader, requests), score_one_by_one(reader, requests), 1e-3)


@pytest.mark.parametrize(("family", "settings"), [("mamba", {}), ("rwkv", {"attention_hidden_size": 64})])
def test_what_has_no_attention_is_refused_with_figure_and_check(family, settings):
    mamba = make_llm(family, **settings)
    found = check_llm(mamba)
    assert found.how == "refused"
    with pytest.raises(SaladError, match="check `attention`: got 0 of 2 layers attend to tokens before, expected 1"):
        found.require("tiny-mamba")
    with pytest.raises(SaladError, match=f"check `attention`: 0 of 2 layers of {family}"):
        SaladForConditionalGeneration.from_llm(mamba, SaladConfig(llm_config=mamba.config, frame_dim=DIM))


def test_a_lost_packing_a_lost_window_and_lost_sinks_are_found(monkeypatch):
    whole = attention.packed_attention
    monkeypatch.setattr(attention.Packing, "window", lambda self, size: None)
    found = check_llm(make_llm("mistral"))
    assert verdicts(found)["beyond the window"] == "one by one" and not found.packs
    monkeypatch.undo()

    def forgetful(module, *args, s_aux=None, packing=None, **kwargs):
        mask = args[3]
        if s_aux is not None:  # sinks are dropped where documents are packed
            return whole(module, *args, packing=packing, s_aux=None if packing else s_aux, **kwargs)
        return whole(module, *args[:3], None if hasattr(mask, "packing") else mask, **kwargs)

    attention.AttentionInterface.register(attention.NAME, forgetful)
    try:
        for family in ("llama", "gpt_oss"):
            found = check_llm(make_llm(family))
            assert verdicts(found)["packed = alone"] == "one by one" and found.how == "one by one"
    finally:
        attention.AttentionInterface.register(attention.NAME, whole)
    assert check_llm(make_llm("llama")).packs


def test_a_llm_that_sees_its_future_is_refused(monkeypatch):
    whole = attention.packed_attention

    def seeing(module, query, key, value, mask, **kwargs):
        kwargs.pop("packing", None)
        everything = torch.ones(1, 1, query.shape[2], key.shape[2], dtype=torch.bool)
        return whole(module, query, key, value, everything, **kwargs)

    attention.AttentionInterface.register(attention.NAME, seeing)
    try:
        with pytest.raises(SaladError, match="check `future unseen`: got .* nats, expected at most 1e-05 nats"):
            check_llm(make_llm("llama")).require("planted")
    finally:
        attention.AttentionInterface.register(attention.NAME, whole)


@pytest.mark.parametrize(
    ("family", "fault"), [("cohere", {"scale": 1.0}), ("gemma2", {"cap": None}), ("phi", {"bias": None})]
)
def test_a_head_that_is_not_the_llm_s_is_found(family, fault, monkeypatch):
    right = check.head_of
    monkeypatch.setattr(check, "head_of", lambda llm: dataclasses.replace(right(llm), **fault))
    with pytest.raises(SaladError, match="check `logits`: got .* nats, expected at most 1e-05 nats"):
        check_llm(make_llm(family)).require("planted")


def test_embeddings_at_another_scale_are_found(monkeypatch):
    llm = make_llm("gemma")
    monkeypatch.setattr(check, "as_inputs", lambda llm, rows: rows)
    with pytest.raises(SaladError, match="check `embeddings`: got 8 times ours, expected 1"):
        check_llm(llm).require("planted")


def test_a_tokenizer_that_does_not_fit_is_refused_with_both_figures():
    llm = make_llm("llama")
    with pytest.raises(SaladError, match="`token ids`: got 70 tokens, expected at most the table's 64 rows"):
        check_llm(llm, tokenizer_of(70)).require("x")
    with pytest.raises(SaladError, match="check `start token`: got none"):
        check_llm(llm, tokenizer_of(ROWS, start=False)).require("x")
    assert verdicts(check_llm(llm, tokenizer_of(ROWS)))["chat template"] == "stated"
    own = tokenizer_of(ROWS)
    own.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert verdicts(check_llm(llm, own))["chat template"] == "right"
    own.chat_template = "{{ raise_exception('a system turn comes first') }}"
    with pytest.raises(SaladError, match="check `chat template`: got it raises TemplateError: a system turn"):
        check_llm(llm, own).require("x")
    with pytest.raises(SaladError, match="does not write one user's turn .a system turn comes first"):
        _chat_prompt(own, "Write.")


def test_a_folder_is_checked_once_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("SALAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(check, "KEPT_FROM", 0)
    folder = tmp_path / "llm"
    make_llm("mistral").save_pretrained(folder)
    tokenizer_of(ROWS).save_pretrained(folder)
    first = check_folder(folder)
    calls = itertools.count()
    measured = check.check_llm
    monkeypatch.setattr(check, "check_llm", lambda *a: next(calls) >= 0 and measured(*a))
    assert check_folder(folder) == first and packs(load_llm(folder)) and next(calls) == 0
    tokenizer_of(70).save_pretrained(folder)
    with pytest.raises(SaladError, match=r"llm: .*llm: check `token ids`: got 70 tokens"):
        load_llm(folder)
    assert next(calls) == 2


def test_the_command_prints_the_checks(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from salad.cli import app

    monkeypatch.setenv("SALAD_CACHE", str(tmp_path / "cache"))
    make_llm("gemma3_text").save_pretrained(tmp_path / "llm")
    tokenizer_of(ROWS).save_pretrained(tmp_path / "llm")
    said = CliRunner().invoke(app, ["assets", "check", str(tmp_path / "llm")])
    assert said.exit_code == 0, said.output
    assert re.search(r"beyond the window\t\S+ nats\tat most 1e-05 nats\tright", said.output)
    assert said.output.strip().endswith("(gemma3_text): packed")


@pytest.mark.parametrize("eos", ["w2", None])
def test_a_base_llm_is_asked_in_plain_text(tmp_path, eos):
    from salad.data.generate_text import write_documents
    from salad.engine import Shard
    from salad.files import read_jsonl

    make_llm("llama").save_pretrained(tmp_path / "llm")
    tokenizer = tokenizer_of(ROWS)
    tokenizer.eos_token = eos
    tokenizer.save_pretrained(tmp_path / "llm")
    assert AutoTokenizer.from_pretrained(tmp_path / "llm").chat_template is None
    shard = Shard(0, [{"id": "a", "source": "web", "domain": "broad", "topic": "t", "prompt": "w5 w6"}])
    settings = {"max_new_tokens": 4, "min_words": 1, "temperature": 1.0, "top_k": 5, "seed": 0, "bf16": False}
    write_documents(shard, tmp_path, llm=str(tmp_path / "llm"), **settings)
    assert len(read_jsonl(tmp_path / "documents.jsonl")) + len(read_jsonl(tmp_path / "quarantine.jsonl")) == 1


LLAMA_4 = {**HEAD_DIM, "num_local_experts": 2, "intermediate_size_mlp": 96, "interleave_moe_layer_step": 2}


@pytest.mark.parametrize("settings", [{"attention_chunk_size": 32}, {"attention_chunk_size": 512, "floor_scale": 32}])
def test_documents_longer_than_the_probe_s_are_alone_where_the_check_says_so(settings):
    """Llama 4 cuts attention into chunks, and its layers without rotations count positions over all that is packed."""
    layers = [1, 1] if settings["attention_chunk_size"] == 32 else [0, 0]
    llm = make_llm("llama4_text", **LLAMA_4, **settings, no_rope_layers=layers)
    found = check_llm(llm)
    assert verdicts(found)["beyond the window"] == "one by one" and found.how == "one by one"
    rows = llm.get_input_embeddings().weight[torch.arange(130) % ROWS]
    with torch.no_grad():
        packed = hidden_states(llm, rows, [0, 80, 130])
        alone = decoder_of(llm)(inputs_embeds=rows[None, 80:], use_cache=False).last_hidden_state[0]
    torch.testing.assert_close(packed[80:], alone, atol=2e-4, rtol=1e-3)


SPARSE = {"index_topk": 2048, "index_n_heads": 2, "index_head_dim": 16, "q_lora_rank": 16, "kv_lora_rank": 16,
          "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "n_routed_experts": 4, "n_group": 1,
          "num_experts_per_tok": 2, "topk_group": 1, "moe_intermediate_size": 32, "num_key_value_heads": 4}  # fmt: skip


def test_attention_that_ours_does_not_know_is_refused_with_figure():
    with pytest.raises(SaladError, match="check `attention = own`: got .* nats, expected at most 1e-05 nats; ours lea"):
        check_llm(make_llm("deepseek_v32", **SPARSE)).require("sparse")


PER_LAYER = {"vocab_size_per_layer_input": ROWS, "num_kv_shared_layers": 0, **LAYERED}
BY_ID = {
    "falcon_h1": ({"embedding_multiplier": 5.0, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16,
                   "mamba_d_state": 8, "mamba_n_groups": 1}, "got .* nats, expected at most 1e-05 nats"),
    "gemma3n_text": ({**PER_LAYER, "hidden_size_per_layer_input": 8, "laurel_rank": 8,
                      "activation_sparsity_pattern": [0.0, 0.0]}, "got .* nats, expected at most 1e-05 nats"),
    "gemma4_text": (PER_LAYER, "got it does not run"),
}  # fmt: skip


@pytest.mark.parametrize("family", BY_ID)
def test_a_family_that_looks_at_ids_is_refused_with_figure(family):
    settings, told = BY_ID[family]
    llm = make_llm(family, **settings)
    for name, parameter in llm.named_parameters():
        if "correct_output_scale" in name:  # begins with zeros, by which nothing of a layer's own table comes through
            torch.nn.init.ones_(parameter)
    found = check_llm(llm)
    assert "2 of 2 layers" in found.checks[0].found
    with pytest.raises(SaladError, match=f"check `ids = embeddings`: {told}"):
        found.require(family)


WITH_STATES = {
    "jamba": MORE_FAMILIES["jamba"][0],
    "recurrent_gemma": MORE_FAMILIES["recurrent_gemma"][0],
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"], "num_experts": 2, "num_experts_per_tok": 1,
                   "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "linear_num_key_heads": 2,
                   "linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16},
}  # fmt: skip


@pytest.mark.parametrize("family", WITH_STATES)
def test_an_llm_with_states_of_its_own_answers_and_is_not_served(family, tmp_path):
    model = make_model(family, **HEAD_DIM, **WITH_STATES[family])
    assert not goes_on(model.llm)
    prompts = [model.get_input_embeddings()(torch.arange(2, n)).detach() for n in (9, 14)]
    answers = answer_alike(model, prompts, 4, [1])
    for prompt, ids in zip(prompts, answers, strict=True):
        for token in ids:  # as the LLM reads all of it anew each time
            logits = model.llm(inputs_embeds=prompt[None], use_cache=False).logits[0, -1]
            assert int(logits.argmax()) == token
            prompt = torch.cat([prompt, model.get_input_embeddings()(torch.tensor([token]))])
    model.save_pretrained(tmp_path)
    with pytest.raises(SaladError, match=f"its LLM .{family}. keeps states beside the keys and values of attention"):
        ServedModel.load(str(tmp_path))


def test_an_llm_of_keys_and_values_goes_on_in_bf16_too(monkeypatch):
    model = make_model("llama", **HEAD_DIM)
    freeze(model, "frozen", bf16=True)
    assert next(model.llm.parameters()).dtype == torch.float32  # the table's; the linear layers are bf16
    monkeypatch.setattr(cache_check, "_difference", lambda llm: 2 * EXACT)  # as bf16 has it on a GPU
    assert goes_on(model.llm)


def test_want_of_memory_says_nothing_of_an_llm(monkeypatch):
    llm = make_llm("llama")
    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(cache_check, "_difference", Mock(side_effect=torch.OutOfMemoryError("all is used")))
        goes_on(llm)
    assert goes_on(llm)


def test_ids_that_are_read_otherwise_than_their_rows_are_found(monkeypatch):
    llm = make_llm("llama")
    decoder = llm.get_decoder()
    whole = decoder.forward

    def otherwise(input_ids=None, **kwargs):
        return whole(input_ids=None if input_ids is None else (input_ids + 1) % ROWS, **kwargs)

    monkeypatch.setattr(decoder, "forward", otherwise)
    assert verdicts(check_llm(llm))["ids = embeddings"] == "refused"


PARTS = (
    "{% for m in messages %}{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


def test_a_chat_template_that_takes_parts_gets_them_and_one_without_words_is_refused():
    llm, own = make_llm("llama"), tokenizer_of(ROWS)
    own.chat_template = "<s>" + PARTS
    assert verdicts(check_llm(llm, own))["chat template"] == "right"
    assert _chat_prompt(own, "w5 w6") == "<s>w5 w6"
    processor = SaladProcessor(own, "log-mel", ROWS, 1)
    assert processor.apply_chat_template([{"role": "user", "content": "w5 w6"}]) == "<s>w5 w6"
    parts = [{"type": "text", "text": "w7 "}, {"type": "audio"}]
    assert processor.apply_chat_template([{"role": "user", "content": parts}]) == "<s>w7 <|audio|>"
    own = tokenizer_of(ROWS)
    own.chat_template = "{% for m in messages %}{{ m['role'] }}{% endfor %}"
    with pytest.raises(SaladError, match="`chat template`: got its output lacks the user's words, expected none, or"):
        check_llm(llm, own).require("x")


@pytest.mark.parametrize(("name", "text"), [("tokenizer.json", '{"version": "1.0", "trunc'), ("tokenizer.model", "\0")])
def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path, name, text):
    make_llm("llama").save_pretrained(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(SaladError, match="its tokenizer cannot be read .*; copy tokenizer.json"):
        load_llm(tmp_path)


def test_a_family_that_is_read_in_no_known_way_is_refused_by_the_check(monkeypatch):
    def broken(llm):
        raise AttributeError("'Odd' object has no attribute 'layers'\nand more")

    monkeypatch.setattr(check, "_logits", broken)
    found = check_llm(make_llm("llama"))
    assert found.how == "refused"
    with pytest.raises(
        SaladError, match="check `logits`: got it does not run .AttributeError: 'Odd' object has no att"
    ):
        found.require("odd")


@pytest.mark.parametrize("config", ['{"model_type": "t5"}', '{"model_type": "nothing-known"}', "{}"])
def test_a_folder_that_holds_no_causal_llm_is_refused(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(SaladError, match="cannot be loaded as a causal text LLM"):
        load_llm(tmp_path)


def test_a_table_of_positions_is_known_by_the_name_of_gpt_1():
    llm = make_llm("openai-gpt", max_position_embeddings=32, n_embd=64, n_layer=2, n_head=4)
    with pytest.raises(SaladError, match="32"), torch.no_grad():
        hidden_states(llm, torch.randn(50, 64), [0, 50])
