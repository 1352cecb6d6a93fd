import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from salad.progress import progress
from salad.select.kmeans import balanced
from salad.select.kmeans import row_blocks as blocks
from salad.select.kmeans.balanced import _Large, balanced_kmeans
from salad.select.kmeans.min_cost_flow import fill, price_of_sizes
from salad.select.kmeans.row_blocks import RowBlocks
from salad.types import SaladError


def take_the_way_of_millions(patch, block=64):
    """Few points learn on a sample, pass over blocks, and settle a boundary of few points."""
    patch.setattr(balanced, "EXACT_POINTS", 0)
    patch.setattr(balanced, "SAMPLE_POINTS", 150)
    patch.setattr(balanced, "SAMPLE_EACH", 2)
    patch.setattr(balanced, "BOUNDARY_CELLS", 200)
    patch.setattr(blocks, "BLOCK", block)


@pytest.fixture
def many(monkeypatch):
    take_the_way_of_millions(monkeypatch)


def make_blobs(num_each, k, noise=0.1, dim=8):
    truth = np.repeat(np.arange(k), num_each)
    return np.random.default_rng(0).normal(size=(len(truth), dim)) * noise + np.eye(k, dim)[truth] * 5, truth


def check(clusters, x, k):
    sizes = np.bincount(clusters.labels, minlength=k)
    assert clusters.labels.dtype == np.int64 and len(clusters.labels) == len(x) and len(sizes) == k
    assert set(sizes) <= {len(x) // k, -(-len(x) // k)} and np.array_equal(sizes, clusters.sizes)
    x = np.asarray(x, np.float64)
    means = np.stack([x[clusters.labels == c].mean(0) for c in range(k)])
    assert clusters.centroids.dtype == np.float32
    assert np.allclose(clusters.centroids, means, rtol=1e-4, atol=1e-4 * np.abs(x).max())
    inertia, total = ((x - means[clusters.labels]) ** 2).sum() / len(x), ((x - x.mean(0)) ** 2).sum() / len(x)
    assert clusters.inertia == pytest.approx(inertia, rel=1e-4, abs=1e-5 * total)


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 5))
def test_sizes_differ_by_at_most_one(n, k, seed):
    x = np.random.default_rng(seed).normal(size=(n, 5))
    if k > n:
        with pytest.raises(SaladError, match="cluster.k"):
            balanced_kmeans(x, k, seed=seed)
        return
    clusters = balanced_kmeans(x, k, seed=seed)
    check(clusters, x, k)
    assert clusters.gap < 1e-9
    assert np.array_equal(clusters.labels, balanced_kmeans(x, k, seed=seed).labels)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 400),
    st.integers(1, 12),
    st.integers(0, 5),
    st.sampled_from([1.0, 1e-4, 1e4]),
    st.sampled_from([0, 9]),
)
def test_sizes_of_many_differ_by_at_most_one(n, k, seed, scale, offset):
    x = ((np.random.default_rng(seed).normal(size=(n, 5)) + offset) * scale).astype(np.float32)
    k = min(k, n)
    with pytest.MonkeyPatch.context() as patch:
        take_the_way_of_millions(patch)
        clusters, again = (balanced_kmeans(x, k, seed=seed, iterations=4) for _ in range(2))
    check(clusters, x, k)
    assert np.array_equal(clusters.labels, again.labels) and np.array_equal(clusters.centroids, again.centroids)


