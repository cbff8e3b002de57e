"""Lower bounds on epsilon: what an attack that worked this well proves about a mechanism."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainccinv

from secateur.errors import DataError, UsageError
from secateur.stats.checks import check_alpha, check_delta, check_scores
from secateur.stats.intervals import Interval

TINY = float(np.finfo(np.float64).tiny)  # in place of what has no logarithm: such a bound never wins


def epsilon_lower_bound(
    member: ArrayLike,
    nonmember: ArrayLike,
    *,
    delta: float = 0.0,
    alpha: float = 0.05,
    threshold: Literal["split", "bonferroni"] = "split",
    rng: np.random.Generator | None = None,
) -> Interval:
    """The least epsilon that is compatible with scores told apart this well, at confidence 1 - alpha.

    An (epsilon, delta)-private mechanism allows no test with FPR + e^epsilon FNR < 1 - delta, nor with the
    two swapped (Kairouz et al. 2015). So log((1 - delta - FPR+) / FNR+) is a lower bound, + being one-sided
    Clopper-Pearson upper limits at alpha / 2 each (Jagielski et al. 2020; Nasr et al. 2021): the larger of
    both inequalities, which hold together.

    A threshold chosen on the scores that it is judged by makes the bound wrong. "split" chooses threshold and
    direction (do members score high, or low?) on a random half of each side and judges on the other. The
    draw of the halves moves the result; take one draw, never the best of several. "bonferroni" judges every
    threshold on all scores, alpha divided by their number, two a member: only a member's score can be best,
    and for a threshold that is a score of its own side Clopper-Pearson's limit still holds. Both hold with
    ties.

    Args:
        member: [m], scores of independent models with the example (or of independent members).
        nonmember: [n], scores of independent models without it.
        delta: Delta of the claim, in [0, 1).
        alpha: How often the bound may exceed the truth, in (0, 0.5).
        threshold: Where threshold and direction come from.
        rng: Generator of the halves; "split" needs it.

    Returns:
        The bound, in nats, as ``value`` and ``low``, 0 where nothing is shown; ``high`` is infinite, because
        no attack bounds epsilon from above. ``n`` is the number of scores that judged, on both sides. Print
        ``epsilon_ceiling`` beside it.

    Raises:
        DataError: No scores on a side, NaN among them, or fewer than two to split.
        UsageError: An unknown ``threshold``, no ``rng`` to split with, ``alpha`` or ``delta`` out of range.

    >>> apart = np.arange(64.0)
    >>> round(epsilon_lower_bound(apart + 64, apart, rng=np.random.default_rng(0)).value, 2)
    2.1
    """
    check_alpha(alpha)
    check_delta(delta)
    pos, neg = check_scores(member, "member"), check_scores(nonmember, "nonmember")
    if threshold == "bonferroni":
        count = _candidates(len(pos), threshold)
        bound = float(_bounds(pos, neg, pos, delta, alpha / count).max())
        scored, way = len(pos) + len(neg), f"Bonferroni over {count} thresholds and directions, on all scores"
    elif threshold == "split":
        if rng is None:
            raise UsageError(
                'expected rng, a numpy Generator, got none: "split" draws the half that chooses the threshold'
            )
        if min(len(pos), len(neg)) < 2:
            raise DataError(
                f"expected at least two scores on each side, got {len(pos)} and {len(neg)}: one half chooses "
                "the threshold, the other judges"
            )
        pos, neg = rng.permutation(pos), rng.permutation(neg)
        half, rest = len(pos) // 2, len(neg) // 2
        row, chosen = _best(pos[:half], neg[:rest], delta, alpha)
        bound = float(_bounds(pos[half:], neg[rest:], np.array([chosen]), delta, alpha)[row, 0])
        scored, way = len(pos) - half + len(neg) - rest, "threshold and direction from a split half"
    else:
        raise UsageError(
            f'expected threshold to be "split" or "bonferroni", got {threshold!r}: it says how the '
            "bound pays for choosing one"
        )
    bound = max(bound, 0.0)
    method = f"Clopper-Pearson upper limits of both error rates; {way}"
    return Interval(value=bound, low=bound, high=math.inf, level=1 - alpha, n=scored, method=method)


def epsilon_ceiling(
    k: int,
    *,
    delta: float = 0.0,
    alpha: float = 0.05,
    threshold: Literal["fixed", "split", "bonferroni"] = "fixed",
) -> float:
    """The largest bound that ``epsilon_lower_bound`` can give: that of an attack without any error.

    Args:
        k: Models with the example, and as many without it.
        delta: Delta of the claim, in [0, 1).
        alpha: How often the bound may exceed the truth, in (0, 0.5).
        threshold: "fixed" before any score was seen, or one of ``epsilon_lower_bound``'s; a split judges by
            half of the models.

    Returns:
        The ceiling, in nats, at least 0.

    Raises:
        UsageError: Fewer models than the threshold's way needs, or an unknown way.

    >>> [round(epsilon_ceiling(k), 2) for k in (8, 32, 64, 256, 512)]
    [0.53, 2.1, 2.82, 4.23, 4.93]
    """
    check_alpha(alpha)
    check_delta(delta)
    if threshold not in {"fixed", "split", "bonferroni"}:
        raise UsageError(
            f'expected threshold to be "fixed", "split" or "bonferroni", got {threshold!r}: the ceiling '
            "depends on it"
        )
    if k < 1 + (threshold == "split"):
        raise UsageError(
            f"expected at least {1 + (threshold == 'split')} models a side, got {k}: without scores there is "
            "no bound"
        )
    judges = k - k // 2 if threshold == "split" else k
    none = np.zeros(1)
    bound = _bound(none, judges, none, judges, delta, alpha / _candidates(k, threshold))
    return max(float(bound[0]), 0.0)


def _candidates(members: int, threshold: str) -> int:
    """How many bounds alpha is shared by: each member's score in both directions, or a single one."""
    return 2 * members if threshold == "bonferroni" else 1


