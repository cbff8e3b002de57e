"""Lower bounds on epsilon against mechanisms whose epsilon is known, slow loops and their own ceiling."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur import stats
from secateur.errors import DataError, UsageError
from secateur.stats.privacy import _bounds

WAYS = pytest.mark.parametrize("way", ["split", "bonferroni"])


def laplace(rng, count, epsilon=2.0):
    return rng.laplace(1, 1 / epsilon, count), rng.laplace(0, 1 / epsilon, count)


def randomised_response(rng, count, epsilon=2.0):
    keep = math.exp(epsilon) / (1 + math.exp(epsilon))
    return (rng.random(count) < keep) * 1.0, (rng.random(count) < 1 - keep) * 1.0


def gaussian(rng, count, mu=2.0):
    return rng.normal(mu, 1, count), rng.normal(0, 1, count)


def gaussian_epsilon(mu, delta):
    """The exact epsilon of the Gaussian mechanism at ``delta`` (Balle and Wang 2018, theorem 8)."""
    cdf = scipy.stats.norm.cdf

    def spare(epsilon):
        return cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * cdf(-mu / 2 - epsilon / mu) - delta

    return scipy.optimize.brentq(spare, 0, 50)


def slow_bounds(member, nonmember, delta, alpha):
    """Every member's score as a threshold, in both directions, one count at a time."""
    upper = scipy.stats.beta.ppf
    rows = []
    for at_least in (True, False):
        row = []
        for t in member:
            accused = sum(x >= t if at_least else x <= t for x in nonmember)
            missed = sum(x < t if at_least else x > t for x in member)
            fpr, fnr = (
                upper(1 - alpha / 2, k + 1, n - k) if k < n else 1.0
                for k, n in ((accused, len(nonmember)), (missed, len(member)))
            )
            row.append(
                max(
                    math.log((1 - delta - one) / other) if one < 1 - delta else -math.inf
                    for one, other in ((fpr, fnr), (fnr, fpr))
                )
            )
        rows.append(row)
    return np.array(rows)


class TestBound:
    @settings(max_examples=25, deadline=None)
    @given(seed=st.integers(0, 10_000), delta=st.sampled_from([0.0, 0.01]), ties=st.booleans())
    def test_bonferroni_is_the_slow_loop(self, seed, delta, ties):
        rng = np.random.default_rng(seed)
        member, nonmember = rng.normal(3, 1, rng.integers(1, 25)), rng.normal(0, 1, rng.integers(1, 25))
        if ties:
            member, nonmember = member.round(), nonmember.round()
        found = stats.epsilon_lower_bound(member, nonmember, delta=delta, threshold="bonferroni")
        slow = slow_bounds(member, nonmember, delta, 0.05 / (2 * len(member))).max()
        assert found.value == pytest.approx(max(slow, 0.0), abs=1e-9)

    def test_a_threshold_between_members_is_never_better(self):
        rng = np.random.default_rng(0)
        member, nonmember = rng.normal(1, 1, 40), rng.normal(0, 1, 30)
        every = np.concatenate([member, nonmember, rng.normal(0.5, 2, 500)])
        best = _bounds(member, nonmember, member, 0.0, 0.05).max()
        assert _bounds(member, nonmember, every, 0.0, 0.05).max() == best

    @WAYS
    def test_a_low_score_of_members_is_found_as_well_as_a_high_one(self, way):
        member, nonmember = laplace(np.random.default_rng(1), 300)
        high = stats.epsilon_lower_bound(member, nonmember, threshold=way, rng=np.random.default_rng(2))
        low = stats.epsilon_lower_bound(-member, -nonmember, threshold=way, rng=np.random.default_rng(2))
        assert high.value == low.value > 0.5

    @WAYS
    def test_separated_scores_reach_the_ceiling(self, way):
        member, nonmember = np.linspace(10, 11, 64), np.linspace(0, 1, 64)
        found = stats.epsilon_lower_bound(
            member, nonmember, delta=0.01, threshold=way, rng=np.random.default_rng(0)
        )
        assert found.value == pytest.approx(stats.epsilon_ceiling(64, delta=0.01, threshold=way))

    def test_says_what_it_rests_on(self):
        member, nonmember = laplace(np.random.default_rng(0), 51)
        split = stats.epsilon_lower_bound(member, nonmember[:20], rng=np.random.default_rng(0), alpha=0.1)
        assert (split.n, split.level, split.high) == (26 + 10, 0.9, math.inf)
        assert split.value == split.low
        assert "split half" in split.method
        every = stats.epsilon_lower_bound(member, nonmember[:20], threshold="bonferroni")
        assert every.n == 71
        assert "Bonferroni over 102" in every.method

    @WAYS
    def test_infinite_scores_have_a_rank(self, way):
        member, nonmember = np.full(50, math.inf), np.full(50, -math.inf)
        found = stats.epsilon_lower_bound(member, nonmember, threshold=way, rng=np.random.default_rng(0))
        assert found.value == pytest.approx(stats.epsilon_ceiling(50, threshold=way))

    @pytest.mark.parametrize(
        ("member", "nonmember", "error", "said"),
        [
            ([], [1.0], DataError, "member scores .* at least one"),
            ([1.0], [math.nan], DataError, "nonmember scores without NaN"),
            ([1.0], [0.0, 1.0], DataError, "at least two scores on each side, got 1 and 2"),
        ],
    )
    def test_refuses_scores_in_one_sentence(self, member, nonmember, error, said):
        with pytest.raises(error, match=said):
            stats.epsilon_lower_bound(member, nonmember, rng=np.random.default_rng(0))

    def test_refuses_knobs_in_one_sentence(self):
        scores = [0.0, 1.0, 2.0]
        with pytest.raises(UsageError, match="expected rng, a numpy Generator, got none"):
            stats.epsilon_lower_bound(scores, scores)
        with pytest.raises(UsageError, match='"split" or "bonferroni", got \'best\''):
            stats.epsilon_lower_bound(scores, scores, threshold="best")
        with pytest.raises(UsageError, match="error rate"):
            stats.epsilon_lower_bound(scores, scores, threshold="bonferroni", alpha=0.95)
        with pytest.raises(UsageError, match="delta"):
            stats.epsilon_lower_bound(scores, scores, threshold="bonferroni", delta=1.0)


