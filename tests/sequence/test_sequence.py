"""Invariant 1: what is interleaved, paired and packed is the document, no more, no less."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from salad.sequence import assemble, best_fit, token_ids, tokenise
from salad.sequence.assemble import pair
from salad.sequence.interleave import cut, interleave
from salad.sequence.tokens import CLOSE, OPEN, marked, prompt_ids, unmarked
from salad.testing.tokenizers import prepending
from salad.types import Example, SaladError, Span

TEXTS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=("Zs", "Zl", "Zp", "Cc", "Cs")), min_size=1, max_size=9),
    min_size=1,
    max_size=60,
).filter(lambda words: "".join(words).strip())


def make_example(tokens, spans, frames_per_span=4):
    num = sum(s.modality == "speech" for s in spans)
    frames = tuple(np.zeros((frames_per_span, 2), np.float16) for _ in range(num))
    return Example("x", tuple(spans), tokens.token_ids, tokens.bounds(spans), 0, frames)


@given(
    st.integers(1, 400),
    st.tuples(st.integers(1, 30), st.integers(0, 30)),
    st.tuples(st.integers(1, 15), st.integers(0, 15)),
    st.sampled_from(["text", "speech", "random"]),
    st.integers(0, 9),
)
def test_spans_tile_the_words_and_alternate(num_words, text, speech, first, seed):
    text, speech = (text[0], sum(text)), (speech[0], sum(speech))
    spans = interleave(num_words, text_words=text, speech_words=speech, first=first, rng=random.Random(seed))
    assert [s.start_word for s in spans] == [0, *(s.end_word for s in spans[:-1])]
    assert spans[-1].end_word == num_words
    assert all(a.modality != b.modality for a, b in itertools.pairwise(spans))
    for span in spans[:-1]:
        low, high = speech if span.modality == "speech" else text
        assert low <= span.num_words <= high
    if first != "random":
        assert spans[0].modality == first


def test_interleaving_lengths_are_uniform():
    rng = random.Random(0)
    lengths = [
        s.num_words
        for _ in range(300)
        for s in interleave(500, text_words=(10, 30), speech_words=(5, 15), first="random", rng=rng)[:-1]
        if s.modality == "speech"
    ]
    counts = np.bincount(lengths, minlength=16)[5:]
    assert counts.min() > 0.75 * counts.mean() and counts.max() < 1.25 * counts.mean()


@given(st.integers(0, 50), st.integers(1, 80), st.integers(0, 5))
def test_cut_covers_the_run(start, length, seed):
    pieces = cut(start, start + length, (5, 15), random.Random(seed))
    assert [p for a, b in pieces for p in range(a, b)] == list(range(start, start + length))


@given(words=TEXTS, space=st.sampled_from([" ", "  ", "\n", " \n\n "]), seed=st.integers(0, 5))
def test_text_and_speech_tokens_joined_are_the_documents_tokens(tokenizer, words, space, seed):
    text = space.join(words)
    tokens = tokenise(tokenizer, text)
    num_words = len(tokens.word_starts) - 1
    assert num_words == len(text.split())
    assert tokens.token_ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokens.word_starts[0] == 0 and tokens.word_starts[-1] == len(tokens.token_ids)
    spans = interleave(num_words, text_words=(1, 6), speech_words=(1, 4), first="random", rng=random.Random(seed))
    joined = np.concatenate([tokens.token_ids[a:b] for a, b in tokens.bounds(spans)])
    assert np.array_equal(joined, tokens.token_ids)


def test_a_words_tokens_decode_to_the_word(tokenizer):
    text = "the river runs\n\nto the 12 seas — naïve 水"
    tokens = tokenise(tokenizer, text)
    parts = [tokens.token_ids[a:b] for a, b in zip(tokens.word_starts[:-1], tokens.word_starts[1:], strict=True)]
    assert [tokenizer.decode(part).strip() for part in parts] == text.split()


def test_tokenise_refuses_empty_text_and_slow_tokenizers(tokenizer):
    with pytest.raises(SaladError, match="no words"):
        tokenise(tokenizer, " \n ")
    with pytest.raises(SaladError, match="fast"):
        tokenise(object(), "a")


@given(words=TEXTS, seed=st.integers(0, 20), data=st.data())
def test_pairs_predict_the_same_token_on_both_sides(tokenizer, words, seed, data):
    tokens = tokenise(tokenizer, " ".join(words))
    rng = random.Random(seed)
    num_words = len(tokens.word_starts) - 1
    spans = interleave(num_words, text_words=(1, 6), speech_words=(1, 4), first="random", rng=rng)
    example = make_example(tokens, spans)
    lengths = [data.draw(st.integers(0, 7)) for _ in example.speech_tokens]
    student, pairs = pair(example, lengths)
    teacher = np.concatenate([[example.start_id], tokens.token_ids])
    assert len(student) == 1 + sum(lengths) + len(pairs)
    assert np.array_equal(student[pairs.student_pos + 1], pairs.target_ids)
    assert np.array_equal(teacher[pairs.teacher_pos + 1], pairs.target_ids)
    in_text = [
        t for s, (a, b) in zip(spans, example.token_bounds, strict=True) if s.modality == "text" for t in range(a, b)
    ]
    assert pairs.teacher_pos.tolist() == in_text  # every text token is a target, no spoken one is


@given(st.lists(st.tuples(TEXTS, st.integers(0, 9)), min_size=1, max_size=4), st.data())
def test_assembled_examples_are_each_example_alone_shifted(tokenizer, documents, data):
    examples = []
    for words, seed in documents:
        tokens = tokenise(tokenizer, " ".join(words))
        spans = interleave(
            len(tokens.word_starts) - 1, text_words=(1, 6), speech_words=(1, 4), first="random", rng=random.Random(seed)
        )
        examples.append(make_example(tokens, spans))
    lengths = [[data.draw(st.integers(1, 5)) for _ in e.speech_tokens] for e in examples]
    packed = assemble(examples, [n for own in lengths for n in own])
    for index, (example, own) in enumerate(zip(examples, lengths, strict=True)):
        student, pairs = pair(example, own)
        a, b = packed.student_starts[index : index + 2]
        assert np.array_equal(packed.student_ids[a:b], student)
        mine = packed.pair_owner == index
        assert np.array_equal(packed.pairs.student_pos[mine] - a, pairs.student_pos)
        assert np.array_equal(packed.pairs.teacher_pos[mine] - packed.teacher_starts[index], pairs.teacher_pos)
    assert np.array_equal(packed.speech_rows, np.flatnonzero(packed.student_ids < 0))


def test_assemble_refuses_lengths_that_do_not_fit(tokenizer):
    tokens = tokenise(tokenizer, "the water of the river")
    example = make_example(tokens, [Span("text", 0, 2), Span("speech", 2, 5)])
    with pytest.raises(AssertionError):
        assemble([example], [3, 4])


@given(st.lists(st.integers(1, 100), max_size=200))
def test_best_fit_holds_every_length_once_and_never_overflows(lengths):
    packs = best_fit(lengths, 100)
    assert sorted(i for pack in packs for i in pack) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in pack) <= 100 for pack in packs)
    if lengths:
        assert len(packs) <= -(-sum(lengths) * 3 // 200) + 1  # well inside best-fit decreasing's 11/9 bound
    assert best_fit(lengths, 100) == packs


def test_best_fit_fills_realistic_lengths():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5.5, 0.6, 4000), 20, 2048).astype(int).tolist()
    packs = best_fit(lengths, 2048)
    assert len(packs) <= -(-sum(lengths) // 2048) + 1  # 99.8 % full


def test_best_fit_names_the_limit():
    with pytest.raises(SaladError, match="sequence.context: 100"):
        best_fit([3, 101], 100)


# A text is characters, whatever control tokens it names

NAMED = "He typed <|endoftext|> into the box."


def bytes_bpe():
    """Byte-level BPE with a declared control token, as in GPT-2, Qwen and SmolLM2."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|endoftext|>"]
    )
    raw.train_from_iterator(["He typed it into the box."] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|endoftext|>")


def unigram():
    """A unigram model whose pieces hold the control token's name, which split_special_tokens does not pass by."""
    letters = sorted(set(NAMED.replace(" ", "▁")) | {"x", "a", "\n"})
    pieces = [("<unk>", 0.0), ("<|endoftext|>", 0.0), *((letter, -3.0) for letter in letters), ("▁into", -2.0)]
    raw = Tokenizer(models.Unigram(pieces, unk_id=0))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="<|endoftext|>")


