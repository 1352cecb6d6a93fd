"""Coverage picks what was not heard, for the fewest seconds, and says the same each time."""

import itertools

import numpy as np
import pytest

from salad.select.coverage import cover, frequencies, units_of
from salad.text.phonemes import Symbols


def chosen(texts, heard="", budget_s=1.0, seed=0, seconds=None):
    units = units_of(texts)
    known = {unit for own in units_of([heard]) for unit in own}
    seconds = seconds or [len(text.split()) for text in texts]
    return cover(units, seconds, frequencies(units), known, budget_s=budget_s, seed=seed)


def test_the_document_with_new_words_comes_first():
    texts = ["the cat sat down", "quarks bind mesons tightly", "the cat sat up"]
    assert chosen(texts, heard="the cat sat down up") == [1]
    assert chosen(texts, heard="quarks bind mesons tightly", budget_s=4)[0] in (0, 2)


def test_frequent_words_and_few_seconds_count():
    texts = ["often rare", "often odd", "often even", "seldom strange"]
    assert chosen(texts)[0] != 3  # "often" stands three times
    assert chosen(["one two", "three four"], seconds=[9.0, 3.0]) == [1]


def test_the_budget_is_crossed_by_the_last_document_alone_and_nothing_comes_twice():
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in rng.zipf(1.4, 12)) for _ in range(60)]
    for budget_s in (1.0, 40.0, 300.0, 1e6):
        got = chosen(texts, budget_s=budget_s)
        assert len(set(got)) == len(got) and 12 * (len(got) - 1) < budget_s
        assert 12 * len(got) >= budget_s or len(got) == 60  # once all is covered it begins anew
    assert chosen(texts, budget_s=120.0, seed=3) == chosen(texts, budget_s=120.0, seed=3)


def test_lazy_is_greedy():
    """The same as weighing every document at each step."""
    rng = np.random.default_rng(1)
    units = [set(rng.zipf(1.5, n).tolist()) for n in rng.integers(3, 20, 40)]
    seconds, weights = rng.uniform(1, 3, 40).tolist(), {u: rng.random() for u in sorted(set().union(*units))}
    covered, got = set(), []
    for _ in range(12):
        worth = [sum(weights[u] for u in own - covered) / s for own, s in zip(units, seconds, strict=True)]
        got.append(max(set(range(40)) - set(got), key=worth.__getitem__))
        covered |= units[got[-1]]
    assert cover(units, seconds, weights, (), budget_s=sum(seconds[i] for i in got), seed=0) == got


def test_diphones_of_an_alphabet_count_beside_words():
    symbols = Symbols.found_in(["abc"], "letters")
    (own,) = units_of(["Ab c"], symbols)
    pairs = {unit for unit in own if isinstance(unit, tuple)}
    assert {unit for unit in own if isinstance(unit, str)} == {"ab", "c"}
    assert pairs == set(itertools.pairwise(symbols.of_words(["abc"])[0]))  # no boundary in them
    weights = frequencies([own])
    assert sum(weights[unit] for unit in pairs) == pytest.approx(1) == sum(weights[unit] for unit in ("ab", "c"))
    assert cover([{}, own], [0.0, 0.0], weights, (), budget_s=1.0, seed=0) == []
