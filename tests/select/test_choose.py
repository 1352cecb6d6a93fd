"""Each score buys what it was made for, for the budget, and the same for the same seed."""

from dataclasses import replace

import numpy as np
import pytest

from salad.config import Select
from salad.select.choose import Market, choose
from salad.select.cluster_rows import cluster_row, purchase_rows
from salad.select.coverage import units_of
from salad.select.prices import Price, Prices
from salad.select.sequential_probe import ACTIVE, UNIFORM
from salad.types import Cluster, Document, SaladError

PER_WORD = 0.5


def market(**changes):
    """Three clusters of 40 documents of ten words; M 0.4, 0.8, 0.8, and the last one's voice is garbled."""
    clusters = [Cluster(i, np.zeros(2), 40, m, 0.1, c) for i, (m, c) in enumerate([(0.4, 0.1), (0.8, 0.1), (0.8, 0.9)])]
    texts = [" ".join(f"c{c}w{(i + k) % 60}" for k in range(10)) for c in range(3) for i in range(40)]
    documents = [Document(f"d{i}", text, "s", f"domain {i // 40}") for i, text in enumerate(texts)]
    own = Market(clusters, documents, [i // 40 for i in range(120)], PER_WORD, ACTIVE, 1.0)
    return replace(own, **changes)


def priced(clusters):
    """Words of the clusters are alike, so their seconds go by what is unheard, as far as those bring less and less."""
    words = {c: {f"{c}-{i}": 2 for i in range(5)} for c in range(3)}
    return Prices(clusters, words, {}, seconds_per_word=1e-3, fall_speech=0.1, fall_text=0.1, cost=1.0)


def buy(score, own=None, budget_s=100.0, **settings):
    own = own or market()
    prices = priced({0: Price(0.1, 0.4, 0.2, 0.0, 0.0), 1: Price(0.1, 0.2, 0.05, 0.0, 0.0)})
    heard = {unit for d in own.documents[:40] for unit in units_of([d.text])[0]}  # the first cluster's words
    return choose(
        Select(score=score, **settings), own, budget_s=budget_s, seed=0, prices=lambda: prices,
        units=lambda: (units_of(d.text for d in own.documents), heard),
    )  # fmt: skip


def seconds(clusters):
    return [c.quota_s for c in clusters]


@pytest.mark.parametrize("score", ["misalignment", "uniform", "coverage", "two_prices"])
def test_every_score_holds_the_budget_and_buys_the_same_for_the_same_seed(score):
    clusters, bought = buy(score)
    spent = PER_WORD * np.array([len(d.words) for d, _ in bought])
    assert spent[:-1].sum() < 100 <= spent.sum() and len({d.id for d, _ in bought}) == len(bought)
    assert [d.id for d, _ in bought] == [d.id for d, _ in buy(score)[1]]
    assert seconds(clusters)[2] == 0 and all(at < 2 for _, at in bought)  # the garbled cluster
    assert sum(seconds(clusters)) == pytest.approx(100, abs=5)


def test_quotas_follow_the_score():
    assert np.allclose(seconds(buy("misalignment", gamma=1)[0]), [100 / 3, 200 / 3, 0])
    assert np.allclose(seconds(buy("uniform")[0]), [50, 50, 0])
    assert np.allclose(seconds(buy("two_prices")[0]), [200 / 3, 100 / 3, 0], atol=1)
    unsure = market(decision=UNIFORM, reliability=0.3)
    assert np.allclose(seconds(buy("misalignment", unsure)[0]), [50, 50, 0])
    assert np.allclose(seconds(buy("misalignment", unsure, rule="raw", gamma=1)[0]), [100 / 3, 200 / 3, 0])
    assert np.allclose(seconds(buy("two_prices", unsure)[0]), [200 / 3, 100 / 3, 0], atol=1)  # shrunk by its own


def test_coverage_buys_what_was_not_heard():
    _, bought = buy("coverage", budget_s=30.0)
    assert {at for _, at in bought} == {1}
    assert len({word for d, _ in bought for word in d.words}) >= 35  # six times ten words, out of 49


def test_a_price_of_nothing_is_an_error():
    with pytest.raises(SaladError, match="two_prices is 0"):
        choose(
            Select(score="two_prices"),
            market(),
            budget_s=1,
            seed=0,
            prices=lambda: priced({0: Price(0.4, 0, 0, 0.0, 0)}),
        )


@pytest.mark.parametrize("score", ["misalignment", "uniform", "coverage", "two_prices"])
def test_what_was_probed_is_bought_first_and_counts(score):
    kept = {"d0": 20.0, "d45": 30.0, "d90": 8.0, "d3": 5.0}
    own = market(kept=kept, taken={"d3"})
    clusters, bought = buy(score, own, gamma=1)
    ids = [d.id for d, _ in bought]
    assert ids[:2] == ["d0", "d45"] and len(set(ids)) == len(ids)  # not of a garbled cluster, nor what is excluded
    assert not {"d90", "d3"} & set(ids)
    spent = 50 + PER_WORD * sum(len(d.words) for d, _ in bought[2:])
    assert 100 <= spent < 105
    if score == "uniform":  # 30 of the first cluster's 50 s are left, 20 of the other's
        assert seconds(clusters) == pytest.approx([50, 50, 0])
        many = [buy(score, own, replicate=r)[1][2:] for r in range(40)]
        assert np.mean([at == 0 for one in many for _, at in one]) == pytest.approx(0.6, abs=0.08)
    over, only = buy(score, own, budget_s=40.0, gamma=1)
    assert [d.id for d, _ in only] == ["d0", "d45"] and len(over) == 3


def test_documents_at_random_know_no_cluster():
    clusters, bought = buy("misalignment", market(kept={"d90": 8.0}), draw="random")
    assert bought[0][0].id == "d90" and seconds(clusters) == [0, 0, 0]
    assert any(d.domain == "domain 2" for d, _ in bought[1:])


def test_a_purchase_without_quotas_has_rows():
    row = cluster_row(Cluster(0, np.zeros(2), size=1), max_cer=0.35)
    assert row.dropped and row.misalignment is None and row.reason == "no probe document was usable"
    (found,) = purchase_rows([row], [("d0", 0)], {"d0": 4.0}, [("law", 0)])
    assert found.weight == 0 and found.bought_s == 4.0 and found.domains == {"law": 1}