def whole_words():
    words = ["<unk>", "<|endoftext|>", *NAMED.replace("<|endoftext|> ", "").split()]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="<|endoftext|>")


def undeclared():
    """A control token that is declared as plain, but that the chat template writes (as Qwen3's <think>)."""
    made = bytes_bpe()
    made.add_tokens(["<think>"])
    made.chat_template = "{{ messages[0]['content'] }}<think>\n"
    return made


@pytest.mark.parametrize("kind", [bytes_bpe, unigram, whole_words, undeclared, prepending])
def test_the_name_of_a_control_token_in_a_text_is_characters(kind):
    tokenizer = kind()
    text = {undeclared: NAMED.replace("|endoftext|", "think"), prepending: NAMED.replace("|endoftext|", "s")}.get(
        kind, NAMED
    )
    [name] = [word for word in text.split() if word.startswith("<")]
    control = tokenizer.convert_tokens_to_ids(name)
    assert control in tokenizer(text)["input_ids"]  # what the tokenizer would have taken it for
    tokens = tokenise(tokenizer, text)
    assert control not in tokens.token_ids and control not in token_ids(tokenizer, text)
    assert len(tokens.word_starts) == len(text.split()) + 1
    own = tokens.token_ids[tokens.word_starts[2] : tokens.word_starts[3]]
    assert len(own) > 1
    if kind is not whole_words:
        assert tokenizer.decode(tokens.token_ids) == text and tokenizer.decode(own).strip() == name
    plain = text.replace(name, "it")
    assert list(tokenise(tokenizer, plain).token_ids) == tokenizer(plain)["input_ids"]


