"""Rows to forget that stand in retain once more: what is kept there cannot be forgotten here."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from secateur.data import View
from secateur.split import Split

NEAR = 0.05  # of a row's own distance from the mean row


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
    kept = [x - mean for x in _flat(split.retain)]
    for asked in _flat(split.forget):
        rows = asked - mean
        size = rows.norm(dim=1)
        least = torch.full_like(size, torch.inf)
        same = torch.zeros_like(size, dtype=torch.bool)
        for others in kept:
            apart, at = torch.cdist(rows, others).min(dim=1)
            same |= (rows == others[at]).all(1)
            least = torch.minimum(least, apart)
        close = same | (least <= NEAR * size)
        near, exact = near + int(close.sum()), exact + int(same.sum())
    return {"duplicates.near": float(near), "duplicates.exact": float(exact)}


def _flat(view: View) -> Iterator[Tensor]:
    for batch in view.fresh().once():
        assert isinstance(batch.x, Tensor)
        yield batch.x.flatten(1).float()
