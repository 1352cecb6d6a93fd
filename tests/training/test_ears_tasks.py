"""Which texts the upper part reads."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from salad.sequence.simulate import Noise
from salad.sequence.spelling import spell
from salad.text.phonemes import Symbols
from salad.training.ears_tasks import SpellTask


def task(tokenizer, weights):
    symbols = Symbols.found_in(["river", "water", "boats"], "letters")
    texts = [spell(tokenizer, text, symbols) for text in ("river river", "- -", "water water", "boats boats")]
    model = SimpleNamespace(symbol_ears=SimpleNamespace(upper=SimpleNamespace(sayable=torch.ones(4, dtype=torch.bool))))
    shared = {"steps": 9, "batch": 40, "seed": 5, "words": (1, 2), "lists_share": 0.5}
    return texts, SpellTask(model, texts, texts[2:3], Noise.uniform(len(symbols)), weights=weights, **shared)


def read(own, texts):
    """How often each text is read, of its first letter."""
    first = {int(text.symbols[0]): i for i, text in enumerate(texts) if len(text.symbols)}
    return Counter(first[int(run.symbols[0])] for step in range(50) for run in own.runs(step))


def test_a_text_is_read_by_its_weight_and_lists_as_before(tokenizer):
    texts, own = task(tokenizer, [1.0, 7.0, 0.0, 3.0])  # the second one says nothing, so its weight counts nowhere
    counts = read(own, texts)
    assert counts[2] == 50 * 20  # lists alone
    assert counts[3] / counts[0] == pytest.approx(3, rel=0.25) and counts[0] + counts[3] == 50 * 20


def test_without_weights_all_are_read_alike_and_as_ever(tokenizer):
    _, own = task(tokenizer, None)
    rng, expected = np.random.default_rng([5, 3, 0]), []
    for group, number in ((own.texts, 20), (own.lists, 20)):
        for i in rng.integers(len(group), size=number):
            length = min(2, int(rng.integers(1, 3)))
            start = int(rng.integers(0, 2 - length + 1))
            expected.append(group[i].cut(start, start + length).symbols.tolist())
    assert [run.symbols.tolist() for run in own.runs(3)] == expected
