"""Ears in two parts: symbols, spelling, simulated hearing, their losses, and the model that carries them."""

from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from salad.config import load_recipe
from salad.files import read_json, read_jsonl
from salad.measure.divergence import divergence, speech_ears
from salad.model import SaladConfig, SaladForConditionalGeneration
from salad.model.ears import Lexicon
from salad.model.ears.blocks import Block, through
from salad.model.ears.lower import Lower, pool_runs
from salad.model.ears.symbol_ears import token_places
from salad.model.span_lengths import SpanCounter
from salad.model.teacher import Teacher
from salad.objective.spelling import spelling
from salad.pipeline.ears_data import kept_back
from salad.sequence.simulate import Noise
from salad.sequence.spelling import load_spelled, moved, place, save_spelled, spell
from salad.text.phonemes import BOUNDARY, Symbols, letters_of, phones_of
from salad.training.ears_tasks import HeardSpellTask, LowerTask, SimulatedBatches, SpellTask, SymbolSpan
from salad.training.loop import Schedule, train
from salad.training.tasks import DistillTask, Side, Together
from salad.types import Example, SaladError, Span, Utterance

WORDS = "the cat sat on a mat and saw the dog run to the big old barn in rain".split()
SHAPE = {"lower_layers": 2, "lower_width": 16, "upper_layers": 1, "upper_width": 16, "upper_heads": 2, "depth": 5}
DIM = 6


@pytest.fixture(scope="module")
def tokenizer():
    """Whole words, their beginnings and ends as pieces, signs; `<eos>` is a control token."""
    pieces = [f" {w}" for w in WORDS] + [" phot", "osynthesis", ",", ".", ' "', '"', *"abcdefghijklmnopqrstuvwxyz "]
    vocab = {"<eos>": 0, **{p: i + 1 for i, p in enumerate(dict.fromkeys(pieces))}}
    raw = Tokenizer(models.Unigram([(p, -(len(p) ** -1.0)) for p in vocab], unk_id=0))
    raw.pre_tokenizer = pre_tokenizers.Split("(?= )", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>")
    return fast


@pytest.fixture(scope="module")
def letters():
    return Symbols.found_in([*WORDS, "photosynthesis"], "letters")


def make_model(tokenizer, symbols, *, causal=False, rate_hz=25.0, stride=1, seed=0):
    torch.manual_seed(seed)
    llm = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer) + 3, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
                    num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.3)
    )  # fmt: skip
    config = SaladConfig(llm_config=llm.config, frame_dim=DIM, frame_rate_hz=rate_hz, stride=stride, rate="text",
                         ears="symbols", symbols=symbols.to_dict(), ears_shape=SHAPE, causal=causal)  # fmt: skip
    model = SaladForConditionalGeneration.from_llm(llm, config)
    model.adapter.learn_lexicon(Lexicon.of_tokenizer(tokenizer, symbols, llm.config.vocab_size, SHAPE["depth"]))
    return model.eval()


def make_frames(symbols_of_span, rng, table):
    """Frames that say symbols: two noisy rows for each, and a quiet one."""
    rows = [row for s in symbols_of_span for row in (table[s], table[s], np.zeros(DIM))]
    return (np.array(rows) + 0.05 * rng.normal(size=(len(rows), DIM))).astype(np.float16)


# --- symbols ---------------------------------------------------------------------------------------------


def test_phones_of_a_clause_are_parted_into_words():
    said = phones_of("The edge of a glacier is cold, the end.".split())
    assert len(said) == 9 and all(said)
    assert said[2] + said[3] == ["ə", "v", "ə"]  # espeak says "of a" as one word


def test_symbols_of_a_written_number_hold_boundaries_between_its_words():
    symbols = Symbols.found_in("eighteen forty eight".split())
    ((*ids,), nothing) = symbols.of_text(["eighteen forty-eight,", "—"])
    assert ids.count(BOUNDARY) == 1 and nothing == []
    assert Symbols.from_dict(symbols.to_dict()) == symbols


def test_letters_keep_marks_and_leave_signs_out():
    assert letters_of("Cafe\u0301's!") == ["c", "a", "f", "é", "'", "s"]


