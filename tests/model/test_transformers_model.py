"""transformers' common tests of models and of generation, by their names, as far as they can be asked of ours.

Their text is not in transformers' wheel. docs/transformers.md lists those that are left out, and why.
"""

import copy
import inspect
import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import (
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    QuantizedCache,
    StaticCache,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from salad.config import Model
from salad.model import SaladConfig, SaladForConditionalGeneration
from salad.testing.listeners import tokenizer
from salad.testing.models import DIM, VOCABULARY, make_model
from salad.text.phonemes import Symbols
from salad.types import SaladError

AUDIO = VOCABULARY
GREEDY = {"do_sample": False, "max_new_tokens": 5, "eos_token_id": None, "pad_token_id": 0}


@pytest.fixture(scope="module")
def model():
    model = make_model("text", 30)
    torch.nn.init.constant_(model.ctc.blank.bias, 10.0)  # so that some positions are blank
    return model


def make_symbol_model():
    """Ears that hear symbols first, with no lexicon yet."""
    llm = make_model().config.llm_config
    shape = dict(lower_layers=1, lower_width=16, upper_layers=1, upper_width=16, upper_heads=2, depth=9)
    symbols = Symbols.found_in(["abcdefgh"], "letters").to_dict()
    return SaladForConditionalGeneration(
        SaladConfig(
            llm_config=llm, frame_dim=DIM, stride=4, rate="text", ears="symbols", symbols=symbols, ears_shape=shape
        )
    )


def inputs_of(model, seed=0):
    """Two prompts of different lengths, as many placeholders in them as embeddings; padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    frames = [torch.randn(n, DIM, generator=generator) for n in (9, 14, 6)]
    a, b, c = model.span_lengths(frames)
    rows = [[5, *[AUDIO] * a, 7, *[AUDIO] * b, 3], [0, 4, *[AUDIO] * c, 9, 8]]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "frames": frames, "span_lengths": torch.tensor([a, b, c])}


@pytest.fixture(scope="module")
def inputs(model):
    return inputs_of(model)


@pytest.fixture(scope="module")
def greedy(model, inputs):
    return model.generate(**inputs, **GREEDY)


def forward(model, inputs, **kwargs):
    with torch.no_grad():
        return model(**inputs, **kwargs)


# --- ModelTesterMixin -------------------------------------------------------------------------------------


def test_config(tmp_path):
    config = make_model("text", 30).config
    config.save_pretrained(tmp_path)
    again = SaladConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict() | config.to_dict()
    assert again.get_text_config() is again.llm_config and again.get_text_config(decoder=True).vocab_size == VOCABULARY
    assert SaladConfig().llm_config.model_type == "llama" and copy.deepcopy(config).to_dict() == config.to_dict()


def test_defaults_of_the_ears_are_those_of_the_recipe(tmp_path):
    section, config = Model(), SaladConfig()
    shape = section.shape()
    assert {name: getattr(config, name) for name in shape} == shape and config.prior == section.prior
    config.save_pretrained(tmp_path)  # and what is saved leaves no size to a default
    assert not {*shape, "prior"} - set(json.loads((tmp_path / "config.json").read_text()))


def test_save_load(model, inputs, tmp_path):
    model.save_pretrained(tmp_path)
    again, told = SaladForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    assert torch.equal(forward(again.eval(), inputs).logits, forward(model, inputs).logits)
    assert again.generation_config.to_dict() == model.generation_config.to_dict()


@pytest.fixture
def raw_memory():
    """What nobody has filled is not a number, instead of whatever lay there before."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(2).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("ears", ["single", "symbols"])
def test_can_init_all_missing_weights(ears, raw_memory, tmp_path):
    """A folder without weights of the ears is no model: what is missing is told, and made as a fresh one has it."""
    fresh = make_model("text", 30, lora=2) if ears == "single" else make_symbol_model()
    if fresh.ctc is not None:
        fresh.ctc.token_ids.zero_()
    kept = {k: v for k, v in fresh.state_dict().items() if k.startswith("llm.") and "lora" not in k}
    fresh.save_pretrained(tmp_path, state_dict=dict(kept))  # which it empties
    again, told = SaladForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert set(told["missing_keys"]) == {k for k in fresh.state_dict() if k not in kept and "lm_head" not in k}
    for (name, made), wanted in zip(again.state_dict().items(), fresh.state_dict().values(), strict=True):
        spread = [x.float().std().item() if x.numel() > 1 else x.item() for x in (made, wanted)]
        assert name in kept or spread[0] == pytest.approx(spread[1], rel=0.4), name
        assert name not in kept or torch.equal(made, wanted), name


def test_load_with_mismatched_shapes(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="size"):
        SaladForConditionalGeneration.from_pretrained(tmp_path, adapter_width=8)
    options = {"adapter_width": 8, "ignore_mismatched_sizes": True, "output_loading_info": True}
    again, told = SaladForConditionalGeneration.from_pretrained(tmp_path, **options)
    assert told["mismatched_keys"] and again.adapter.in_proj.out_features == 8


def test_determinism(model, inputs):
    assert torch.equal(forward(model, inputs).logits, forward(model, inputs).logits)


def test_forward_signature(model):
    names = list(inspect.signature(model.forward).parameters)
    assert names[:2] == ["input_ids", "attention_mask"] and {"labels", "past_key_values", "inputs_embeds"} < set(names)


def test_batching_equivalence(model, inputs):
    together, at = forward(model, inputs).logits, 0
    for row, number in enumerate((2, 1)):
        keep = inputs["attention_mask"][row].bool()
        part = slice(at, at + number)
        one = {"input_ids": inputs["input_ids"][row : row + 1, keep], "frames": inputs["frames"][part]}
        alone = forward(model, one | {"span_lengths": inputs["span_lengths"][part]}).logits
        torch.testing.assert_close(together[row, keep], alone[0], atol=1e-5, rtol=1e-5)
        at += number


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training(checkpointing):
    model = make_model("text", 30).train()
    inputs = inputs_of(model)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        assert model.is_gradient_checkpointing
    model(**inputs, labels=inputs["input_ids"], use_cache=not checkpointing).loss.backward()
    for part in (model.llm, model.adapter, model.ctc):
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in part.parameters()), part


