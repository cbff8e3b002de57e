"""Which rows: positions that a caller names, and orders that a seed fixes."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from secateur.errors import DataError


def holdout_rows(
    y: NDArray[np.int64], share: float, *, seed: int, without: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """The rows of a holdout share: the first of a seed-fixed, stratified order that are not in ``without``.

    Args:
        y: [n], the classes.
        share: In [0, 1), of all n rows.
        seed: Fixes the order.
        without: Positions that may not be held out.

    Returns:
        Sorted positions.

    Raises:
        DataError: The share is outside [0, 1), or asks for more rows than there are.
    """
    if not 0 <= share < 1:
        raise DataError(
            f"expected a holdout share in [0, 1), got {share}: name rows, or take a smaller share"
        )
    count = round(share * len(y))
    order = stratified_order(y, seed=seed)
    free = order if without is None else order[~np.isin(order, without)]
    if count > len(free):
        raise DataError(
            f"expected {count} rows to hold out, but only {len(free)} are not forgotten: take a smaller share"
        )
    return np.sort(free[:count])


def stratified_order(y: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """All positions [n] in a random order whose every prefix has the classes in (about) their shares."""
    rng = np.random.default_rng([seed, len(y)])
    place = np.empty(len(y))
    for c in np.unique(y):
        members = np.flatnonzero(y == c)
        place[members] = (rng.permutation(len(members)) + 0.5) / len(members)
    return np.lexsort((rng.random(len(y)), place))


def positions(rows: ArrayLike | Tensor | AbstractSet[int], n: int, role: str) -> NDArray[np.int64]:
    """The rows that a caller names.

    Args:
        rows: Positions in any order, or a boolean mask [n].
        n: The number of rows there are.
        role: What errors call them.

    Returns:
        Sorted positions.

    Raises:
        DataError: Positions that do not exist or come twice, a mask of another length, or neither.
    """
    if isinstance(rows, AbstractSet):
        rows = sorted(rows)
    at = np.asarray(rows.cpu() if isinstance(rows, Tensor) else rows)
    if at.dtype == bool:
        if at.shape != (n,):
            raise DataError(
                f"expected `{role}` as a boolean mask of shape ({n},), got {at.shape}: one entry for each row"
            )
        return np.flatnonzero(at)
    if not at.size:
        return np.zeros(0, dtype=np.int64)
    if at.ndim != 1 or not np.issubdtype(at.dtype, np.integer):
        raise DataError(
            f"expected `{role}` as a list of row positions or a boolean mask, got {at.dtype} of shape "
            f"{at.shape}"
        )
    if at.min() < 0 or at.max() >= n:
        raise DataError(
            f"expected positions in 0..{n - 1} in `{role}`, got {at.min()}..{at.max()}: there are {n} rows"
        )
    unique, counts = np.unique(at, return_counts=True)
    if (counts > 1).any():
        raise DataError(
            f"expected each row once in `{role}`, but row {unique[counts > 1][0]} is named {counts.max()} "
            "times"
        )
    return unique.astype(np.int64)