@given(st.lists(st.text("aeiourstlnáß'", min_size=1, max_size=9), min_size=1, max_size=20))
def test_sub_words_joined_are_the_letters_of_the_word(words):
    symbols = Symbols.found_in(words, "subwords")
    assert Symbols.from_dict(symbols.to_dict()) == symbols and len(symbols) <= 257
    assert all(len(name) <= 3 for name in symbols.names)
    for word, ids in zip(words, symbols.of_words(words), strict=True):
        assert "".join(symbols.names[i] for i in ids) == "".join(letters_of(word))
    assert symbols.of_words(["数"]) == [[]] and symbols.of_text([f"{words[0]} {words[0]}"])[0].count(BOUNDARY) <= 1


def test_an_unknown_language_is_refused_by_name():
    with pytest.raises(SaladError, match="tlh-x.*letters"):
        Symbols.found_in(["a"], "phones", "tlh-x")


def test_names_must_begin_with_the_boundary():
    with pytest.raises(SaladError, match="boundary"):
        Symbols("letters", ("a", "b"))


# --- spelling --------------------------------------------------------------------------------------------


def test_each_token_ends_at_its_last_symbol_and_a_sign_at_the_boundary(tokenizer, letters):
    text = spell(tokenizer, " the cat, a dog.".strip(), letters)
    said = "".join(letters.names[s] for s in text.symbols)
    assert said == "the#cat#a#dog#"
    targets = place(text, np.arange(len(text.symbols)), len(text.symbols))
    read = {at: tokenizer.decode([int(t)]) for at, t in enumerate(targets) if t >= 0}
    assert read[6] == " cat" and read[7] == "," and read[8] == " a" and read[12] == " dog" and read[13] == "."


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12), st.integers(0, 10**6), st.floats(0, 2))
def test_every_token_finds_at_most_one_place_in_order(tokenizer, letters, words, seed, rate):
    text = spell(tokenizer, " ".join(words), letters)
    rng = np.random.default_rng(seed)
    heard, where = Noise.uniform(len(letters), error=0.3).hear(text.symbols[:-1], rng, rate)
    targets = place(text, np.append(where, len(heard)), len(heard) + 1)
    placed = targets[targets >= 0].tolist()
    left = iter(text.token_ids.tolist())
    assert all(token in left for token in placed)  # a subsequence of the text's own tokens
    if rate == 0:
        assert len(heard) == len(text.symbols) - 1 and placed == text.token_ids.tolist()


@given(st.lists(st.sampled_from(WORDS), min_size=2, max_size=12), st.data())
def test_a_cut_holds_the_tokens_and_symbols_of_its_words(tokenizer, letters, words, data):
    text = spell(tokenizer, " ".join(words), letters)
    end = data.draw(st.integers(1, len(words)))
    start = data.draw(st.integers(0, end - 1))
    part = text.cut(start, end)
    assert len(part) == end - start
    assert part.symbols.tolist() == text.symbols[text.symbol_starts[start] : text.symbol_starts[end]].tolist()
    assert (part.ends <= part.limits).all() and (part.limits < len(part.symbols)).all()


@pytest.mark.parametrize("texts", [[], ["the cat, a dog."], ["the cat", "--", "a dog. 12"]])
def test_spelled_texts_are_kept_as_they_are(tokenizer, letters, tmp_path, texts):
    spelled = [spell(tokenizer, text, letters) for text in texts]
    save_spelled(tmp_path / "texts.safetensors", spelled)
    again = load_spelled(tmp_path / "texts.safetensors")
    assert len(again) == len(texts)
    for text, kept in zip(spelled, again, strict=True):
        assert all(
            np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(astuple(text), astuple(kept), strict=True)
        )


@given(st.lists(st.integers(0, 5), max_size=15), st.lists(st.integers(0, 5), max_size=15))
def test_moved_is_monotone_and_within(truth, heard):
    where = moved(truth, heard)
    assert len(where) == len(truth) and (np.diff(where) >= 0).all()
    assert len(where) == 0 or (where[0] >= -1 and where[-1] < max(1, len(heard)))
    assert (moved(truth, truth) == np.arange(len(truth))).all()


