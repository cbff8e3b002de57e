"""The bootstrap against scipy's, every possible draw, and coverage in closed form."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from secateur import stats
from secateur.errors import DataError, UsageError


def rng(seed=0):
    return np.random.default_rng(seed)


class TestBootstrap:
    def test_agrees_with_scipy_s_percentiles(self):
        x = rng().gamma(2, 1, 60)
        theirs = scipy.stats.bootstrap(
            (x,), np.median, method="percentile", n_resamples=4000, rng=rng(1), vectorized=False
        ).confidence_interval
        found = stats.bootstrap(np.median, x, draws=4000, rng=rng(2))
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.06)
        assert (found.value, found.n, found.level) == (np.median(x), 60, 0.95)

    def test_converges_to_the_quantiles_of_all_possible_draws(self):
        x = np.array([0.0, 1.0, 5.0, 7.0])
        every = [np.mean(draw) for draw in itertools.product(x, repeat=4)]
        found = stats.bootstrap(np.mean, x, level=0.8, draws=20_000, rng=rng())
        exact = np.quantile(every, [0.1, 0.9])
        assert (found.low, found.high) == pytest.approx(tuple(exact), abs=0.26)  # one step of the mean

    def test_clusters_are_drawn_whole(self):
        clusters, seen = np.array(["b", "a", "b", "c", "a", "b"]), set()

        def look(rows):
            counts = {name: int((rows == name).sum()) for name in "abc"}
            seen.add(counts["a"] % 2 == 0 and counts["b"] % 3 == 0 and sum(counts.values()) >= 3)
            return float(counts["a"] / 2 + counts["b"] / 3 + counts["c"])

        found = stats.bootstrap(look, clusters, draws=200, rng=rng(), clusters=clusters)
        assert seen == {True}
        assert (found.value, found.low, found.high, found.n) == (3.0, 3.0, 3.0, 3)
        assert "clusters" in found.method

    def test_singleton_clusters_are_rows(self):
        x = rng().normal(size=20)
        by_row = stats.bootstrap(np.mean, x, draws=300, rng=rng(1))
        by_cluster = stats.bootstrap(np.mean, x, draws=300, rng=rng(1), clusters=np.arange(20))
        assert (by_row.low, by_row.high) == (by_cluster.low, by_cluster.high)

    def test_draws_along_the_first_axis_of_many_columns(self):
        table = np.column_stack([np.arange(50.0), 2 * np.arange(50.0)])
        found = stats.bootstrap(lambda t: np.corrcoef(t.T)[0, 1], table, draws=100, rng=rng())
        assert (found.low, found.high) == pytest.approx((1.0, 1.0))

    def test_same_generator_same_interval(self):
        x = rng().normal(size=30)
        one, same, other = (stats.bootstrap(np.mean, x, draws=200, rng=rng(seed)) for seed in (5, 5, 6))
        assert one == same
        assert one.low != other.low

    def test_one_unit_has_no_interval(self):
        found = stats.bootstrap(np.mean, [1.0, 3.0], rng=rng(), clusters=[7, 7])
        assert (found.value, found.n) == (2.0, 1)
        assert math.isnan(found.low)
        assert math.isnan(found.high)

    def test_refuses_in_one_sentence(self):
        with pytest.raises(DataError, match="at least one row"):
            stats.bootstrap(np.mean, [], rng=rng())
        with pytest.raises(DataError, match=r"one cluster a row, shape \(2,\), got shape \(3,\)"):
            stats.bootstrap(np.mean, [1.0, 2.0], rng=rng(), clusters=[1, 2, 3])
        with pytest.raises(DataError, match=r"finite statistic .* got 101 of 101"):
            stats.bootstrap(np.mean, [math.nan, math.nan], draws=100, rng=rng())
        with pytest.raises(DataError, match="can leave out what the statistic needs"):
            stats.bootstrap(lambda x: 1.0 if x.any() else math.nan, [0.0, 1.0], draws=100, rng=rng())
        with pytest.raises(UsageError, match="at least 100 draws, got 99"):
            stats.bootstrap(np.mean, [1.0, 2.0], draws=99, rng=rng())
        with pytest.raises(UsageError, match="level"):
            stats.bootstrap(np.mean, [1.0, 2.0], level=95, rng=rng())

    @pytest.mark.slow
    @pytest.mark.parametrize(("units", "documented"), [(10, 0.91), (40, 0.94)])
    def test_covers_a_mean_as_documented(self, units, documented):
        """A little short: for normal data nearly as a z interval with the deviation that divides by n."""
        closed = (
            2 * scipy.stats.t.cdf(scipy.stats.norm.ppf(0.975) * math.sqrt((units - 1) / units), units - 1) - 1
        )
        assert closed == pytest.approx(documented, abs=0.01)
        draws, generator, covered = 1000, rng(1), 0
        for _ in range(draws):
            found = stats.bootstrap(np.mean, generator.normal(0, 1, units), draws=400, rng=generator)
            covered += found.low <= 0 <= found.high
        assert covered / draws == pytest.approx(
            closed, abs=3 * math.sqrt(closed * (1 - closed) / draws) + 0.005
        )

    @pytest.mark.slow
    def test_rows_of_one_model_depend_on_each_other_and_clusters_know(self):
        draws, generator, held = 200, rng(2), {"clusters": 0, "rows": 0}
        models = np.repeat(np.arange(30), 20)
        for _ in range(draws):
            x = generator.normal(0, 1, 30)[models] + generator.normal(0, 1, 600)
            for way, clusters in (("clusters", models), ("rows", None)):
                found = stats.bootstrap(np.mean, x, draws=200, rng=generator, clusters=clusters)
                held[way] += found.low <= 0 <= found.high
        margin = 3 * math.sqrt(0.94 * 0.06 / draws)
        assert held["clusters"] / draws > 0.935 - margin
        assert held["rows"] / draws < 0.6
