"""Rows in chunks, as often as they are asked for, and the same each time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.errors import DataError, UsageError
from secateur.ranks import own

Rows = Tensor | Mapping[str, Tensor]
Chunk = tuple[Any, ...]  # begins with x [b, ...], or a mapping of such, and the classes y [b]
Batches = Sequence[Chunk] | Callable[[], Iterable[Chunk]]

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_ODD = 0x5851F42D4C957F2D
_AT_ONCE = 256  # rows in one sum of bits: as 64-bit integers, images take eight times their room


def row_slice(x: Rows, at: slice) -> Rows:
    """Some rows of x."""
    return x[at] if isinstance(x, Tensor) else {name: value[at] for name, value in x.items()}


def split(chunk: Chunk, rows: int) -> Iterator[tuple[Rows, Tensor]]:
    """A chunk in parts of at most so many rows, the classes as indices."""
    x, y = chunk[0], chunk[1]
    for start in range(0, len(y), rows):
        at = slice(start, start + rows)
        yield row_slice(x, at), y[at].long()


def own_part(chunk: Chunk) -> tuple[Rows, Tensor]:
    """What this process takes of a chunk, where several compute together."""
    at = own(len(chunk[1]))
    return row_slice(chunk[0], at), chunk[1][at]


def check_chunk(chunk: Chunk) -> None:
    """Check that a chunk is rows with their classes.

    Args:
        chunk: What came.

    Raises:
        DataError: It is not.
    """
    if not isinstance(chunk, (tuple, list)) or len(chunk) < 2:
        raise DataError(
            f"expected chunks (x, y), got {type(chunk).__name__}: rows come with their classes; hand over "
            "a list of tuples"
        )
    x, y = chunk[0], chunk[1]
    parts = list(x.values()) if isinstance(x, Mapping) else [x]
    plain = all(isinstance(part, Tensor) for part in parts)
    whole = isinstance(y, Tensor) and not y.is_floating_point() and not y.is_complex()
    if not plain or not whole or y.ndim != 1 or {len(part) for part in parts} != {len(y)}:
        shapes = [
            f"{p.dtype} {list(p.shape)}" if isinstance(p, Tensor) else type(p).__name__ for p in (*parts, y)
        ]
        raise DataError(
            "expected x as a tensor [b, ...] or a mapping of them, and y as integers [b], got "
            f"{', '.join(shapes)}: cross-entropy is that of one class for each row; hand over such chunks"
        )


def once(batches: Iterable[Chunk] | Callable[[], Iterable[Chunk]]) -> Iterator[Chunk]:
    """One pass.

    Args:
        batches: Chunks, or a function that starts a pass over them.

    Yields:
        Each chunk of at least one row, as it came.

    Raises:
        DataError: There is no row, or a chunk is not rows with their classes.
    """
    empty = True
    for chunk in batches() if callable(batches) else batches:
        check_chunk(chunk)
        if len(chunk[1]):
            empty = False
            yield chunk
    if empty:
        raise DataError(
            "expected at least one row, got none: nothing is known of a loss over no rows; hand over chunks "
            "(x, y) that hold some"
        )


class Pass:
    """A pass over rows that can be taken again, and notices when it is another one.

    The bits of x and y are summed under weights that depend on the row's place, exactly, so however rows are
    cut into chunks the sum is the same.

    Args:
        batches: A sequence of chunks, or a function that starts a pass over them.

    Raises:
        UsageError: It is good for one pass only.
    """

    def __init__(self, batches: Batches) -> None:
        if not callable(batches) and not isinstance(batches, Sequence):
            raise UsageError(
                f"expected a list of chunks or a function that starts a pass over them, got "
                f"{type(batches).__name__}: a product needs the same rows once for each vector, and an "
                "iterator is spent after one pass; wrap it, as in lambda: view.once()"
            )
        self._batches = batches
        self._rows: int | None = None
        self._digest: int | None = None

    @property
    def rows(self) -> int:
        """How many rows a pass has."""
        if self._rows is None:
            for _ in self:
                pass
        return self._rows or 0

    def __iter__(self) -> Iterator[Chunk]:
        """Chunks of at least one row.

        Yields:
            Each chunk, as it came.

        Raises:
            DataError: There is no row, or the pass is not the one that came first.
        """
        rows, digest = 0, 0
        for chunk in once(self._batches):
            for x, y in split(chunk, _AT_ONCE):
                digest = _wrap(digest + _digest(x, y, rows))
                rows += len(y)
            yield chunk
        if self._rows is None:
            self._rows, self._digest = rows, digest
        elif (rows, digest) != (self._rows, self._digest):
            how = "other rows, another order or other pixels" if rows == self._rows else f"{rows} rows"
            raise DataError(
                f"expected the same {self._rows} rows in the same order at every pass, got {how}: each pass "
                "would multiply by another matrix, and a solver would solve none of them; turn off "
                "shuffling and augmentation"
            )


def _wrap(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def _digest(x: Rows, y: Tensor, before: int) -> int:
    parts = [x] if isinstance(x, Tensor) else [x[name] for name in sorted(x)]
    total = torch.zeros(len(y), dtype=torch.int64, device=y.device)
    for i, part in enumerate([*parts, y]):
        plain = part.detach().contiguous()
        bits = plain.view(_BITS[plain.element_size()]).reshape(len(y), -1)
        total += (bits * _weights(bits.shape[1], i, bits.device)).sum(1).to(total.device)
    return int((total * _weights(len(y), before + 97, total.device)).sum())


def _weights(count: int, start: int, device: torch.device) -> Tensor:
    """[count] odd integers of 64 bits, a different one for each place."""
    place = torch.arange(start, start + count, device=device) * _ODD
    place = (place ^ (place >> 29)) * (_ODD - 2)
    return (place ^ (place >> 32)) | 1
