"""Scores of rows against closed forms, scipy and exact arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.spatial.distance
from hypothesis import given
from hypothesis import strategies as st

from secateur import stats
from secateur.errors import DataError

ROWS = st.lists(st.lists(st.floats(0.001, 1), min_size=4, max_size=4), min_size=1, max_size=6)


def distributions(rows):
    p = np.array(rows)
    return p / p.sum(axis=1, keepdims=True)


class TestLogitConfidence:
    @given(logits=st.lists(st.lists(st.floats(-20, 20), min_size=3, max_size=3), min_size=1, max_size=5))
    def test_is_the_log_odds_of_the_softmax(self, logits):
        z, labels = np.array(logits), np.arange(len(logits)) % 3
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        slow = [math.log(row[y]) - math.log(sum(np.delete(row, y))) for row, y in zip(p, labels, strict=True)]
        assert stats.logit_confidence(z, labels) == pytest.approx(slow, abs=1e-9)

    def test_of_two_classes_is_the_difference_of_logits(self):
        z = np.random.default_rng(0).normal(0, 300, (50, 2))
        assert np.allclose(stats.logit_confidence(z, np.zeros(50, int)), z[:, 0] - z[:, 1], rtol=1e-14)

    def test_huge_logits_of_single_precision_stay_finite_and_ranked(self):
        z = np.array([[1e4, 0, 0], [2e4, 0, 0], [-1e30, 0, 0], [40, 0, 0]], dtype=np.float32)
        found = stats.logit_confidence(z, [0, 0, 0, 0])
        assert found == pytest.approx([1e4 - math.log(2), 2e4 - math.log(2), -1e30, 40 - math.log(2)])

    def test_a_class_that_is_ruled_out(self):
        found = stats.logit_confidence([[-math.inf, 1.0, 2.0], [3.0, -math.inf, -math.inf]], [0, 0])
        assert found.tolist() == [-math.inf, math.inf]

    @pytest.mark.parametrize(
        ("logits", "labels", "said"),
        [
            ([[math.nan, 0.0]], [0], "without NaN, got 1 of 1 rows"),
            ([[math.inf, 0.0]], [0], "below infinity"),
            ([[-math.inf, -math.inf]], [0], "minus infinity throughout"),
            ([[1.0], [2.0]], [0, 0], "two classes"),
            (np.zeros((0, 3)), [], "at least one row"),
            ([1.0, 2.0], [0, 1], "shape"),
            ([[1.0, 2.0]], [2], r"labels in 0\.\.1, got 2 to 2"),
            ([[1.0, 2.0]], [-1], r"labels in 0\.\.1"),
            ([[1.0, 2.0]], [0.0], "whole-number label"),
            ([[1.0, 2.0]], [0, 1], "one whole-number label a row"),
        ],
    )
    def test_refuses_in_one_sentence(self, logits, labels, said):
        with pytest.raises(DataError, match=said):
            stats.logit_confidence(logits, labels)


class TestModifiedEntropy:
    @pytest.mark.parametrize(
        ("p", "y", "value"),
        [([0.9, 0.05, 0.05], 0, 0.015666), ([0.1, 0.8, 0.1], 1, 0.065701), ([0.2, 0.2, 0.6], 2, 0.293588)],
    )
    def test_known_answers(self, p, y, value):
        assert stats.modified_entropy([p], [y])[0] == pytest.approx(value, abs=1e-6)

    @given(rows=ROWS, y=st.integers(0, 3))
    def test_is_the_formula_term_by_term(self, rows, y):
        p = distributions(rows)
        slow = [
            -(1 - row[y]) * math.log(row[y]) - sum(row[c] * math.log(1 - row[c]) for c in range(4) if c != y)
            for row in p
        ]
        assert stats.modified_entropy(p, np.full(len(p), y)) == pytest.approx(slow, abs=1e-12)

    def test_it_reads_the_labels(self):
        p = [[0.7, 0.2, 0.1]] * 3
        assert len(set(stats.modified_entropy(p, [0, 1, 2]))) == 3
        assert np.all(np.diff(stats.modified_entropy(p, [0, 1, 2])) > 0)

    def test_certainty_is_finite(self):
        assert stats.modified_entropy([[1.0, 0.0]], [0])[0] == 0.0
        assert stats.modified_entropy([[1.0, 0.0]], [1])[0] == pytest.approx(2 * math.log(1e30))

    @pytest.mark.parametrize(
        ("p", "said"),
        [
            ([[2.0, -1.0]], "sum to 1"),
            ([[0.2, 0.2]], "hand over a softmax"),
            ([[math.nan, 1.0]], "got 1 of 1"),
            ([], "at least one row"),
        ],
    )
    def test_refuses_what_is_no_distribution(self, p, said):
        with pytest.raises(DataError, match=said):
            stats.modified_entropy(p, [0])


class TestJensenShannon:
    @given(rows=ROWS)
    def test_agrees_with_scipy_and_is_symmetric(self, rows):
        p = distributions(rows)
        q = np.roll(p, 1, axis=1)
        theirs = [scipy.spatial.distance.jensenshannon(a, b) ** 2 for a, b in zip(p, q, strict=True)]
        assert stats.jensen_shannon(p, q) == pytest.approx(theirs, abs=1e-9)
        assert stats.jensen_shannon(p, q) == pytest.approx(stats.jensen_shannon(q, p), abs=1e-15)
        assert stats.jensen_shannon(p, p).tolist() == [0.0] * len(p)

    def test_two_different_one_hots_are_ln_2_apart(self):
        eye = np.eye(5)
        assert stats.jensen_shannon(eye, np.roll(eye, 1, axis=0)) == pytest.approx([math.log(2)] * 5)

    def test_refuses_shapes_that_differ(self):
        with pytest.raises(DataError, match="one shape, got"):
            stats.jensen_shannon([[0.5, 0.5]], [[0.5, 0.5], [1.0, 0.0]])
        with pytest.raises(DataError, match="second"):
            stats.jensen_shannon([[0.5, 0.5]], [[0.5, 0.4]])


class TestTugOfWar:
    def test_known_answer_whatever_the_signs(self):
        exact = Fraction(95, 100) * Fraction(99, 100) * Fraction(98, 100)
        assert float(exact) == pytest.approx(0.921690, abs=1e-12)
        for signs in [(1, 1, 1), (-1, 1, -1), (-1, -1, -1)]:
            gaps = [s * g for s, g in zip(signs, (0.05, 0.01, 0.02), strict=True)]
            assert stats.tug_of_war(*gaps) == pytest.approx(float(exact), abs=1e-15)

    def test_ends(self):
        assert stats.tug_of_war(0, 0, 0) == 1.0
        assert stats.tug_of_war(0, -1, 0) == 0.0

    @pytest.mark.parametrize("gap", [5.0, -1.1, math.nan])
    def test_refuses_points_of_a_hundred(self, gap):
        with pytest.raises(DataError, match="divide points of a hundred"):
            stats.tug_of_war(0.0, gap, 0.0)
