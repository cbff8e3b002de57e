"""What a training run draws: batches in order, good for one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

from secateur.errors import UsageError

Item = TypeVar("Item")
Other = TypeVar("Other")


class Batch(NamedTuple):
    """Some rows.

    Attributes:
        x: [b, ...], or a mapping of such; floats in the precision of the run (uint8 images become floats in
            [0, 1]).
        y: [b], the classes, int64.
        row: [b], stable ids of the rows, int64.
    """

    x: Tensor | Mapping[str, Tensor]
    y: Tensor
    row: Tensor


class Loader(Generic[Item]):
    """What one training run draws, in order; good for one pass.

    Args:
        epochs: Passes over the rows.
        updates: Items in one epoch.
        epoch: Epoch number to the items of that epoch: a pure function.
        passed: Told how many whole epochs were passed over by who begins later.
    """

    def __init__(
        self,
        epochs: int,
        updates: int,
        epoch: Callable[[int], Iterator[Item]],
        passed: Callable[[int], None] = lambda epochs: None,
    ) -> None:
        self.epochs = epochs
        self.updates = updates
        self._epoch, self._passed = epoch, passed
        self._used = False

    def __len__(self) -> int:
        """Updates in the whole run."""
        return self.epochs * self.updates

    def __iter__(self) -> Iterator[Item]:
        return self.begin(0)

    def begin(self, update: int) -> Iterator[Item]:
        """Items from an update on; those of its epoch that come before it are drawn and put away.

        Args:
            update: Its number in the whole run, from 0.

        Returns:
            The items, the same as if all before them had been taken.

        Raises:
            UsageError: The loader has been used.
        """
        if self._used:
            raise UsageError(
                "a loader is for one pass, and this one has been used: make another with view.loader(...)"
            )
        self._used = True
        first, before = divmod(update, self.updates)
        self._passed(first)
        items = (item for epoch in range(first, self.epochs) for item in self._epoch(epoch))
        return islice(items, before, None)


def paired(first: Loader[Item], second: Loader[Other]) -> Loader[tuple[Item, Other]]:
    """Two loaders side by side, for losses that look at two roles at once; epochs are those of the first.

    Args:
        first: Its length decides.
        second: Must be at least as long.

    Returns:
        A loader of pairs.

    Raises:
        UsageError: The second would end before the first.
    """
    if len(second) < len(first):
        need = math.ceil(len(first) / second.updates)
        raise UsageError(
            f"expected the second loader to last {len(first)} updates, got {len(second)}: ask for "
            f"epochs={need}"
        )
    together: Iterator[tuple[Item, Other]] | None = None

    def epoch(number: int) -> Iterator[tuple[Item, Other]]:
        nonlocal together
        if together is None:
            start = number * first.updates
            together = zip(first.begin(start), second.begin(start), strict=False)
        yield from islice(together, first.updates)

    return Loader(first.epochs, first.updates, epoch)
