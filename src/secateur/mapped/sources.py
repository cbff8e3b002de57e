"""Sources: where rows lie that are read when they are drawn."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor

from secateur.errors import DataError, told
from secateur.items import count, pair, tensor

MOST = 8  # processes that read items, where nobody says how many


class Drawn(NamedTuple):
    """Rows as a source gives them: x [b, ...], and y [b] where it is one of pairs."""

    x: Tensor
    y: Tensor | None


class Source(Protocol):
    """Where mapped rows lie.

    Attributes:
        shape: [n, ...].
        dtype: Of x.
        known: Whether shape and type of all rows are certain without looking at them.
        workers: Processes that should read it, where nobody says how many.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    known: bool
    workers: int

    def take(self, at: Tensor) -> Drawn:
        """The rows at these positions [b], in memory of their own."""
        ...


class Rows:
    """A source that is an array, or anything with a shape and a dtype that positions index as they do one."""

    workers = 0

    def __init__(self, held: Any, what: str) -> None:
        self.held, self.what = held, what
        self.shape, self.dtype = tuple(held.shape), tensor(held[:1], what).dtype
        self.known = isinstance(held, (np.ndarray, Tensor))

    def take(self, at: Tensor) -> Drawn:
        """The rows at these positions [b].

        Args:
            at: The positions.

        Returns:
            x [b, ...].

        Raises:
            DataError: They cannot be read, or are not what ``shape`` and ``dtype`` say.
        """
        try:
            if isinstance(self.held, Tensor):
                return Drawn(self.held.detach()[at.to(self.held.device)].cpu(), None)
            x = torch.from_numpy(np.ascontiguousarray(self.held[at.numpy()]))
        except DataError:
            raise
        except Exception as error:  # somebody else's array can raise anything
            raise DataError(
                f"expected to read rows of {self.what}, but its array raised {told(error)}: mend it"
            ) from error
        if x.shape != (len(at), *self.shape[1:]) or x.dtype != self.dtype:
            raise DataError(
                f"expected rows of {self.what} in one shape and type, {self.shape[1:]} of {self.dtype}, got "
                f"{tuple(x.shape)[1:]} of {x.dtype}: its array is not what it claims"
            )
        return Drawn(x, None)


class Items:
    """A source that is a map-style data set of pairs."""

    known = False

    def __init__(self, held: Any, what: str) -> None:
        n, (first, _) = count(held, what), pair(held, 0, what)
        if isinstance(first, Mapping):
            refuse_mapping(what)
        self.held, self.what = held, what
        self.shape, self.dtype = (n, *first.shape), first.dtype
        cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        self.workers = min(MOST, cpus - 1)

    def take(self, at: Tensor) -> Drawn:
        """The rows at these positions [b].

        Args:
            at: The positions.

        Returns:
            x [b, ...] and y [b].

        Raises:
            DataError: An item cannot be read, or is of another shape or type than the first.
        """
        pairs = [pair(self.held, i, self.what) for i in at.tolist()]
        for i, (x, _) in zip(at.tolist(), pairs, strict=True):
            if isinstance(x, Mapping) or x.shape != self.shape[1:] or x.dtype != self.dtype:
                got = "a mapping" if isinstance(x, Mapping) else f"{tuple(x.shape)} of {x.dtype}"
                raise DataError(
                    f"expected all items of {self.what} in one shape and type, {self.shape[1:]} of "
                    f"{self.dtype} as the first is, got {got} in item {i}: resize or pad them in the data set"
                )
        return Drawn(torch.stack([x for x, _ in pairs]), torch.tensor([y for _, y in pairs]))


def refuse_mapping(what: str) -> NoReturn:
    """Refuse to map rows of several tensors.

    Args:
        what: What errors call them.

    Raises:
        DataError: Always.
    """
    raise DataError(
        f"expected {what} with one tensor as x, got a mapping of them: only rows of one tensor can stay "
        'where they are; leave memory out, or say memory = "in-memory"'
    )
