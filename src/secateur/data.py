"""Data as a step sees it: a Split has views, a View is the rows of one role, a Loader draws them once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Generator, Tensor
from torch.nn import functional

from secateur.errors import ClosedView, DataError, UsageError

Role = Literal["pool", "forget", "retain"]
ROLES: tuple[Role, ...] = ("pool", "forget", "retain")
Augment = Callable[[Tensor, Generator], Tensor]
Item = TypeVar("Item")
Other = TypeVar("Other")


class Batch(NamedTuple):
    """Some rows.

    Attributes:
        x: [b, ...], or a mapping of such; floats in the precision of the run (uint8 images become floats in [0, 1]).
        y: [b], the classes, int64.
        row: [b], stable ids of the rows, int64.
    """

    x: Tensor | Mapping[str, Tensor]
    y: Tensor
    row: Tensor


class MapDataset(Protocol):
    """Any map-style data set of ``(x, y)`` pairs: ``torch.utils.data.Dataset`` or a list."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """The pair ``(x, y)`` at this position."""
        ...


class Loader(Generic[Item]):
    """What one training run draws, in order; good for one pass.

    Args:
        epochs: Passes over the rows.
        updates: Items in one epoch.
        epoch: Epoch number to the items of that epoch.
    """

    def __init__(self, epochs: int, updates: int, epoch: Callable[[int], Iterator[Item]]) -> None:
        self.epochs = epochs
        self.updates = updates
        self._epoch = epoch
        self._used = False

    def __len__(self) -> int:
        """Updates in the whole run."""
        return self.epochs * self.updates

    def __iter__(self) -> Iterator[Item]:
        if self._used:
            raise UsageError("a loader is for one pass, and this one has been used: make another with view.loader(...)")
        self._used = True
        return (item for epoch in range(self.epochs) for item in self._epoch(epoch))


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
            f"expected the second loader to last {len(first)} updates, got {len(second)}: ask for epochs={need}"
        )
    together = zip(first, second, strict=False)

    def epoch(_: int) -> Iterator[tuple[Item, Other]]:
        for _ in range(first.updates):
            yield next(together)

    return Loader(first.epochs, first.updates, epoch)


class CropFlip:
    """Random crop after zero padding, and random horizontal flip: one pair of offsets and one coin for each image."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __repr__(self) -> str:
        return f"crop_flip({self.pad})"

    def __call__(self, x: Tensor, rng: Generator) -> Tensor:
        """Crop and flip [b, c, h, w]; the same shape comes back."""
        b, _, h, w = x.shape
        offset = torch.randint(0, 2 * self.pad + 1, (2, b, 1), generator=rng)
        flip = torch.randint(0, 2, (b, 1), generator=rng, dtype=torch.bool)
        rows = offset[0] + torch.arange(h)
        columns = offset[1] + torch.where(flip, torch.arange(w - 1, -1, -1), torch.arange(w))
        padded = functional.pad(x, (self.pad,) * 4)
        index = torch.arange(b).view(b, 1, 1), rows.view(b, h, 1), columns.view(b, 1, w)
        i, r, c = (part.to(x.device, non_blocking=True) for part in index)
        return padded.permute(0, 2, 3, 1)[i, r, c].permute(0, 3, 1, 2)


def crop_flip(pad: int = 4) -> CropFlip:
    """The usual augmentation of small images, as batched tensor operations, for ``Split.of(..., augment=...)``."""
    return CropFlip(pad)


