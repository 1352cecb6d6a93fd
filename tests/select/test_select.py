import re
import tracemalloc

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given
from hypothesis import strategies as st

from salad.data.prepared import read_prepared
from salad.select.allocate import allocate, draw
from salad.select.embed import top_words
from salad.select.explain import Evidence, explain
from salad.select.screen import Screen, near_duplicates, overlapping
from salad.select.sequential_probe import (
    ACTIVE,
    UNIFORM,
    ProbedDocument,
    expected_overlap,
    permutation_p,
    probe_in_looks,
    reliability_of,
    shrink,
)
from salad.types import Cluster, Document, SaladError


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


def evidence(cluster, rng, *, heard=0.3, garbled=0.0, entropy=2.0, tokens=80):
    """A document whose teacher is unsure by `entropy`, whose sound the ASR misses by `garbled`, and of whose stakes the
    model misses `heard`: M = stakes * heard + what is garbled, token by token."""
    h = rng.gamma(4.0, entropy / 4.0, tokens)
    stakes = 0.5 * h * rng.gamma(2.0, 0.5, tokens)
    lost = garbled * rng.gamma(2.0, 0.5, tokens)
    noise = 0.05 * rng.standard_normal(tokens)
    return Evidence(cluster, np.maximum(stakes * heard + lost + noise, 0), lost + 0.02 * rng.random(tokens), stakes, h)


@pytest.mark.parametrize("seed", range(5))
def test_the_domain_score_finds_the_missing_domain_among_garbled_voices_and_hard_content(seed):
    rng = np.random.default_rng(seed)
    causes = {0: {"heard": 0.6}, 1: {"garbled": 0.9}, 2: {"entropy": 5.0}, **{c: {} for c in range(3, 8)}}
    rows = [evidence(c, rng, **how) for c, how in causes.items() for _ in range(4)]
    parts, slopes = explain(rows)
    by_m = sorted(parts, key=lambda p: -p.misalignment)
    by_domain = sorted(parts, key=lambda p: -p.domain)
    assert by_domain[0].cluster == 0 and by_m[0].cluster != 0
    assert by_domain[0].domain - by_domain[1].domain > 2 * by_domain[0].domain_se
    assert max(parts, key=lambda p: p.voice).cluster == 1 and max(parts, key=lambda p: p.difficulty).cluster == 2
    for p in parts:
        assert p.misalignment == pytest.approx(p.voice + p.difficulty + p.domain)
    assert slopes["stakes"] > 0


def test_misalignment_of_explain_is_the_mean_over_tokens_and_its_error_falls_with_documents():
    rng = np.random.default_rng(0)
    few, many = ([evidence(c, rng) for c in range(4) for _ in range(n)] for n in (6, 96))
    (p, *rest), _ = explain(few)
    own = np.concatenate([e.heard for e in few if e.cluster == 0])
    assert p.misalignment == pytest.approx(own.mean())
    mean_se = np.mean([x.misalignment_se for x in (p, *rest)])
    assert np.mean([x.misalignment_se for x in explain(many)[0]]) == pytest.approx(mean_se / 4, rel=0.3)
    with pytest.raises(SaladError, match="different lengths"):
        explain([Evidence(0, np.ones(3), np.ones(2), np.ones(3), np.ones(3))])
    assert explain([])[0] == []


WITHIN = 0.25  # nats: spread of M between documents of a cluster, pooled over the 12 of a full demo (24 documents)
SPOKEN_S = 24.5  # seconds of speech of one of its documents, on average
DEMO = {"first": 2, "further": 1, "cap_s": 640.0, "alpha": 0.05, "reliability": 0.5}


def probed(truth, draw, **settings):
    """Looks and decision of a probe whose documents scatter about `truth` (M of each cluster) as in the demo."""
    rng = np.random.default_rng([7, draw])

    def measure(chosen, look):
        return [ProbedDocument(c, rng.normal(truth[c], WITHIN), rng.uniform(0.8, 1.2) * SPOKEN_S) for _, c in chosen]

    order = {c: list(range(44)) for c in range(len(truth))}
    return probe_in_looks(order, measure, seed=draw, **{**DEMO, **settings})


def test_clusters_of_equal_misalignment_are_bought_uniformly():
    decisions = [probed([0.55] * 5, draw)[1] for draw in range(100)]
    assert decisions.count(UNIFORM) >= 94


def test_half_a_nat_is_found_within_the_cap_of_the_demo():
    """At most 25 documents, five of each cluster: two of five clusters lie half a nat above the others."""
    found = [probed([0.3, 0.3, 0.3, 0.8, 0.8], draw) for draw in range(100)]
    assert sum(decision == ACTIVE for _, decision in found) >= 90
    assert all(looks[-1].seconds <= DEMO["cap_s"] * 1.05 and looks[-1].documents <= 25 for looks, _ in found)


