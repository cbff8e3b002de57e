"""What one score says of membership: forget rows against rows that no model saw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from secateur import stats
from secateur.outputs import Outputs
from secateur.record import Estimate

RATES = (0.01, 0.001)  # false positives


def estimates(
    member: NDArray[np.float64], other: NDArray[np.float64], level: float, *, prefix: str = ""
) -> dict[str, Estimate]:
    """How well a score that is high for members tells them from others.

    Args:
        member: [m], scores of the rows in question.
        other: [n], scores of rows that were not trained on.
        level: Confidence level of each interval, in (0, 1).
        prefix: Before every name.

    Returns:
        "AUC" (0.5: chance; above: still known; below: over-unlearned), "TPR@1%FPR" and "TPR@0.1%FPR", and,
        with the roles exchanged, "TNR@1%FNR" and "TNR@0.1%FNR".
    """
    found = {"AUC": stats.roc_auc(member, other, level=level)}
    for rate in RATES:
        share = f"{100 * rate:g}%"
        found[f"TPR@{share}FPR"] = stats.tpr_at_fpr(member, other, rate, level=level)
        found[f"TNR@{share}FNR"] = stats.tpr_at_fpr(-other, -member, rate, level=level)
    units = {name: "1" if name == "AUC" else "share" for name in found}
    return {
        prefix + name: Estimate.of(interval, unit=units[name], better="nearer-to-retrain")
        for name, interval in found.items()
    }


def shuffled(
    member: NDArray[np.float64], other: NDArray[np.float64], level: float, *, seed: int = 0
) -> Estimate:
    """The area when membership is dealt out at random: a control, whose interval should hold 0.5.

    Args:
        member: [m].
        other: [n].
        level: Confidence level, in (0, 1).
        seed: Of the shuffle.

    Returns:
        The area under the ROC curve.
    """
    both = np.random.default_rng(seed).permutation(np.concatenate([member, other]))
    area = stats.roc_auc(both[: len(member)], both[len(member) :], level=level)
    method = f"{area.method}; membership shuffled"
    return Estimate.of(replace(area, method=method), unit="1", better="nearer-to-retrain")


def matched(asked: Outputs, pool: Outputs) -> Outputs:
    """The rows of a pool whose class is among those asked about (all of it, where none is).

    Args:
        asked: Forget rows.
        pool: Test rows.

    Returns:
        Rows of the pool.
    """
    strange = np.setdiff1d(pool.labels, asked.labels)
    kept = pool.without(strange)
    return kept if len(kept) else pool
