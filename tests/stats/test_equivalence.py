"""Equivalence and multiple tests against scipy and simulation at the margin."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from secateur import stats
from secateur.errors import DataError, UsageError


class TestTost:
    @pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
    @pytest.mark.parametrize("shift", [-0.9, 0.0, 0.4, 2.0])
    def test_is_two_one_sided_t_tests(self, shift, alpha):
        x = np.random.default_rng(0).normal(shift, 1, 12)
        found = stats.tost(x, 1.0, alpha=alpha)
        below = scipy.stats.ttest_1samp(x, -1.0, alternative="greater")
        above = scipy.stats.ttest_1samp(x, 1.0, alternative="less")
        assert found.p == pytest.approx(max(below.pvalue, above.pvalue), rel=1e-9)
        ends = scipy.stats.ttest_1samp(x, 0.0).confidence_interval(1 - 2 * alpha)
        assert (found.difference.low, found.difference.high) == pytest.approx((ends.low, ends.high))
        assert (found.difference.value, found.difference.n) == (pytest.approx(x.mean()), 12)
        assert found.difference.level == pytest.approx(1 - 2 * alpha)
        assert found.equivalent == (ends.low > -1.0 and ends.high < 1.0)

    def test_a_mean_at_the_margin_passes_in_alpha_of_draws(self):
        rng, draws = np.random.default_rng(1), 4000
        passed = sum(stats.tost(x, 1.0).equivalent for x in rng.normal(1.0, 0.5, (draws, 10))) / draws
        assert passed == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / draws))

    @pytest.mark.parametrize(("pairs", "power"), [(3, 0.28), (5, 0.68), (10, 0.985)])
    def test_power_is_the_closed_form_s(self, pairs, power):
        # exact retrains of deviation 1, paired over seeds, margin 2: AUDIT.md has 69 % at 5 and 99 % at 10.
        # Mean and spread are independent: integrate over the spread
        error, reach = math.sqrt(2 / pairs), scipy.stats.t.ppf(0.95, pairs - 1)

        def passing(square):
            room = 2.0 / error - reach * math.sqrt(square / (pairs - 1))
            return max(2 * scipy.stats.norm.cdf(room) - 1, 0.0) * scipy.stats.chi2.pdf(square, pairs - 1)

        exact, _ = scipy.integrate.quad(passing, 0, (pairs - 1) * (2.0 / error / reach) ** 2)
        assert exact == pytest.approx(power, abs=0.015)
        draws = np.random.default_rng(2).normal(0, math.sqrt(2), (2000, pairs))
        passed = np.mean([stats.tost(x, 2.0).equivalent for x in draws])
        assert passed == pytest.approx(exact, abs=3 * math.sqrt(exact * (1 - exact) / 2000))

    def test_not_different_is_not_the_same(self):
        x = np.random.default_rng(3).normal(0, 5, 4)
        assert scipy.stats.ttest_1samp(x, 0.0).pvalue > 0.05
        assert not stats.tost(x, 1.0).equivalent

    def test_one_pair_and_no_spread(self):
        one = stats.tost([0.0], 1.0)
        assert math.isnan(one.p)
        assert math.isnan(one.difference.low)
        assert not one.equivalent
        alike = stats.tost([0.25, 0.25, 0.25], 1.0)
        assert (alike.p, alike.equivalent, alike.difference.low) == (0.0, True, 0.25)
        assert [stats.tost([x, x], 1.0).p for x in (1.0, -1.0, 2.0)] == [0.5, 0.5, 1.0]

    @pytest.mark.parametrize("x", [[], [math.nan], [[1.0]], [math.inf, 0.0]])
    def test_refuses_what_has_no_mean(self, x):
        with pytest.raises(DataError, match="finite paired differences"):
            stats.tost(x, 1.0)

    @pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf])
    def test_refuses_what_is_no_margin(self, margin):
        with pytest.raises(UsageError, match="declare beforehand"):
            stats.tost([0.0, 1.0], margin)

    @pytest.mark.parametrize("alpha", [0.0, 0.5, 95.0, math.nan])
    def test_refuses_what_is_no_error_rate(self, alpha):
        with pytest.raises(UsageError, match="error rate"):
            stats.tost([0.0, 1.0], 1.0, alpha=alpha)


class TestBenjaminiHochberg:
    @given(p=st.lists(st.sampled_from([0.0, 0.01, 0.04, 1.0]) | st.floats(0, 1), min_size=1, max_size=30))
    def test_agrees_with_scipy_and_the_step_up_rule(self, p):
        adjusted, rejected = stats.benjamini_hochberg(p, q=0.1)
        assert adjusted == pytest.approx(scipy.stats.false_discovery_control(p), abs=1e-12)
        last = max((k for k, one in enumerate(sorted(p), 1) if one <= k / len(p) * 0.1), default=0)
        limit = sorted(p)[last - 1] if last else -1.0
        edge = any(math.isclose(one, 0.1, rel_tol=1e-9) for one in adjusted)
        assert edge or rejected.tolist() == [one <= limit for one in p]

    def test_published_example(self):
        # Benjamini and Hochberg 1995, section 4.1: four of fifteen at q = .05
        p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719]
        p += [0.6528, 0.7590, 1.0]
        assert stats.benjamini_hochberg(p, q=0.05)[1].tolist() == [True] * 4 + [False] * 11

    @pytest.mark.parametrize("p", [[], [1.2], [-0.1, 0.5], [math.nan], [[0.5]]])
    def test_refuses_what_is_no_p_value(self, p):
        with pytest.raises(DataError, match="p-values"):
            stats.benjamini_hochberg(p, q=0.05)

    @pytest.mark.parametrize("q", [0.0, 1.0, 5.0, math.nan])
    def test_refuses_what_is_no_rate(self, q):
        with pytest.raises(UsageError, match="false discovery rate"):
            stats.benjamini_hochberg([0.1], q=q)