def test_looks_spend_no_more_than_alpha_and_stop_at_the_cap():
    looks, decision = probed([0.5] * 6, 3, alpha=0.05, reliability=0.99, cap_s=1200.0)
    assert decision == UNIFORM and sum(look.level for look in looks) == pytest.approx(0.05)
    assert [look.documents for look in looks] == list(range(12, looks[-1].documents + 1, 6))
    assert looks[-1].seconds <= 1200 < looks[-1].seconds * (1 + 6 / looks[-1].documents)
    (only,), _ = probed([0.5] * 6, 3, cap_s=0.0)
    assert only.documents == 12 and only.level == pytest.approx(0.05)
    (single,), decision = probed([0.1, 0.9], 3, first=1, cap_s=0.0)  # nothing to compare a difference with
    assert single.p == 1 and single.reliability == 0 and decision == UNIFORM
    with pytest.raises(SaladError, match="at least 1"):
        probed([0.5] * 2, 0, first=0)


def test_reliability_is_the_share_of_variance_that_is_not_sampling_error():
    rng, k, n, between = np.random.default_rng(0), 4000, 4, 0.15
    labels = np.repeat(np.arange(k), n)
    values = rng.normal(0, between, k)[labels] + rng.normal(0, WITHIN, k * n)
    truth = between**2 / (between**2 + WITHIN**2 / n)
    assert reliability_of(values, labels) == pytest.approx(truth, abs=0.03)
    assert reliability_of(rng.permutation(values), labels) < 0.06


def test_p_of_equal_misalignment_is_uniform():
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(5), [2, 3, 4, 5, 6])
    p = np.array([permutation_p(rng.gamma(2, 0.2, 20), labels, i, 199) for i in range(400)])
    assert 0.03 <= (p <= 0.05).mean() <= 0.075 and 0.45 <= (p <= 0.5).mean() <= 0.55


def test_unreliable_misalignment_is_drawn_towards_its_mean_before_the_power():
    assert np.allclose(shrink([1.0, 3.0, np.nan], [3, 1, 9], 0.5), [1.25, 2.25, np.nan], equal_nan=True)
    clusters = make_clusters([1.0, 3.0, 9.0], cers=[0.1, 0.1, 0.9])  # the artefact moves no mean
    got = allocate(clusters, gamma=1, budget_s=4, max_cer=0.5, reliability=0.5)
    assert np.allclose([c.quota_s for c in got], [1.5, 2.5, 0])
    assert [c.misalignment for c in got] == [1.0, 3.0, 9.0]  # M(c) stays as it was measured


def test_expected_overlap_is_what_a_selection_by_the_truth_would_share():
    rng, reliability, se = np.random.default_rng(0), 0.7, 0.2
    spread = (reliability / (1 - reliability)) ** 0.5 * se
    expected, shared = [], []
    for draw_ in range(200):
        truth = rng.normal(1.2, spread, 8)
        clusters = [Cluster(i, np.zeros(1), 10, m, se, 0.1) for i, m in enumerate(truth + rng.normal(0, se, 8))]
        got = allocate(clusters, gamma=2, budget_s=1, max_cer=0.5, reliability=reliability)
        best = np.maximum(truth, 1e-3) ** 2
        shared.append(np.minimum(best / best.sum(), [c.quota_s for c in got]).sum())
        quotas = [c.quota_s for c in got]
        expected.append(expected_overlap(got, quotas, gamma=2, reliability=reliability, seed=draw_))
    assert np.mean(expected) == pytest.approx(np.mean(shared), abs=0.03)
    assert np.isnan(expected_overlap(got, quotas, gamma=2, reliability=0.0, seed=0))
    assert np.isnan(expected_overlap(got, [0.0] * 8, gamma=2, reliability=0.5, seed=0))


def test_scores_other_than_m_drive_the_quotas():
    clusters = [
        Cluster(i, np.zeros(2), 10, m, 0.0, 0.1, domain=d, nll=1.0, foreign=f)
        for i, (m, d, f) in enumerate([(2.0, -0.1, 0.0), (1.0, 0.5, 1.0)])
    ]
    for score, want in (("misalignment", [20, 10]), ("domain", [0, 30]), ("nll", [15, 15]), ("oracle", [0, 30])):
        got = allocate(clusters, gamma=1, budget_s=30, max_cer=0.5, score=score)
        assert np.allclose([c.quota_s for c in got], want), score
    with pytest.raises(SaladError, match="select.score"):
        allocate(clusters[:1], gamma=1, budget_s=30, max_cer=0.5, score="domain")


def test_replicates_draw_other_documents_from_the_same_quotas():
    documents = [Document(f"d{i}", "word " * 6, "s") for i in range(200)]
    clusters = allocate(make_clusters([1.0]), gamma=1, budget_s=60, max_cer=1.0)
    got = [
        [d.id for d, _ in draw(clusters, documents, [0] * 200, budget_s=60, seconds_per_word=0.5, taken=set(), seed=0,
                               replicate=r)]
        for r in (0, 1, 1)
    ]  # fmt: skip
    assert got[0] != got[1] and got[1] == got[2]


