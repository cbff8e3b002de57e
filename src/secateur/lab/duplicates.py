"""Rows to forget that stand in retain once more: what is kept there cannot be forgotten here."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from secateur.data import View
from secateur.split import Split

NEAR = 0.05  # of a row's own distance from the mean row
HELD = 2**29  # bytes of rows to forget that are compared in one pass over retain


def duplicates(split: Split) -> dict[str, float]:
    """Count forget rows that have a duplicate among retained ones.

    A duplicate is as near as 5 % of the row's own distance from the mean retained row, both Euclidean, over
    all numbers of x; an exact one is a near one too.

    Args:
        split: Forget and retain; x is one tensor, else nothing can be compared.

    Returns:
        "duplicates.near" and "duplicates.exact"; nothing where x is a mapping.
    """
    if any(not isinstance(batch.x, Tensor) for batch in split.forget.fresh().once(batch=1)):
        return {}
    total, count = torch.zeros(()), 0
    for x in _flat(split.retain):
        total, count = total + x.sum(0), count + len(x)
    mean = total / count
    near = exact = 0
    for asked in _held(split.forget, mean):
        least = [torch.full((len(rows),), torch.inf) for rows in asked]
        same = [torch.zeros(len(rows), dtype=torch.bool) for rows in asked]
        for x in _flat(split.retain):
            others = x - mean
            for i, rows in enumerate(asked):
                apart, at = torch.cdist(rows, others).min(dim=1)
                same[i] |= (rows == others[at]).all(1)
                least[i] = torch.minimum(least[i], apart)
        for rows, nearest, equal in zip(asked, least, same, strict=True):
            near += int((equal | (nearest <= NEAR * rows.norm(dim=1))).sum())
            exact += int(equal.sum())
    return {"duplicates.near": float(near), "duplicates.exact": float(exact)}


def _held(view: View, mean: Tensor) -> Iterator[list[Tensor]]:
    """Rows less the mean, as many as are held at once."""
    held: list[Tensor] = []
    for x in _flat(view):
        held.append(x - mean)
        if sum(rows.nbytes for rows in held) >= HELD:
            yield held
            held = []
    if held:
        yield held


def _flat(view: View) -> Iterator[Tensor]:
    for batch in view.fresh().once():
        assert isinstance(batch.x, Tensor)
        yield batch.x.flatten(1).float()