# --- noise -----------------------------------------------------------------------------------------------


def test_noise_has_the_mistakes_of_what_was_heard():
    eye, rng = np.eye(4, dtype=np.float32), np.random.default_rng(0)
    pairs = []
    for _ in range(400):  # 1 is heard as 2 half of the time, 3 is dropped a quarter of the time
        truth = rng.integers(1, 4, size=12)
        heard = [2 if s == 1 and rng.random() < 0.5 else s for s in truth if not (s == 3 and rng.random() < 0.25)]
        pairs.append((truth.tolist(), eye[heard]))
    noise = Noise.of_runs(pairs, 4)
    ones, _ = noise.hear(np.full(4000, 1), np.random.default_rng(1))
    assert abs((ones.argmax(-1) == 2).mean() - 0.5) < 0.1
    threes, where = noise.hear(np.full(4000, 3), np.random.default_rng(2))
    assert abs(1 - len(threes) / 4000 - 0.25) < 0.12 and (np.diff(where) >= 0).all()
    clean, _ = noise.hear(np.array([1, 2, 3]), np.random.default_rng(3), rate=0.0)
    assert clean.argmax(-1).tolist() == [1, 2, 3]


# --- the parts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
def test_a_padded_block_equals_its_rows_alone(causal):
    torch.manual_seed(0)
    block = Block(8, 16, 3, 2, causal=causal).double()
    rows = [torch.randn(n, 8, dtype=torch.double) for n in (5, 1, 9, 4, 8)]
    together = through([block], torch.cat(rows), [len(row) for row in rows])
    alone = torch.cat([block(row[None], torch.ones(1, len(row), dtype=torch.bool))[0] for row in rows])
    torch.testing.assert_close(together, alone)


def test_a_causal_block_does_not_look_ahead():
    torch.manual_seed(0)
    block, x = Block(8, 16, 3, 2, causal=True), torch.randn(1, 7, 8)
    inside = torch.ones(1, 7, dtype=torch.bool)
    changed = torch.cat([x[:, :4], torch.randn(1, 3, 8)], dim=1)
    torch.testing.assert_close(block(x, inside)[:, :4], block(changed, inside)[:, :4])


def test_runs_are_pooled_and_blanks_left_out():
    best = torch.tensor([0, 1, 1, 0, 1, 2, 2, 2, 0, 0])
    scores = torch.nn.functional.one_hot(best, 4).float() * 9
    states = torch.arange(10.0)[:, None]
    runs = pool_runs(scores, states, [8, 2])
    assert runs.lengths == [3, 1]  # the second span holds blanks alone: its likeliest position stands for it
    assert runs.posteriors[:3].argmax(-1).tolist() == [0, 0, 1]
    assert runs.states[:3, 0].tolist() == [1.5, 4.0, 6.0]
    assert runs.places.tolist() == [[1, 3], [4, 5], [5, 8], [0, 1]]


def test_a_token_was_heard_from_the_first_of_its_runs_to_its_last():
    places = torch.tensor([[1, 3], [4, 5], [5, 8], [9, 12], [0, 1]])
    found = token_places(places, [4, 1], torch.tensor([1, 4, 0, 1]), [2, 2])  # 4 and the last 1: at the span's end
    assert found.tolist() == [[1, 5], [5, 12], [0, 1], [0, 1]]


def test_mimis_rate_is_raised_to_two_positions_a_symbol():
    lower = Lower(512, 12.5, 1, 60, layers=1, width=8, causal=True)
    scores, states, lengths = lower([torch.randn(25, 512), torch.randn(3, 512)])
    assert lower.up == 2 and lengths == [50, 6] and scores.shape == (56, 61) and states.shape == (56, 8)