def test_texts_of_an_evaluation_are_found_whatever_their_case_and_punctuation():
    question = "The mitochondria, as every child learns, are the powerhouse of the cell and they divide."
    copy = "He said: the MITOCHONDRIA as every child learns are the powerhouse of the cell and they divide, no less."
    other = "The mitochondria are organelles; as every child learns, the powerhouse of the cell is there."
    assert overlapping([copy, other, ""], [question], 13) == [True, False, False]
    assert overlapping(["well, Paris is big indeed", "London is big"], ["Paris is big."], 13) == [True, False]


def test_a_screen_names_what_a_text_shares_words_with():
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    screen = Screen(
        [("a", long), ("b", "Twelve words are few, and so they count as a whole, once."), ("c", "You know.")]
    )
    assert screen.overlap("well: TWO three four five six seven eight nine ten eleven twelve thirteen, fourteen!") == "a"
    assert (
        screen.overlap("two three four five six seven eight nine ten eleven twelve thirteen") is None
    )  # twelve in a row
    assert screen.overlap("He says twelve words are few and so they count as a whole once") == "b"
    assert screen.overlap("twelve words are few and so they count as a whole") is None
    assert screen.overlap("as you know") == "c" and Screen([("c", "You know.")], least=8).overlap("you know") is None
    assert Screen([("a", long)], 4).overlap("it is nine ten eleven twelve") == "a"


@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=9).map(" ".join), max_size=6),
    st.lists(st.lists(st.sampled_from("abc"), max_size=14).map(" ".join), max_size=4),
    st.integers(1, 6),
)
def test_a_screen_finds_what_looking_everywhere_finds(evaluation, texts, n):
    def shares(text, other):
        size, words = min(n, len(other)), text.split()
        runs = [other[i : i + size] for i in range(len(other) - size + 1)] if size else []
        return any(words[i : i + size] in runs for i in range(len(words) - size + 1))

    expected = [any(shares(text, other.split()) for other in evaluation) for text in texts]
    assert overlapping(texts, evaluation, n) == expected


def test_near_duplicates_point_to_the_first_of_their_kind():
    base = " ".join(f"word{i}" for i in range(60))
    texts = [base, base.replace("word59", "other"), " ".join(f"thing{i}" for i in range(60)), base.upper(), "a b"]
    assert near_duplicates(texts, 0.8) == [None, 0, None, 0, None]
    assert near_duplicates(texts, 1.0) == [None, None, None, 0, None]


def near_duplicates_by_sets(texts, threshold, seed=0):
    """The plain definition: every text's shingles and sketch are held."""
    index, shingles, out = MinHashLSH(threshold=min(threshold, 0.9), num_perm=128), [], []
    for i, text in enumerate(texts):
        words = re.findall(r"[^\W_]+", text.lower())
        size = min(5, max(1, len(words)))
        own = {" ".join(words[j : j + size]) for j in range(len(words) - size + 1)}
        shingles.append(own)
        sketch = MinHash(num_perm=128, seed=seed)
        sketch.update_batch([shingle.encode() for shingle in own])
        like = (j for j in sorted(index.query(sketch)) if len(own & shingles[j]) >= threshold * len(own | shingles[j]))
        out.append(next(like, None))
        if out[-1] is None:
            index.insert(i, sketch)
    return out


@given(
    st.lists(st.lists(st.sampled_from("abcd"), max_size=12).map(" ".join), max_size=12),
    st.sampled_from([0.25, 0.5, 0.75, 1.0]),
)
def test_near_duplicates_are_those_of_the_plain_definition(texts, threshold):
    assert near_duplicates(texts, threshold) == near_duplicates_by_sets(texts, threshold)


def test_near_duplicates_of_the_demos_corpus_are_those_of_the_plain_definition():
    texts = [d.text for d in read_prepared("demo-corpus").documents["web"]][:400]
    texts += [" ".join(text.split()[i % 7 :]) for i, text in enumerate(texts[:200])]  # Jaccard of 0.89 to 1
    expected = near_duplicates_by_sets(texts, 0.95)
    assert near_duplicates(texts, 0.95) == expected and 50 < sum(i is not None for i in expected) < 150


def test_a_screen_holds_hashes_of_rows_not_their_words():
    words = [f"word{i}" for i in np.random.default_rng(0).integers(0, 500, 40_000)]
    tracemalloc.start()
    try:
        screen = Screen([("a", " ".join(words[:20_000])), ("b", " ".join(words[20_000:]))])
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 40_000 * 20  # 12 bytes a row; tuples of words take 250
    assert screen.overlap(" ".join(words[19_990:20_030])) == "b"
    assert screen.overlap(" ".join(words[19_990:20_010])) is None
