"""The law is found again from curves with noise, and says what it cannot know."""

import numpy as np
import pytest

from salad.study.regression import partial_r2, regress
from salad.study.scaling_law import fit_law
from salad.types import SaladError

CASES = [
    (0.5, 1.0, 0.5, 0.03, np.repeat(np.geomspace(0.1, 100, 8), 3)),
    (0.13, 0.6, 0.4, 0.05, np.repeat(np.geomspace(1, 200, 7), 3)),
]


@pytest.mark.parametrize(("e", "b", "beta", "noise", "d"), CASES)
def test_known_laws_are_inside_their_intervals_in_at_least_93_of_100_draws(e, b, beta, noise, d):
    hits = np.zeros(3, dtype=int)
    for seed in range(100):
        m = (e + b * d**-beta) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(d)))
        law = fit_law(d, m, resamples=200, seed=seed)
        hits += [q.low <= truth <= q.high for q, truth in ((law.e, e), (law.b, b), (law.beta, beta))]
        assert law.e.low <= law.e.value <= law.e.high and law.beta.low <= law.beta.value <= law.beta.high
    assert hits.min() >= 93, hits
    assert law.e.high - law.e.low < e and law.beta.high / law.beta.low < 3  # the intervals say something


def test_without_noise_the_law_is_exact_and_units_do_not_matter():
    d = np.geomspace(1, 1000, 10)
    law = fit_law(d, 0.2 + 3 * d**-0.7)
    assert (law.e.value, law.b.value, law.beta.value) == pytest.approx((0.2, 3, 0.7), rel=2e-2)
    assert law(10.0) == pytest.approx(0.2 + 3 * 10**-0.7, rel=1e-3) and not law.power_law_suffices
    assert law.near_floor.value == pytest.approx((3 / 0.01) ** (1 / 0.7), rel=0.05) and law.extrapolated
    scaled = fit_law(d * 1e9, 0.2 + 3 * d**-0.7)
    assert scaled.e.value == pytest.approx(law.e.value) and scaled.near_floor.value == pytest.approx(
        law.near_floor.value * 1e9, rel=1e-6
    )


def test_one_run_that_went_wrong_does_not_move_the_law():
    d = np.repeat(np.geomspace(1, 100, 8), 3)
    m = (0.3 + d**-0.6) * np.exp(0.01 * np.random.default_rng(0).standard_normal(len(d)))
    m[10] *= 3
    assert fit_law(d, m).e.value == pytest.approx(0.3, abs=0.03)


def test_a_power_law_is_recognised_and_rising_curves_have_no_law():
    d = np.repeat(np.geomspace(1, 100, 6), 2)
    m = 2 * d**-0.5 * np.exp(0.02 * np.random.default_rng(1).standard_normal(len(d)))
    assert fit_law(d, m).power_law_suffices
    rising = fit_law(d, 0.5 * d**0.2)
    assert rising.b.value < 1e-6


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(SaladError, match="at least 4"):
        fit_law([1, 1, 2, 2, 3, 3], [1, 1, 0.9, 0.9, 0.8, 0.8])
    with pytest.raises(SaladError, match="one M for each D"):
        fit_law([1, 2], [1])
    with pytest.raises(SaladError, match="above 0"):
        fit_law([0, 1, 2, 3], [1, 1, 1, 1])


def test_regression_against_a_hand_made_leave_one_out():
    rng = np.random.default_rng(0)
    x = rng.normal(size=30)
    y = 1 - 2 * x + 0.5 * rng.normal(size=30)
    found = regress(x, y)
    missed, spread = 0.0, 0.0
    for i in range(30):
        keep = np.arange(30) != i
        slope, level = np.polyfit(x[keep], y[keep], 1)
        missed += (y[i] - level - slope * x[i]) ** 2
        spread += (y[i] - y[keep].mean()) ** 2
    assert found.r2_leave_one_out == pytest.approx(1 - missed / spread)
    assert found.low < -2 < found.high and found.r2 > found.r2_leave_one_out
    assert regress(x, rng.normal(size=30)).r2_leave_one_out < 0.1
    with pytest.raises(SaladError, match="must vary"):
        regress([1, 1, 1, 1], [1, 2, 3, 4])


@pytest.mark.parametrize("n", [5, 8, 16])
def test_slopes_of_noise_leave_their_interval_as_often_as_it_says(n):
    rng, missed = np.random.default_rng(n), 0
    for _ in range(400):
        found = regress(rng.normal(size=n), rng.normal(size=n))
        missed += not found.low < 0 < found.high
    assert 0.02 < missed / 400 < 0.08


def test_partial_r2_takes_away_what_the_other_explains():
    rng = np.random.default_rng(0)
    f, noise = rng.normal(size=400), rng.normal(size=400)
    m = 0.9 * f + 0.4 * noise
    assert partial_r2(m, f, f) < 0.01  # m tells nothing that f does not
    assert partial_r2(m, f, noise + 2 * f) == pytest.approx(1.0, abs=1e-6)
    assert partial_r2(f, f, m) == 0.0
