"""How well one number tells two groups apart."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from secateur.errors import UsageError
from secateur.stats.checks import check_level, check_scores, normal_quantile
from secateur.stats.intervals import Interval, clopper_pearson


def delong(positive: ArrayLike, negative: ArrayLike) -> tuple[float, float]:
    """The area under the ROC curve and its variance, ties counted half, in O(n log n).

    Placement values by DeLong, DeLong and Clarke-Pearson (1988, Biometrics 44), from midranks as Sun and Xu
    (2014, IEEE Signal Processing Letters 21) compute them.

    Args:
        positive: [m], scores that should be high.
        negative: [n], scores that should be low.

    Returns:
        The area, in [0, 1], and the variance of that estimate (NaN with fewer than two scores on a side).

    >>> delong([0.8, 0.4], [0.1, 0.6])
    (0.75, 0.125)
    """
    pos, neg = check_scores(positive, "positive"), check_scores(negative, "negative")
    m, n = len(pos), len(neg)
    ranks = _midranks(np.concatenate([pos, neg]))
    below = (ranks[:m] - _midranks(pos)) / n  # for each positive the share of negatives below it
    above = 1 - (ranks[m:] - _midranks(neg)) / m
    if min(m, n) < 2:
        return float(below.mean()), math.nan
    return float(below.mean()), float(below.var(ddof=1) / m + above.var(ddof=1) / n)


def roc_auc(positive: ArrayLike, negative: ArrayLike, *, level: float = 0.95) -> Interval:
    """The area under the ROC curve with DeLong's interval: P(positive > negative) + P(tie) / 2.

    The interval is taken on the logit scale, so that it stays inside [0, 1] and holds its level for areas
    near the ends (Pepe 2003). Where the variance is zero (scores fully separated, or all tied) it would
    shrink to a point; the bound is then the exact one for min(m, n) disjoint pairs that all came out alike.
    With one score on a side there is none.

    Args:
        positive: [m], scores that should be high.
        negative: [n], scores that should be low.
        level: Confidence level, in (0, 1).

    Returns:
        The area; ``n`` is the number of scores on both sides.

    Raises:
        DataError: No scores on a side, or NaN among them.

    >>> area = roc_auc([3, 2, 1, 4], [0, 2, 1, -1])
    >>> area.value, round(area.low, 3), round(area.high, 3)
    (0.875, 0.427, 0.985)
    """
    pos, neg = check_scores(positive, "positive"), check_scores(negative, "negative")
    area, variance = delong(pos, neg)
    pairs, z = min(len(pos), len(neg)), normal_quantile(level)
    if math.isnan(variance):
        low, high, method = math.nan, math.nan, "none: DeLong needs two scores on each side"
    elif variance == 0:
        rare = 1 - ((1 - level) / 2) ** (1 / pairs)  # how likely an unlike pair can be, when none of them was
        low, high = {0.0: (0.0, rare), 0.5: (0.5 - rare / 2, 0.5 + rare / 2), 1.0: (1 - rare, 1.0)}[area]
        method = f"exact, from {pairs} disjoint pairs that all came out alike"
    else:
        half = z * math.sqrt(variance) / (area * (1 - area))
        low, high = float(expit(logit(area) - half)), float(expit(logit(area) + half))
        method = "DeLong, on the logit scale"
    return Interval(value=area, low=low, high=high, level=level, n=len(pos) + len(neg), method=method)


def tpr_at_fpr(positive: ArrayLike, negative: ArrayLike, fpr: float, *, level: float = 0.95) -> Interval:
    """The true-positive rate of the most generous threshold whose false-positive rate is at most ``fpr``.

    Of all sets {score >= t} with FPR <= ``fpr`` the largest; never the nearest, which may overstep, and
    nothing is interpolated. Where ties make even the smallest set overstep, it is empty and the rate is 0.

    The interval is Clopper and Pearson's, of the positives above this threshold. It holds the threshold
    fixed: it is exact for the true-positive rate of the threshold that was found, and leaves out that other
    negatives would have set another one, whose population FPR is ``fpr`` only on average.

    Args:
        positive: [m], scores that should be high.
        negative: [n], scores that should be low.
        fpr: The false-positive rate, in (0, 1).
        level: Confidence level, in (0, 1).

    Returns:
        The rate; ``n`` is the number of positives. With fewer than 10 / ``fpr`` negatives the rate and both
        ends are NaN and ``method`` is "unresolved": fewer than ten of them would set the threshold.

    Raises:
        DataError: No scores on a side, or NaN among them.
        UsageError: ``fpr`` outside (0, 1).

    >>> rate = tpr_at_fpr([0.99, 0.985, 0.3, 0.2], np.linspace(0, 1, 1000), 0.01)
    >>> rate.value, round(rate.low, 3), round(rate.high, 3)
    (0.25, 0.006, 0.806)
    """
    check_level(level)
    if not 0 < fpr < 1:
        raise UsageError(f"expected a false-positive rate in (0, 1), got {fpr}: write 1 % as 0.01")
    pos, neg = check_scores(positive, "positive"), check_scores(negative, "negative")
    m, n = len(pos), len(neg)
    if n * fpr < 10 * (1 - 1e-9):  # 10 / fpr is not exact in floating point
        nan = math.nan
        return Interval(value=nan, low=nan, high=nan, level=level, n=m, method="unresolved")
    # shares are compared as shares: n * fpr would lose one where it misses a whole number by a hair
    allowed = int((np.arange(1, n + 1) / n <= fpr).sum())
    hits = int((pos > np.sort(neg)[n - 1 - allowed]).sum())  # above the first negative that is too many
    low, high = clopper_pearson(hits, m, level)
    method = "Clopper-Pearson, the threshold held fixed"
    return Interval(value=hits / m, low=low, high=high, level=level, n=m, method=method)


def _midranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1, tied values sharing the mean of theirs."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[where]
    return ranks
