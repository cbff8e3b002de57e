"""Table: all rows behind the views, read into memory once, or mapped: read when they are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.errors import DataError
from secateur.items import check_finite, read_items, tensor
from secateur.mapped import Mapped, Memory, mapped


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
    """All x and all y, in memory, with one copy on each device that asks; x may also be mapped.

    Args:
        x: [n, ...] or a mapping of such; or rows that stay where they are.
        y: [n], int64.
        ids: [n], the stable id of each row, int64.
        overlay: What lies over some of the rows; x holds them without it.
    """

    def __init__(
        self,
        x: Tensor | Mapping[str, Tensor] | Mapped,
        y: Tensor,
        ids: Tensor,
        overlay: Overlay | None = None,
    ) -> None:
        self.x, self.y, self.ids, self.overlay = x, y, ids, overlay
        self._copies: dict[torch.device, Table] = {}

    @classmethod
    def read(
        cls,
        x: Any,
        y: Any,
        *,
        what: str,
        ids: Any = None,
        memory: Memory = "auto",
        workers: int | None = None,
    ) -> Table:
        """Take rows from arrays, tensors or a map-style data set, and check them.

        Args:
            x: [n, ...] array or tensor, a mapping of such, or (where ``y`` is None) a data set of pairs.
            y: [n], the classes, or None.
            what: What errors call the rows: "the training data".
            ids: [n], stable ids of the rows, each once, ascending; None: 0, 1, ...
            memory: "in-memory": x is copied; "mapped": x stays where it is, and nobody may write to it;
                "auto": mapped where it is more than ``mapped.limit()`` bytes, half of the machine's memory.
            workers: Processes that read mapped rows; 0: a thread of this one; None: 0 for an array, and for
                a data set of pairs as many as there are CPUs beside this process, at most 8.

        Returns:
            The table; it shares no memory with what it was read from, unless x is mapped.

        Raises:
            DataError: Labels that are no classes, rows and labels that do not match, no numbers, NaN, ids
                that do not identify, or a data set that changes between two reads.
        """
        kept = mapped(x, y, memory=memory, workers=workers, what=what)
        if y is None:
            x, y = read_items(x, what) if kept is None else (kept, kept.check())
        labels = tensor(y, f"the labels of {what}")
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
        found: Tensor | Mapping[str, Tensor] | Mapped
        if kept is not None:
            found = kept
        elif isinstance(x, Mapping):
            found = {key: tensor(part, what) for key, part in x.items()}
        else:
            found = tensor(x, what)
        parts = found if isinstance(found, Mapping) else {"": found}
        for name, part in parts.items():
            if tuple(part.shape[:1]) != tuple(labels.shape):
                raise DataError(
                    f"expected one label for each row of {what}, got x {name} of shape {tuple(part.shape)} "
                    f"and {len(labels)} labels"
                )
            if isinstance(part, Mapped):
                part.check()
            else:
                check_finite(part, what)
        known = torch.arange(len(labels)) if ids is None else tensor(ids, f"the ids of {what}")
        numbers = not (known.is_floating_point() or known.is_complex() or known.dtype == torch.bool)
        fits = numbers and known.shape == labels.shape
        if not fits or bool((known.long().diff() <= 0).any()):
            raise DataError(
                f"expected the ids of {what} as integers [{len(labels)}], ascending, each once, got "
                f"{known.dtype} of shape {tuple(known.shape)}{', not ascending' * fits}: an id names one row "
                "for good"
            )
        return cls(found, labels, known.long())

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
        """The same rows on a device; copied once, but mapped ones only when they are drawn."""
        if device == self.y.device:
            return self
        if device not in self._copies:
            x = self.x
            if isinstance(x, Tensor):
                x = x.to(device)
            elif isinstance(x, Mapping):
                x = {name: part.to(device) for name, part in x.items()}
            overlay = self.overlay and self.overlay.to(device)
            self._copies[device] = Table(x, self.y.to(device), self.ids.to(device), overlay)
        return self._copies[device]
