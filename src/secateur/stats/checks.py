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