def test_attention_outputs():
    model = make_model("text", 30)
    inputs = inputs_of(model)
    plain = forward(model, inputs)
    model.set_attn_implementation("eager")
    told = forward(model, inputs, output_attentions=True)
    length = inputs["input_ids"].shape[1]
    assert len(told.attentions) == 2 and told.attentions[0].shape == (2, 4, length, length) and plain.attentions is None


def test_hidden_states_output_and_their_gradients(model, inputs):
    out = model(**inputs, output_hidden_states=True)
    assert len(out.hidden_states) == 3 and out.hidden_states[0].shape == (*inputs["input_ids"].shape, 24)
    out.hidden_states[0].retain_grad()
    out.logits.sum().backward()
    assert out.hidden_states[0].grad is not None
    model.zero_grad()


def test_resize_tokens_embeddings():
    model = make_model("text", 30)
    wanted, inputs = forward(model, inputs := inputs_of(model)).logits, inputs
    model.resize_token_embeddings(VOCABULARY + 7)
    assert model.config.get_text_config().vocab_size == VOCABULARY + 7 == len(model.get_input_embeddings().weight)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    torch.testing.assert_close(forward(model, inputs).logits[..., :VOCABULARY], wanted, atol=1e-5, rtol=1e-5)
    assert AUDIO not in model.generate(**inputs, **GREEDY)[:, -5:]  # its row is there now
    with pytest.raises(SaladError, match="got 30, and the CTC head scores token 30; give 31 or more"):
        model.resize_token_embeddings(30)


def test_model_get_set_embeddings():
    model = make_model()
    table, head = torch.nn.Embedding(VOCABULARY, 24), torch.nn.Linear(24, VOCABULARY, bias=False)
    model.set_input_embeddings(table)
    model.set_output_embeddings(head)
    assert model.get_input_embeddings() is table and model.get_output_embeddings() is head


def test_tied_weights_keys_are_saved_once_and_come_back(model, tmp_path):
    assert model.llm.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    again = SaladForConditionalGeneration.from_pretrained(tmp_path)
    assert again.llm.lm_head.weight is again.get_input_embeddings().weight


