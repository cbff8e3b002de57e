"""ROC numbers against scikit-learn, every pair compared, closed forms and simulation."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from secateur import stats
from secateur.errors import DataError, UsageError


def placements(positive, negative):
    """DeLong's area and variance, the slow and obvious way: every pair is compared."""
    psi = np.array([[1.0 if p > n else 0.5 if p == n else 0.0 for n in negative] for p in positive])
    v10, v01 = psi.mean(axis=1), psi.mean(axis=0)
    return psi.mean(), v10.var(ddof=1) / len(positive) + v01.var(ddof=1) / len(negative)


SCORES = st.lists(st.integers(-3, 3).map(float) | st.floats(-3, 3), min_size=2, max_size=25)


class TestRocAuc:
    @given(positive=SCORES, negative=SCORES)
    def test_area_and_variance_are_the_textbook_s(self, positive, negative):
        area, variance = stats.delong(positive, negative)
        truth = [1] * len(positive) + [0] * len(negative)
        assert area == pytest.approx(roc_auc_score(truth, positive + negative), abs=1e-12)
        assert (area, variance) == pytest.approx(placements(positive, negative), abs=1e-12)

    def test_known_answer(self):
        rng = np.random.default_rng(0)
        area = stats.roc_auc(rng.normal(1, 1, 200_000), rng.normal(0, 1, 200_000))
        assert area.value == pytest.approx(0.7602, abs=0.002)
        assert area.low < 0.7602 < area.high
        assert area.high - area.low < 0.004

    @pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
    def test_interval_covers_the_truth(self, shift):
        rng = np.random.default_rng(1)
        truth = scipy.stats.norm.cdf(shift / math.sqrt(2))
        areas = [stats.roc_auc(rng.normal(shift, 1, 60), rng.normal(0, 1, 80)) for _ in range(1000)]
        covered = sum(area.low <= truth <= area.high for area in areas) / len(areas)
        assert 0.93 <= covered <= 0.975

    def test_swapping_the_sides_mirrors_it(self):
        rng = np.random.default_rng(2)
        one, other = rng.normal(1, 1, 30), rng.normal(0, 1, 40)
        area, mirrored = stats.roc_auc(one, other), stats.roc_auc(other, one)
        assert (area.value, area.low, area.high) == pytest.approx((
            1 - mirrored.value,
            1 - mirrored.high,
            1 - mirrored.low,
        ))
        assert area.n == 70

    def test_separated_scores_have_the_exact_bound_of_disjoint_pairs(self):
        area = stats.roc_auc(np.arange(40) + 100, np.arange(60))
        assert (area.value, area.high) == (1.0, 1.0)
        assert area.low == pytest.approx(scipy.stats.beta.ppf(0.025, 40, 1))
        assert (stats.roc_auc([0, 1], [2, 3]).low, stats.roc_auc([0, 1], [2, 3]).value) == (0.0, 0.0)

    def test_tied_scores_say_nothing_but_not_for_certain(self):
        area = stats.roc_auc(np.ones(30), np.ones(30))
        assert area.value == 0.5
        assert 0.4 < area.low < 0.5 < area.high < 0.6

    def test_one_score_on_a_side_has_no_interval(self):
        area = stats.roc_auc([1.0], [0.0, 2.0, 3.0])
        assert area.value == pytest.approx(1 / 3)
        assert math.isnan(area.low)
        assert math.isnan(area.high)

    @pytest.mark.parametrize(
        ("positive", "negative"), [([], [1.0]), ([1.0], []), ([math.nan], [1.0]), ([[1.0]], [1.0])]
    )
    def test_refuses_what_cannot_be_ranked(self, positive, negative):
        with pytest.raises(DataError, match="scores"):
            stats.roc_auc(positive, negative)

    def test_infinite_scores_have_a_rank(self):
        assert stats.roc_auc([math.inf, 1.0], [-math.inf, 0.0]).value == 1.0


def largest_set(positive, negative, fpr):
    """The slow and obvious way: every threshold is tried, the empty set and all sets of scores."""
    best = 0.0
    for t in [*positive, *negative]:
        if np.mean(np.array(negative) >= t) <= fpr:
            best = max(best, np.mean(np.array(positive) >= t))
    return best


