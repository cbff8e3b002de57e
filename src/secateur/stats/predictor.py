"""The confidence predictor of the paper: a support vector machine on one feature."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secateur.errors import DataError, UsageError
from secateur.stats.checks import check_probabilities
from secateur.stats.intervals import Interval, mean_share

# a power of two: a row's cell is the same on every machine. Half as many moved a real value by 0.3 points
_CELLS = 1024


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

    Up to 2,048 rows, both sides together, are learned one by one. More are merged first: [0, 1] is cut into
    1,024 cells, and the rows that a side has in one cell are learned as one, at their mean, with the weight
    of all. Over one cell the kernel hardly bends: on sets of 18,000 CIFAR-10 rows the share moved by 0.1
    points at most. ``forget`` is never merged. Sides that merge into the same are learned row by row too:
    nothing tells them apart, and the published machine's answer is its rounding.

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
    sides = [check_probabilities(values, name) for name, values in (("retain", retain), ("test", test))]
    asked = check_probabilities(forget, "forget")
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
    sides = [check_probabilities(values, name) for name, values in (("retain", retain), ("test", test))]
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

    taught = [(side, np.ones(len(side))) for side in (members, others)]
    if len(members) + len(others) > 2 * _CELLS:
        one, other = _merged(members), _merged(others)
        if not np.array_equal(np.round(one, 9), np.round(other, 9)):
            taught = [one, other]
    rows, weights = (np.concatenate(parts) for parts in zip(*taught, strict=True))
    labels = np.repeat([1, 0], [len(side) for side, _ in taught])
    # without a random_state the fit would draw from numpy's global stream; its result does not depend on it
    predictor = SVC(C=3, gamma="auto", kernel="rbf", random_state=0)
    predictor.fit(column(rows), labels, sample_weight=weights)
    called: NDArray[np.bool_] = predictor.predict(column(asked)) == 1
    return called


def _merged(side: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean of the rows in each cell that holds some, and how many they are; 1.0 has its own cell."""
    cells = (side * _CELLS).astype(np.int64)
    counts, sums = np.bincount(cells).astype(np.float64), np.bincount(cells, side)
    held = counts > 0
    return sums[held] / counts[held], counts[held]
