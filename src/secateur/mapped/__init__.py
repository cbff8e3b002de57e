"""Rows that stay where they are: read when they are drawn, a little ahead of time, never all at once."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from secateur.errors import DataError, UsageError
from secateur.items import check_finite, count, pair, refuse_change, twice
from secateur.mapped.ahead import copy_ahead, read_ahead
from secateur.mapped.sources import Drawn, Items, Rows, Source, refuse_mapping

Memory = Literal["auto", "in-memory", "mapped"]
CPU = torch.device("cpu")
CHUNK = 2**24  # bytes that are read at once where all rows are looked at


class Mapped:
    """x [n, ...] that stays where it is.

    Args:
        source: Where the rows lie.
        what: What errors call them.
        workers: Processes that read; 0: a thread of this one; None: as the source says.

    Raises:
        UsageError: A number of processes that cannot be.
    """

    def __init__(self, source: Source, what: str, workers: int | None = None) -> None:
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 0):
            raise UsageError(f"expected workers from 0 on, processes that read rows, got {workers!r}")
        self.shape, self.dtype, self.ndim = source.shape, source.dtype, len(source.shape)
        self.workers = source.workers if workers is None else workers
        self._source, self._what = source, what
        self._whole: hashlib._Hash | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, parts: Sequence[Tensor], device: torch.device = CPU) -> Iterator[Tensor]:
        """Rows by their positions, part by part; the next parts are read while one is used.

        Args:
            parts: Positions [b] of each part, on the CPU.
            device: Where to put the rows: on a GPU from pinned memory, beside what it computes.

        Yields:
            x [b, ...] of each part, in memory of its own.
        """
        with contextlib.closing(self._drawn(parts, device)) as drawn:
            xs = (rows.x for rows in drawn)
            yield from copy_ahead(xs, device) if device.type == "cuda" else (x.to(device) for x in xs)

    def chunks(self, at: Tensor | None = None) -> Iterator[Tensor]:
        """Rows in pieces of a few megabytes: those at these positions, or all, in order."""
        return self.read(self._pieces(at))

    def check(self) -> Tensor | None:
        """Look at all rows once, in order, unless their source makes that needless.

        Returns:
            y [n] where the source is one of pairs.

        Raises:
            DataError: A row cannot be read, is of another shape or type than the first, holds NaN or
                infinity, or is another one on a second read.
        """
        if self._whole is not None or (self._source.known and not self.dtype.is_floating_point):
            return None
        again = [] if self._source.known else twice(len(self))
        sums = {i: _sum(self._source.take(torch.tensor([i])), 0) for i in again}
        whole, labels = hashlib.sha256(header("", self.dtype, self.shape)), []
        pieces = self._pieces(None)
        for at, rows in zip(pieces, self._drawn(pieces), strict=True):
            check_finite(rows.x, self._what)
            first = int(at[0])
            for i in range(first, first + len(at)):
                if i in sums and _sum(rows, i - first) != sums[i]:
                    refuse_change(i, self._what)
            whole.update(octets(rows.x))
            labels += [] if rows.y is None else [rows.y]
        self._whole = whole
        return torch.cat(labels) if labels else None

    def digest(self, at: Tensor) -> hashlib._Hash:
        """SHA-256 so far of shape and contents of the rows at these positions: as of rows in memory."""
        if self._whole is not None and torch.equal(at, torch.arange(len(self))):
            return self._whole.copy()
        found = hashlib.sha256(header("", self.dtype, (len(at), *self.shape[1:])))
        for x in self.chunks(at):
            found.update(octets(x))
        return found

    def _drawn(self, parts: Sequence[Tensor], device: torch.device = CPU) -> Generator[Drawn, None, None]:
        yield from read_ahead(self._source, parts, workers=self.workers, device=device, what=self._what)

    def _pieces(self, at: Tensor | None) -> Sequence[Tensor]:
        rows = max(1, CHUNK // max(1, math.prod(self.shape[1:]) * self.dtype.itemsize))
        at = torch.arange(len(self)) if at is None else at
        return torch.split(at, rows) if len(at) else ()


def limit() -> int:
    """Bytes of x up to which "auto" reads rows into memory: half of what the machine or its container has."""
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for told_by in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # none, or "max"
            has = min(has, int(Path("/sys/fs/cgroup", told_by).read_text()))
    return has // 2


def mapped(x: Any, y: Any, *, memory: Memory, workers: int | None, what: str) -> Mapped | None:
    """Rows that are to stay where they are; None for those to be read into memory.

    Args:
        x: As ``Table.read`` takes it.
        y: Labels; None where x is a data set of pairs.
        memory: "mapped", "in-memory", or "auto": mapped where x is more than ``limit()`` bytes. A mapping of
            arrays, and what is no array (a list), is read into memory by "auto".
        workers: As ``Mapped`` takes it.
        what: What errors call the rows.

    Returns:
        The rows, unread.

    Raises:
        UsageError: There is no such choice.
        DataError: What should be mapped cannot be.
    """
    if memory not in get_args(Memory):
        raise UsageError(f"expected memory to be one of {', '.join(get_args(Memory))}, got {memory!r}")
    if memory == "in-memory":
        return None
    if memory == "mapped" and isinstance(x, Mapping):
        refuse_mapping(what)
    array = hasattr(x, "shape") and hasattr(x, "dtype") and len(x.shape) > 0
    if y is not None and not array:
        if memory == "mapped":
            raise DataError(
                f"expected {what} as an array with shape and dtype, such as numpy.memmap, or as a data set "
                f"of (x, y), got {type(x).__name__}: nothing else can stay where it is; leave memory out"
            )
        return None
    if (
        memory == "auto"
        and y is None
        and isinstance(pair(x, 0, what)[0] if count(x, what) else None, Mapping)
    ):
        return None
    rows = Mapped(Items(x, what) if y is None else Rows(x, what), what, workers)
    return rows if memory == "mapped" or math.prod(rows.shape) * rows.dtype.itemsize > limit() else None


def header(name: str, dtype: torch.dtype, shape: Sequence[int]) -> bytes:
    """What comes before the contents of rows in a fingerprint."""
    return f"{name} {dtype} {tuple(shape)}".encode()


def octets(x: Tensor) -> memoryview:
    """The contents of a tensor on the CPU as bytes."""
    return x.contiguous().view(torch.uint8).numpy().data  # numpy knows no bfloat16


def _sum(rows: Drawn, i: int) -> bytes:
    label = b"" if rows.y is None else octets(rows.y[i : i + 1])
    return hashlib.sha256(bytes(octets(rows.x[i : i + 1])) + bytes(label)).digest()
