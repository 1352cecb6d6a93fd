from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad.align.transcript_match import words_for_ranges
from salad.evaluation.next_sentence import build_items
from salad.measure.accuracy import (
    accuracy,
    chance,
    gap,
    mcnemar,
    minimum_detectable_gap,
    pooled_gap,
)
from salad.measure.divergence import DocumentKL, summary
from salad.measure.format import bounds, with_detectable, with_error, with_interval
from salad.measure.results import McNemar
from salad.measure.statistics import (
    blocked_spread,
    detectable,
    holm,
    pooled_spread,
    proportion,
    replicate_reach,
    two_sided_p,
    two_sources_reach,
)
from salad.types import Document, Gap, Result, SaladError

WORDS = st.lists(st.sampled_from("a river runs to the sea and back again".split()), min_size=1, max_size=40)


def results(correct):
    return [Result(str(i), 0, (0.0, -1.0) if c else (-1.0, 0.0)) for i, c in enumerate(correct)]


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_gap_of_a_model_with_itself_is_zero(correct):
    g = gap(results(correct), results(correct), 200, 0)
    assert (g.value, g.low, g.high, g.n) == (0.0, 0.0, 0.0, len(correct))
    a = accuracy(results(correct))
    assert a.low <= a.value <= a.high and np.isclose(a.value, np.mean(correct))


def test_gap_interval_covers_at_its_rate():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        text, speech = rng.random(150) < 0.8, rng.random(150) < 0.6
        g = gap(results(text), results(speech), 400, trial)
        hits += g.low <= 0.2 <= g.high
    assert hits >= 180


def test_only_resampled_groups_cover_where_items_of_a_group_go_together():
    rng = np.random.default_rng(2)
    hits = dict.fromkeys(["accuracy by group", "accuracy by item", "gap by group", "gap by item"], 0)
    for trial in range(200):
        sizes = rng.integers(2, 7, 60)
        groups = [f"doc-{i}" for i in np.repeat(np.arange(60), sizes)]
        hears = rng.beta(0.6, 0.4, 60)  # a document's items are mostly all right or all wrong; the mean is 0.6
        text = results(rng.random(len(groups)) < 0.8)
        speech = results(rng.random(len(groups)) < np.repeat(hears, sizes))
        for name, labels in (("group", groups), ("item", None)):
            a = accuracy(speech, labels)
            g = gap(text, speech, 400, trial, groups=labels)
            hits[f"accuracy by {name}"] += a.low <= 0.6 <= a.high
            hits[f"gap by {name}"] += g.low <= 0.2 <= g.high
    assert min(hits["accuracy by group"], hits["gap by group"]) >= 180
    assert max(hits["accuracy by item"], hits["gap by item"]) < 180


def test_groups_of_one_item_are_items_and_labels_must_match():
    right = results([True, False, True, True, False])
    alone, together = accuracy(right), accuracy(right, list("abcde"))
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high)) and together.value == alone.value
    assert gap(right, right[:], 300, 5, groups=list("abcde")) == gap(right, right[:], 300, 5)
    with pytest.raises(SaladError, match="4 labels for 5 results"):
        accuracy(right, list("abcd"))


def test_chance_counts_equal_choices_as_equally_right():
    assert chance("abcd", 2) == 1 / 4 and chance(("a", "b", "a"), 2) == 2 / 3 and chance(["a", "a"], 0) == 1


def test_gap_refuses_other_items():
    with pytest.raises(SaladError, match="same items"):
        gap(results([True]), results([True, False]), 100, 0)


def test_summary_weighs_by_tokens_and_its_error_is_over_documents():
    rng = np.random.default_rng(1)
    count = rng.integers(20, 60, 4000)
    kl = count * 0.5 + rng.normal(size=4000) * 4
    rows = [DocumentKL(str(i), "d", "v", float(k), int(c)) for i, (k, c) in enumerate(zip(kl, count, strict=True))]
    means = [summary(rows[i : i + 40]).all for i in range(0, 4000, 40)]
    errors = [summary(rows[i : i + 40]).se for i in range(0, 4000, 40)]
    assert np.isclose(summary(rows).all, kl.sum() / count.sum())
    assert 0.8 < np.mean(errors) / np.std(means) < 1.25
    assert summary(rows).by_domain.keys() == {"d"}