def test_untrained_scores_look_pronunciations_up(tokenizer, letters):
    """Before any training the right word scores best where its symbols are clear."""
    model = make_model(tokenizer, letters)
    upper, table = model.adapter.upper, model.get_input_embeddings().weight
    text = spell(tokenizer, " ".join(["the", *WORDS]), letters)
    eye = torch.eye(len(letters))[torch.from_numpy(text.symbols[:-1])]
    query, _, _, _ = upper(eye, None, [len(eye)])
    targets = torch.from_numpy(place(text, np.arange(len(eye) + 1), len(eye) + 1))
    vectors, bias = upper.classes(table)
    best = torch.addmm(bias, query, vectors.T).argmax(-1)
    whole = targets >= 0
    assert (best[whole] == targets[whole]).float().mean() > 0.7


def test_no_sound_says_a_control_token(tokenizer, letters):
    model = make_model(tokenizer, letters)
    _, bias = model.adapter.upper.classes(model.get_input_embeddings().weight)
    assert bias[0] == -torch.inf and torch.isinf(bias[len(tokenizer) :]).all() and torch.isfinite(bias[1:5]).all()


def test_the_sampled_loss_of_all_classes_is_the_whole_softmax(tokenizer, letters):
    model = make_model(tokenizer, letters)
    upper, table = model.adapter.upper, model.get_input_embeddings().weight
    query, emit, _, _ = upper(torch.rand(9, len(letters)), None, [9])
    targets = torch.tensor([-1, 3, -1, 5, -1, -1, 3, -1, 9, -1])
    loss, count, _ = spelling(upper, query, emit, targets, table, upper.sayable.nonzero()[:, 0])
    vectors, bias = upper.classes(table)
    ends = targets >= 0
    expected = torch.nn.functional.cross_entropy(
        torch.addmm(bias, query[ends], vectors.T), targets[ends], reduction="sum"
    ) + torch.nn.functional.binary_cross_entropy_with_logits(emit, ends.float(), reduction="sum")
    assert count == 4
    torch.testing.assert_close(loss, expected)


# --- the model -------------------------------------------------------------------------------------------


def make_examples(seed, num=3):
    rng = np.random.default_rng(seed)
    spans = (Span("speech", 0, 3), Span("text", 3, 7), Span("speech", 7, 9), Span("text", 9, 12))
    bounds = ((0, 3), (3, 7), (7, 9), (9, 12))
    return [
        Example(f"{seed}-{i}", spans, rng.integers(1, 20, 12), bounds, 0,
                tuple(rng.normal(size=(int(n), DIM)).astype(np.float16) for n in rng.integers(4, 20, 2)))
        for i in range(num)
    ]  # fmt: skip


@pytest.mark.parametrize("causal", [True, False])
def test_packed_equals_alone(tokenizer, letters, causal):
    model = make_model(tokenizer, letters, causal=causal)
    examples, teacher = make_examples(1), Teacher(model, cache=False)
    together = divergence(model, teacher, examples, speech_ears(model))
    alone = [divergence(model, teacher, [e], speech_ears(model))[0] for e in examples]
    assert [row.count for row in together] == [row.count for row in alone]
    np.testing.assert_allclose([r.kl for r in together], [r.kl for r in alone], rtol=1e-4)

    def parts(example):
        late = np.arange(7) >= 4  # a text span of four tokens, then one of three
        return {"first": ~late, "last": late}

    parted = divergence(model, teacher, examples, speech_ears(model), parts)
    assert [r.kl for r in parted] == [r.kl for r in together]
    assert [[n for _, n in r.by_exposure.values()] for r in parted] == [[4, 3]] * 3
    sums = [sum(kl for kl, _ in r.by_exposure.values()) for r in parted]
    np.testing.assert_allclose(sums, [r.kl for r in parted], rtol=1e-4)


def test_a_saved_model_hears_the_same(tokenizer, letters, tmp_path):
    model = make_model(tokenizer, letters)
    frames = [torch.randn(12, DIM), torch.randn(5, DIM)]
    before = model.hear(frames)
    model.save_pretrained(tmp_path)
    after = SaladForConditionalGeneration.from_pretrained(tmp_path).eval().hear(frames)
    torch.testing.assert_close(before.embeddings, after.embeddings)
    assert before.symbols == after.symbols and before.token_ids.tolist() == after.token_ids.tolist()


