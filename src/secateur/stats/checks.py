"""What every function here refuses."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from secateur.errors import DataError, UsageError


def check_level(level: float) -> None:
    """Refuse a confidence level outside (0, 1).

    Args:
        level: The level.

    Raises:
        UsageError: It is outside.
    """
    if not 0 < level < 1:
        raise UsageError(f"expected a confidence level in (0, 1), got {level}: write 95 % as 0.95")


def check_alpha(alpha: float) -> None:
    """Refuse an error rate outside (0, 0.5).

    Args:
        alpha: How often a bound may be wrong.

    Raises:
        UsageError: It is outside.
    """
    if not 0 < alpha < 0.5:
        raise UsageError(
            f"expected an error rate in (0, 0.5), got {alpha}: a bound of 95 % confidence has alpha=0.05"
        )


def check_delta(delta: float) -> None:
    """Refuse a privacy parameter delta outside [0, 1).

    Args:
        delta: The delta of (epsilon, delta)-differential privacy.

    Raises:
        UsageError: It is outside.
    """
    if not 0 <= delta < 1:
        raise UsageError(
            f"expected delta in [0, 1), got {delta}: it is a probability, usually below one over the rows"
        )


def check_trials(successes: int, trials: int) -> None:
    """Refuse counts of which no share can be made.

    Args:
        successes: How many of the trials succeeded.
        trials: How many there were.

    Raises:
        DataError: No trials, or successes outside 0..trials.
    """
    if trials < 1:
        raise DataError(
            "expected at least one trial, got none: a share of nothing has no value; leave it out"
        )
    if not 0 <= successes <= trials:
        raise DataError(
            f"expected successes in 0..{trials}, the number of trials, got {successes}: count both on "
            "the same rows"
        )


def normal_quantile(level: float) -> float:
    """How many standard deviations a two-sided normal interval of this level reaches."""
    check_level(level)
    return float(ndtri((1 + level) / 2))


def check_scores(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Scores [n] in double, at least one and none of them NaN.

    Args:
        values: [n].
        name: What they are, for the message.

    Returns:
        [n].

    Raises:
        DataError: Another shape, no score, or NaN.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise DataError(
            f"expected {name} scores [n], at least one, got shape {array.shape}: there is nothing to compare"
        )
    if np.isnan(array).any():
        count = int(np.isnan(array).sum())
        raise DataError(
            f"expected {name} scores without NaN, got {count} of {len(array)}: NaN has no rank; find its "
            "source"
        )
    return array


def check_probabilities(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Probabilities [n] in double: scores in [0, 1].

    Args:
        values: [n].
        name: Of which rows, for the message.

    Returns:
        [n].

    Raises:
        DataError: As ``check_scores``, or a value outside [0, 1].
    """
    array = check_scores(values, name)
    if array.min() < 0 or array.max() > 1:
        raise DataError(
            f"expected probabilities of the true label for {name}, got values in [{array.min():.3g}, "
            f"{array.max():.3g}]: "
            "hand over a softmax, not logits or logarithms"
        )
    return array


def check_labels(labels: ArrayLike, rows: int, classes: int) -> NDArray[np.intp]:
    """Labels [rows], each the number of a class.

    Args:
        labels: [rows].
        rows: How many rows they belong to.
        classes: How many classes there are.

    Returns:
        [rows].

    Raises:
        DataError: Another shape, no whole numbers, or one outside 0..classes-1.
    """
    array = np.asarray(labels)
    if array.shape != (rows,) or not np.issubdtype(array.dtype, np.integer):
        raise DataError(
            f"expected one whole-number label a row, shape ({rows},), got shape {array.shape} of "
            f"{array.dtype}: hand over the labels of the same rows"
        )
    if rows and (array.min() < 0 or array.max() >= classes):
        raise DataError(
            f"expected labels in 0..{classes - 1}, got {array.min()} to {array.max()}: a label names a "
            "column of the outputs; map the labels as in training"
        )
    return array.astype(np.intp)


def check_simplex(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Probabilities [n, classes] in double, each row summing to 1.

    Args:
        values: [n, classes].
        name: What they are, for the message.

    Returns:
        [n, classes].

    Raises:
        DataError: Another shape, no row, fewer than two classes, or rows that are no distributions.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] < 2:
        raise DataError(
            f"expected {name} [n, classes], at least one row and two classes, got shape {array.shape}: one "
            "row is one distribution over the classes"
        )
    # a softmax in half precision sums to 1 within a few thousandths
    off = ~((array >= 0).all(axis=1) & (np.abs(array.sum(axis=1) - 1) < 5e-3))
    if off.any():
        raise DataError(
            f"expected every row of {name} to be at least 0 and to sum to 1, got {int(off.sum())} of "
            f"{len(array)} that are not: hand over a softmax, not logits or logarithms"
        )
    return array


def check_mask(values: ArrayLike, shape: tuple[int, ...], name: str) -> NDArray[np.bool_]:
    """A mask of the shape of what it marks.

    Args:
        values: True where marked.
        shape: The shape it must have.
        name: What it is called, for the message.

    Returns:
        The mask.

    Raises:
        DataError: Another shape, or no booleans.
    """
    array = np.asarray(values)
    if array.dtype != np.bool_ or array.shape != shape:
        raise DataError(
            f"expected {name} of booleans {shape}, models first, got shape {array.shape} of {array.dtype}: "
            "it says which model was trained on which row"
        )
    return array