@given(WORDS, st.integers(0, 9))
def test_a_perfect_transcript_gives_each_range_its_words(words, cut):
    cut = min(cut, len(words))
    got = words_for_ranges(words, " ".join(words), [(0, cut), (cut, len(words))])
    assert got == [words[:cut], words[cut:]]


@given(WORDS, WORDS)
def test_no_transcribed_word_is_lost_or_told_twice(reference, heard):
    third = len(reference) // 3
    got = words_for_ranges(reference, " ".join(heard), [(0, third), (third, len(reference))])
    assert got[0] + got[1] == heard


def test_transcript_alignment_by_hand():
    reference = "The boat, at last, came home .".split()
    got = words_for_ranges(reference, "the goat at came home", [(0, 2), (2, 4), (4, 7)])
    assert got == [["the", "goat"], ["at"], ["came", "home"]]


def test_a_word_without_its_accent_is_the_same_word():
    assert words_for_ranges(["naïve", "a"], "naive a a", [(0, 1), (1, 2)]) == [["naive"], ["a", "a"]]


def test_items_hold_the_true_next_sentence_once():
    documents = [
        Document(
            f"d{i}", " ".join(f"Sentence {j} of the document number {i} is here." for j in range(6)), "s", f"dom{i}"
        )
        for i in range(5)
    ]
    items = build_items(documents, 12, 4, 15, seed=0)
    assert len(items) == 12 and items == build_items(documents, 12, 4, 15, seed=0)
    assert {i.document_id for i in items} == {d.id for d in documents}
    texts = {d.id: d.text for d in documents}
    for item in items:
        assert len(item.options) == 4 == len(set(item.options))
        truth = item.options[item.answer]
        assert f"{item.context} {truth}" in texts[item.document_id]
        assert len(item.context.split()) <= 15
        assert all(o not in texts[item.document_id] for i, o in enumerate(item.options) if i != item.answer)
    assert len({i.answer for i in items}) > 1


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=30), min_size=1, max_size=4))
def test_pooled_gap_of_a_model_with_itself_is_zero(tasks):
    pairs = [(results(correct), results(correct)) for correct in tasks]
    for pooled in pooled_gap(pairs, 100, 0):
        assert (pooled.value, pooled.low, pooled.high) == (0.0, 0.0, 0.0)
        assert pooled.n == sum(map(len, tasks))


def test_pooling_weighs_items_or_tasks():
    small, large = [True] * 4, [True] * 16
    pairs = [(results(small), results([False] * 4)), (results(large), results(large))]
    by_item, by_task = pooled_gap(pairs, 100, 0)
    assert (by_item.value, by_task.value) == (0.2, 0.5)
    one = pooled_gap(pairs[1:], 100, 0)
    assert one[0] == one[1]