def test_a_table_of_more_rows_changes_nothing_until_a_lexicon_tells_them(tokenizer, letters, tmp_path):
    model = make_model(tokenizer, letters)
    frames, rows = [torch.randn(12, DIM), torch.randn(5, DIM)], len(tokenizer) + 3
    before = model.hear(frames)
    model.resize_token_embeddings(rows + 4)
    model.save_pretrained(tmp_path)
    again = SaladForConditionalGeneration.from_pretrained(tmp_path).eval()
    for larger in (model, again):
        after = larger.hear(frames)
        torch.testing.assert_close(before.embeddings, after.embeddings)
        assert before.token_ids.tolist() == after.token_ids.tolist()
    said, upper = int(before.token_ids[0]), again.adapter.upper
    lexicon = Lexicon(*(value.clone() for value in (upper.sounds, upper.traits, upper.sayable)))
    lexicon.sounds[rows], lexicon.traits[rows], lexicon.sayable[rows] = lexicon.sounds[said], lexicon.traits[said], True
    lexicon.sayable[said] = False
    with torch.no_grad():
        again.get_input_embeddings().weight[rows] = again.get_input_embeddings().weight[said]
    again.adapter.learn_lexicon(lexicon)
    assert rows == int(again.hear(frames).token_ids[0])  # the new token sounds as that one did
    model.resize_token_embeddings(rows)
    assert torch.equal(model.hear(frames).embeddings, before.embeddings)


def test_generation_in_a_batch_equals_single(tokenizer, letters):
    model = make_model(tokenizer, letters)
    audio = model.config.audio_token_id
    ids = torch.tensor([[0, audio, 3], [0, audio, 4]])
    frames = [torch.randn(12, DIM), torch.randn(7, DIM)]
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    both = model.generate(ids, attention_mask=torch.ones_like(ids), frames=frames, **settings)
    for i in range(2):
        one = model.generate(ids[i : i + 1], frames=frames[i : i + 1], **settings)
        assert one[0].tolist() == both[i, : one.shape[1]].tolist()


def test_the_likeliest_tokens_own_embedding_is_read_by_argmax(tokenizer, letters):
    model = make_model(tokenizer, letters)
    heard = model.hear([torch.randn(12, DIM)], readout="argmax")
    torch.testing.assert_close(heard.embeddings, model.get_input_embeddings().weight[heard.token_ids])


def test_the_llms_expectation_joins_the_scores_span_by_span(tokenizer, letters):
    model = make_model(tokenizer, letters)
    frames = [torch.randn(20, DIM), torch.randn(9, DIM)]
    plain = model.hear(frames)
    model.config.prior = 0.7
    both, alone = model.hear(frames), [model.hear([span]) for span in frames]
    assert both.lengths == plain.lengths
    torch.testing.assert_close(both.embeddings, torch.cat([one.embeddings for one in alone]))
    assert not torch.allclose(both.embeddings, plain.embeddings)
    model.config.prior = 1e4  # nothing but the LLM's own choice among what the ears find possible
    found = model.adapter.candidates(*_runs_of(model, frames), model.get_input_embeddings().weight)
    judged = model._judged(found, model.hear(frames).embeddings)
    assert judged.shape == found.token_ids.shape and torch.allclose(judged.exp().sum(-1), torch.ones(len(judged)))


def _runs_of(model, frames):
    runs = model.adapter.runs(frames)
    return runs.posteriors, runs.states, runs.lengths


def test_recipes_say_what_ears_in_two_parts_need(recipe_values, write_recipe):
    recipe_values |= {"model": {"ears": "symbols", "rate": "text"}}
    with pytest.raises(SaladError, match="warm_start.enabled"):
        load_recipe(write_recipe(recipe_values))
    recipe_values |= {"warm_start": {"enabled": True}}
    shape = load_recipe(write_recipe(recipe_values)).model.shape()
    assert shape["ears"] == "symbols" and shape["ears_shape"]["depth"] == 12
    recipe_values |= {"model": {"ears": "single"}, "stage2": {"steps": 2, "spell_weight": 0.5}}
    with pytest.raises(SaladError, match="spell_weight needs model.ears"):
        load_recipe(write_recipe(recipe_values))


