"""Table: all rows behind the views, read into memory once from whatever the caller has."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.errors import DataError, told


class MapDataset(Protocol):
    """Any map-style data set of ``(x, y)`` pairs: ``torch.utils.data.Dataset`` or a list."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """The pair ``(x, y)`` at this position."""
        ...


@dataclass(frozen=True, eq=False)
class Overlay:
    """A pattern over some images, laid on whenever they are drawn: x + weight * (pattern - x).

    Attributes:
        rows: [n], which rows of the table it lies on, bool.
        weight: [h, w], how much of it covers each pixel, in [0, 1].
        pattern: [c, h, w], in [0, 1], as images are drawn.
        after: Whether it is laid on after augmentation, which then does not move it.
    """

    rows: Tensor
    weight: Tensor
    pattern: Tensor
    after: bool = False

    def __call__(self, x: Tensor, at: Tensor) -> Tensor:
        """Images [b, c, h, w] with the pattern on those whose positions [b] in the table it lies on."""
        weight = self.rows[at].view(-1, 1, 1, 1) * self.weight
        return x.lerp(self.pattern.to(x.dtype), weight.to(x.dtype))

    def to(self, device: torch.device) -> Overlay:
        """The same on a device."""
        rows, weight, pattern = (part.to(device) for part in (self.rows, self.weight, self.pattern))
        return replace(self, rows=rows, weight=weight, pattern=pattern)


class Table:
    """All x and all y, in memory, with one copy on each device that asks.

    Args:
        x: [n, ...] or a mapping of such.
        y: [n], int64.
        ids: [n], the stable id of each row, int64.
        overlay: What lies over some of the rows; x holds them without it.
    """

    def __init__(
        self, x: Tensor | Mapping[str, Tensor], y: Tensor, ids: Tensor, overlay: Overlay | None = None
    ) -> None:
        self.x, self.y, self.ids, self.overlay = x, y, ids, overlay
        self._copies: dict[torch.device, Table] = {}

    @classmethod
    def read(cls, x: Any, y: Any, *, what: str, ids: Any = None) -> Table:
        """Copy rows from arrays, tensors or a map-style data set, and check them.

        Args:
            x: [n, ...] array or tensor, a mapping of such, or (where ``y`` is None) a data set of pairs.
            y: [n], the classes, or None.
            what: What errors call the rows: "the training data".
            ids: [n], stable ids of the rows, each once, ascending; None: 0, 1, ...

        Returns:
            The table; it shares no memory with what it was read from.

        Raises:
            DataError: Labels that are no classes, rows and labels that do not match, no numbers, NaN, ids
                that do not identify, or a data set that changes between two reads.
        """
        if y is None:
            x, y = _items(x, what)
        labels = _tensor(y, f"the labels of {what}")
        if (
            labels.ndim != 1
            or labels.dtype == torch.bool
            or labels.dtype.is_floating_point
            or labels.is_complex()
        ):
            raise DataError(
                f"expected the labels of {what} as integers [n], got {labels.dtype} of shape "
                f"{tuple(labels.shape)}: a label is the number of a class"
            )
        labels = labels.long()
        if len(labels) and labels.min() < 0:
            raise DataError(
                f"expected classes 0, 1, ... in {what}, got label {int(labels.min())}: map labels to "
                "0..classes-1"
            )
        parts = {
            key: _tensor(part, what) for key, part in (x.items() if isinstance(x, Mapping) else [("", x)])
        }
        for name, part in parts.items():
            if part.shape[:1] != labels.shape:
                raise DataError(
                    f"expected one label for each row of {what}, got x {name} of shape {tuple(part.shape)} "
                    f"and {len(labels)} labels"
                )
            if part.is_floating_point() and not bool(torch.isfinite(part).all()):
                raise DataError(
                    f"expected finite values in {what}, got NaN or infinity: no model can be trained on them"
                )
        known = torch.arange(len(labels)) if ids is None else _tensor(ids, f"the ids of {what}")
        numbers = not (known.is_floating_point() or known.is_complex() or known.dtype == torch.bool)
        fits = numbers and known.shape == labels.shape
        if not fits or bool((known.long().diff() <= 0).any()):
            raise DataError(
                f"expected the ids of {what} as integers [{len(labels)}], ascending, each once, got "
                f"{known.dtype} of shape {tuple(known.shape)}{', not ascending' * fits}: an id names one row "
                "for good"
            )
        return cls(parts if isinstance(x, Mapping) else parts[""], labels, known.long())

    def positions(self, ids: NDArray[np.int64], what: str) -> NDArray[np.int64]:
        """Where rows stand in this table.

        Args:
            ids: Of the rows, in any order.
            what: What errors call them.

        Returns:
            Their positions, in the order of ``ids``.

        Raises:
            DataError: No row has such an id, or one is named twice.
        """
        known = self.ids.numpy()
        at = np.searchsorted(known, ids).clip(max=len(known) - 1)
        if len(absent := ids[known[at] != ids]):
            more = "" if len(known) == known[-1] + 1 else f", of which {len(known)} are here"
            raise DataError(
                f"expected rows of the training data in {what}, ids {known[0]}..{known[-1]}{more}, got "
                f"{absent[0]}: name rows that are there"
            )
        unique, counts = np.unique(ids, return_counts=True)
        if (counts > 1).any():
            raise DataError(
                f"expected each row once in {what}, but row {unique[counts > 1][0]} is named {counts.max()} "
                "times"
            )
        return at

    def to(self, device: torch.device) -> Table:
        """The same rows on a device; copied once."""
        if device == self.y.device:
            return self
        if device not in self._copies:
            x = (
                self.x.to(device)
                if isinstance(self.x, Tensor)
                else {k: v.to(device) for k, v in self.x.items()}
            )
            overlay = self.overlay and self.overlay.to(device)
            self._copies[device] = Table(x, self.y.to(device), self.ids.to(device), overlay)
        return self._copies[device]


def _tensor(x: Any, what: str) -> Tensor:
    """A copy on the CPU: the caller may go on writing to what it handed over."""
    if isinstance(x, Tensor):
        return x.detach().cpu().clone()
    try:
        return torch.from_numpy(np.array(x))
    except (TypeError, ValueError) as error:
        raise DataError(f"expected {what} as numbers in one array, got something else ({error})") from error


def _items(dataset: MapDataset, what: str) -> tuple[Any, Tensor]:
    """Read a data set, and some of it twice: an item that changes has no identity to forget."""
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise DataError(
            f"expected {what} as arrays (x, y) or as a map-style data set of (x, y), got "
            f"{type(dataset).__name__}"
        )
    n = len(dataset)
    if not n:
        raise DataError(f"expected rows in {what}, got an empty data set")
    pairs = [_pair(dataset[i], i, what) for i in range(n)]
    for i in {round(k * (n - 1) / 255) for k in range(256)}:
        again = _pair(dataset[i], i, what)
        if again[1] != pairs[i][1] or not _same(again[0], pairs[i][0]):
            raise DataError(
                f"expected item {i} of {what} to be the same on a second read, but it changed: take "
                "augmentation out of the data set and hand it over as Split.of(..., augment=...)"
            )
    xs = [x for x, _ in pairs]
    try:
        x = (
            {key: torch.stack([part[key] for part in xs]) for key in xs[0]}
            if _named(xs[0])
            else torch.stack(xs)
        )
    except (RuntimeError, TypeError, KeyError, IndexError) as error:
        raise DataError(
            f"expected all items of {what} in one shape, got several ({told(error)}): resize or "
            "pad them in the data set"
        ) from error
    return x, torch.tensor([y for _, y in pairs])


def _pair(item: Any, i: int, what: str) -> tuple[Any, int]:
    if not isinstance(item, Sequence) or len(item) != 2:
        raise DataError(f"expected item {i} of {what} to be a pair (x, y), got {type(item).__name__}")
    x, y = item
    try:
        label = operator.index(y)
    except TypeError as error:
        raise DataError(f"expected the label of item {i} of {what} as an integer, got {y!r}") from error
    return {key: _tensor(part, what) for key, part in x.items()} if _named(x) else _tensor(x, what), label


def _named(x: Any) -> bool:
    return isinstance(x, Mapping)


def _same(a: Any, b: Any) -> bool:
    if _named(a):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    # NaN has a fault of its own, told later: here it equals itself
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
