"""Scores of single rows, from what a model said of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, rel_entr

from secateur.errors import DataError
from secateur.stats.checks import check_labels, check_simplex

FLOOR = 1e-30  # below it a probability counts as this much, as in the published code


def logit_confidence(logits: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """How much a model prefers the label to all other classes: log p_y - log sum_{c != y} p_c.

    Nearly normal over models, which a probability is not (Carlini et al., S&P 2022). It is computed from
    logits in double: from a softmax in single precision it would be infinite from about 17 nats on.

    Args:
        logits: [n, classes], at least two classes. A class may be ruled out with minus infinity.
        labels: [n], in 0..classes-1.

    Returns:
        [n], nats; minus infinity where the label is ruled out, infinity where all other classes are.

    Raises:
        DataError: Another shape; NaN, infinity or a row with no class left among the logits; labels that name
            no class.

    >>> logit_confidence([[2.0, 0.0], [0.0, 1000.0]], [0, 0]).tolist()
    [2.0, -1000.0]
    """
    z = np.asarray(logits, dtype=np.float64)
    if z.ndim != 2 or z.shape[0] < 1 or z.shape[1] < 2:
        raise DataError(
            f"expected logits [n, classes], at least one row and two classes, got shape {z.shape}: the score "
            "sets the label against the other classes"
        )
    bad = ~(z < np.inf).all(axis=1) | (z == -np.inf).all(axis=1)
    if bad.any():
        raise DataError(
            f"expected logits below infinity, without NaN, got {int(bad.sum())} of {len(z)} rows that are "
            "not, or that are minus infinity throughout: they have no softmax; find their source"
        )
    y = check_labels(labels, *z.shape)
    others = z.copy()
    np.put_along_axis(others, y[:, None], -np.inf, axis=1)
    confidence: NDArray[np.float64] = np.take_along_axis(z, y[:, None], axis=1)[:, 0] - logsumexp(
        others, axis=1
    )
    return confidence


def modified_entropy(probs: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Entropy that knows the label: low for a confident right answer, high for a confident wrong one.

    -(1 - p_y) log p_y - sum_{c != y} p_c log(1 - p_c) (Song and Mittal, USENIX Security 2021). Members tend
    to have a *low* one: negate it where a score must be high for members.

    Args:
        probs: [n, classes], rows that sum to 1.
        labels: [n], in 0..classes-1.

    Returns:
        [n], nats, at least 0. Finite: inside a logarithm a probability counts as 1e-30 at least, as in the
        published code, so a certain wrong answer has 2 log(1e30) = 138.2.

    >>> modified_entropy([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1]], [0, 1]).round(6).tolist()
    [0.015665, 0.065701]
    """
    p = np.clip(check_simplex(probs, "probabilities"), 0, 1)
    y = check_labels(labels, *p.shape)[:, None]
    right = np.take_along_axis(p, y, axis=1)[:, 0]
    wrong = p * np.log(np.maximum(1 - p, FLOOR))
    np.put_along_axis(wrong, y, 0, axis=1)
    entropy: NDArray[np.float64] = -(1 - right) * np.log(np.maximum(right, FLOOR)) - wrong.sum(axis=1)
    return np.maximum(entropy, 0)  # never minus zero


def jensen_shannon(p: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """Jensen-Shannon divergence of two distributions, row by row (Lin 1991, IEEE Trans. Inf. Theory 37).

    Args:
        p: [n, classes], rows that sum to 1.
        q: [n, classes], of the same rows.

    Returns:
        [n], nats: 0 for equal rows, ln 2 for rows that share no class.

    Raises:
        DataError: Shapes that differ, or rows that are no distributions.

    >>> jensen_shannon([[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]).round(4).tolist()
    [0.6931, 0.0]
    """
    one, other = check_simplex(p, "the first distributions"), check_simplex(q, "the second distributions")
    if one.shape != other.shape:
        raise DataError(
            f"expected two arrays of one shape, got {one.shape} and {other.shape}: rows are compared in pairs"
        )
    middle = (one + other) / 2
    divergence: NDArray[np.float64] = (
        rel_entr(one, middle).sum(axis=1) + rel_entr(other, middle).sum(axis=1)
    ) / 2
    return divergence.clip(0, np.log(2))  # rounding, or rows that sum to a hair off 1


def tug_of_war(forget_gap: float, retain_gap: float, test_gap: float) -> float:
    """Tug-of-war: how near a model comes to retraining on three sets at once (Zhao et al., NeurIPS 2024).

    The product of 1 - |gap| over forget, retain and test, each gap being the accuracy of the unlearned model
    less that of the retrained one.

    Args:
        forget_gap: Share, in [-1, 1].
        retain_gap: Share, in [-1, 1].
        test_gap: Share, in [-1, 1].

    Returns:
        A share: 1 where all three agree with retraining.

    Raises:
        DataError: A gap outside [-1, 1].

    >>> round(tug_of_war(0.05, 0.01, 0.02), 6)
    0.92169
    """
    gaps = np.array([forget_gap, retain_gap, test_gap], dtype=np.float64)
    if not (np.abs(gaps) <= 1).all():
        raise DataError(
            f"expected gaps of accuracies in [-1, 1], got {gaps.tolist()}: divide points of a hundred by 100"
        )
    return float(np.prod(1 - np.abs(gaps)))
