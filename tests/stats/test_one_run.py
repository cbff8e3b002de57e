"""The one-run bound against the published numbers, closed forms, a slow loop and simulation."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur import stats
from secateur.errors import DataError, UsageError


def slow_tail(epsilon, correct, guesses, canaries, delta):
    """Steinke, Nasr and Jagielski 2023, corollary 5.4, one term at a time."""
    q = 1 / (1 + math.exp(-epsilon))
    b = scipy.stats.binom(guesses, q)
    worst = max(
        (sum(b.pmf(k) for k in range(correct - i, correct)) / i for i in range(1, correct + 1)), default=0.0
    )
    return b.sf(correct - 1) + 2 * canaries * delta * worst


class TestOneRun:
    @pytest.mark.parametrize(
        ("correct", "guesses", "canaries", "delta", "published"),
        [
            (75, 100, 1000, 1e-4, 0.673),  # arXiv 2305.08846, appendix D
            (1439, 1510, 100_000, 1e-5, 2.675),  # section 7, figure 11; cut off, not rounded
        ],
    )
    def test_published_numbers(self, correct, guesses, canaries, delta, published):
        found = stats.one_run_epsilon(correct, guesses, canaries=canaries, delta=delta)
        assert found == pytest.approx(published, abs=1e-3)

    @given(guesses=st.integers(1, 3000), share=st.floats(0, 1), alpha=st.floats(0.001, 0.49))
    def test_without_delta_it_is_the_exact_limit_of_a_share(self, guesses, share, alpha):
        correct = round(share * guesses)
        limit = scipy.stats.beta.ppf(alpha, correct, guesses - correct + 1) if correct else 0.0
        exact = max(math.log(limit / (1 - limit)), 0.0) if limit else 0.0
        assert stats.one_run_epsilon(correct, guesses, alpha=alpha) == pytest.approx(exact, abs=1e-7)

    @settings(max_examples=25, deadline=None)
    @given(
        guesses=st.integers(1, 40), share=st.floats(0.5, 1), idle=st.integers(0, 500), power=st.integers(1, 6)
    )
    def test_with_delta_the_slow_tail_crosses_alpha_there(self, guesses, share, idle, power):
        correct, canaries, delta = round(share * guesses), guesses + idle, 10.0**-power
        found = stats.one_run_epsilon(correct, guesses, canaries=canaries, delta=delta)
        asked = (correct, guesses, canaries, delta)
        if found == 0:
            assert slow_tail(0.0, *asked) >= 0.05 - 1e-9
        else:
            assert slow_tail(found, *asked) == pytest.approx(0.05, abs=1e-6)
            for lower in np.linspace(0, found, 7)[:-1]:  # it crosses once: all below is rejected too
                assert slow_tail(lower, *asked) < 0.05
        assert found <= stats.one_run_epsilon(correct, guesses)

    def test_randomised_response_exceeds_its_epsilon_in_alpha_of_draws_at_most(self):
        # the mechanism for which the tail is exact: summed over every outcome, no simulation
        for epsilon, guesses in ((0.5, 40), (2.0, 100), (3.0, 300)):
            chances = scipy.stats.binom.pmf(np.arange(guesses + 1), guesses, 1 / (1 + math.exp(-epsilon)))
            wrong = sum(
                c for v, c in enumerate(chances) if c > 1e-9 and stats.one_run_epsilon(v, guesses) > epsilon
            )
            assert 0.02 < wrong <= 0.05

    def test_guessing_shows_nothing(self):
        assert [stats.one_run_epsilon(v, 100) for v in (0, 40, 50, 58)] == [0.0] * 4
        assert stats.one_run_epsilon(59, 100) > 0
        assert stats.one_run_epsilon(0, 10, canaries=10, delta=0.1) == 0.0

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ({"correct": 1, "guesses": 0}, "at least one trial"),
            ({"correct": 5, "guesses": 4}, "successes in 0..4"),
            ({"correct": 3, "guesses": 4, "canaries": 3}, "as many canaries as guesses, got 3 and 4"),
        ],
    )
    def test_refuses_counts_that_do_not_fit(self, asked, said):
        with pytest.raises(DataError, match=said):
            stats.one_run_epsilon(**asked)

    def test_refuses_knobs_in_one_sentence(self):
        with pytest.raises(UsageError, match="expected canaries"):
            stats.one_run_epsilon(3, 4, delta=1e-5)
        with pytest.raises(UsageError, match="delta in"):
            stats.one_run_epsilon(3, 4, canaries=4, delta=-0.1)
        with pytest.raises(UsageError, match="error rate"):
            stats.one_run_epsilon(3, 4, alpha=0.0)
