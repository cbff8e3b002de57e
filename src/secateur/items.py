"""Map-style data sets of (x, y): read item by item, each checked."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor

from secateur.errors import DataError, told

AGAIN = 256  # items that are read a second time, at most


class MapDataset(Protocol):
    """Any map-style data set of ``(x, y)`` pairs: ``torch.utils.data.Dataset`` or a list."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """The pair ``(x, y)`` at this position."""
        ...


def count(dataset: MapDataset, what: str) -> int:
    """The number of items of a data set.

    Args:
        dataset: What should be one.
        what: What errors call its rows.

    Returns:
        At least 1.

    Raises:
        DataError: It is no map-style data set, or an empty one.
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise DataError(
            f"expected {what} as arrays (x, y) or as a map-style data set of (x, y), got "
            f"{type(dataset).__name__}"
        )
    if not (n := len(dataset)):
        raise DataError(f"expected rows in {what}, got an empty data set")
    return n


def read_items(dataset: MapDataset, what: str) -> tuple[Any, Tensor]:
    """Read a data set, and some of it twice: an item that changes has no identity to forget.

    Args:
        dataset: Of pairs.
        what: What errors call its rows.

    Returns:
        x [n, ...] or a mapping of such, and y [n].

    Raises:
        DataError: It is no data set of pairs of one shape, or it changes between two reads.
    """
    n = count(dataset, what)
    pairs = [pair(dataset, i, what) for i in range(n)]
    for i in twice(n):
        again = pair(dataset, i, what)
        if again[1] != pairs[i][1] or not _same(again[0], pairs[i][0]):
            refuse_change(i, what)
    xs = [x for x, _ in pairs]
    try:
        x = (
            {key: torch.stack([part[key] for part in xs]) for key in xs[0]}
            if isinstance(xs[0], Mapping)
            else torch.stack(xs)
        )
    except (RuntimeError, TypeError, KeyError, IndexError) as error:
        raise DataError(
            f"expected all items of {what} in one shape, got several ({told(error)}): resize or "
            "pad them in the data set"
        ) from error
    return x, torch.tensor([y for _, y in pairs])


def pair(dataset: MapDataset, i: int, what: str) -> tuple[Any, int]:
    """An item as tensors that share no memory with it.

    Args:
        dataset: Of pairs.
        i: Position of the item.
        what: What errors call the rows.

    Returns:
        x, or a mapping of such, and the label.

    Raises:
        DataError: It cannot be read, or is no pair of numbers and a class.
    """
    try:
        item = dataset[i]
    except Exception as error:  # somebody else's data set can raise anything
        raise DataError(
            f"expected item {i} of {what}, but the data set raised {told(error)}: mend the item, or take it "
            "out"
        ) from error
    if not isinstance(item, Sequence) or len(item) != 2:
        raise DataError(f"expected item {i} of {what} to be a pair (x, y), got {type(item).__name__}")
    x, y = item
    try:
        label = operator.index(y)
    except TypeError as error:
        raise DataError(f"expected the label of item {i} of {what} as an integer, got {y!r}") from error
    named = isinstance(x, Mapping)
    return {key: tensor(part, what) for key, part in x.items()} if named else tensor(x, what), label


def tensor(x: Any, what: str) -> Tensor:
    """A copy on the CPU: the caller may go on writing to what it handed over.

    Args:
        x: Numbers: a tensor, or what numpy makes an array of.
        what: What errors call them.

    Returns:
        The copy.

    Raises:
        DataError: They are no numbers in one array.
    """
    if isinstance(x, Tensor):
        return x.detach().cpu().clone()
    try:
        return torch.from_numpy(np.array(x))
    except (TypeError, ValueError) as error:
        raise DataError(f"expected {what} as numbers in one array, got something else ({error})") from error


def twice(n: int) -> list[int]:
    """Positions of the items that are read a second time: the first, the last, and evenly between them."""
    return sorted({round(k * (n - 1) / (AGAIN - 1)) for k in range(AGAIN)})


def refuse_change(i: int, what: str) -> NoReturn:
    """Refuse rows of which one was another on its second read.

    Args:
        i: Its position.
        what: What errors call the rows.

    Raises:
        DataError: Always.
    """
    raise DataError(
        f"expected item {i} of {what} to be the same on a second read, but it changed: take "
        "augmentation out of the data set and hand it over as Split.of(..., augment=...)"
    )


def check_finite(x: Tensor, what: str) -> None:
    """Refuse NaN and infinity.

    Args:
        x: Numbers of any type.
        what: What errors call them.

    Raises:
        DataError: There is some.
    """
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        raise DataError(
            f"expected finite values in {what}, got NaN or infinity: no model can be trained on them"
        )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    # NaN has a fault of its own, told later: here it equals itself
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