class Table:
    """The rows behind the views: all x and all y, in memory, with one copy on each device that asks.

    Args:
        x: [n, ...] or a mapping of such.
        y: [n], int64.
        ids: [n], the stable id of each row.
    """

    def __init__(self, x: Tensor | Mapping[str, Tensor], y: Tensor, ids: Tensor) -> None:
        self.x, self.y, self.ids = x, y, ids
        self._copies: dict[torch.device, Table] = {}

    def to(self, device: torch.device) -> Table:
        """The same rows on a device; copied once."""
        if device == self.y.device:
            return self
        if device not in self._copies:
            x = self.x.to(device) if isinstance(self.x, Tensor) else {k: v.to(device) for k, v in self.x.items()}
            self._copies[device] = Table(x, self.y.to(device), self.ids.to(device))
        return self._copies[device]


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
        self.drawn = 0
        self._table, self._at, self._augment = table, at, augment
        self._device, self._dtype, self._layout = torch.device("cpu"), torch.float32, torch.contiguous_format
        self._closed = ""

    def _variant(self) -> View:
        other = View(self.name, self._table, self._at, self._augment)
        other._device, other._dtype, other._layout = self._device, self._dtype, self._layout
        other._closed = self._closed
        return other

    def on(self, device: torch.device, dtype: torch.dtype, layout: torch.memory_format) -> View:
        """The same rows, drawn on a device, in a floating type and (for images) in a memory layout."""
        self._open()
        other = self._variant()
        other._device, other._dtype, other._layout = device, dtype, layout
        return other

    def fresh(self) -> View:
        """The same view with its counter at zero."""
        return self._variant()

    def closed(self, why: str) -> View:
        """A view that raises ``why`` at every touch."""
        other = self._variant()
        other._closed = why
        return other

    def _open(self) -> None:
        if self._closed:
            raise ClosedView(self._closed)

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

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of ids, labels and contents of the rows, in order."""
        self._open()
        digest = hashlib.sha256()
        x = self._table.x
        parts = {"": x} if isinstance(x, Tensor) else dict(x)
        for name, part in {**parts, "y": self._table.y, "row": self._table.ids}.items():
            chosen = part[self._at].contiguous()
            digest.update(f"{name} {chosen.dtype} {tuple(chosen.shape)}".encode())
            digest.update(chosen.numpy().data)
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
            UsageError: ``epochs`` or ``batch`` is below one.
            ClosedView: The step's ``reads`` does not name this role.
        """
        self._open()
        if epochs < 1 or batch < 1:
            raise UsageError(f"expected at least one epoch and one row per batch, got epochs={epochs}, batch={batch}")
        if not len(self):
            raise DataError(f'expected rows to train on in "{self.name}", got an empty view: choose other rows to forget')
        # one seed for each epoch's order and one for its augmentation: neither depends on how the other is used
        seeds = torch.randint(2**62, (epochs, 2), generator=rng).tolist()
        updates = math.ceil(len(self) / batch)

        def epoch(number: int) -> Iterator[Batch]:
            order, chance = (Generator().manual_seed(seed) for seed in seeds[number])
            shuffled = self._at[torch.randperm(len(self._at), generator=order)].to(self._device)
            for part in shuffled.tensor_split(updates):
                yield self._draw(part, self._augment if augment else None, chance)

        return Loader(epochs, updates, epoch)

    def once(self, *, batch: int = 1024) -> Iterator[Batch]:
        """Every row exactly once, in a fixed order, not augmented.

        Args:
            batch: Rows per batch, at most.

        Returns:
            An iterator over batches; none where the view is empty.

        Raises:
            ClosedView: The step's ``reads`` does not name this role.
        """
        self._open()
        at = self._at.to(self._device)
        return (self._draw(part, None, None) for part in at.split(batch) if len(part))

    def _draw(self, at: Tensor, augment: Augment | None, rng: Generator | None) -> Batch:
        table = self._table.to(self._device)
        self.drawn += len(at)
        x: Tensor | Mapping[str, Tensor]
        if isinstance(table.x, Tensor):
            x = self._floats(table.x.index_select(0, at))
            if augment is not None and rng is not None:
                x = augment(x, rng)
            if x.ndim == 4:
                x = x.contiguous(memory_format=self._layout)
        else:
            x = {name: self._floats(part.index_select(0, at)) for name, part in table.x.items()}
        return Batch(x, table.y.index_select(0, at), table.ids.index_select(0, at))

    def _floats(self, x: Tensor) -> Tensor:
        if x.dtype == torch.uint8:
            return x.to(self._dtype).div_(255)
        return x.to(self._dtype) if x.is_floating_point() else x


