"""Statistics that hold: pure functions of numpy arrays, which know nothing of models, steps or audits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtri, stdtrit

from secateur.errors import DataError, UsageError


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

    Raises:
        DataError: No trials, or successes outside 0..trials.

    >>> [round(end, 4) for end in wilson(8, 10)]
    [0.4902, 0.9433]
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
    z, share = _z(level), int(successes) / int(trials)
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z * z / trials
    # the ends meet 0 and 1 exactly there; in floating point they miss by a hair
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == trials else (centre + half) / scale
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
    pos, neg = _scores(positive, "positive"), _scores(negative, "negative")
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
    pos, neg = _scores(positive, "positive"), _scores(negative, "negative")
    area, variance = delong(pos, neg)
    pairs, z = min(len(pos), len(neg)), _z(level)
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


def mia_efficacy(
    retain: ArrayLike,
    test: ArrayLike,
    forget: ArrayLike,
    *,
    members: Literal["sampled", "first"] = "sampled",
    seed: int = 0,
) -> float:
    """The share of forget rows that a confidence predictor calls non-members (Jia et al., NeurIPS 2023).

    The predictor is ``SVC(C=3, gamma="auto", kernel="rbf")`` on one feature, the softmax probability of the
    true label. It learns members (label 1) from as many retain rows as there are test rows, then non-members
    (label 0) from the test rows, in this order as in the published code. Where retain is the smaller side, as
    many test rows as there are retain rows are taken, in the same way. The result does not depend on the
    order of ``forget``.

    Args:
        retain: [n], probabilities of the true label on rows that were trained on.
        test: [m], the same on rows that were not.
        forget: [k], the same on the rows that should look like the second kind.
        members: "sampled": a random sample without replacement, in the order given; "first": the first rows,
            as the published code takes them.
        seed: Seed of the sample's own generator.

    Returns:
        The share, in [0, 1].

    Raises:
        DataError: No rows on a side, or something that is no probability.
        UsageError: ``members`` is neither "sampled" nor "first".

    >>> mia_efficacy([0.99, 0.98, 0.97], [0.5, 0.6, 0.4], [0.95, 0.55, 0.99, 0.45])
    0.5
    """
    if members not in {"sampled", "first"}:
        raise UsageError(
            f'expected members to be "sampled" or "first", got {members!r}: it says which rows the predictor '
            "learns"
        )
    sides = [_probabilities(values, name) for name, values in (("retain", retain), ("test", test))]
    asked = _probabilities(forget, "forget")
    count, rng = min(map(len, sides)), np.random.default_rng(seed)
    learned = []
    for side in sides:
        sample = members == "sampled" and len(side) > count
        learned.append(side[np.sort(rng.choice(len(side), count, replace=False))] if sample else side[:count])
    return float((~_called_members(learned[0], learned[1], asked)).mean())


def mia_privacy(retain: ArrayLike, test: ArrayLike, *, seed: int = 0, level: float = 0.95) -> Interval:
    """How well the predictor of ``mia_efficacy`` tells rows that were trained on from rows that were not.

    As many retain rows as test rows are drawn (all of the smaller side). The predictor learns half of each
    side, the smaller one of an odd number, and is asked about the other half: the number is the mean of the
    two recalls (Jia et al., NeurIPS 2023). 0.5 is chance, 1 is full exposure.

    Args:
        retain: [n], probabilities of the true label on rows that were trained on.
        test: [m], the same on rows that were not.
        seed: Seed of the generator that draws rows and halves, from the order given.
        level: Confidence level, in (0, 1).

    Returns:
        The mean recall, with the interval of ``mean_share``: given the fitted predictor, each recall is a
        binomial share of independent rows. ``n`` is the number of rows asked about, on both sides.

    Raises:
        DataError: Fewer than two rows on a side, or something that is no probability.

    >>> mia_privacy([0.99, 0.98, 0.97, 0.96], [0.5, 0.6, 0.4, 0.3]).value
    1.0
    """
    sides = [_probabilities(values, name) for name, values in (("retain", retain), ("test", test))]
    count, rng = min(map(len, sides)), np.random.default_rng(seed)
    if count < 2:
        raise DataError(
            f"expected at least two retain and two test rows, got {len(sides[0])} and {len(sides[1])}: one "
            "half teaches the predictor, the other is asked about; give the split more rows"
        )
    half = count // 2
    drawn = [side[rng.permutation(len(side))[:count]] for side in sides]
    asked = np.concatenate([side[half:] for side in drawn])
    called = _called_members(drawn[0][:half], drawn[1][:half], asked)
    rows = count - half
    return mean_share([(int(called[:rows].sum()), rows), (int((~called[rows:]).sum()), rows)], level)


def _called_members(
    members: NDArray[np.float64], others: NDArray[np.float64], asked: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """What ``SVC(C=3, gamma="auto", kernel="rbf")``, taught members first, says of the rows asked about."""
    # a second to import, and a report needs none of it
    from scipy.sparse import csr_array
    from sklearn.svm import SVC

    def column(values: NDArray[np.float64]) -> Any:
        # sparse, with every entry stored: the same bits, and answers in a fifth of the time, because libsvm
        # calls BLAS for each pair of dense rows, here to multiply two numbers
        count = len(values)
        return csr_array(
            (values, np.zeros(count, np.int32), np.arange(count + 1, dtype=np.int32)), (count, 1)
        )

    # without a random_state the fit would draw from numpy's global stream; its result does not depend on it
    predictor = SVC(C=3, gamma="auto", kernel="rbf", random_state=0)
    predictor.fit(column(np.concatenate([members, others])), np.repeat([1, 0], [len(members), len(others)]))
    called: NDArray[np.bool_] = predictor.predict(column(asked)) == 1
    return called


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
    _check_level(level)
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
    _check_level(level)
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


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise UsageError(f"expected a confidence level in (0, 1), got {level}: write 95 % as 0.95")


def _z(level: float) -> float:
    _check_level(level)
    return float(ndtri((1 + level) / 2))


def _scores(values: ArrayLike, name: str) -> NDArray[np.float64]:
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


def _probabilities(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = _scores(values, name)
    if array.min() < 0 or array.max() > 1:
        raise DataError(
            f"expected probabilities of the true label for {name}, got values in [{array.min():.3g}, "
            f"{array.max():.3g}]: "
            "hand over a softmax, not logits or logarithms"
        )
    return array


def _midranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1, tied values sharing the mean of theirs."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[where]
    return ranks