def test_what_the_tokenizer_puts_around_a_text_stays():
    tokenizer = prepending()
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    assert token_ids(tokenizer, "</s> yes", special=True) == [1, *token_ids(tokenizer, "</s> yes")]
    assert 2 not in token_ids(tokenizer, "</s> yes")


@pytest.mark.parametrize("text", ["yes", "</s> yes", ""])
def test_what_the_tokenizer_puts_behind_a_text_does_not_end_it(text):
    tokenizer = prepending()
    around = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer._tokenizer.post_processor = around
    assert token_ids(tokenizer, text, special=True) == [1, *token_ids(tokenizer, text)]
    behind = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    tokenizer._tokenizer.post_processor = behind
    assert token_ids(tokenizer, text, special=True) == token_ids(tokenizer, text)


def test_control_tokens_take_the_space_beside_them_where_a_user_typed_one():
    """Phi-3's take what stands behind them; a mask token takes what stands before it."""
    tokenizer = bytes_bpe()
    left = AddedToken("<|user|>", lstrip=True, special=True, normalized=False)
    right = AddedToken("<|end|>", rstrip=True, special=True, normalized=False)
    tokenizer.add_special_tokens({"additional_special_tokens": [left, right]})
    text = "it \n<|user|>\nHe who<|end|>\n  box<|end|>\n<|user|> it"
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert prompt_ids(tokenizer, text) == plain == prompt_ids(tokenizer, f"{OPEN}{CLOSE}{text}")
    typed = prompt_ids(tokenizer, text.replace("who", marked(tokenizer, "<|end|> who")))
    assert tokenizer.decode(typed) == "it<|user|>\nHe <|end|> who<|end|>box<|end|><|user|> it"
    assert typed.count(tokenizer.convert_tokens_to_ids("<|end|>")) == 2


@pytest.mark.parametrize("kind", [bytes_bpe, unigram, prepending])
@pytest.mark.parametrize("text", [" yes", "yes", ".", "\nyes", " </s>", " who yes"])
def test_a_text_that_goes_on_has_the_tokens_of_the_middle_of_one(kind, text):
    tokenizer, before = kind(), "who"
    whole = token_ids(tokenizer, before + text)
    number = len(token_ids(tokenizer, before))
    if kind is not unigram or text[0] != "\n":  # which is no letter of its own behind a word there
        assert token_ids(tokenizer, text, after=True) == whole[number:]
    assert token_ids(tokenizer, "", after=True) == []


def test_a_sign_behind_a_recording_is_no_word_where_words_are_parted_first():
    """T5's and XLNet's tokenizers strip white space and begin each word with a sign: a line break is no guard."""
    tokenizer = unigram()
    parted = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    tokenizer._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parted)
    for text in (".", ". x", " x", "x."):
        whole = token_ids(tokenizer, f"who{' ' * (text == 'x.')}{text}")
        assert token_ids(tokenizer, text, after=True) == whole[len(token_ids(tokenizer, "who")) :]


@pytest.mark.parametrize("kind", [bytes_bpe, unigram, prepending])
def test_a_prompt_with_marks_has_the_tokens_that_it_has_without(kind):
    tokenizer = kind()
    name = tokenizer.eos_token
    text = f"{name}[who] yes{name} who yes.\n{name}"
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert prompt_ids(tokenizer, text) == plain
    assert prompt_ids(tokenizer, text.replace("who", f"{OPEN}who{CLOSE}")) == plain
    typed = marked(tokenizer, f"who {name} yes")
    assert unmarked(typed) == f"who {name} yes" != typed
    control = tokenizer.convert_tokens_to_ids(name)
    ids = prompt_ids(tokenizer, f"{name}{typed}{name}")
    assert [i for i in ids if i == control] == [control] * 2 and ids[0] == ids[-1] == control