class Split(Mapping[str, View]):
    """Which rows are forgotten, retained, held out and tested on. Empty views are left out of the mapping.

    Attributes:
        pool: Forget and retain together, in row-id order, blind to which is which.
        forget: The rows to forget.
        retain: The rest of the pool.
        classes: The number of classes: the largest label, plus one.
        drawn_holdout: True where the holdout was drawn as a share (then a foreign model may have seen it).
    """

    def __init__(self, views: Mapping[str, View], pool: View, *, drawn_holdout: bool) -> None:
        self._views = {name: view for name, view in views.items() if len(view)}
        self.pool = pool
        self.drawn_holdout = drawn_holdout
        self.classes = 1 + max(int(view.labels.max()) for view in self._views.values())

    @classmethod
    def of(
        cls,
        x: Any,
        y: ArrayLike | Tensor | None = None,
        /,
        *,
        forget: ArrayLike | Tensor,
        holdout: float | ArrayLike | Tensor = 0.0,
        test: Any = None,
        seed: int = 0,
        augment: Augment | None = None,
    ) -> Split:
        """Split rows into roles.

        Args:
            x: [n, ...] array or tensor, a mapping of such, or (without ``y``) a map-style data set of ``(x, y)``.
            y: [n], the classes.
            forget: Positions in x, or a boolean mask [n].
            holdout: A share in [0, 1) of the rows, drawn stratified by class from those not in ``forget``; or positions,
                or a mask.
            test: A pair ``(x, y)`` or a map-style data set; never reachable from a step.
            seed: Of the order that a holdout share is drawn in.
            augment: Batches [b, ...] of floats and a generator in, such batches out; for training only.

        Returns:
            The split.

        Raises:
            DataError: Labels that are no classes, rows that do not exist or stand in two roles, an empty role, a data
                set that changes between two reads.
        """
        table = _table(x, y, "the training data")
        n = len(table.y)
        gone = _positions(forget, n, "forget")
        if not len(gone):
            raise DataError("expected at least one row to forget, got none: there is nothing to unlearn; name rows in `forget`")
        if isinstance(holdout, (int, float)) and not isinstance(holdout, bool):
            held = holdout_rows(table.y.numpy(), float(holdout), seed=seed, without=gone)
        else:
            held = _positions(holdout, n, "holdout")
        if len(both := np.intersect1d(gone, held)):
            raise DataError(f"expected a row to be forgotten or held out, but {len(both)} are both (the first: {both[0]}): take them out of one")
        pool = np.setdiff1d(np.arange(n), held)
        kept = np.setdiff1d(pool, gone)
        if not len(kept):
            raise DataError(f"expected rows to retain, but `forget` and `holdout` name all {n}: a model of nothing cannot be trained")
        roles = {"forget": gone, "retain": kept, "holdout": held}
        views = {name: View(name, table, torch.from_numpy(at), augment) for name, at in roles.items()}
        if test is not None:
            tested = _table(*(test if isinstance(test, tuple) else (test, None)), "the test data")
            views["test"] = View("test", tested, torch.arange(len(tested.y)))
        drawn = isinstance(holdout, (int, float)) and bool(len(held))
        return cls(views, View("pool", table, torch.from_numpy(pool), augment), drawn_holdout=drawn)

    def __getitem__(self, name: str) -> View:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    @property
    def forget(self) -> View:
        """The rows to forget."""
        return self._views["forget"]

    @property
    def retain(self) -> View:
        """The pool without the rows to forget."""
        return self._views["retain"]

    @property
    def rows(self) -> dict[str, NDArray[np.int64]]:
        """Role to row ids [n]."""
        return {name: view.rows for name, view in self._views.items()}

    @cached_property
    def hash(self) -> str:
        """SHA-256 of who stands where: of every view's name and fingerprint."""
        return hashlib.sha256("".join(f"{name} {view.fingerprint}\n" for name, view in self._views.items()).encode()).hexdigest()