def test_model_outputs_equivalence(model, inputs):
    labels = inputs["input_ids"]
    named = forward(model, inputs, labels=labels)
    loss, logits, *_ = forward(model, inputs, labels=labels, return_dict=False)
    assert torch.equal(named.loss, loss) and torch.equal(named.logits, logits)


def test_inputs_embeds_matches_input_ids(model, inputs):
    read = model.read(**inputs)
    got = forward(model, {"inputs_embeds": read.embeddings, "attention_mask": read.mask}).logits
    assert torch.equal(got, forward(model, inputs).logits)
    for wrong in ({}, {"input_ids": inputs["input_ids"], "inputs_embeds": read.embeddings}):
        with pytest.raises(ValueError, match="give one of the two"):
            model(**wrong)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_eager_matches_sdpa_inference(model, inputs, tmp_path, implementation):
    model.save_pretrained(tmp_path)
    other = SaladForConditionalGeneration.from_pretrained(tmp_path).eval()
    other.set_attn_implementation(implementation)
    assert other.llm.config._attn_implementation == implementation
    keep = inputs["attention_mask"].bool()
    got, wanted = (forward(m, inputs).logits[keep] for m in (other, model))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_mismatching_num_audio_tokens(model, inputs):
    with pytest.raises(SaladError, match="frames: 2 spans"):
        model(**{**inputs, "frames": inputs["frames"][:2], "span_lengths": None})
    with pytest.raises(SaladError, match="0 spans"):
        model.generate(inputs["input_ids"])


# --- GenerationTesterMixin --------------------------------------------------------------------------------


def test_inherits_generation_mixin(model):
    assert isinstance(model, GenerationMixin) and model.can_generate() and "audio" in model.input_modalities


def test_greedy_generate(model, inputs, greedy):
    length = inputs["input_ids"].shape[1]
    assert greedy.shape == (2, length + 5) and torch.equal(greedy[:, :length], inputs["input_ids"])
    read, made = model.read(**inputs), []
    for _ in range(5):  # without any cache, one token at a time
        logits = forward(model, {"inputs_embeds": read.embeddings, "attention_mask": read.mask}).logits[:, -1]
        made.append(logits.argmax(-1))
        more = model.get_input_embeddings()(made[-1])[:, None]
        mask = torch.cat([read.mask, torch.ones_like(read.mask[:, :1])], 1)
        read = type(read)(read.ids, read.heard, torch.cat([read.embeddings, more], 1), mask)
    assert torch.equal(greedy[:, length:], torch.stack(made, 1))


def test_left_padding_compatibility(model, inputs, greedy):
    right = {**inputs}
    for name in ("input_ids", "attention_mask"):
        lengths = inputs["attention_mask"].sum(1).tolist()
        right[name] = torch.stack([r.roll(n - len(r)) for r, n in zip(inputs[name], lengths, strict=True)])
    assert torch.equal(model.generate(**right, **GREEDY)[:, -5:], greedy[:, -5:])
    keep, left = right["attention_mask"].bool(), inputs["attention_mask"].bool()
    torch.testing.assert_close(forward(model, right).logits[keep], forward(model, inputs).logits[left])


def test_generate_dict_outputs_use_cache(model, inputs, greedy):
    out = model.generate(**inputs, **GREEDY, return_dict_in_generate=True, output_scores=True, output_logits=True)
    assert torch.equal(out.sequences, greedy) and len(out.scores) == len(out.logits) == 5
    length = inputs["input_ids"].shape[1]
    assert out.past_key_values.get_seq_length() == length + 4  # the last token was not read
    assert torch.equal(model.generate(**inputs, **GREEDY, use_cache=False), greedy)


@pytest.mark.parametrize("cache", ["dynamic", "offloaded", "static", "offloaded_static"])
def test_generate_with_each_cache_implementation(model, inputs, greedy, cache):
    if cache.startswith("offloaded") and not torch.cuda.is_available():
        pytest.skip("offloading asks for a GPU")
    assert torch.equal(model.generate(**inputs, **GREEDY, cache_implementation=cache), greedy)


def test_generate_with_a_cache_of_ones_own(model, inputs, greedy):
    text = model.config.get_text_config()
    for cache in (DynamicCache(config=text), StaticCache(config=text, max_cache_len=64)):
        assert torch.equal(model.generate(**inputs, **GREEDY, past_key_values=cache), greedy)


