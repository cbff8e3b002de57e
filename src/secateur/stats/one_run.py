"""A lower bound on epsilon that one training run can give."""

from __future__ import annotations

import numpy as np
from scipy.special import bdtrc, expit, gammaln, xlog1py, xlogy

from secateur.errors import DataError, UsageError
from secateur.stats.checks import check_alpha, check_delta, check_trials


def one_run_epsilon(
    correct: int, guesses: int, *, canaries: int | None = None, delta: float = 0.0, alpha: float = 0.05
) -> float:
    """A lower bound on epsilon from one training run (Steinke, Nasr and Jagielski, NeurIPS 2023).

    Each canary is put in or left out by a fair coin, and the auditor guesses the coins that it likes. With
    epsilon-privacy at most Binomial(guesses, e^epsilon / (1 + e^epsilon)) guesses are right, in distribution;
    delta adds at most 2 canaries delta max_i P[correct - i <= that < correct] / i to the tail. The bound is
    the epsilon at which the tail from ``correct`` on reaches alpha.

    Args:
        correct: How many guesses were right.
        guesses: How many canaries the auditor guessed, at least one; it may abstain on others.
        canaries: How many coins were thrown; needed where delta is above 0.
        delta: Delta of the claim, in [0, 1).
        alpha: How often the bound may exceed the truth, in (0, 0.5).

    Returns:
        The bound, in nats; 0 where nothing is shown.

    Raises:
        DataError: Counts that do not fit each other.
        UsageError: ``alpha`` or ``delta`` out of range, or delta without ``canaries``.

    >>> round(one_run_epsilon(75, 100, canaries=1000, delta=1e-4), 3)
    0.673
    """
    check_alpha(alpha)
    check_delta(delta)
    check_trials(correct, guesses)
    if delta and canaries is None:
        raise UsageError(
            "expected canaries, the number of coins thrown, where delta is above 0, got none: each of them "
            "may fail with probability delta, guessed or not"
        )
    if canaries is not None and canaries < guesses:
        raise DataError(
            f"expected at least as many canaries as guesses, got {canaries} and {guesses}: each guess is "
            "about one of them"
        )

    below = np.arange(correct - 1, -1, -1)
    ways = gammaln(guesses + 1) - gammaln(below + 1) - gammaln(guesses - below + 1)

    def tail(epsilon: float) -> float:
        q = float(expit(epsilon))
        found = float(bdtrc(correct - 1, guesses, q)) if correct else 1.0
        if delta and correct and canaries:
            near = np.cumsum(np.exp(ways + xlogy(below, q) + xlog1py(guesses - below, -q)))
            found += 2 * canaries * delta * float((near / (below[0] + 1 - below)).max())
        return found

    if tail(0.0) >= alpha:
        return 0.0
    # where the tail is below one half it grows with epsilon, so it crosses alpha once
    low, high = 0.0, 1.0
    while tail(high) < alpha:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle) < alpha else (low, middle)
    return low
