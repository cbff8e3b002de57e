"""Shares and means, each with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainccinv, betaincinv, stdtrit

from secateur.errors import DataError
from secateur.stats.checks import check_level, check_trials, normal_quantile


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number with its uncertainty.

    Attributes:
        value: The point estimate.
        low: Lower end of the interval; NaN where none can be given.
        high: Upper end of the interval; NaN where none can be given.
        level: Confidence level, in (0, 1).
        n: The number of independent things that it rests on (rows, or models).
        method: How the interval was made.
    """

    value: float
    low: float
    high: float
    level: float
    n: int
    method: str


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share (Wilson 1927, JASA 22).

    Args:
        successes: How many of the trials succeeded.
        trials: How many there were, at least one.
        level: Confidence level, in (0, 1).

    Returns:
        The lower and the upper end, both in [0, 1].

    >>> [round(end, 4) for end in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    check_trials(successes, trials)
    z, share = normal_quantile(level), int(successes) / int(trials)
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z * z / trials
    # the ends meet 0 and 1 exactly there; in floating point they miss by a hair
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == trials else (centre + half) / scale
    return low, high


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval for a share (Clopper and Pearson 1934, Biometrika 26).

    It holds at least its level for every true share, and is wider than Wilson's, which holds it on average.

    Args:
        successes: How many of the trials succeeded.
        trials: How many there were, at least one.
        level: Confidence level, in (0, 1).

    Returns:
        The lower and the upper end, both in [0, 1].

    >>> [round(end, 4) for end in clopper_pearson(0, 10)]
    [0.0, 0.3085]
    """
    check_trials(successes, trials)
    check_level(level)
    hits, missed, tail = int(successes), int(trials) - int(successes), (1 - level) / 2
    low = float(betaincinv(hits, missed + 1, tail)) if hits else 0.0
    high = float(betainccinv(hits + 1, missed, tail)) if missed else 1.0
    return low, high


def share_interval(successes: int, trials: int, level: float = 0.95) -> Interval:
    """A share with Wilson's interval.

    Args:
        successes: How many of the trials succeeded.
        trials: How many there were, at least one.
        level: Confidence level, in (0, 1).

    Returns:
        The share successes / trials; ``n`` is the number of trials.

    >>> share_interval(8, 10).value
    0.8
    """
    low, high = wilson(successes, trials, level)
    value, method = int(successes) / int(trials), "Wilson score interval"
    return Interval(value=value, low=low, high=high, level=level, n=int(trials), method=method)


def mean_share(counts: Sequence[tuple[int, int]], level: float = 0.95) -> Interval:
    """The mean of independent shares, with an interval made of their Wilson intervals.

    Each end lies as far from the mean as the squares of the parts' distances add up to (Newcombe 1998, Stat.
    Med. 17, method 10, for the difference of two; Zou and Donner 2008, Stat. Med. 27, for any sum).

    Args:
        counts: Successes and trials of each share, at least one trial in each.
        level: Confidence level, in (0, 1).

    Returns:
        The unweighted mean of the shares; ``n`` is the number of trials in all.

    >>> both = mean_share([(8, 10), (6, 10)])
    >>> both.value, round(both.low, 3), round(both.high, 3)
    (0.7, 0.489, 0.836)
    """
    low, high = np.array([wilson(successes, trials, level) for successes, trials in counts]).T
    shares = np.array([successes / trials for successes, trials in counts])
    mean = float(shares.mean())
    return Interval(
        value=mean,
        low=mean - float(np.linalg.norm(shares - low)) / len(shares),
        high=mean + float(np.linalg.norm(high - shares)) / len(shares),
        level=level,
        n=sum(trials for _, trials in counts),
        method="Wilson score intervals, combined by square-and-add",
    )


def share_difference(
    first: tuple[int, int], second: tuple[int, int], level: float = 0.95, *, weight: float = 1.0
) -> Interval:
    """A share less a multiple of another, with an interval made of their Wilson intervals.

    The ends by square-and-add, as in ``mean_share``. For shares of the same rows, whose hits go together, the
    interval is wider than it had to be.

    Args:
        first: Successes and trials, at least one.
        second: Successes and trials, at least one.
        level: Confidence level, in (0, 1).
        weight: What the second is multiplied by, at least 0.

    Returns:
        first - weight * second; ``n`` is the number of trials in all.

    >>> found = share_difference((56, 70), (48, 80))
    >>> round(found.value, 3), round(found.low, 4), round(found.high, 4)
    (0.2, 0.0524, 0.3339)
    """
    (low, high), (least, most) = wilson(*first, level), wilson(*second, level)
    share, other = first[0] / first[1], second[0] / second[1]
    value = share - weight * other
    return Interval(
        value=value,
        low=value - math.hypot(share - low, weight * (most - other)),
        high=value + math.hypot(high - share, weight * (other - least)),
        level=level,
        n=first[1] + second[1],
        method="Wilson score intervals, combined by square-and-add",
    )


def prediction_interval(values: ArrayLike, level: float = 0.95, *, step: float = 0.0) -> Interval:
    """The interval in which one further value falls, if all are draws from one normal distribution.

    mean +- t sqrt(1 + 1/R) s: at 95 %, 4.97 s for three values, 3.04 s for five, 2.37 s for ten.

    Args:
        values: [R], in any unit.
        level: Confidence level, in (0, 1).
        step: The step in which values move, where they are counts or shares of a count. The interval is made
            wider by one step on each side: a count is not normal, and five equal ones do not make the sixth
            certain.

    Returns:
        The mean and its interval in the unit of ``values``; the ends are NaN with fewer than two values, and
        the mean is NaN with none.

    Raises:
        DataError: A value is NaN or infinite.
        UsageError: The level is outside (0, 1).

    >>> band = prediction_interval([1.0, 2.0, 3.0])
    >>> band.value, round(band.high - band.value, 2)
    (2.0, 4.97)
    """
    check_level(level)
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not np.isfinite(x).all():
        raise DataError(
            f"expected finite values [R], got {x.tolist()}: an interval is made of their mean and spread"
        )
    count = len(x)
    mean, half = float(x.mean()) if count else math.nan, math.nan
    method = "none: fewer than two values show no spread"
    if count > 1:
        spread = math.sqrt(1 + 1 / count) * float(x.std(ddof=1))
        half = float(stdtrit(count - 1, (1 + level) / 2)) * spread + step
        method = "t prediction interval for one further value" + (
            ", one step wider on each side" if step else ""
        )
    return Interval(value=mean, low=mean - half, high=mean + half, level=level, n=count, method=method)


def mean_size(parts: Sequence[Interval], level: float = 0.95) -> Interval:
    """The mean absolute value of several numbers, from intervals that hold together at ``level``.

    The ends are the least and the greatest mean that the parts allow. A mean of absolute values is biased
    away from zero, so an interval made from its own spread would miss a true zero; this one cannot.

    Args:
        parts: The numbers, in one unit, at least one.
        level: The level at which all their intervals hold together, in (0, 1).

    Returns:
        The mean in the unit of the parts; an end is NaN where one of theirs is. ``n`` is the least of theirs.

    >>> from dataclasses import replace
    >>> part = Interval(value=-3.0, low=-5.0, high=1.0, level=0.975, n=5, method="any")
    >>> both = mean_size([part, replace(part, value=2.0, low=1.0, high=4.0)])
    >>> both.value, both.low, both.high
    (2.5, 0.5, 4.5)
    """
    check_level(level)
    low, high = np.array([(part.low, part.high) for part in parts]).T
    least = np.maximum(np.maximum(low, -high), 0)  # zero where the interval holds zero; NaN stays NaN
    return Interval(
        value=float(np.mean([abs(part.value) for part in parts])),
        low=float(least.mean()),
        high=float(np.maximum(-low, high).mean()),
        level=level,
        n=min(part.n for part in parts),
        method="least and greatest mean that the intervals of the parts, which hold together, allow",
    )
