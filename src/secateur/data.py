"""Data as a step sees it: a Split has views, a View is the rows of one role, a Loader draws them once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from secateur import ranks
from secateur.errors import ClosedView, DataError, UsageError
from secateur.loader import Batch as Batch
from secateur.loader import Loader as Loader
from secateur.loader import paired as paired
from secateur.mapped import Mapped, header, octets
from secateur.maths.augment import crop_flip as crop_flip
from secateur.table import Overlay, Table

Role = Literal["pool", "forget", "retain"]
ROLES: tuple[Role, ...] = ("pool", "forget", "retain")
Augment = Callable[[Tensor, Generator], Tensor]


class View:
    """The rows of one role. It counts what is drawn from it; a closed one may not be touched.

    Args:
        name: The role: "forget", "retain", "pool", "holdout", "test" ...
        table: All rows.
        at: [n], the positions of this view's rows in the table, int64, on the CPU.
        augment: Batches in, batches out; for training only.
    """

    def __init__(self, name: str, table: Table, at: Tensor, augment: Augment | None = None) -> None:
        self.name = name
        self._count = [0]
        self._table, self._at, self._augment = table, at, augment
        self._device, self._dtype, self._layout = torch.device("cpu"), torch.float32, torch.contiguous_format
        self._closed = ""

    def _variant(self) -> View:
        other = View(self.name, self._table, self._at, self._augment)
        other._device, other._dtype, other._layout = self._device, self._dtype, self._layout
        other._closed, other._count = self._closed, self._count
        return other

    def on(self, device: torch.device, dtype: torch.dtype, layout: torch.memory_format) -> View:
        """The same rows and count, drawn on a device, in a floating type and (images) a memory layout."""
        self._open()
        other = self._variant()
        other._device, other._dtype, other._layout = device, dtype, layout
        return other

    def fresh(self) -> View:
        """The same view with a counter of its own, at zero."""
        other = self._variant()
        other._count = [0]
        return other

    def closed(self, why: str) -> View:
        """A view that raises ``why`` at every touch."""
        other = self._variant()
        other._closed = why
        return other

    def _open(self) -> None:
        if self._closed:
            raise ClosedView(self._closed)

    @property
    def drawn(self) -> int:
        """Rows drawn so far, each time counted."""
        return self._count[0]

    def __len__(self) -> int:
        self._open()
        return len(self._at)

    def __repr__(self) -> str:
        return f"View({self.name!r}, {'closed' if self._closed else f'{len(self._at)} rows'})"

    @property
    def rows(self) -> NDArray[np.int64]:
        """[n], the stable ids of the rows."""
        self._open()
        return self._table.ids[self._at].numpy()

    @property
    def labels(self) -> NDArray[np.int64]:
        """[n], the classes of the rows."""
        self._open()
        return self._table.y[self._at].numpy()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row's x; a closed view has it too, as a format tells nothing of rows.

        Raises:
            DataError: x is a mapping, which has no one shape.
        """
        if isinstance(self._table.x, Mapping):
            raise DataError(
                "expected rows whose x is one tensor, got a mapping of tensors: it has no one shape; take a "
                "step that does not ask for it"
            )
        return tuple(self._table.x.shape[1:])

    @property
    def memory(self) -> Literal["in-memory", "mapped"]:
        """Where the rows are: read into memory once, or read from where they lie whenever they are drawn."""
        return "mapped" if isinstance(self._table.x, Mapped) else "in-memory"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of ids, labels and contents of the rows, in order, and of what lies over them."""
        self._open()
        x = self._table.x
        digest = x.digest(self._at) if isinstance(x, Mapped) else hashlib.sha256()
        parts = {} if isinstance(x, Mapped) else {"": x} if isinstance(x, Tensor) else dict(x)

        def add(name: str, part: Tensor) -> None:
            digest.update(header(name, part.dtype, part.shape))
            digest.update(octets(part))

        for name, part in {**parts, "y": self._table.y, "row": self._table.ids}.items():
            add(name, part[self._at])
        over = self._table.overlay
        if over is not None and bool((on := over.rows[self._at]).any()):
            add(f"over, after={over.after}", on)
            add("weight", over.weight)
            add("pattern", over.pattern)
        return digest.hexdigest()

    def loader(self, *, epochs: int, batch: int, rng: Generator, augment: bool = True) -> Loader[Batch]:
        """Shuffled batches for training: an epoch is a permutation cut into ceil(n / batch) even parts.

        Args:
            epochs: Passes over the rows.
            batch: Rows per update, at most.
            rng: A CPU generator; the only source of chance.
            augment: Whether to apply the data's augmentation.

        Returns:
            A loader for one pass.

        Raises:
            DataError: The view is empty.
            UsageError: ``epochs`` or ``batch`` is below one, or the processes that train together do not
                divide ``batch``.
            ClosedView: The step's ``reads`` does not name this role.
        """
        if epochs < 1 or batch < 1:
            raise UsageError(
                f"expected at least one epoch and one row per batch, got epochs={epochs}, batch={batch}"
            )
        if batch % ranks.world():
            raise UsageError(
                f"expected batches that {ranks.world()} processes can share evenly, got batch={batch}: each "
                f"takes its part of every batch; set batch to a multiple of {ranks.world()}"
            )
        orders = self.orders(epochs=epochs, rng=rng)
        updates = math.ceil(len(self) / batch)

        def epoch(number: int) -> Iterator[Batch]:
            shuffled, chance = orders(number)
            return self._draw(shuffled, updates, self._augment if augment else None, chance)

        def passed(whole: int) -> None:
            self._count[0] += whole * len(self)

        return Loader(epochs, updates, epoch, passed)

    def orders(self, *, epochs: int, rng: Generator) -> Callable[[int], tuple[Tensor, Generator]]:
        """The orders in which ``loader`` shows the rows: for whoever trains several models at once.

        Args:
            epochs: Passes over the rows.
            rng: A CPU generator; the only source of chance.

        Returns:
            Epoch to the positions [n] in ``table``, shuffled, and the generator of its augmentation. A pure
            function; it counts nothing.

        Raises:
            DataError: The view is empty.
            ClosedView: The step's ``reads`` does not name this role.
        """
        self._open()
        if not len(self):
            raise DataError(
                f'expected rows to train on in "{self.name}", got an empty view: choose other rows to forget'
            )
        # a seed for each epoch's order and one for its augmentation: neither depends on the other's use
        seeds = torch.randint(2**62, (epochs, 2), generator=rng).tolist()

        def epoch(number: int) -> tuple[Tensor, Generator]:
            order, chance = (Generator().manual_seed(seed) for seed in seeds[number])
            return self._at[torch.randperm(len(self._at), generator=order)], chance

        return epoch

    def table(self, *, draws: int) -> tuple[Tensor, Tensor, Augment | None]:
        """The rows behind ``orders``, of which only those that it names may be looked at.

        Args:
            draws: How many will be, each time counted.

        Returns:
            x [n, ...] on the device (uint8, or floats in the precision of the run; without what lies over
            rows when they are drawn), y [n], and the augmentation.

        Raises:
            DataError: x is a mapping of tensors, or not in memory.
            ClosedView: The step's ``reads`` does not name this role.
        """
        self._open()
        table = self._table.to(self._device)
        if not isinstance(table.x, Tensor):
            got = "rows that are mapped" if isinstance(table.x, Mapped) else "a mapping of tensors"
            raise DataError(f"expected rows in memory whose x is one tensor, got {got}: draw batches")
        self._count[0] += draws
        return table.x if table.x.dtype == torch.uint8 else self._floats(table.x), table.y, self._augment

    def sample(self, rows: int, rng: Generator) -> View:
        """Some of the rows, drawn at random and each at most once; what is drawn from them counts here.

        Args:
            rows: How many.
            rng: A CPU generator; the only source of chance.

        Returns:
            A view of these rows, in the order in which they were drawn.

        Raises:
            DataError: There are not as many.
            ClosedView: The step's ``reads`` does not name this role.
        """
        self._open()
        if not 1 <= rows <= len(self):
            raise DataError(
                f'expected to draw between 1 and {len(self)} rows from "{self.name}", got {rows}: each is '
                "drawn at most once; ask for fewer rows"
            )
        other = self._variant()
        other._at = self._at[torch.randperm(len(self), generator=rng)[:rows]]
        return other

    def once(self, *, batch: int = 1024) -> Iterator[Batch]:
        """Every row exactly once, in a fixed order and ceil(n / batch) even parts, not augmented.

        Args:
            batch: Rows per batch, at most.

        Returns:
            An iterator over batches; none where the view is empty.

        Raises:
            UsageError: ``batch`` is below one.
            ClosedView: The step's ``reads`` does not name this role.
        """
        self._open()
        if batch < 1:
            raise UsageError(f"expected at least one row per batch, got batch={batch}")
        return self._draw(self._at, math.ceil(len(self) / batch), None, None)

    def _draw(
        self, at: Tensor, count: int, augment: Augment | None, rng: Generator | None
    ) -> Iterator[Batch]:
        """The rows at these positions, in so many even parts."""
        if not count:
            return
        table = self._table.to(self._device)
        near, far = at.tensor_split(count), at.to(self._device).tensor_split(count)
        xs = self._contents(table, near, far)
        for part in far:
            self._count[0] += len(part)
            x = next(xs)
            if isinstance(x, Tensor):
                x = self._finished(x, part, table.overlay, augment, rng)
            yield Batch(x, table.y.index_select(0, part), table.ids.index_select(0, part))

    def _contents(
        self, table: Table, near: Sequence[Tensor], far: Sequence[Tensor]
    ) -> Iterator[Tensor | Mapping[str, Tensor]]:
        """Contents of each part, by its positions on the CPU and on the device; floats in the run's type."""
        x = table.x
        if isinstance(x, Mapped):
            yield from map(self._floats, x.read(near, self._device))
        elif isinstance(x, Tensor):
            for at in far:
                yield self._floats(x.index_select(0, at))
        else:
            for at in far:
                yield {name: self._floats(part.index_select(0, at)) for name, part in x.items()}

    def _finished(
        self, x: Tensor, at: Tensor, over: Overlay | None, augment: Augment | None, rng: Generator | None
    ) -> Tensor:
        if over is not None and not over.after:
            x = over(x, at)
        if augment is not None and rng is not None:
            x = augment(x, rng)
        if over is not None and over.after:
            x = over(x, at)
        return x.contiguous(memory_format=self._layout) if x.ndim == 4 else x

    def _floats(self, x: Tensor) -> Tensor:
        if x.dtype == torch.uint8:
            return x.to(self._dtype).div_(255)
        return x.to(self._dtype) if x.is_floating_point() else x