def _best(
    member: NDArray[np.float64], nonmember: NDArray[np.float64], delta: float, alpha: float
) -> tuple[int, float]:
    """The direction, as a row of ``_bounds``, and the threshold that do best on these scores."""
    bounds = _bounds(member, nonmember, member, delta, alpha)
    row, best = (int(one) for one in np.unravel_index(bounds.argmax(), bounds.shape))
    sign = (1, -1)[row]
    score, all_scores = sign * member[best], sign * np.concatenate([member, nonmember])
    # halfway to the next score: at the best one itself, unseen scores a little beyond would be errors
    beyond = all_scores[all_scores < score].max(initial=-math.inf)
    finite = math.isfinite(score) and math.isfinite(beyond)
    return row, float(sign * (beyond / 2 + score / 2 if finite else score))


def _bounds(
    member: NDArray[np.float64],
    nonmember: NDArray[np.float64],
    thresholds: NDArray[np.float64],
    delta: float,
    alpha: float,
) -> NDArray[np.float64]:
    """Bounds [2, thresholds]: members are those at or above it; those at or below it."""
    rows = []
    for sign in (1, -1):
        pos, neg = np.sort(sign * member), np.sort(sign * nonmember)
        missed = np.searchsorted(pos, sign * thresholds, side="left")
        accused = len(neg) - np.searchsorted(neg, sign * thresholds, side="left")
        rows.append(_bound(accused, len(neg), missed, len(pos), delta, alpha))
    return np.stack(rows)


def _bound(
    accused: NDArray[Any], negatives: int, missed: NDArray[Any], positives: int, delta: float, alpha: float
) -> NDArray[np.float64]:
    """The larger of both inequalities, from counts of errors; negative where nothing is shown."""
    fpr, fnr = _upper(accused, negatives, alpha / 2), _upper(missed, positives, alpha / 2)
    one, other = np.maximum(1 - delta - fpr, TINY) / fnr, np.maximum(1 - delta - fnr, TINY) / fpr
    bound: NDArray[np.float64] = np.log(np.maximum(one, other))
    return bound


def _upper(count: NDArray[Any], trials: int, tail: float) -> NDArray[np.float64]:
    """Clopper and Pearson's one-sided upper limit of a share."""
    limit = betainccinv(count + 1, np.maximum(trials - count, 1), tail)
    return np.where(count < trials, limit, 1.0)
