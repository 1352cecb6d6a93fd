import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad.select import allocate, balanced_kmeans, draw, top_words
from salad.types import Cluster, Document, SaladError


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 5))
def test_sizes_differ_by_at_most_one(n, k, seed):
    x = np.random.default_rng(seed).normal(size=(n, 5))
    if k > n:
        with pytest.raises(SaladError, match="cluster.k"):
            balanced_kmeans(x, k, seed=seed)
        return
    labels, centroids = balanced_kmeans(x, k, seed=seed)
    sizes = np.bincount(labels, minlength=k)
    assert sizes.max() - sizes.min() <= 1 and sizes.sum() == n and centroids.shape == (k, 5)
    again, _ = balanced_kmeans(x, k, seed=seed)
    assert np.array_equal(labels, again)


def test_finds_balanced_blobs():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 25)
    x = rng.normal(size=(100, 8)) * 0.1 + np.eye(4, 8)[truth] * 5
    labels, _ = balanced_kmeans(x, 4, seed=0)
    assert all(len(set(labels[truth == c])) == 1 for c in range(4))


def make_clusters(ms, cers=None, size=10):
    cers = cers or [0.1] * len(ms)
    return [Cluster(i, np.zeros(2), size, m, 0.0, c) for i, (m, c) in enumerate(zip(ms, cers, strict=True))]


def test_quota_follows_p_web_times_m_to_the_gamma():
    clusters = allocate(make_clusters([1.0, 2.0]), gamma=5, budget_s=330, max_cer=0.5)
    assert np.allclose([c.quota_s for c in clusters], [10, 320])
    uniform = allocate(make_clusters([1.0, 2.0]), gamma=0, budget_s=330, max_cer=0.5)
    assert np.allclose([c.quota_s for c in uniform], [165, 165])


def test_artefacts_get_nothing_and_all_artefacts_is_an_error():
    clusters = allocate(make_clusters([1.0, 9.0], [0.1, 0.9]), gamma=5, budget_s=60, max_cer=0.5)
    assert [c.quota_s for c in clusters] == [60.0, 0.0]
    unprobed = allocate(make_clusters([1.0, float("nan")], [0.1, float("nan")]), gamma=5, budget_s=60, max_cer=0.5)
    assert [c.quota_s for c in unprobed] == [60.0, 0.0]
    with pytest.raises(SaladError, match="select.max_cer"):
        allocate(make_clusters([1.0], [0.9]), gamma=5, budget_s=60, max_cer=0.5)


@given(st.integers(0, 8), st.floats(1, 500))
def test_draw_keeps_to_the_budget_and_never_repeats(seed, budget_s):
    documents = [Document(f"d{i}", "word " * (5 + i % 7), "s") for i in range(30)]
    labels = [i % 3 for i in range(30)]
    clusters = allocate(make_clusters([1.0, 2.0, 3.0]), gamma=1, budget_s=budget_s, max_cer=1.0)
    got = draw(clusters, documents, labels, budget_s=budget_s, seconds_per_word=0.5, taken={"d4"}, seed=seed)
    ids = [d.id for d, _ in got]
    assert len(set(ids)) == len(ids) and "d4" not in ids
    assert all(labels[int(d.id[1:])] == c for d, c in got)
    spent = [0.5 * len(d.words) for d, _ in got]
    assert sum(spent[:-1]) < budget_s
    assert sum(spent) >= budget_s or len(got) == 29


def test_top_words_name_a_cluster():
    texts = [
        "cells divide and cells grow",
        "living cells need energy",
        "stars burn and stars shine",
        "distant stars move",
    ]
    words = top_words(texts, np.array([0, 0, 1, 1]), 1)
    assert words == [("cells",), ("stars",)]