def test_generate_with_quant_cache(model, inputs):
    """It asks for optimum-quanto or hqq, which says so where neither is installed."""
    try:
        QuantizedCache("quanto", model.config.get_text_config())
    except ImportError as error:
        with pytest.raises(ImportError, match=str(error)[:20]):
            model.generate(**inputs, **GREEDY, cache_implementation="quantized")
    else:
        assert model.generate(**inputs, **GREEDY, cache_implementation="quantized").shape[1] > 5


def test_past_key_values_format_and_continuation(model, inputs):
    """What was read stays in the cache; the next tokens are read without any recording."""
    first = forward(model, inputs, use_cache=True)
    length = inputs["input_ids"].shape[1]
    assert first.past_key_values.get_seq_length() == length
    more = torch.tensor([[4, 6], [7, 1]])
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(more)], 1)
    later = forward(model, {"input_ids": more, "attention_mask": mask}, past_key_values=first.past_key_values)
    whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], more], 1), "attention_mask": mask}
    torch.testing.assert_close(later.logits, forward(model, whole).logits[:, -2:], atol=1e-5, rtol=1e-5)


def test_generate_continue_from_past_key_values(model, inputs, greedy):
    short = model.generate(**inputs, **GREEDY | {"max_new_tokens": 2}, return_dict_in_generate=True)
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, 2, dtype=torch.long)], 1)
    more = {**inputs, "input_ids": short.sequences, "attention_mask": mask}
    made = model.generate(**more, **GREEDY | {"max_new_tokens": 3}, past_key_values=short.past_key_values)
    assert torch.equal(made, greedy)


def test_generate_methods_with_logits_to_keep(model, inputs):
    whole = forward(model, inputs).logits
    rows = torch.tensor([0, 3])
    for keep, wanted in ((1, whole[:, -1:]), (rows, whole[:, rows])):
        torch.testing.assert_close(forward(model, inputs, logits_to_keep=keep).logits, wanted)


def test_generate_from_inputs_embeds(model, inputs, greedy):
    read = model.read(**inputs)
    made = model.generate(inputs_embeds=read.embeddings, attention_mask=read.mask, **GREEDY)
    assert torch.equal(made, greedy[:, -5:])


def test_generate_without_input_ids(model):
    assert model.generate(**GREEDY | {"bos_token_id": 3}).shape == (1, 6)


SAMPLING = {
    "temperature": {"do_sample": True, "temperature": 0.7},
    "top_k and top_p": {"do_sample": True, "top_k": 9, "top_p": 0.8},
    "min_p": {"do_sample": True, "min_p": 0.05},
    "typical_p": {"do_sample": True, "typical_p": 0.6},
    "beams": {"num_beams": 3},
    "beams, sampled": {"num_beams": 3, "do_sample": True},
    "several beams": {"num_beams": 3, "num_return_sequences": 2},
    "several samples": {"do_sample": True, "num_return_sequences": 3},
    "repetition_penalty": {"repetition_penalty": 1.4},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "bad_words_ids": {"bad_words_ids": [[3], [4, 5]]},
    "min_new_tokens": {"min_new_tokens": 4},
    "sequence_bias": {"sequence_bias": [[[3], 4.0]]},
}


@pytest.mark.parametrize("how", SAMPLING)
def test_sample_and_beam_generate(model, inputs, how):
    """In a batch, and equal twice by one seed; no row of it is a placeholder."""
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        made.append(model.generate(**inputs, **{**GREEDY, **SAMPLING[how]}))
    number, length = SAMPLING[how].get("num_return_sequences", 1), inputs["input_ids"].shape[1]
    assert torch.equal(*made) and made[0].shape == (2 * number, length + 5)
    assert torch.equal(made[0][:, :length], inputs["input_ids"].repeat_interleave(number, 0))
    assert AUDIO not in made[0][:, length:]


def test_beam_search_generate_equals_its_rows_alone(model, inputs):
    beams, at = GREEDY | {"num_beams": 3}, 0
    together = model.generate(**inputs, **beams)
    for row, number in enumerate((2, 1)):
        keep = inputs["attention_mask"][row].bool()
        ids, frames = inputs["input_ids"][row : row + 1, keep], inputs["frames"][at : at + number]
        assert torch.equal(model.generate(ids, frames=frames, **beams)[0, -5:], together[row, -5:])
        at += number


