"""Attacks that set what one model says of a row against what other models say of the same row."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secateur.errors import DataError, UsageError
from secateur.stats.checks import check_mask, check_probabilities, check_scores

FLOOR = 1e-30  # a mean probability below it counts as this much, so that no ratio is infinite


def rmia_scores(
    target: ArrayLike,
    reference: ArrayLike,
    out: ArrayLike,
    *,
    population: ArrayLike,
    population_reference: ArrayLike,
    gamma: float = 1.0,
    a: float = 0.3,
) -> NDArray[np.float64]:
    """Offline RMIA: how often a row gained more from training than a row of the population did.

    The score is the share of population rows z with (p(x | target) / p(x)) / (p(z | target) / p(z)) >= gamma
    (Zarifzadeh, Liu and Shokri, ICML 2024). p(x) stands for the mean over models with and without x; only
    those without are known, so it is taken as ((1 + a) p_out(x) + (1 - a)) / 2. The same is done to p(z), as
    in the authors' code: then, if neither x nor z was trained on, the score is uniform.

    Args:
        target: [n], the target model's probability of the true label on the rows asked about.
        reference: [m, n], the reference models' probabilities of the same. Entries that ``out`` does not mark
            are not read.
        out: [m, n], booleans: the model was not trained on the row.
        population: [z], the target model's probabilities of the true label on rows that no model was trained
            on.
        population_reference: [m, z], the reference models' probabilities of the same.
        gamma: How much more x must have gained, above 0; the paper's 1.
        a: How p(x) follows from p_out(x), in [0, 1]: models with x are taken to say a p_out(x) + 1 - a. The
            paper tunes it on reference models, around 0.3.

    Returns:
        [n], shares in [0, 1]; NaN for a row without an OUT model. A row to which the target gives probability
        0 has score 0.

    Raises:
        DataError: Shapes that do not fit, or something that is no probability.
        UsageError: ``gamma`` or ``a`` outside its range.

    >>> said = {"population": [0.5, 0.7, 0.9], "population_reference": [[0.5, 0.6, 0.9]]}
    >>> rmia_scores([0.99, 0.2], [[0.5, 0.5]], [[True, True]], **said).tolist()
    [1.0, 0.0]
    """
    if not (0 < gamma < math.inf and 0 <= a <= 1):
        raise UsageError(
            f"expected gamma above 0 and a in [0, 1], got gamma={gamma} and a={a}: gamma is a ratio of "
            "likelihoods, a interpolates between probabilities"
        )
    x, z = check_probabilities(target, "the rows asked about"), check_probabilities(population, "population")
    without = _bank(reference, len(x), "reference probabilities")
    known = check_mask(out, without.shape, "the mask `out`")
    if known.any():
        check_probabilities(without[known], "the reference models")
    others = _bank(population_reference, len(z), "population reference probabilities")
    check_probabilities(others.ravel(), "the reference models on the population")
    if len(others) != len(without):
        raise DataError(
            f"expected the same reference models on the population as on the rows asked about, got "
            f"{len(others)} and {len(without)}: p(x) and p(z) must mean the same"
        )

    def marginal(p_out: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.maximum(((1 + a) * p_out + (1 - a)) / 2, FLOOR)  # NaN stays NaN

    gained, usual = x / marginal(_means(without, known)[0]), z / marginal(others.mean(axis=0))
    # sorted, so that no table [n, z] is made
    scores = np.searchsorted(np.sort(gamma * usual), gained, side="right") / len(z)
    scores[x == 0] = 0.0  # else a zero would beat the population's zeros
    scores[np.isnan(gained)] = math.nan
    return scores


def lira_scores(
    target: ArrayLike, scores: ArrayLike, inside: ArrayLike, *, online: bool, shrink: float = 16.0
) -> NDArray[np.float64]:
    """LiRA: does the target's score look like those of models trained with the row, or without it?

    Each row has a normal distribution of scores over OUT models, and online one over IN models too (Carlini
    et al., S&P 2022). Their variances come each from its own side, IN from IN scores and OUT from OUT scores,
    and are shrunken towards the side's pooled variance: (ss + shrink * pooled) / (count - 1 + shrink) with ss
    the row's sum of squares about its mean, and pooled the sum of all rows' ss over that of their count - 1.
    The paper takes the pooled one below about 32 models a side and the row's own above: ``shrink`` does it
    smoothly.

    Args:
        target: [n], the target model's ``logit_confidence`` on each row.
        scores: [m, n], the same of the bank's models. Offline, IN entries are not read.
        inside: [m, n], booleans: the model was trained on the row.
        online: Compare IN with OUT, instead of asking how far the target lies from OUT.
        shrink: How many degrees of freedom the pooled variance is worth: 0 takes each row's own variance,
            infinity the pooled one.

    Returns:
        [n], high for members. Online: log-likelihood ratio of IN to OUT, nats. Offline: the standardised
        distance above the OUT mean, whose normal tail is the paper's p-value; the distance itself, because
        the tail runs out of digits where a row was unlearned too much. NaN for a row with fewer than two OUT
        models (online, or fewer than two IN models), or with a variance of zero.

    Raises:
        DataError: Shapes that do not fit, or scores that are not finite.
        UsageError: ``shrink`` below 0.

    >>> bank = [[4.0, 5.0], [6.0, 5.5], [0.0, 1.0], [1.0, 0.5]]
    >>> inside = [[True, True], [True, True], [False, False], [False, False]]
    >>> lira_scores([5.0, 1.0], bank, inside, online=True).round(1).tolist()
    [30.7, -9.5]
    """
    if not shrink >= 0:
        raise UsageError(
            f"expected shrink of at least 0, got {shrink}: it counts degrees of freedom, infinity for the "
            "pooled variance alone"
        )
    t = check_scores(target, "target")
    bank = _bank(scores, len(t), "bank scores")
    trained = check_mask(inside, bank.shape, "the mask `inside`")
    read = bank if online else bank[~trained]
    if not (np.isfinite(read).all() and np.isfinite(t).all()):
        raise DataError(
            "expected finite scores of the target and of the bank, got NaN or infinity among them: a normal "
            "distribution has no place for it; clip the scores first"
        )
    mean, variance = _normal(bank, ~trained, shrink)
    distance: NDArray[np.float64] = (t - mean) / np.sqrt(variance)
    if not online:
        return distance
    mean_in, variance_in = _normal(bank, trained, shrink)
    nearer = distance**2 - (t - mean_in) ** 2 / variance_in
    ratio: NDArray[np.float64] = (nearer + np.log(variance) - np.log(variance_in)) / 2
    return ratio


def _bank(values: ArrayLike, rows: int, name: str) -> NDArray[np.float64]:
    """Values [m, rows] in double, of at least one model."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not len(array) or array.shape[1] != rows:
        raise DataError(
            f"expected {name} [m, {rows}], at least one model, got shape {array.shape}: models come first, "
            "and the rows are those of the target"
        )
    return array


def _means(values: NDArray[np.float64], side: NDArray[np.bool_]) -> tuple[NDArray[np.float64], ...]:
    """Each row's mean over the models marked (NaN with none), and their number."""
    count = side.sum(axis=0)
    total = np.where(side, values, 0.0).sum(axis=0)
    mean = np.divide(total, count, out=np.full(len(count), math.nan), where=count > 0)
    return mean, count.astype(np.float64)


def _normal(
    values: NDArray[np.float64], side: NDArray[np.bool_], shrink: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each row's mean and shrunken variance on one side; a variance that nothing supports is NaN."""
    mean, count = _means(values, side)
    squares = np.where(side, (np.where(side, values, 0.0) - mean) ** 2, 0.0).sum(axis=0)
    usable, freedom = count >= 2, np.maximum(count - 1, 0)
    if not usable.any():
        return mean, np.full(len(mean), math.nan)
    pooled = squares[usable].sum() / freedom[usable].sum()
    if math.isinf(shrink):
        variance = np.full(len(mean), pooled)
    else:
        variance = (squares + shrink * pooled) / np.where(usable, freedom + shrink, 1.0)
    return mean, np.where(usable & (variance > 0), variance, math.nan)
