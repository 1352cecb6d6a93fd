"""Speech goes where symbols are misheard, text where true symbols leave M high."""

from collections import Counter

import numpy as np
import pytest

from salad.select.prices import (
    LEAST_FALL,
    PRIOR_FALL,
    Price,
    PricedDocument,
    exposure,
    fall_of,
    spread_text,
    two_prices,
)
from salad.types import Cluster, SaladError

WORDS = {c: Counter({f"{c}-{i}": 2 for i in range(50)}) for c in range(3)}


def probed(known, error, documents=8, scatter=0.02, cost=2.0, seed=0):
    """Documents of clusters that differ in what they know and in what they hear; M = known + cost * phone error."""
    rng, rows = np.random.default_rng(seed), []
    for cluster, (k, e) in enumerate(zip(known, error, strict=True)):
        for i in range(documents):
            own, wrong = k + scatter * rng.standard_normal(), max(0.0, e + scatter / 4 * rng.standard_normal())
            rows.append(PricedDocument(cluster, own + cost * wrong, own, wrong, 2.0 + i % 4, 2.0 + i % 4))
    return rows


def test_speech_goes_to_misheard_clusters_and_text_to_those_the_upper_part_does_not_know():
    found = two_prices(probed([0.1, 0.1, 0.4], [0.05, 0.2, 0.05]), WORDS, {}, {}, seconds_per_word=0.4)
    prices, seconds = found.clusters, found.spend(dict.fromkeys(range(3), 10), 300.0)
    assert max(seconds, key=seconds.get) == 1 and sum(seconds.values()) == pytest.approx(300)
    assert max(prices, key=lambda c: prices[c].speech) == 1 and max(prices, key=lambda c: prices[c].text) == 2
    assert prices[1].speech > 2 * prices[2].speech and prices[2].text > 2 * prices[1].text
    assert found.cost == pytest.approx(2.0)
    assert prices[1].known + prices[1].unheard == pytest.approx(0.5, abs=0.05)


def test_a_cluster_whose_words_were_heard_already_gains_less():
    rows = probed([0.2] * 3, [0.1] * 3)
    heard = {word: 30 for word in WORDS[0]}
    prices = two_prices(rows, WORDS, heard, {}, seconds_per_word=0.4).clusters
    assert prices[0].speech < prices[1].speech / 20 and prices[0].text == pytest.approx(prices[1].text, rel=0.2)
    single = {**WORDS, 2: Counter({f"only-{i}": 1 for i in range(100)})}  # no word of it helps another text of it
    prices = two_prices(rows, single, {}, {}, seconds_per_word=0.4).clusters
    assert prices[2].speech == 0 < prices[1].speech


def test_clusters_that_differ_by_chance_alone_have_prices_that_differ_less():
    spreads = []
    for seed in range(60):
        rows = probed([0.2] * 3, [0.1] * 3, scatter=0.2, seed=seed)
        prices = two_prices(rows, WORDS, {}, {}, seconds_per_word=0.4).clusters
        raw = [np.mean([r.phone_error for r in rows if r.cluster == c]) for c in range(3)]
        spreads.append((np.ptp([p.phone_error for p in prices.values()]), np.ptp(raw)))
    shrunk, before = np.mean(spreads, axis=0)
    assert shrunk < 0.4 * before
    with pytest.raises(SaladError, match="two_prices"):
        two_prices([], WORDS, {}, {}, seconds_per_word=0.4)


def test_exposure_counts_doublings():
    assert exposure({"a": 3, "b": 1}, {"a": 3}) == pytest.approx(1.5)
    assert exposure({}, {"a": 3}) == 0


def test_the_fall_is_drawn_towards_what_was_known_before_and_stays_positive():
    x = np.linspace(0, 6, 400)
    assert fall_of(1 - 0.1 * x, x) == pytest.approx(0.1 / (1 - 0.3), abs=1e-3)  # many documents speak for themselves
    assert fall_of([1.0, 0.5], [1, 2]) == PRIOR_FALL == fall_of([1.0] * 5, [2.0] * 5)
    assert fall_of(1 + 0.5 * x, x) == LEAST_FALL
    rng = np.random.default_rng(0)
    few = [fall_of(rng.gamma(2, 0.5, 8), rng.normal(4, 0.3, 8)) for _ in range(200)]
    assert np.std(few) < 0.15 and np.mean(few) == pytest.approx(PRIOR_FALL, abs=0.06)


def test_half_of_the_text_is_read_as_before_and_the_mean_stays():
    clusters = [Cluster(i, np.zeros(1), size) for i, size in enumerate((10, 30, 20))]
    prices = {0: Price(0, 0, 0, 0, text=2.0), 1: Price(0, 0, 0, 0, text=1.0)}
    share = spread_text(clusters, prices)
    assert share[0] - 0.5 == pytest.approx(2 * (share[1] - 0.5)) and share[2] == 1
    assert (10 * share[0] + 30 * share[1]) / 40 == pytest.approx(1)
    assert set(spread_text(clusters, {}).values()) == {1.0}


def test_seconds_bring_less_the_more_there_are_so_that_all_clusters_end_alike():
    found = two_prices(probed([0.2] * 2, [0.1, 0.2], scatter=0.0), WORDS, {}, {}, seconds_per_word=0.4)
    few, many = (found.spend({0: 10, 1: 10}, budget_s) for budget_s in (2.0, 4000.0))
    assert few == {0: 0.0, 1: pytest.approx(2.0)}
    assert many[1] / many[0] == pytest.approx(2, rel=0.1)  # 1 + count goes with the error
    assert found.spend({0: 30, 1: 10}, 4000.0)[0] > many[0] and found.spend({5: 3}, 9.0) == {}
    deaf = two_prices(probed([0.2] * 2, [0.1, 0.2], cost=0.0), WORDS, {}, {}, seconds_per_word=0.4)
    assert deaf.spend({0: 10, 1: 10}, 9.0) == {0: 0, 1: 0}  # symbols that are heard wrong cost nothing there
