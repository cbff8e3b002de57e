"""Intervals against scipy, textbook formulas, published tables and enumeration."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from secateur import stats
from secateur.errors import DataError, UsageError


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


class TestClopperPearson:
    @given(trials=st.integers(1, 3000), share=st.floats(0, 1), level=st.sampled_from([0.5, 0.9, 0.95, 0.999]))
    def test_agrees_with_scipy(self, trials, share, level):
        successes = round(share * trials)
        theirs = scipy.stats.binomtest(successes, trials).proportion_ci(level, method="exact")
        assert stats.clopper_pearson(successes, trials, level) == pytest.approx(
            (theirs.low, theirs.high), abs=1e-10
        )

    @pytest.mark.parametrize(
        ("successes", "low", "high"), [(0, 0.0, 0.3085), (8, 0.4439, 0.9748), (10, 0.6915, 1.0)]
    )
    def test_published_table_of_ten_trials(self, successes, low, high):
        assert stats.clopper_pearson(successes, 10) == pytest.approx((low, high), abs=5e-5)

    def test_ends_are_exact_at_the_borders(self):
        assert stats.clopper_pearson(0, 7)[0] == 0.0
        assert stats.clopper_pearson(7, 7)[1] == 1.0

    def test_takes_numpy_s_counts(self):
        assert stats.clopper_pearson(np.int64(3), np.int64(9)) == stats.clopper_pearson(3, 9)

    @pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
    def test_refuses_what_is_no_share(self, successes, trials):
        with pytest.raises(DataError, match="expected"):
            stats.clopper_pearson(successes, trials)

    def test_refuses_what_is_no_level(self):
        with pytest.raises(UsageError, match="level"):
            stats.clopper_pearson(1, 2, 95)


def coverage(make, trials, share):
    """How often an interval holds the true share: not simulated, but summed over every outcome."""
    ends = [make(successes, trials) for successes in range(trials + 1)]
    chances = scipy.stats.binom.pmf(np.arange(trials + 1), trials, share)
    return sum(c for c, (low, high) in zip(chances, ends, strict=True) if low <= share <= high)


class TestCoverage:
    @pytest.mark.parametrize("trials", [10, 50, 200])
    def test_clopper_pearson_never_falls_short_and_wilson_does_not_on_average(self, trials):
        shares = np.linspace(0.005, 0.995, 67)
        exact = [coverage(stats.clopper_pearson, trials, share) for share in shares]
        score = [coverage(stats.wilson, trials, share) for share in shares]
        assert min(exact) >= 0.95
        assert np.mean(score) == pytest.approx(0.95, abs=0.01)
        assert min(score) < 0.95  # which is the price of the shorter interval
        assert np.mean(exact) > np.mean(score)


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