def one_row(model, inputs):
    keep = inputs["attention_mask"][0].bool()
    return {"input_ids": inputs["input_ids"][:1, keep], "frames": inputs["frames"][:2]}


def test_assisted_decoding_matches_greedy_search(model, inputs, greedy):
    row = one_row(model, inputs)
    for assistant in (make_model("text", 30, seed=1), make_model(seed=2).llm):
        made = model.generate(**row, **GREEDY, assistant_model=assistant)
        assert torch.equal(made[0, -5:], greedy[0, -5:])


def test_prompt_lookup_decoding_matches_greedy_search(model, inputs, greedy):
    made = model.generate(**one_row(model, inputs), **GREEDY, prompt_lookup_num_tokens=3)
    assert torch.equal(made[0, -5:], greedy[0, -5:])


def test_custom_stopping_criteria_logits_processors_and_streamers(model, inputs, greedy):
    class Enough(StoppingCriteria):
        def __call__(self, ids, scores, **kwargs):
            return torch.full((len(ids),), ids.shape[1] >= inputs["input_ids"].shape[1] + 2)

    class Only(LogitsProcessor):
        def __call__(self, ids, scores):
            return torch.full_like(scores, -1e9).index_fill(1, torch.tensor([11]), 0.0)

    made = model.generate(**inputs, **GREEDY, stopping_criteria=StoppingCriteriaList([Enough()]))
    assert torch.equal(made, greedy[:, :-3])
    made = model.generate(**inputs, **GREEDY, logits_processor=LogitsProcessorList([Only()]))
    assert made[:, -5:].eq(11).all()
    own = tokenizer()
    streamer = TextIteratorStreamer(own, skip_prompt=True)
    model.generate(**one_row(model, inputs), **GREEDY, streamer=streamer)
    assert "".join(streamer).split() == own.decode(greedy[0, -5:]).split()


def test_stop_strings_end_each_row_of_its_own(model, inputs, greedy):
    letters = [*map(chr, range(97, 123)), *map(chr, range(65, 91)), *"0123456789"][:VOCABULARY]
    raw = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    raw.decoder = decoders.Fuse()
    own = PreTrainedTokenizerFast(tokenizer_object=raw)
    said = ["".join(own.convert_ids_to_tokens(row[-5:].tolist())) for row in greedy]
    stop = [said[0][1:3], said[1][3:5]]  # two letters each: a string may end in the middle of what was said
    wanted = [min(row.find(s) + 2 for s in stop if s in row) for row in said]
    made = model.generate(**inputs, **GREEDY | {"eos_token_id": -1}, stop_strings=stop, tokenizer=own)
    for row, number in enumerate(wanted):
        new = made[row, inputs["input_ids"].shape[1] :].tolist()
        assert new[:number] == greedy[row, -5:][:number].tolist() and not any(new[number:])  # 0 pads it
    assert made.shape[1] == inputs["input_ids"].shape[1] + max(wanted) and min(wanted) < 5
    read = "".join(own.convert_ids_to_tokens(inputs["input_ids"][1, -2:].tolist()))  # in the prompt: nothing to stop
    assert torch.equal(model.generate(**inputs, **GREEDY, stop_strings=read, tokenizer=own), greedy)


def test_generation_config_of_the_model_and_of_the_call(model, inputs, greedy):
    model = copy.copy(model)
    model.generation_config = GenerationConfig(max_new_tokens=3, do_sample=False, pad_token_id=0, eos_token_id=-1)
    assert torch.equal(model.generate(**inputs), greedy[:, :-2])
    own = GenerationConfig(max_new_tokens=2, do_sample=False, pad_token_id=0, eos_token_id=-1)
    assert torch.equal(model.generate(**inputs, generation_config=own), greedy[:, :-3])


def test_ends_of_the_llm_end_an_answer(model, inputs, greedy):
    llm = copy.deepcopy(model)
    llm.generation_config.eos_token_id, llm.llm.generation_config.eos_token_id = None, int(greedy[0, -4])
    made = llm.generate(**one_row(model, inputs), do_sample=False, max_new_tokens=5, pad_token_id=0)
    assert made[0, -1] == greedy[0, -4] and made.shape[1] <= one_row(model, inputs)["input_ids"].shape[1] + 2
