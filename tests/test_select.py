import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad.select import (
    Estimate,
    Evidence,
    allocate,
    draw,
    explain,
    fixed_probes,
    near_duplicates,
    next_probes,
    overlapping,
    top_words,
    unsettled,
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


def estimates(scores, ses, cers=None, documents=2):
    cers = cers or [0.05] * len(scores)
    return [Estimate(10, m, se, cer, 0.01, documents) for m, se, cer in zip(scores, ses, cers, strict=True)]


RULE = {"gamma": 5.0, "max_cer": 0.35, "seed": 0}


def test_probes_go_where_they_can_change_the_purchase():
    # 0 and 1 compete for the budget; 2 can get nothing; 3 is an artefact of the voice
    now = estimates([1.0, 1.0, 0.2, 2.0], [0.2, 0.2, 0.05, 0.3], [0.05, 0.05, 0.05, 0.9])
    given = next_probes(now, **RULE, tolerance=0.02, documents=12, available=[20] * 4)
    assert given[0] > 0 and given[1] > 0 and given[2] == given[3] == 0
    assert next_probes(now, **RULE, tolerance=0.02, documents=12, available=[0, 3, 9, 9])[1] == 3
    assert next_probes(now, **RULE, tolerance=0.9, documents=12, available=[20] * 4) == [0] * 4
    certain = estimates([1.0, 1.0, 0.2], [0.0, 0.0, 0.0])
    assert unsettled(certain, **RULE) == pytest.approx(0.0, abs=1e-9)


def test_adaptive_probing_takes_fewer_documents_than_the_same_for_all():
    """Documents are drawn for real; both ways end at the same doubt."""
    rng = np.random.default_rng(0)
    truth = np.concatenate([[1.0, 1.05, 0.95, 0.9], np.full(28, 0.3)])
    drawn = [list(rng.normal(m, 0.25, 2)) for m in truth]

    def now():
        return [Estimate(10, max(np.mean(x), 1e-3), 0.25 / len(x) ** 0.5, 0.05, 0.0, len(x)) for x in drawn]

    for _ in range(60):
        more = next_probes(now(), **RULE, tolerance=0.15, documents=8, available=[200] * 32)
        if not any(more):
            break
        for x, m, n in zip(drawn, truth, more, strict=True):
            x += list(rng.normal(m, 0.25, n))
    assert unsettled(now(), **RULE) <= 0.16
    fixed = fixed_probes(now(), **RULE, tolerance=0.16) * len(truth)
    assert sum(map(len, drawn)) < 0.8 * fixed


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


def test_near_duplicates_point_to_the_first_of_their_kind():
    base = " ".join(f"word{i}" for i in range(60))
    texts = [base, base.replace("word59", "other"), " ".join(f"thing{i}" for i in range(60)), base.upper(), "a b"]
    assert near_duplicates(texts, 0.8) == [None, 0, None, 0, None]
    assert near_duplicates(texts, 1.0) == [None, None, None, 0, None]