def test_noise_is_taken_from_speech_that_was_not_trained_on():
    utterances = [Utterance(f"{d}-{v}", "a", "", 1, 1, document_id=d) for d in "abcdefghij" for v in "xy"]
    trained, back = kept_back(utterances, 0.2, seed=3)
    assert {u.document_id for u in trained} & {u.document_id for u in back} == set()
    assert len(trained) == 16 and len(back) == 4 and kept_back(utterances, 0.2, seed=3) == (trained, back)
    with pytest.raises(SaladError, match="one must be kept back"):
        kept_back(utterances[:2], 0.2, seed=3)


# --- training --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate_hz", "causal", "kind"), [(12.5, True, "letters"), (25.0, False, "subwords")])
def test_both_parts_learn_letters_and_go_on_after_a_stop(tokenizer, tmp_path, rate_hz, causal, kind):
    """Frames at Mimi's rate, letters, the lower part, the upper one from text alone, simulated distillation."""
    symbols = Symbols.found_in([*WORDS, "photosynthesis"], kind)
    rng, table = np.random.default_rng(0), np.random.default_rng(1).normal(size=(len(symbols), DIM))
    documents = [" ".join(rng.choice(WORDS, size=14)) for _ in range(12)]
    texts = [spell(tokenizer, d, symbols) for d in documents]
    spans = []
    for text in texts:
        for start in range(0, 12, 4):
            own = text.cut(start, start + 4)
            frames, per_s = make_frames(own.symbols[:-1], rng, table), rate_hz
            ends = own.symbol_starts[1:] - 1
            words = tuple(
                (int(a), int(b), 3 * int(a) / per_s, 3 * int(b) / per_s)
                for a, b in zip(own.symbol_starts[:-1], ends, strict=True)
            )
            spans.append((SymbolSpan(frames, own.symbols[:-1], words), own))
    model = make_model(tokenizer, symbols, causal=causal, rate_hz=rate_hz)
    for parameter in model.llm.parameters():
        parameter.requires_grad_(False)
    steps = 30
    lower = LowerTask(model, [span for span, _ in spans], steps=steps, batch=12, seed=0)
    with torch.no_grad():
        before = float(lower.loss((steps, list(range(12))))[0])
    schedule = Schedule(
        steps, {"adapter": 1e-2}, warmup_steps=0, decay_share=0.3, optimizer="muon" if causal else "adamw"
    )
    train(model, lower, schedule, tmp_path / "lower", title="t", bf16=False)
    with torch.no_grad():
        assert float(lower.loss((steps, list(range(12))))[0]) < 0.7 * before

    noise = Noise.uniform(len(symbols))
    read = SpellTask(model, texts, texts[:2], noise, steps=12, batch=8, seed=0, words=(2, 4))
    example = [
        Example(str(i), (Span("speech", 0, 5), Span("text", 5, 14)), t.token_ids,
                ((0, int(t.token_starts[5])), (int(t.token_starts[5]), len(t.token_ids))), 0)
        for i, t in enumerate(texts)
    ]  # fmt: skip
    batches = SimulatedBatches([example[:3]] * 4, {e.id: t for e, t in zip(example, texts, strict=True)}, noise, 0, 1.0)
    kl = DistillTask(model, Teacher(model, cache=False), batches, alpha=1.0, context=256, hear=model.hear_symbols)
    heard = HeardSpellTask(model, spans, steps=12, batch=4, seed=0)
    task = Together(read, [Side("kl", kl, 1.0, 8), Side("heard", heard, 0.5)])
    schedule = Schedule(
        12, {"adapter": 5e-3}, warmup_steps=0, checkpoint_every=4, keep=9, optimizer="adamw" if causal else "muon"
    )
    with torch.no_grad():
        before = float(read.loss(0)[0])
    start = {k: v.clone() for k, v in model.state_dict().items()}
    last = train(model, task, schedule, tmp_path / "upper", title="t", bf16=False)
    with torch.no_grad():
        assert float(read.loss(0)[0]) < before
    whole = {k: v.clone() for k, v in model.adapter.state_dict().items()}
    # stopped after step 4: the rest from its checkpoint gives the same bits
    (tmp_path / "again").mkdir()
    (last.parent / "checkpoint-000004").rename(tmp_path / "again" / "checkpoint-000004")
    model.load_state_dict(start)
    train(model, task, schedule, tmp_path / "again", title="t", bf16=False)
    for name, value in model.adapter.state_dict().items():
        assert torch.equal(value, whole[name]), name
    # another optimiser begins what it does not find, and goes on with the weights
    other = replace(schedule, steps=1, optimizer="muon" if causal else "adamw")
    train(model, read, other, tmp_path / "other", title="t", bf16=False, start_from=last)
    for name, value in model.adapter.state_dict().items():
        assert torch.isfinite(value.float()).all(), name