def test_pooling_resamples_whole_groups():
    right = [True] * 20 + [False] * 20
    pairs = [(results([True] * 40), results(right))]
    alone, _ = pooled_gap(pairs, 2000, 0)
    groups = [str(i // 10) for i in range(40)]  # four documents, each all right or all wrong
    together, _ = pooled_gap(pairs, 2000, 0, groups=[groups])
    assert alone.value == together.value == 0.5
    assert together.high - together.low > 2 * (alone.high - alone.low)
    same = gap(*pairs[0], 2000, 0, groups=groups)
    assert (together.low, together.high) == (same.low, same.high)


def test_pooled_intervals_cover_at_their_rate():
    rng = np.random.default_rng(3)
    hits = np.zeros(2)
    for trial in range(200):
        pairs = [(results(rng.random(n) < 0.8), results(rng.random(n) < right)) for n, right in ((60, 0.7), (200, 0.5))]
        for i, (pooled, true) in enumerate(zip(pooled_gap(pairs, 400, trial), (66 / 260, 0.2), strict=True)):
            hits[i] += pooled.low <= true <= pooled.high
    assert hits.min() >= 180


def test_an_interval_is_written_one_way():
    assert with_interval({"value": 0.5712, "low": 0.5, "high": 0.6416}, ".1f", scale=100) == "57.1 [50.0, 64.2]"
    assert with_interval(Gap(-0.0312, -0.1, 0.05, 9), "+.2f") == "-0.03 [-0.10, +0.05]"
    assert with_interval({"value": 0.5, "low": None, "high": None}, ".0f", scale=100, unit=" %") == "50 %"
    assert with_interval(None, missing="-") == with_interval({"value": None}, missing="-") == "-"
    assert bounds(None) == bounds({"value": 1.0}) == "" and bounds({"low": 0, "high": 2}, "g") == "[0, 2]"


def test_an_open_end_and_an_error_are_written_one_way():
    assert bounds({"low": 0.5, "high": float("inf")}, ".2f") == "[0.50, any]"
    assert with_error(0.2315, 0.011) == "0.232 ± 0.022" and with_error(0.5, None, ".1f") == "0.5"


def test_what_cannot_be_told_says_what_could_have_been():
    open_, told = {"value": -0.01, "low": -0.06, "high": 0.04}, {"value": -0.1, "low": -0.15, "high": -0.05}
    assert with_detectable(open_, ".1f", scale=100) == "-1.0 [-6.0, 4.0], cannot tell (7.1 could be, power 0.8)"
    assert with_detectable({**open_, "minimum_detectable": 0.2}, "+.2f").endswith(
        "cannot tell (0.20 could be, power 0.8)"
    )
    assert with_detectable(told, "+.2f") == "-0.10 [-0.15, -0.05]" and with_detectable(None, missing="-") == "-"
    assert with_detectable({"value": 0, "low": 0, "high": 0}, "g") == "0 [0, 0]"  # a model against itself
    assert detectable(0.05) == pytest.approx(0.05 * (1.95996 + 0.84162) / 1.95996, rel=1e-5) and detectable(0.05, 2) > 0
    found = np.random.default_rng(0).normal(detectable(1.96), 1, 4000) > 1.96
    assert 0.78 < found.mean() < 0.82


def test_wilsons_interval_by_hand():
    found = proportion([1] * 8 + [0] * 2)
    assert (found.value, found.low, found.high, found.n) == pytest.approx((0.8, 0.4902, 0.9433, 10), abs=1e-4)
    assert proportion([1] * 10).low == pytest.approx(0.7225, abs=1e-4) and proportion([1] * 10).high == 1
    assert proportion([0] * 40, ["a", "b"] * 20) == replace(proportion([0, 0]), n=40)  # two documents, no more
    assert proportion([1, 0] * 20, ["a"] * 40).low < 0.06  # one document tells next to nothing
    with pytest.raises(SaladError, match="no items"):
        proportion([])


@pytest.mark.parametrize("documents", [8, 40])
def test_a_proportion_of_words_in_documents_covers_near_one(documents):
    """The bootstrap over eight such documents held the truth in 80 of 100 draws, over forty in 93."""
    rng, held = np.random.default_rng(documents), 0
    for _ in range(600):
        rates = rng.beta(4.5, 0.5, documents)  # mean 0.9
        sizes = rng.integers(3, 12, documents)
        found = proportion(rng.random(sizes.sum()) < np.repeat(rates, sizes), np.repeat(range(documents), sizes))
        held += found.low <= 0.9 <= found.high
    assert 0.92 <= held / 600 <= 0.995


def test_mcnemar_by_hand():
    first = results([True] * 8 + [False] * 2 + [True] * 5)
    second = results([False] * 8 + [True] * 2 + [True] * 5)
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (8, 2)
    assert np.isclose(found.p, 2 * (1 + 10 + 45) / 2**10)  # two-sided binomial, 10 fair coins, 8 heads or more
    assert mcnemar(first, first) == McNemar(0, 0, 1.0)
    with pytest.raises(SaladError, match="same items"):
        mcnemar(first, second[:-1])


def test_the_minimum_detectable_gap_is_found_at_its_power():
    n, discordant = 400, 0.3
    detectable = minimum_detectable_gap(n, discordant)
    rng = np.random.default_rng(4)
    first_alone = (discordant + detectable) / 2
    found = 0
    for _ in range(400):
        draw = rng.random(n)
        lost, won = (draw < first_alone).sum(), ((draw >= first_alone) & (draw < discordant)).sum()
        found += (lost - won) / np.sqrt(lost + won) > 1.96
    assert 0.74 < found / 400 < 0.86
    assert minimum_detectable_gap(4 * n, discordant) < 0.55 * detectable
    with pytest.raises(SaladError, match="discordant 0.0, expected"):
        minimum_detectable_gap(n, 0.0)


@pytest.mark.parametrize("replicates", [3, 5, 8])
def test_intervals_of_few_trainings_hold_the_truth(replicates):
    """Cells of different means and one spread between trainings, one of them judged; 4000 grids of four cells."""
    rng, means, held = np.random.default_rng(replicates), np.array([0.2, 0.5, 0.9, 1.4]), 0
    drawn = means[:, None] + rng.normal(0, 0.1, (4000, 4, replicates))
    for cells in drawn:
        reach = replicate_reach(*pooled_spread(cells), replicates)
        held += abs(cells[2].mean() - means[2]) <= reach
    assert 0.94 <= held / len(drawn) <= 0.98


def test_a_spread_is_pooled_within_cells_and_one_training_has_none():
    assert pooled_spread([[1.0, 3.0], [10.0, 12.0, 14.0], [5.0]]) == (pytest.approx((10 / 3) ** 0.5), 3)
    assert pooled_spread([[1.0], [2.0], []])[1] == 0 and np.isnan(replicate_reach(*pooled_spread([[1.0]]), 1))


def test_trainings_and_documents_each_have_their_own_t():
    rng, draws = np.random.default_rng(0), 4000
    for trainings, of_training in ((3, 0.1), (3, 1.0), (3, 5.0), (6, 0.5)):  # variance of their mean; of documents 1
        truth = rng.normal(0, np.sqrt(1 + of_training), draws)
        spread = np.sqrt(of_training * trainings * rng.chisquare(trainings - 1, draws) / (trainings - 1))
        errors = np.sqrt(rng.chisquare(31, draws) / 31)
        pairs = [two_sources_reach(s, trainings - 1, trainings, e, 31) for s, e in zip(spread, errors, strict=True)]
        assert 0.945 <= np.mean([abs(x) <= reach for x, (reach, _) in zip(truth, pairs, strict=True)]) <= 0.985
        assert all(trainings - 1.001 <= freedom <= 31.001 for _, freedom in pairs)
    reach, freedom = two_sources_reach(0.0, 4, 3, 0.5, 20)  # documents alone: theirs
    assert (reach, freedom) == (pytest.approx(0.5 * 2.086, abs=1e-3), pytest.approx(20, abs=1e-3))
    assert two_sources_reach(1.0, 4, 4, 0.0, 20)[0] == pytest.approx(0.5 * 2.776, abs=1e-3)


@pytest.mark.parametrize("replicates", [3, 5, 8])
def test_arms_that_share_a_reference_and_draws_hold_the_truth(replicates):
    """Three arms and a reference over the same draws: the first one's paired difference, 4000 times."""
    rng, held, means = np.random.default_rng(replicates), 0, np.array([0.3, 0.1, 0.2, 0.0])
    for _ in range(4000):
        drawn = means[:, None] + rng.normal(0, 0.5, replicates) + rng.normal(0, 0.1, (4, replicates))
        spread, freedom = blocked_spread({(str(a), r): drawn[a, r] for a in range(4) for r in range(replicates)})
        reach = replicate_reach(2**0.5 * spread, freedom, replicates)
        held += abs((drawn[0] - drawn[3]).mean() - 0.3) <= reach
    assert freedom == 3 * (replicates - 1) and 0.94 <= held / 4000 <= 0.98


def test_the_spread_of_two_arms_is_that_of_their_paired_differences():
    drawn = np.random.default_rng(0).normal(size=(2, 6))
    spread, freedom = blocked_spread({("ab"[a], r): drawn[a, r] for a in range(2) for r in range(6)})
    paired, known = pooled_spread([drawn[0] - drawn[1]])
    assert (2**0.5 * spread, freedom) == (pytest.approx(paired), known)
    cut = {("a", 0): 1.0, ("b", 0): 2.0, ("a", 1): 1.5}  # a budget cut the last cell off
    assert blocked_spread(cut)[1] == 0 and np.isnan(blocked_spread(cut)[0])


def test_p_values_agree_with_intervals_and_holm_corrects_for_their_number():
    for freedom in (0, 2, 30):
        assert two_sided_p(1.0, 0.0, freedom) == pytest.approx(0.05)
        assert two_sided_p(1.0, 0.5, freedom) < 0.05 < two_sided_p(1.0, -0.1, freedom)
    assert two_sided_p(-3.0, -4.0, null=-5.0) == pytest.approx(two_sided_p(2.0, 1.0))
    assert two_sided_p(0.0, 0.0) == 1.0 and two_sided_p(1.0, 1.0) == 0.0
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]
    nothing = np.random.default_rng(1).random((4000, 5))
    assert 0.03 < np.mean([min(holm(p)) <= 0.05 for p in nothing]) < 0.06 < np.mean(nothing.min(axis=1) <= 0.05)
