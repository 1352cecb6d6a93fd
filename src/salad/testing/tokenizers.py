"""A tokenizer that needs no files."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE as GPT-2's and SmolLM2's: digits apart, spaces lead."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["the water of the river runs to the sea, and 12 boats go with it."] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def prepending() -> PreTrainedTokenizerFast:
    """Llama 2's: a space is put before whatever is given, and a space is a letter of the word behind it."""
    merges = [("y", "e"), ("ye", "s"), ("▁", "yes"), ("w", "h"), ("wh", "o"), ("▁", "who")]
    names = ["<unk>", "<s>", "</s>", "▁", "\n", *map(chr, range(33, 127)), *("".join(pair) for pair in merges)]
    raw = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges, unk_token="<unk>"))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