def holdout_rows(y: NDArray[np.int64], share: float, *, seed: int, without: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """The rows that a holdout share takes: the first of a seed-fixed, stratified order that are not in ``without``.

    Args:
        y: [n], the classes.
        share: In [0, 1), of all n rows.
        seed: Fixes the order.
        without: Positions that may not be held out.

    Returns:
        Sorted positions.

    Raises:
        DataError: The share is outside [0, 1), or asks for more rows than there are.
    """
    if not 0 <= share < 1:
        raise DataError(f"expected a holdout share in [0, 1), got {share}: name rows, or take a smaller share")
    count = round(share * len(y))
    order = stratified_order(y, seed=seed)
    free = order if without is None else order[~np.isin(order, without)]
    if count > len(free):
        raise DataError(f"expected {count} rows to hold out, but only {len(free)} are not forgotten: take a smaller share")
    return np.sort(free[:count])


def stratified_order(y: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """All positions [n] in a random order whose every prefix has the classes in (about) their shares."""
    rng = np.random.default_rng([seed, len(y)])
    place = np.empty(len(y))
    for c in np.unique(y):
        members = np.flatnonzero(y == c)
        place[members] = (rng.permutation(len(members)) + 0.5) / len(members)
    return np.lexsort((rng.random(len(y)), place))


def _positions(rows: ArrayLike | Tensor, n: int, role: str) -> NDArray[np.int64]:
    at = np.asarray(rows.cpu() if isinstance(rows, Tensor) else rows)
    if at.dtype == bool:
        if at.shape != (n,):
            raise DataError(f"expected `{role}` as a boolean mask of shape ({n},), got {at.shape}: one entry for each row")
        return np.flatnonzero(at)
    if not at.size:
        return np.zeros(0, dtype=np.int64)
    if at.ndim != 1 or not np.issubdtype(at.dtype, np.integer):
        raise DataError(f"expected `{role}` as a list of row positions or a boolean mask, got {at.dtype} of shape {at.shape}")
    if at.min() < 0 or at.max() >= n:
        raise DataError(f"expected positions in 0..{n - 1} in `{role}`, got {at.min()}..{at.max()}: there are {n} rows")
    unique, counts = np.unique(at, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"expected each row once in `{role}`, but row {unique[counts > 1][0]} is named {counts.max()} times")
    return unique.astype(np.int64)


def _table(x: Any, y: Any, what: str) -> Table:
    if y is None:
        x, y = _read(x, what)
    labels = torch.as_tensor(np.array(y) if not isinstance(y, Tensor) else y.cpu())
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(f"expected the labels of {what} as integers [n], got {labels.dtype} of shape {tuple(labels.shape)}")
    if len(labels) and labels.min() < 0:
        raise DataError(f"expected classes 0, 1, ... in {what}, got label {int(labels.min())}: map labels to 0..classes-1")
    parts = {name: _tensor(part) for name, part in x.items()} if isinstance(x, Mapping) else {"": _tensor(x)}
    for name, part in parts.items():
        if len(part) != len(labels):
            raise DataError(f"expected one label for each row of {what}, got {len(part)} rows {name} and {len(labels)} labels")
        if part.is_floating_point() and not bool(torch.isfinite(part).all()):
            raise DataError(f"expected finite values in {what}, got NaN or infinity: no model can be trained on them")
    return Table(parts if isinstance(x, Mapping) else parts[""], labels.long(), torch.arange(len(labels)))


def _tensor(x: Any) -> Tensor:
    return x.detach().cpu() if isinstance(x, Tensor) else torch.from_numpy(np.array(x))


def _read(dataset: MapDataset, what: str) -> tuple[Any, list[int]]:
    """Read a map-style data set into memory, and some of it twice: an item that changes has no identity to forget."""
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise DataError(f"expected {what} as arrays (x, y) or as a map-style data set of (x, y), got {type(dataset).__name__}")
    n = len(dataset)
    pairs = [_pair(dataset[i], i, what) for i in range(n)]
    for i in {round(k * (n - 1) / 255) for k in range(256)} if n else set():
        again = _pair(dataset[i], i, what)
        if again[1] != pairs[i][1] or not _same(again[0], pairs[i][0]):
            raise DataError(
                f"expected item {i} of {what} to be the same on a second read, but it changed: take augmentation out of the "
                "data set and hand it over as Split.of(..., augment=...)"
            )
    xs = [x for x, _ in pairs]
    x = {key: torch.stack([part[key] for part in xs]) for key in xs[0]} if xs and isinstance(xs[0], Mapping) else torch.stack(xs)
    return x, [y for _, y in pairs]


def _pair(item: Any, i: int, what: str) -> tuple[Any, int]:
    if not isinstance(item, Sequence) or len(item) != 2:
        raise DataError(f"expected item {i} of {what} to be a pair (x, y), got {type(item).__name__}")
    x, y = item
    return {key: _tensor(part) for key, part in x.items()} if isinstance(x, Mapping) else _tensor(x), int(y)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    return torch.equal(a, b)
