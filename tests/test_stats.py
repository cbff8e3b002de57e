"""The statistics against scipy, scikit-learn, textbook formulas and simulation."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

from secateur import stats
from secateur.errors import DataError, UsageError
from secateur.stats.predictor import _called_members


class TestWilson:
    @given(trials=st.integers(1, 3000), share=st.floats(0, 1), level=st.sampled_from([0.5, 0.9, 0.95, 0.999]))
    def test_agrees_with_scipy(self, trials, share, level):
        successes = round(share * trials)
        theirs = scipy.stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
        assert stats.wilson(successes, trials, level) == pytest.approx((theirs.low, theirs.high), abs=1e-12)

    def test_ends_are_exact_at_the_borders(self):
        assert stats.wilson(0, 7)[0] == 0.0
        assert stats.wilson(7, 7)[1] == 1.0
        assert stats.wilson(7, 7)[0] < 1.0

    def test_interval_carries_its_level_and_n(self):
        interval = stats.share_interval(np.int64(3), np.int64(12), 0.9)
        assert (interval.value, interval.level, interval.n) == (0.25, 0.9, 12)
        assert type(interval.n) is int
        assert (interval.low, interval.high) == stats.wilson(3, 12, 0.9)

    @pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
    def test_refuses_what_is_no_share(self, successes, trials):
        with pytest.raises(DataError, match="expected"):
            stats.wilson(successes, trials)

    @pytest.mark.parametrize("level", [0.0, 1.0, 95.0, math.nan])
    def test_refuses_what_is_no_level(self, level):
        with pytest.raises(UsageError, match="level"):
            stats.wilson(1, 2, level)


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


class TestMiaEfficacy:
    def test_first_is_the_published_code(self):
        rng = np.random.default_rng(0)
        retain, test, forget = rng.beta(8, 1, 300), rng.beta(2, 1, 120), rng.beta(4, 1, 90)
        classifier = SVC(C=3, gamma="auto", kernel="rbf")
        classifier.fit(
            np.concatenate([retain[:120], test]).reshape(-1, 1), np.concatenate([np.ones(120), np.zeros(120)])
        )
        published = 1 - classifier.predict(forget.reshape(-1, 1)).mean()
        assert 0.1 < published < 0.9
        assert stats.mia_efficacy(retain, test, forget, members="first") == pytest.approx(
            published, abs=1e-12
        )

    def test_sampled_draws_members_from_its_own_generator(self):
        rng = np.random.default_rng(1)
        retain, test, forget = rng.beta(8, 1, 300), rng.beta(2, 1, 120), rng.beta(4, 1, 90)
        rows = np.sort(np.random.default_rng(7).choice(300, 120, replace=False))
        expected = stats.mia_efficacy(retain[rows], test, forget, members="first")
        assert stats.mia_efficacy(retain, test, forget, seed=7) == expected

    def test_a_smaller_retain_sets_the_size_of_both(self):
        rng = np.random.default_rng(2)
        retain, test, forget = rng.beta(8, 1, 50), rng.beta(2, 1, 120), rng.beta(4, 1, 90)
        first = stats.mia_efficacy(retain, test, forget, members="first")
        assert first == stats.mia_efficacy(retain, test[:50], forget, members="first")
        rows = np.sort(np.random.default_rng(3).choice(120, 50, replace=False))
        sampled = stats.mia_efficacy(retain, test, forget, seed=3)
        assert sampled == stats.mia_efficacy(retain, test[rows], forget, members="first")

    def test_order_of_forget_does_not_matter_and_the_seed_does(self):
        rng = np.random.default_rng(4)
        retain, test, forget = rng.beta(3, 1, 400), rng.beta(2, 1, 40), rng.beta(2.5, 1, 201)
        shares = {stats.mia_efficacy(retain, test, rng.permutation(forget), seed=5) for _ in range(5)}
        assert len(shares) == 1
        assert len({stats.mia_efficacy(retain, test, forget, seed=seed) for seed in range(5)}) > 1

    def test_told_apart_and_not(self):
        members, others = np.linspace(0.9, 1, 50), np.linspace(0, 0.5, 50)
        assert stats.mia_efficacy(members, others, others) == 1.0
        assert stats.mia_efficacy(members, others, members) == 0.0

    def test_leaves_the_global_generator_alone(self):
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        stats.mia_efficacy(np.linspace(0.9, 1, 9), [0.1, 0.2], [0.3])
        assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002

    def test_refuses_what_is_no_probability_or_no_choice(self):
        with pytest.raises(DataError, match="probabilities of the true label for test"):
            stats.mia_efficacy([0.9], [-2.3], [0.5])
        with pytest.raises(DataError, match="forget"):
            stats.mia_efficacy([0.9], [0.3], [])
        with pytest.raises(UsageError, match="members"):
            stats.mia_efficacy([0.9], [0.3], [0.5], members="all")


def predictor(members, others):
    """The published predictor: dense rows, members first."""
    machine = SVC(C=3, gamma="auto", kernel="rbf")
    x = np.concatenate([members, others]).reshape(-1, 1)
    return machine.fit(x, np.concatenate([np.ones(len(members)), np.zeros(len(others))]))


class TestPredictor:
    @pytest.mark.parametrize("seed", range(6))
    def test_answers_are_those_of_the_plain_machine(self, seed):
        # as a model that knows its rows by heart gives them: most next to 1, some equal to it in double
        rng = np.random.default_rng(seed)
        margins = rng.normal(12, 6, 500), rng.normal(8, 8, 400)
        members, others = (1 / (1 + np.exp(-m)) for m in margins)
        asked = np.concatenate([members, others, rng.uniform(size=200), [0.0, 1.0, 1.0]])
        ours = _called_members(members, others, asked)
        assert np.array_equal(ours, predictor(members, others).predict(asked[:, None]) == 1)
        assert 0 < ours.mean() < 1

    @pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
    def test_a_constant_model_is_a_case_too(self, value):
        same = np.full(9, value)
        expected = predictor(same, same).predict(same[:, None]) == 1
        assert np.array_equal(_called_members(same, same, same), expected)


class TestMiaPrivacy:
    @pytest.mark.parametrize(("sizes", "scored"), [((300, 120), 60), ((50, 121), 25), ((41, 41), 21)])
    def test_is_the_mean_recall_on_the_other_halves(self, sizes, scored):
        rng = np.random.default_rng(0)
        retain, test = rng.beta(8, 1, sizes[0]), rng.beta(2, 1, sizes[1])
        found, count = stats.mia_privacy(retain, test, seed=3), min(sizes)
        rng = np.random.default_rng(3)
        members = retain[rng.permutation(len(retain))[:count]]
        others = test[rng.permutation(len(test))[:count]]
        half = count - scored
        machine = predictor(members[:half], others[:half])
        recalls = (
            machine.predict(members[half:].reshape(-1, 1)).mean(),
            1 - machine.predict(others[half:].reshape(-1, 1)).mean(),
        )
        assert found.value == pytest.approx(np.mean(recalls), abs=1e-12)
        assert 0.5 < found.value < 1
        both = [(round(recall * scored), scored) for recall in recalls]
        assert (found.low, found.high) == pytest.approx(
            (stats.mean_share(both).low, stats.mean_share(both).high), abs=1e-12
        )
        assert found.n == 2 * scored

    def test_told_apart_and_not(self):
        apart = stats.mia_privacy(np.linspace(0.9, 1, 200), np.linspace(0, 0.5, 200))
        assert (apart.value, apart.high) == (1.0, 1.0)
        assert 0.97 < apart.low < 1
        rng = np.random.default_rng(1)
        alike = [stats.mia_privacy(rng.beta(5, 1, 200), rng.beta(5, 1, 200), seed=seed) for seed in range(40)]
        assert np.mean([one.value for one in alike]) == pytest.approx(0.5, abs=0.02)
        assert sum(one.low <= 0.5 <= one.high for one in alike) >= 35

    def test_the_halves_are_seeded(self):
        rng = np.random.default_rng(2)
        retain, test = rng.beta(3, 1, 200), rng.beta(2, 1, 100)
        values = [stats.mia_privacy(retain, test, seed=seed).value for seed in (0, 1, 2, 0)]
        assert values[0] == values[3]
        assert len(set(values)) > 1

    def test_refuses_what_has_no_halves_or_is_no_probability(self):
        with pytest.raises(DataError, match="at least two retain and two test rows, got 1 and 3"):
            stats.mia_privacy([0.9], [0.1, 0.2, 0.3])
        with pytest.raises(DataError, match="probabilities of the true label for test"):
            stats.mia_privacy([0.9, 0.8], [2.0, 0.1])
        with pytest.raises(UsageError, match="level"):
            stats.mia_privacy([0.9, 0.8], [0.3, 0.1], level=95)
        assert stats.mia_privacy([0.9, 0.8], [0.3, 0.1]).n == 2


class TestMeanShare:
    def test_of_one_is_wilson_s(self):
        one, wilson = stats.mean_share([(7, 20)], 0.9), stats.share_interval(7, 20, 0.9)
        assert (one.value, one.n, one.level) == (wilson.value, wilson.n, wilson.level)
        assert (one.low, one.high) == pytest.approx((wilson.low, wilson.high))

    def test_a_published_example(self):
        # Newcombe 1998, table II, method 10: 56/70 - 48/80 is 0.2 with [0.0524, 0.3339]; a difference is the
        # sum with what failed, less one
        half = stats.mean_share([(56, 70), (80 - 48, 80)])
        assert (2 * half.low - 1, 2 * half.high - 1) == pytest.approx((0.0524, 0.3339), abs=5e-5)
        assert half.value == pytest.approx((0.2 + 1) / 2)

    @pytest.mark.parametrize("truth", [(0.5, 0.5), (0.95, 0.1), (0.9, 0.98), (0.99, 0.99)])
    def test_covers_the_truth(self, truth):
        trials, covered = (40, 60), 0.0
        chances = [scipy.stats.binom.pmf(range(n + 1), n, p) for n, p in zip(trials, truth, strict=True)]
        for a, first in enumerate(chances[0]):
            for b, second in enumerate(chances[1]):
                if first * second > 1e-9:
                    both = stats.mean_share([(a, 40), (b, 60)])
                    covered += first * second * (both.low <= np.mean(truth) <= both.high)
        assert 0.92 <= covered <= 0.98  # by enumeration; near the ends Wilson's intervals dip too

    def test_stays_in_bounds_and_is_exact_there(self):
        assert (stats.mean_share([(5, 5), (9, 9)]).high, stats.mean_share([(0, 5), (0, 9)]).low) == (1.0, 0.0)
        with pytest.raises(DataError, match="at least one trial"):
            stats.mean_share([(1, 2), (0, 0)])


def misses(rate, count, *, step, draws=4000, level=0.9875):
    """How often one more Poisson count misses the band of ``count`` of them."""
    rows = np.random.default_rng(int(1000 * rate) + count).poisson(rate, (draws, count + 1))
    bands = [stats.prediction_interval(row[:count], level, step=step) for row in rows]
    return sum(not band.low <= row[count] <= band.high for band, row in zip(bands, rows, strict=True)) / draws


class TestIntervalsOverModels:
    @pytest.mark.parametrize(("count", "factor"), [(3, 4.97), (5, 3.04), (10, 2.37)])
    def test_prediction_factors(self, count, factor):
        x = np.random.default_rng(count).normal(7, 2, count)
        band = stats.prediction_interval(x)
        assert (band.high - band.low) / 2 / x.std(ddof=1) == pytest.approx(factor, abs=0.005)
        assert (band.high + band.low) / 2 == pytest.approx(x.mean())
        assert (band.value, band.n) == (pytest.approx(x.mean()), count)

    def test_a_step_widens_both_sides(self):
        narrow, wide = stats.prediction_interval([3.0] * 5), stats.prediction_interval([3.0] * 5, step=0.25)
        assert (narrow.low, narrow.high) == (3.0, 3.0)
        assert (wide.low, wide.high) == (2.75, 3.25)
        assert "step" in wide.method
        assert "step" not in narrow.method

    def test_one_value_has_no_spread(self):
        make = stats.prediction_interval
        assert make([2.5]).value == 2.5
        assert math.isnan(make([2.5]).low)
        assert math.isnan(make([2.5]).high)
        assert math.isnan(make([]).value)
        assert make([]).n == 0
        with pytest.raises(DataError, match="finite"):
            make([1.0, math.nan])

    @pytest.mark.parametrize("rate", [0.02, 0.2, 0.35, 1.0, 5.0])
    @pytest.mark.parametrize("count", [5, 10])
    def test_a_further_count_misses_the_band_no_more_often_than_stated(self, rate, count):
        """Small counts, often all equal, are the worst place for a normal band."""
        assert misses(rate, count, step=1.0) <= 0.0125 + 0.004

    def test_without_the_step_a_further_count_misses_several_times_as_often(self):
        assert misses(0.2, 5, step=0.0) > 0.05

    def test_mean_size_spans_what_its_parts_allow(self):
        rng = np.random.default_rng(0)
        ends = np.sort(rng.normal(0, 2, (4, 2)), axis=1)
        parts = [
            stats.Interval(value=float(low + high) / 2, low=low, high=high, level=0.9875, n=5, method="")
            for low, high in ends
        ]
        size = stats.mean_size(parts, 0.95)
        tries = np.abs(rng.uniform(ends[:, 0], ends[:, 1], (20_000, 4))).mean(axis=1)
        assert size.low <= tries.min() < size.low + 0.2
        assert size.high - 0.3 < tries.max() <= size.high
        assert size.low <= size.value <= size.high
        assert (size.level, size.n) == (0.95, 5)

    def test_mean_size_without_intervals_has_none(self):
        part = stats.Interval(value=-2.0, low=math.nan, high=math.nan, level=0.9, n=1, method="")
        size = stats.mean_size([part, part])
        assert size.value == 2.0
        assert math.isnan(size.low)
        assert math.isnan(size.high)
