"""Splits: which rows are forgotten, retained, held out and tested on."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from secateur.data import ROLES, Augment, View
from secateur.errors import DataError, UsageError
from secateur.mapped import Memory
from secateur.rows import holdout_rows, positions
from secateur.table import Table

# no further view may be called so
TAKEN = (*ROLES, "holdout", "test")


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
        views: Mapping[str, Any] | None = None,
        seed: int = 0,
        augment: Augment | None = None,
        memory: Memory = "auto",
        workers: int | None = None,
    ) -> Split:
        """Split rows into roles.

        Args:
            x: [n, ...] array or tensor, a mapping of such, or (without ``y``) a map-style data set of ``(x,
                y)``.
            y: [n], the classes.
            forget: Positions in x, or a boolean mask [n].
            holdout: A share in [0, 1) of the rows, drawn stratified by class from those not in ``forget``
                (all labels decide the order); or positions, or a mask.
            test: A pair ``(x, y)`` or a map-style data set; never reachable from a step.
            views: Name to further rows such as ``test``, for audits that ask for them ("trigger"); never
                reachable from a step either.
            seed: Of the order that a holdout share is drawn in.
            augment: Batches [b, ...] of floats and a generator in, such batches out; for training only.
            memory: "in-memory" copies all x once; "mapped" leaves x where it is, in a ``numpy.memmap`` or a
                data set on disk, and reads rows when they are drawn; "auto" maps what is more than half
                of the machine's memory, x, ``test`` and each view by itself. The bits drawn are the same.
            workers: Processes that read mapped rows; 0: a thread of this one; None: 0 for an array, and for
                a data set of pairs as many as there are CPUs beside this process, at most 8.

        Returns:
            The split.

        Raises:
            UsageError: No such choice of ``memory``, or a number of ``workers`` that cannot be.
            DataError: Labels that are no classes, rows that do not exist or stand in two roles, an empty
                role, a data set that changes between two reads, a further view that is called as a role.
        """

        def read(rows: Any, what: str) -> Table:
            pair = rows if isinstance(rows, tuple) else (rows, None)
            return Table.read(*pair, what=what, memory=memory, workers=workers)

        unseen = {} if test is None else {"test": read(test, "the test data")}
        for name, rows in (views or {}).items():
            if name in TAKEN:
                raise DataError(
                    f'expected a further view under a name of its own, got "{name}", which a split gives '
                    "itself: an audit could not tell the two apart; choose another name"
                )
            unseen[name] = read(rows, f'the view "{name}"')
        table = read((x, y), "the training data")
        return cls.over(table, forget=forget, holdout=holdout, unseen=unseen, seed=seed, augment=augment)

    @classmethod
    def over(
        cls,
        table: Table,
        /,
        *,
        forget: ArrayLike | Tensor,
        holdout: float | ArrayLike | Tensor = 0.0,
        drawn_holdout: bool = False,
        unseen: Mapping[str, Table] | None = None,
        seed: int = 0,
        augment: Augment | None = None,
    ) -> Split:
        """``Split.of`` over rows that have been read: many splits of one table hold its rows once.

        Args:
            table: The training data.
            forget: As in ``Split.of``.
            holdout: As in ``Split.of``.
            drawn_holdout: Whether the rows that ``holdout`` names were drawn as a share.
            unseen: Name to rows that no step reaches: "test", and further views.
            seed: As in ``Split.of``.
            augment: As in ``Split.of``.

        Returns:
            The split.

        Raises:
            DataError: As ``Split.of`` says.
        """
        if augment is not None:
            _check_augment(augment)
        if augment is not None and isinstance(table.x, Mapping):
            raise DataError(
                "expected no `augment` where x is a mapping: it works on one tensor; augment inside the "
                "model, in training mode"
            )
        n = len(table.y)
        gone = positions(forget, n, "forget")
        if not len(gone):
            raise DataError("expected at least one row to forget, got none: name rows in `forget`")
        if isinstance(holdout, (int, float)) and not isinstance(holdout, bool):
            held = holdout_rows(table.y.numpy(), float(holdout), seed=seed, without=gone)
        else:
            held = positions(holdout, n, "holdout")
        if len(both := np.intersect1d(gone, held)):
            raise DataError(
                f"expected a row to be forgotten or held out, but {len(both)} are both (the first: "
                f"{int(table.ids[both[0]])}): take them out of one"
            )
        pool = np.setdiff1d(np.arange(n), held)
        kept = np.setdiff1d(pool, gone)
        if not len(kept):
            raise DataError(
                f"expected rows to retain, but `forget` and `holdout` name all {n}: a model of nothing "
                "cannot be trained"
            )
        roles = {"forget": gone, "retain": kept, "holdout": held}
        views = {name: View(name, table, torch.from_numpy(at), augment) for name, at in roles.items()}
        for name, rows in (unseen or {}).items():
            views[name] = View(name, rows, torch.arange(len(rows.y)))
        drawn = (drawn_holdout or isinstance(holdout, (int, float))) and bool(len(held))
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
        told = "".join(f"{name} {view.fingerprint}\n" for name, view in self._views.items())
        return hashlib.sha256(told.encode()).hexdigest()


def _check_augment(augment: Augment) -> None:
    try:
        inspect.signature(augment).bind("x", "rng")
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"expected augment(x, rng) -> x, batches [b, ...] and a torch generator in, got "
            f"{augment!r} ({error})"
        ) from error
