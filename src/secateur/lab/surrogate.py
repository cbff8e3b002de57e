"""Surrogate requests: rows that stand in for those to forget, so that knobs can be chosen without them."""

from __future__ import annotations

from typing import Any

import numpy as np

from secateur.errors import DataError
from secateur.lab.request import AtRandom, ByClass, Request
from secateur.split import Split

WAY_OUT = 'tune by = "oracle", on the retrains of the request itself, or choose the knobs by hand'


def surrogate(request: Request, split: Split, seed: int) -> dict[str, Any]:
    """An ordinary request of the same kind and number, for rows that the real one retains.

    A request by class gets other classes; one at random, as many random rows; any other, as many random rows
    of each class. Of the real forget rows nothing is used but their number, and that by class.

    Args:
        request: The real one.
        split: Its rows.
        seed: Fixes the choice.

    Returns:
        What stands in for ``data.forget`` in a plan.

    Raises:
        DataError: The retained rows are too few, or have too few classes.
    """
    retain, rng = split.retain, np.random.default_rng([seed, len(split.forget)])
    if isinstance(request, ByClass):
        others, count = np.unique(retain.labels), len(request.classes)
        # the surrogate's own retrain must still have something to tell apart: the real classes stay in it
        if len(others) < count or len(others) < 2:
            raise DataError(
                f"expected enough other classes for a surrogate of {request}, got {len(others)}: its "
                f"retrains would have nothing to tell apart; {WAY_OUT}"
            )
        return {"how": "class", "classes": sorted(rng.choice(others, count, replace=False).tolist())}
    if isinstance(request, AtRandom):
        wanted = {"": (np.arange(len(retain)), len(split.forget))}
    else:
        kinds, counts = np.unique(split.forget.labels, return_counts=True)
        wanted = {
            f" of class {kind}": (np.flatnonzero(retain.labels == kind), int(count))
            for kind, count in zip(kinds, counts, strict=True)
        }
    if short := [
        f"{count}{what} where retain has {len(there)}"
        for what, (there, count) in wanted.items()
        if count > len(there)
    ]:
        raise DataError(
            f"expected as many retained rows for a surrogate as {request} forgets, got too few "
            f"({', '.join(short)}): {WAY_OUT}"
        )
    chosen = [rng.choice(there, count, replace=False) for there, count in wanted.values()]
    return {"how": "rows", "rows": sorted(retain.rows[np.concatenate(chosen)].tolist())}