class TestTprAtFpr:
    @settings(max_examples=30)
    @given(
        positive=SCORES,
        negative=st.lists(st.integers(-3, 3).map(float) | st.floats(-3, 3), min_size=100, max_size=120),
        fpr=st.sampled_from([0.1, 0.12, 0.29, 0.5, 0.9]),
    )
    def test_is_the_largest_set_and_scikit_learn_s(self, positive, negative, fpr):
        found = stats.tpr_at_fpr(positive, negative, fpr)
        truth = [1] * len(positive) + [0] * len(negative)
        false, true, _ = roc_curve(truth, positive + negative, drop_intermediate=False)
        assert found.value == true[false <= fpr].max()
        assert found.value == largest_set(positive, negative, fpr)
        hits = round(found.value * len(positive))
        exact = scipy.stats.binomtest(hits, len(positive)).proportion_ci(0.95, method="exact")
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-10)
        assert found.n == len(positive)

    def test_known_answers_of_two_normals(self):
        # quantiles in place of draws: no noise, and the answers follow to four digits
        grid = scipy.stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)
        assert stats.tpr_at_fpr(grid + 1, grid, 0.01).value == pytest.approx(0.0924, abs=5e-5)
        assert stats.tpr_at_fpr(grid + 1, grid, 0.001).value == pytest.approx(0.0183, abs=5e-5)
        assert stats.roc_auc(grid + 1, grid).value == pytest.approx(0.7602, abs=5e-5)
        rates = np.linspace(0.2, 0.4, 41)
        best = max((stats.tpr_at_fpr(grid + 1, grid, rate).value + 1 - rate) / 2 for rate in rates)
        assert best == pytest.approx(0.6915, abs=5e-5)

    def test_never_oversteps_where_the_nearest_would(self):
        # 1 % of 1,050 negatives is 10.5 of them: the nearest count of eleven is too many
        negative = np.arange(1050.0)
        positive = np.array([1050.0 - 10.5])  # above ten of them, not above eleven
        assert stats.tpr_at_fpr(positive, negative, 0.01).value == 1.0
        assert stats.tpr_at_fpr(positive - 1, negative, 0.01).value == 0.0

    def test_ties_that_overstep_leave_the_empty_set(self):
        found = stats.tpr_at_fpr(np.ones(20), np.ones(1000), 0.01)
        assert (found.value, found.low) == (0.0, 0.0)
        assert found.high == pytest.approx(scipy.stats.beta.ppf(0.975, 1, 20))

    @pytest.mark.parametrize(("fpr", "needed"), [(0.1, 100), (0.01, 1000), (0.001, 10_000), (0.03, 334)])
    def test_too_few_negatives_are_unresolved(self, fpr, needed):
        short = stats.tpr_at_fpr([1.0, 2.0], np.zeros(needed - 1), fpr)
        assert short.method == "unresolved"
        assert math.isnan(short.value)
        assert math.isnan(short.low)
        assert math.isnan(short.high)
        enough = stats.tpr_at_fpr([1.0, 2.0], np.zeros(needed), fpr)
        assert (enough.value, enough.method) == (1.0, "Clopper-Pearson, the threshold held fixed")

    def test_covers_the_rate_of_the_threshold_that_was_found(self):
        """Conservative, as Clopper-Pearson is; of the population's rate it may cover less, as documented."""
        rng, draws, fixed, moving = np.random.default_rng(0), 1000, 0, 0
        truth = scipy.stats.norm.sf(scipy.stats.norm.isf(0.1), loc=1)
        for _ in range(draws):
            positive, negative = rng.normal(1, 1, 400), rng.normal(0, 1, 400)
            found = stats.tpr_at_fpr(positive, negative, 0.1)
            at = scipy.stats.norm.sf(np.sort(negative)[-41], loc=1)
            fixed += found.low <= at <= found.high
            moving += found.low <= truth <= found.high
        assert fixed / draws >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / draws)
        assert moving < fixed

    @pytest.mark.parametrize(
        ("positive", "negative"), [([], [1.0]), ([1.0], []), ([math.nan], [1.0]), ([[1.0]], [1.0])]
    )
    def test_refuses_what_cannot_be_ranked(self, positive, negative):
        with pytest.raises(DataError, match="scores"):
            stats.tpr_at_fpr(positive, negative, 0.1)

    @pytest.mark.parametrize("fpr", [0.0, 1.0, 5.0, math.nan])
    def test_refuses_what_is_no_rate(self, fpr):
        with pytest.raises(UsageError, match="false-positive rate"):
            stats.tpr_at_fpr([1.0], [0.0], fpr)
