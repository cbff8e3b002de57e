"""LiRA against one row at a time, with scipy's normal distribution."""

import math
import statistics

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur import stats
from secateur.errors import DataError, UsageError


def slow_variances(scores, side, shrink):
    """Per row: None without two scores, else its own variance drawn towards that of the whole side."""
    rows = [
        [s for s, on in zip(col, mask, strict=True) if on] for col, mask in zip(scores.T, side.T, strict=True)
    ]
    usable = [row for row in rows if len(row) >= 2]
    if not usable:
        return rows, [None] * len(rows)
    freedom = sum(len(row) - 1 for row in usable)
    pooled = sum(statistics.variance(row) * (len(row) - 1) for row in usable) / freedom
    shrunk = [
        None
        if len(row) < 2
        else pooled
        if math.isinf(shrink)
        else (statistics.variance(row) * (len(row) - 1) + shrink * pooled) / (len(row) - 1 + shrink)
        for row in rows
    ]
    return rows, shrunk


def slow_lira(target, scores, inside, online, shrink):
    out, out_variance = slow_variances(scores, ~inside, shrink)
    member, in_variance = slow_variances(scores, inside, shrink)
    found = []
    for i, t in enumerate(target):
        if out_variance[i] is None or (online and in_variance[i] is None):
            found.append(math.nan)
        elif online:
            one = scipy.stats.norm(statistics.fmean(member[i]), math.sqrt(in_variance[i]))
            other = scipy.stats.norm(statistics.fmean(out[i]), math.sqrt(out_variance[i]))
            found.append(one.logpdf(t) - other.logpdf(t))
        else:
            found.append((t - statistics.fmean(out[i])) / math.sqrt(out_variance[i]))
    return found


class TestLira:
    @settings(max_examples=40, deadline=None)
    @given(
        seed=st.integers(0, 10_000), online=st.booleans(), shrink=st.sampled_from([0.0, 0.5, 16.0, math.inf])
    )
    def test_is_the_slow_loop(self, seed, online, shrink):
        rng = np.random.default_rng(seed)
        m, n = rng.integers(2, 9), rng.integers(1, 8)
        target, scores = rng.normal(1, 2, n), rng.normal(0, rng.uniform(0.5, 3, n), (m, n))
        inside = rng.random((m, n)) < 0.5
        scores[inside] += 1
        slow = slow_lira(target, scores, inside, online, shrink)
        found = stats.lira_scores(target, scores, inside, online=online, shrink=shrink)
        assert found == pytest.approx(slow, rel=1e-9, abs=1e-9, nan_ok=True)

    def test_offline_s_normal_tail_is_the_paper_s_p_value_and_in_scores_are_not_read(self):
        rng = np.random.default_rng(0)
        scores, inside = rng.normal(0, 1, (40, 6)), np.repeat([True, False], 20)[:, None].repeat(6, axis=1)
        target = rng.normal(0, 1, 6)
        found = stats.lira_scores(target, scores, inside, online=False, shrink=0.0)
        out = scores[20:]
        tail = scipy.stats.norm.sf(target, out.mean(axis=0), out.std(axis=0, ddof=1))
        assert scipy.stats.norm.sf(found) == pytest.approx(tail)
        scores[:20] = math.nan
        assert np.array_equal(stats.lira_scores(target, scores, inside, online=False, shrink=0.0), found)

    def test_each_side_has_its_own_deviation(self):
        """Copied code takes OUT's deviation from the IN scores."""
        inside = np.repeat([True, False], 100)[:, None]
        rng = np.random.default_rng(0)
        scores = np.concatenate([rng.normal(2, 0.1, 100), rng.normal(0, 3, 100)])[:, None]
        found = stats.lira_scores([6.0], scores, inside, online=False)[0]
        assert found == pytest.approx(2, abs=0.4)  # six over three, not six over a tenth

    def test_far_from_members_on_both_sides_keeps_its_rank(self):
        scores = np.array([[0.0], [1.0], [2.0]])
        low, lower = (
            stats.lira_scores([t], scores, np.zeros((3, 1), bool), online=False)[0] for t in (-50, -60)
        )
        assert lower < low < 0

    @pytest.mark.parametrize("online", [True, False])
    def test_tells_members_from_others_and_nothing_from_nothing(self, online):
        nothing, found, raw = [], [], []
        for seed in range(20):
            rng = np.random.default_rng(seed)
            inside, member = rng.random((32, 300)) < 0.5, rng.random(300) < 0.5
            hard = rng.normal(0, 3, 300)
            bank, target = hard + rng.normal(0, 1, (32, 300)), hard + rng.normal(0, 1, 300)
            null = stats.lira_scores(target, bank, inside, online=online)
            told = stats.lira_scores(target + 2 * member, bank + 2 * inside, inside, online=online)
            for areas, scores in ((nothing, null), (found, told), (raw, target + 2 * member)):
                areas.append(stats.roc_auc(scores[member], scores[~member]).value)
        # 20 areas of 150 against 150, each of deviation 0.033
        assert np.mean(nothing) == pytest.approx(0.5, abs=3 * 0.033 / math.sqrt(20))
        best = scipy.stats.norm.cdf(math.sqrt(2))  # of N(2, 1) against N(0, 1), with the moments known
        assert best - 0.04 < np.mean(found) < best
        assert np.mean(raw) < 0.72

    def test_too_few_models_or_no_spread_give_no_score(self):
        scores = np.array([[0.0, 0.0, 5.0], [1.0, 1.0, 5.0], [2.0, 2.0, 5.0], [3.0, 3.0, 5.0]])
        inside = np.array([[1, 0, 1], [1, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=bool)
        offline = stats.lira_scores([1.0, 1.0, 5.0], scores, inside, online=False, shrink=0.0)
        assert np.isnan(offline).tolist() == [True, False, True]
        online = stats.lira_scores([1.0, 1.0, 5.0], scores, inside, online=True, shrink=0.0)
        assert np.isnan(online).all()

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"target": [math.nan, 0.0]}, "target scores without NaN"),
            ({"target": [math.inf, 0.0]}, "clip the scores"),
            ({"target": []}, "at least one"),
            ({"scores": [[0.0, math.nan], [1.0, 1.0]]}, "finite scores"),
            ({"scores": [0.0, 1.0]}, "models come first"),
            ({"scores": np.zeros((0, 2))}, "at least one model"),
            ({"inside": [[True, False]]}, r"booleans \(2, 2\), models first"),
            ({"inside": [[1, 0], [0, 1]]}, "got shape .* of int"),
        ],
    )
    def test_refuses_in_one_sentence(self, change, said):
        good = {"target": [0.0, 1.0], "scores": [[0.0, 1.0], [1.0, 2.0]], "inside": np.zeros((2, 2), bool)}
        assert np.isfinite(stats.lira_scores(**good, online=False)).all()
        with pytest.raises(DataError, match=said):
            stats.lira_scores(**(good | change), online=True)

    @pytest.mark.parametrize("shrink", [-1.0, math.nan])
    def test_refuses_a_negative_shrink(self, shrink):
        with pytest.raises(UsageError, match="degrees of freedom"):
            stats.lira_scores([0.0], [[0.0]], [[False]], online=False, shrink=shrink)