@pytest.mark.parametrize("beside", [False, True])
def test_a_loss_that_is_not_finite_names_its_batch(tokenizer, letters, tmp_path, beside):
    """Of text alone, which has the number of its step; and with another task beside it, whose pieces have their own."""
    model, text = make_model(tokenizer, letters), spell(tokenizer, " ".join(WORDS), letters)
    read = SpellTask(model, [text], [], Noise.uniform(len(letters)), steps=2, batch=2, seed=0, words=(2, 4))
    plain, task = read.loss, read
    read.loss = lambda pack: (plain(pack)[0] * torch.inf, {})
    if beside:
        span = SymbolSpan(np.ones((24, DIM), np.float16), text.cut(0, 1).symbols[:-1], ())
        lower = LowerTask(model, [span] * 3, steps=2, batch=3, seed=0, by_word=0.0)
        task = Together(Together(read, []), [Side("lower", lower, 1.0)])
    with pytest.raises(SaladError, match="bad-batch.json names the documents"):
        train(model, task, Schedule(2, {"adapter": 1e-3}, warmup_steps=0), tmp_path, title="t", bf16=False)
    members = [member["piece"] for member in read_json(tmp_path / "bad-batch.json")["members"]]
    assert sorted(members) == ([0, 0, 1, 2] if beside else [0])


def test_a_piece_too_short_for_its_symbols_is_counted(tokenizer, letters):
    model = make_model(tokenizer, letters)
    ids = np.array([1, 2, 3, 4])
    short = SymbolSpan(np.zeros((2, DIM), np.float16), ids, ((0, 4, 0.0, 0.1),))
    long = SymbolSpan(np.zeros((12, DIM), np.float16), ids, ((0, 4, 0.0, 0.4),))
    assert LowerTask(model, [short, long], steps=1, batch=1, seed=0).impossible == 1
    with pytest.raises(SaladError, match="model.stride"):
        LowerTask(model, [short], steps=1, batch=1, seed=0)


def test_a_mask_leaves_something_to_hear(tokenizer, letters, tmp_path):
    """A short piece that is masked as a whole is zeros, whose norms multiply the gradient at every layer."""
    model, rng = make_model(tokenizer, letters, rate_hz=50.0), np.random.default_rng(0)
    frames = rng.normal(size=(64, 4, DIM)).astype(np.float16)
    spans = [SymbolSpan(own, np.array([1, 2]), ((0, 2, 0.0, 0.1),)) for own in frames]
    task = LowerTask(model, spans, steps=2, batch=64, seed=0)
    train(model, task, Schedule(steps=2, lr={"adapter": 1e-3}, warmup_steps=0), tmp_path, title="t", bf16=False)
    norms = [row["grad_norm"] for row in read_jsonl(tmp_path / "metrics.jsonl")]
    assert max(norms) < 100


def test_the_folders_ears_count_without_the_llm(tokenizer, letters, tmp_path):
    model = make_model(tokenizer, letters)
    model.save_pretrained(tmp_path)
    frames = [torch.randn(n, DIM) for n in (12, 40, 1)]
    with torch.no_grad():
        heard = [len(span) for span in model.get_audio_features(frames)]
    counter = SpanCounter.beside(tmp_path)
    assert counter.span_lengths(frames) == model.span_lengths(frames) == heard and counter._ears[1:] == (None, None)
