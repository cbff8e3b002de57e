"""Shares: a batch in parts, for several processes and one after the other, whose weighted means add up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from secateur.errors import UsageError
from secateur.loader import Batch
from secateur.ranks import rank, world

Item = TypeVar("Item")


def shares(item: Item, parts: int) -> list[tuple[float, Item]]:
    """What this process takes of a batch that every process holds.

    Args:
        item: A batch, or a tuple of batches that are cut alike.
        parts: Into how many this process cuts its own rows.

    Returns:
        Weights and parts of at least one row, in order. Over all processes the weights add up to 1, and the
        weighted sum of means over the parts is the mean over the batch.

    Raises:
        UsageError: The item is no batch, has fewer rows than there are processes, or is a tuple of batches
            whose parts have different shares of their rows.
    """
    if world() == parts == 1:
        return [(1.0, item)]
    cut = (_cut(item, rank() * parts + i, world() * parts) for i in range(parts))
    return [(weight, part) for weight, part in cut if weight]


def _cut(item: Item, at: int, parts: int) -> tuple[float, Item]:
    """Part number ``at``, and its share of the rows."""
    if isinstance(item, Batch):
        rows = len(item.y)
        if rows < world():
            raise UsageError(
                f"expected at least one row of a batch for each of {world()} processes, got {rows}: start "
                "fewer of them"
            )
        here = slice(rows * at // parts, rows * (at + 1) // parts)
        x = {k: v[here] for k, v in item.x.items()} if isinstance(item.x, Mapping) else item.x[here]
        return (here.stop - here.start) / rows, type(item)(x, item.y[here], item.row[here])
    if not isinstance(item, tuple) or not item:
        raise UsageError(
            f"expected batches, or tuples of them, to cut in {parts} parts, got {type(item).__name__}: "
            "nothing says what its rows are; train in one process and with accumulate = 1"
        )
    weights, cut = zip(*(_cut(one, at, parts) for one in item), strict=True)
    if len(set(weights)) > 1:
        raise UsageError(
            f"expected batches side by side that {parts} parts share alike, got shares {weights}: no single "
            f"weight makes their losses add up; take batches of a multiple of {parts} rows"
        )
    return weights[0], type(item)(cut)
