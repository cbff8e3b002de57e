"""RMIA against one row, one model and one population row at a time."""

import math
import statistics

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur import stats
from secateur.errors import DataError, UsageError


def slow_rmia(target, reference, out, population, population_reference, gamma, a):
    scores = []
    for x in range(len(target)):
        without = [reference[m][x] for m in range(len(reference)) if out[m][x]]
        if not without:
            scores.append(math.nan)
            continue
        ratio_x = target[x] / (((1 + a) * statistics.fmean(without) + (1 - a)) / 2)
        won = 0
        for z in range(len(population)):
            mean = statistics.fmean(model[z] for model in population_reference)
            won += ratio_x / (population[z] / (((1 + a) * mean + (1 - a)) / 2)) >= gamma
        scores.append(won / len(population))
    return scores


class TestRmia:
    @settings(max_examples=30)
    @given(seed=st.integers(0, 10_000), gamma=st.sampled_from([0.5, 1.0, 2.0]), a=st.floats(0, 1))
    def test_is_the_slow_loop(self, seed, gamma, a):
        rng = np.random.default_rng(seed)
        m, n, z = rng.integers(1, 6), rng.integers(1, 12), rng.integers(1, 30)
        target, population = rng.uniform(0.01, 1, n), rng.uniform(0.01, 1, z)
        reference, others = rng.uniform(0.01, 1, (m, n)), rng.uniform(0.01, 1, (m, z))
        out = rng.random((m, n)) < 0.6
        slow = slow_rmia(target, reference, out, population, others, gamma, a)
        found = stats.rmia_scores(
            target, reference, out, population=population, population_reference=others, gamma=gamma, a=a
        )
        assert found == pytest.approx(slow, abs=1e-12, nan_ok=True)

    def test_without_an_out_model_there_is_no_score_and_in_scores_are_not_read(self):
        out = np.array([[True, False, True], [True, False, False]])
        reference = np.where(out, 0.5, math.nan)
        found = stats.rmia_scores(
            [0.9, 0.9, 0.9], reference, out, population=[0.5, 0.4], population_reference=[[0.5, 0.4]] * 2
        )
        assert found[[0, 2]].tolist() == [1.0, 1.0]
        assert math.isnan(found[1])
        assert np.isnan(
            stats.rmia_scores([0.9], [[0.5]], [[False]], population=[0.5], population_reference=[[0.5]])
        ).all()

    def test_is_uniform_where_nothing_was_trained_on(self):
        """The reason why p(z) is interpolated as p(x) is."""
        rng = np.random.default_rng(0)
        easy = rng.beta(4, 1, 4000)  # what makes a row easy is shared by all models

        def said(count):
            return np.clip(easy + rng.normal(0, 0.02, (count, 4000)), 0.001, 0.999)

        target, reference = said(1)[0], said(4)
        rows = slice(0, 2000), slice(2000, None)
        found = stats.rmia_scores(
            target[rows[0]],
            reference[:, rows[0]],
            np.ones((4, 2000), bool),
            population=target[rows[1]],
            population_reference=reference[:, rows[1]],
        )
        assert scipy.stats.kstest(found, "uniform").pvalue > 0.01

    def test_a_member_gained_more_than_the_population_where_its_probability_says_little(self):
        rng = np.random.default_rng(1)
        usual = rng.uniform(0.1, 0.8, 600)
        member = np.arange(600) < 200
        target = usual * np.where(member, 1.25, 1) * rng.uniform(0.9, 1.1, 600)
        rest = slice(400, None)  # the population
        found = stats.rmia_scores(
            np.minimum(target, 1)[:400],
            [usual[:400]],
            np.ones((1, 400), bool),
            population=target[rest],
            population_reference=[usual[rest]],
            a=1.0,
        )
        area = stats.roc_auc(found[:200], found[200:]).value
        # gains in [1.125, 1.375] against [0.9, 1.1]: all members gained more than the whole population
        assert found[:200].min() == 1.0
        assert area > 0.98
        assert stats.roc_auc(target[:200], target[200:400]).value < 0.8

    def test_zeros_are_no_evidence(self):
        found = stats.rmia_scores(
            [0.0, 0.5],
            [[0.0, 0.0]],
            np.ones((1, 2), bool),
            population=[0.0, 0.5],
            population_reference=[[0.0, 0.5]],
            a=1.0,
        )
        assert found.tolist() == [0.0, 1.0]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"target": [1.5, 0.5]}, "probabilities of the true label for the rows asked about"),
            ({"target": [math.nan, 0.5]}, "without NaN"),
            ({"target": []}, "at least one"),
            ({"reference": [[0.5]]}, r"\[m, 2\], at least one model, got shape \(1, 1\)"),
            ({"reference": [[0.5, -2.0]]}, "the reference models"),
            ({"out": [[1, 0]]}, "booleans"),
            ({"out": [[True]]}, "booleans"),
            ({"population": []}, "at least one"),
            ({"population_reference": [[0.1, 0.2]]}, r"\[m, 3\]"),
            ({"population_reference": [[0.1, 0.2, 0.3]] * 2}, "same reference models .* got 2 and 1"),
        ],
    )
    def test_refuses_in_one_sentence(self, change, said):
        good = {"target": [0.9, 0.8], "reference": [[0.5, 0.6]], "out": [[True, True]]}
        good |= {"population": [0.1, 0.2, 0.3], "population_reference": [[0.1, 0.2, 0.3]]}
        assert stats.rmia_scores(**good).shape == (2,)
        with pytest.raises(DataError, match=said):
            stats.rmia_scores(**(good | change))

    @pytest.mark.parametrize("change", [{"gamma": 0.0}, {"gamma": math.inf}, {"a": 1.1}, {"a": math.nan}])
    def test_refuses_knobs_out_of_range(self, change):
        good = {"population": [0.1], "population_reference": [[0.1]]}
        with pytest.raises(UsageError, match="gamma above 0"):
            stats.rmia_scores([0.9], [[0.5]], [[True]], **good, **change)
