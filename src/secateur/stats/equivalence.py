"""Tests that can show sameness, and tests of many things at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from secateur.errors import DataError, UsageError
from secateur.stats.checks import check_alpha
from secateur.stats.intervals import Interval


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """What an equivalence test found.

    Attributes:
        difference: The mean paired difference with its 1 - 2 alpha interval, in the unit of the data.
        margin: How large a difference was declared not to matter, in the same unit.
        p: p-value of the larger of the two one-sided tests; NaN with fewer than two pairs.
        equivalent: The interval lies inside (-margin, margin): p < alpha.
    """

    difference: Interval
    margin: float
    p: float
    equivalent: bool


def tost(differences: ArrayLike, margin: float, *, alpha: float = 0.05) -> Equivalence:
    """Two one-sided t tests: is the mean paired difference smaller than a margin (Schuirmann 1987)?

    A difference that is not significant shows nothing; this shows sameness, if there are enough pairs: at
    least ten seeds. The margin must be declared before the data are seen.

    Args:
        differences: [n], one paired difference a training seed, in any unit.
        margin: How large a mean difference would not matter, above 0, in the same unit.
        alpha: How often a mean as far off as the margin may pass, in (0, 0.5).

    Returns:
        p-value, 1 - 2 alpha t interval and answer. With fewer than two pairs p and the ends are NaN and the
        answer is no. Equal differences show no spread: their interval is a point.

    Raises:
        DataError: No differences, or NaN or infinity among them.
        UsageError: A margin that is not above 0.

    >>> found = tost([0.1, -0.2, 0.0, 0.2, -0.1], 0.5)
    >>> found.equivalent, round(found.p, 4), round(found.difference.high, 3)
    (True, 0.0011, 0.151)
    """
    check_alpha(alpha)
    if not 0 < margin < math.inf:
        raise UsageError(
            f"expected a margin above 0, got {margin}: declare beforehand how large a difference does not "
            "matter; without one nothing can be called the same"
        )
    x = np.asarray(differences, dtype=np.float64)
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
        raise DataError(
            f"expected finite paired differences [n], at least one, got {x.tolist()}: pair the two models "
            "of each seed"
        )
    count, mean = len(x), float(x.mean())
    half, p = math.nan, math.nan
    method = "none: fewer than two pairs show no spread"
    if count > 1:
        error, room = float(x.std(ddof=1)) / math.sqrt(count), margin - abs(mean)
        half = float(stdtrit(count - 1, 1 - alpha)) * error
        steps = room / error if error else math.copysign(math.inf, room) if room else 0.0
        p = float(stdtr(count - 1, -steps))
        method = "t interval of the mean paired difference"
    found = Interval(
        value=mean, low=mean - half, high=mean + half, level=1 - 2 * alpha, n=count, method=method
    )
    return Equivalence(difference=found, margin=margin, p=p, equivalent=p < alpha)


def benjamini_hochberg(p: ArrayLike, *, q: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Which of many tests found something, so that a share q of the findings is false on average.

    Benjamini and Hochberg (1995, JRSS B 57), for tests that are independent or positively dependent.

    Args:
        p: [k], p-values.
        q: False discovery rate, in (0, 1).

    Returns:
        Adjusted p-values [k], each the lowest q at which its test is rejected; and the rejected ones [k].

    Raises:
        DataError: No p-values, or values outside [0, 1].
        UsageError: ``q`` outside (0, 1).

    >>> adjusted, rejected = benjamini_hochberg([0.01, 0.5, 0.02], q=0.05)
    >>> adjusted.round(3).tolist(), rejected.tolist()
    ([0.03, 0.5, 0.03], [True, False, True])
    """
    if not 0 < q < 1:
        raise UsageError(
            f"expected a false discovery rate in (0, 1), got {q}: the share of findings that may be false"
        )
    x = np.asarray(p, dtype=np.float64)
    if x.ndim != 1 or not len(x) or not ((x >= 0) & (x <= 1)).all():
        raise DataError(
            f"expected p-values [k] in [0, 1], at least one, got shape {x.shape}"
            + (f" with values in [{x.min():.3g}, {x.max():.3g}]" if x.size else "")
            + ": each is a probability; leave out tests that gave none"
        )
    order = np.argsort(x)[::-1]  # the largest first
    ranks = np.arange(len(x), 0, -1)
    adjusted = np.empty_like(x)
    adjusted[order] = np.minimum.accumulate(np.minimum(x[order] * (len(x) / ranks), 1))
    return adjusted, adjusted <= q