@given(st.integers(1, 24), st.integers(1, 5), st.integers(0, 200), st.booleans())
def test_filling_is_the_cheapest_of_all_balanced_assignments(n, k, seed, ties):
    rng = np.random.default_rng(seed)
    k = min(k, n)
    cost = np.round(rng.random((n, k)) * 3) if ties else rng.random((n, k))
    prices = rng.normal(size=k)
    labels, prices = fill(cost, (cost + prices).argmin(1), prices, np.zeros(k, dtype=int))
    sizes = np.bincount(labels, minlength=k)
    assert sizes.max() - sizes.min() <= 1
    primal = cost[np.arange(n), labels].sum()
    assert primal == pytest.approx((cost + prices).min(1).sum() - price_of_sizes(n, prices), abs=1e-9)

    def cheapest(larger):
        places = np.repeat(np.arange(k), n // k).tolist() + list(larger)
        return cost[:, places][linear_sum_assignment(cost[:, places])].sum()

    assert primal == pytest.approx(min(map(cheapest, itertools.combinations(range(k), n % k))), abs=1e-9)


def test_filling_with_too_few_movable_points_says_so():
    cost = np.array([[0.0, 1.0], [0.0, 2.0]])
    assert fill(cost, np.zeros(2, dtype=int), np.zeros(2), np.array([7, 1])) is None


@pytest.mark.parametrize("num_near", [60, 120, 600])
def test_gap_bounds_what_the_cheapest_could_save(many, monkeypatch, num_near):
    k = 6
    monkeypatch.setattr(balanced, "BOUNDARY_CELLS", num_near * k)
    x = np.random.default_rng(1).normal(size=(600, 4)).astype(np.float32)
    with progress("test", 1) as bar:
        large = _Large(RowBlocks(x, torch.device("cpu"), bar), k, np.random.default_rng(0))
        large.centroids = torch.from_numpy(x[:k] - large.rows.mean)
        labels, gap = large._assign()  # from prices that are far off
    cost = ((x[:, None].astype(np.float64) - x[None, :k]) ** 2).sum(-1)
    best, _ = fill(cost, cost.argmin(1), np.zeros(k), np.zeros(k, dtype=int))
    excess = cost[np.arange(600), labels].sum() / cost[np.arange(600), best].sum() - 1
    assert np.bincount(labels).tolist() == [100] * k
    assert excess - 1e-6 <= gap <= 0.001


def test_finds_balanced_blobs(many):
    x, truth = make_blobs(100, 4)
    labels = balanced_kmeans(x, 4, seed=0).labels
    assert all(len(set(labels[truth == c])) == 1 for c in range(4))


def test_finds_balanced_blobs_exactly():
    x, truth = make_blobs(25, 4)
    labels = balanced_kmeans(x, 4, seed=0).labels
    assert all(len(set(labels[truth == c])) == 1 for c in range(4))


def test_the_way_of_millions_is_as_good_as_the_exact_one():
    x = np.random.default_rng(0).normal(size=(1500, 6)).astype(np.float32)
    exact = np.mean([balanced_kmeans(x, 10, seed=seed).inertia for seed in range(3)])
    with pytest.MonkeyPatch.context() as patch:
        take_the_way_of_millions(patch)
        patch.setattr(balanced, "SAMPLE_POINTS", 800)
        got = [balanced_kmeans(x, 10, seed=seed) for seed in range(3)]
    assert np.mean([clusters.inertia for clusters in got]) <= 1.01 * exact
    assert max(clusters.gap for clusters in got) <= 0.002


@settings(max_examples=6, deadline=None)
@given(st.integers(16, 700))
def test_another_block_gives_as_good_clusters(block):
    x = np.random.default_rng(3).normal(size=(600, 6)).astype(np.float32)
    inertia = []
    for rows_in_block in (64, block):
        with pytest.MonkeyPatch.context() as patch:
            take_the_way_of_millions(patch, rows_in_block)
            clusters = balanced_kmeans(x, 5, seed=0, iterations=10)
        check(clusters, x, 5)
        inertia.append(clusters.inertia)
    assert inertia[1] == pytest.approx(inertia[0], rel=0.01)


@pytest.mark.parametrize("exact", [True, False])
def test_a_memory_mapped_file_gives_the_labels_of_memory(tmp_path, exact):
    x = np.random.default_rng(0).normal(size=(500, 7)).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    with pytest.MonkeyPatch.context() as patch:
        if not exact:
            take_the_way_of_millions(patch)
        first, *others = (
            balanced_kmeans(y, 9, seed=2) for y in (mapped, x, x.astype(np.float32), x.astype(np.float64))
        )
    check(first, x, 9)
    for other in others:
        assert np.array_equal(first.labels, other.labels) and np.array_equal(first.centroids, other.centroids)


@pytest.mark.parametrize("n", [50, 5000])
def test_copies_of_one_point_are_shared_out(n):
    clusters = balanced_kmeans(np.full((n, 6), 0.3), 7, seed=0, iterations=3)
    assert clusters.sizes.max() - clusters.sizes.min() <= 1
    assert clusters.inertia == pytest.approx(0, abs=1e-9) and np.allclose(clusters.centroids, 0.3)


def test_many_copies_among_others_are_shared_out(many):
    x = np.random.default_rng(0).normal(size=(600, 6)).astype(np.float32)
    x[:400] = x[0]
    clusters = balanced_kmeans(x, 6, seed=0)
    check(clusters, x, 6)
    assert clusters.gap <= 0.002


@pytest.mark.parametrize("exact", [True, False])
def test_one_cluster_and_a_cluster_for_each(exact):
    x = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        if not exact:
            take_the_way_of_millions(patch)
        one, each = balanced_kmeans(x, 1, seed=0), balanced_kmeans(x, 40, seed=0)
    assert np.allclose(one.centroids, x.mean(0), atol=1e-6) and one.gap < 1e-6
    assert sorted(each.labels) == list(range(40)) and each.inertia == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_named(exact, bad):
    x = np.ones((300, 4), np.float16)
    x[217, 2] = bad
    with pytest.MonkeyPatch.context() as patch:
        if not exact:
            take_the_way_of_millions(patch)
        with pytest.raises(SaladError, match="row 217 "):
            balanced_kmeans(x, 3, seed=0)


def test_what_cannot_be_is_refused():
    x = np.ones((9, 4))
    with pytest.raises(SaladError, match="cluster.k: got 0, expected 1 to 9"):
        balanced_kmeans(x, 0, seed=0)
    with pytest.raises(SaladError, match=r"shape \(9,\)"):
        balanced_kmeans(x[:, 0], 2, seed=0)
    with pytest.raises(SaladError, match="iterations: got 0"):
        balanced_kmeans(x, 2, seed=0, iterations=0)


def test_values_beyond_float32_are_refused(many):
    with pytest.raises(SaladError, match="too large"):
        balanced_kmeans(np.random.default_rng(0).normal(size=(99, 3)) * 1e18, 2, seed=0)


@pytest.mark.gpu
def test_a_gpu_gives_as_good_clusters(many):
    x = np.random.default_rng(0).normal(size=(3000, 6)).astype(np.float32)
    cpu, gpu = (balanced_kmeans(x, 8, seed=0, device=device) for device in ("cpu", "cuda"))
    check(gpu, x, 8)
    assert gpu.inertia == pytest.approx(cpu.inertia, rel=0.01) and gpu.gap <= 0.002