class TestCeiling:
    @pytest.mark.parametrize(("k", "ceiling"), [(8, 0.53), (32, 2.10), (64, 2.82), (256, 4.23), (512, 4.93)])
    def test_known_answers(self, k, ceiling):
        assert stats.epsilon_ceiling(k) == pytest.approx(ceiling, abs=0.005)
        assert stats.epsilon_ceiling(2 * k, threshold="split") == stats.epsilon_ceiling(k)

    @given(k=st.integers(2, 2000), delta=st.floats(0, 0.1), alpha=st.floats(0.001, 0.4))
    def test_is_the_closed_form(self, k, delta, alpha):
        for way, share, judges in (("fixed", 1, k), ("split", 1, -(-k // 2)), ("bonferroni", 2 * k, k)):
            upper = 1 - (alpha / share / 2) ** (1 / judges)  # of 0 errors in k trials
            exact = math.log((1 - delta - upper) / upper) if upper < 1 - delta else 0.0
            found = stats.epsilon_ceiling(k, delta=delta, alpha=alpha, threshold=way)
            assert found == pytest.approx(max(exact, 0.0), abs=1e-9)

    def test_one_model_shows_nothing_and_none_is_refused(self):
        assert stats.epsilon_ceiling(1) == 0.0
        for k, way in ((0, "fixed"), (1, "split"), (0, "bonferroni")):
            with pytest.raises(UsageError, match="models a side"):
                stats.epsilon_ceiling(k, threshold=way)
        with pytest.raises(UsageError, match='"fixed", "split" or "bonferroni"'):
            stats.epsilon_ceiling(8, threshold="any")


def found_bounds(draw, way, *, draws, count, delta=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return np.array([
        stats.epsilon_lower_bound(*draw(rng, count), delta=delta, threshold=way, rng=rng).value
        for _ in range(draws)
    ])


class TestCoverage:
    """The bound may exceed the truth in 5 % of draws; it does in far fewer, because both limits must fail.

    A union bound joins the limits of FPR and FNR, and Bonferroni's many thresholds go together: conservative.
    """

    @WAYS
    def test_identical_distributions_show_nothing(self, way):
        bounds = found_bounds(lambda rng, n: rng.normal(size=(2, n)), way, draws=200, count=64)
        assert (bounds == 0).mean() >= 0.95

    def test_a_threshold_chosen_on_the_scores_that_it_is_judged_by_would_show_something(self):
        rng = np.random.default_rng(0)
        pairs = [rng.normal(size=(2, 256)) for _ in range(300)]
        wrong = np.mean([_bounds(one, other, one, 0.0, 0.05).max() > 0 for one, other in pairs])
        assert wrong > 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)

    @WAYS
    def test_laplace_of_epsilon_2_with_256_models(self, way):
        bounds = found_bounds(laplace, way, draws=200, count=256)
        assert (bounds > 2).mean() <= 0.05
        assert np.median(bounds) >= 0.9

    @pytest.mark.slow
    @WAYS
    @pytest.mark.parametrize(
        ("draw", "delta", "truth"),
        [
            (laplace, 0.0, 2.0),
            (randomised_response, 0.0, 2.0),
            (gaussian, 0.05, gaussian_epsilon(2.0, 0.05)),
            (lambda rng, n: rng.normal(size=(2, n)), 0.0, 0.0),
            # few members and many others, all of them tied with somebody
            (lambda rng, n: (rng.integers(0, 4, n // 4), rng.integers(0, 4, 4 * n)), 0.0, 0.0),
        ],
        ids=["Laplace", "randomised response", "Gaussian with delta", "null", "null with ties"],
    )
    def test_exceeds_the_truth_in_at_most_alpha_of_draws(self, way, draw, delta, truth):
        bounds = found_bounds(draw, way, draws=1000, count=64, delta=delta, seed=3)
        assert (bounds > truth).mean() <= 0.05
        if truth:
            assert np.median(bounds) > 0.1 * truth  # and it is no bound that is always 0

    def test_the_gaussian_s_epsilon_is_that_of_its_definition(self):
        epsilon = gaussian_epsilon(2.0, 0.05)
        x = np.linspace(-15, 15, 300_001)
        excess = scipy.stats.norm.pdf(x, 2) - math.exp(epsilon) * scipy.stats.norm.pdf(x)
        assert np.trapezoid(np.maximum(excess, 0), x) == pytest.approx(0.05, abs=1e-6)
