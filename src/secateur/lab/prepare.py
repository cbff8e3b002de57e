"""What a plan stands on, loaded and checked before anything is trained: data, split, network, first state."""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur import knobs
from secateur.card import name_of
from secateur.errors import DataError, SecateurError
from secateur.lab.freeze import load_weights
from secateur.lab.keys import Link, root_key, start
from secateur.lab.plan import DataPlan, Plan
from secateur.lab.request import Known
from secateur.rows import holdout_rows
from secateur.run import Progress, Run, Silent
from secateur.split import Split
from secateur.state import State
from secateur.table import Table
from secateur.zoo import Collection


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a plan stands on.

    Attributes:
        split: The data in its roles.
        state: Before the first step.
        root: Key of all that chains of this plan have in common.
        link: The beginning of the plan's chain.
        run: Seed, device, precision.
    """

    split: Split
    state: State
    root: str
    link: Link
    run: Run


class Loaded:
    """Data sets and splits, each loaded once for all plans of a grid.

    Args:
        progress: Where to show how far decoding has come.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress or Silent()
        self._collections: dict[str, _Rows] = {}
        self._splits: dict[str, Split] = {}

    def ground(self, plan: Plan, run: Run) -> Ground:
        """Load and check what a plan stands on.

        Args:
            plan: The plan.
            run: Where to compute.

        Returns:
            The ground.

        Raises:
            DataError: Data, labels, weights or model are not what they claim, or an audit needs a view that
                is not there.
        """
        rows = self._rows(plan.data)
        split = self._split(plan.data)
        for audit in plan.audits:
            if absent := sorted(audit.needs.views - set(split)):
                raise DataError(
                    f'the audit "{name_of(type(audit))}" needs rows of {", ".join(absent)}, and the data has '
                    "none: add them, or take the audit out"
                )
        return self._stand(plan, run, rows, split)

    def within(self, plan: Plan, run: Run, keep: NDArray[np.int64], forget: NDArray[np.int64]) -> Ground:
        """What a plan stands on where only some rows of its pool are there.

        Args:
            plan: The plan; its holdout stays out, its request is not looked at.
            run: Where to compute, and the seed.
            keep: Ids of the rows of the pool that stay, those to forget among them.
            forget: Ids of the rows to forget.

        Returns:
            The ground.

        Raises:
            DataError: As ``ground``.
        """
        rows = self._rows(plan.data)
        left_out = np.setdiff1d(np.arange(len(rows.train.y)), rows.train.positions(keep, "a shadow"))
        split = Split.over(
            rows.train,
            forget=rows.train.positions(forget, "the request of a shadow"),
            holdout=left_out,
            augment=rows.made.augment,
        )
        return self._stand(plan, run, rows, split)

    def _stand(self, plan: Plan, run: Run, rows: _Rows, split: Split) -> Ground:
        accepted = knobs.names(plan.model.call)
        built = {key: value for key, value in _told(rows, split).items() if key in accepted}
        built |= plan.model.knobs
        build = functools.partial(_call, plan.model.use, plan.model.call, built)
        given = None
        if plan.model.weights is not None:
            with run.seeded("init"):
                given = load_weights(build(), Path(plan.model.weights))
        state = State.of(build, split, run, model=given)
        root = root_key(split, rows.made.augment, plan.data, plan.model, built, run)
        return Ground(split=split, state=state, root=root, link=start(root, run.seed), run=run)

    def _collection(self, data: DataPlan) -> _Rows:
        # without a limit nothing is drawn: one copy of the rows serves all seeds
        drawn = data.knobs.get("limit", ...) is not None
        kept = data.memory, data.workers
        key = f"{data.use} {sorted((k, v) for k, v in data.knobs.items() if drawn or k != 'seed')} {kept}"
        if key not in self._collections:
            shown = (
                {"progress": self._progress} if "progress" in inspect.signature(data.call).parameters else {}
            )
            made = _call(data.use, data.call, {**data.knobs, **shown})
            if not isinstance(made, Collection):
                raise DataError(
                    f'expected "{data.use}" to give a secateur.zoo.Collection, got {type(made).__name__}: '
                    "return Collection(train=(x, y), test=(x, y))"
                )
            for part in ("train", "test"):
                if isinstance(pair := getattr(made, part), tuple) and len(pair) != 2:
                    raise DataError(
                        f'expected `{part}` of "{data.use}" as (x, y) or a map-style data set, got a tuple '
                        f"of {len(pair)}"
                    )
            read = functools.partial(Table.read, memory=data.memory, workers=data.workers)
            train = read(*_pair(made.train), what="the training data", ids=made.ids)
            if not len(train.y):
                raise DataError(f'expected training rows from "{data.use}", got none: nothing can be trained')
            unseen = {}
            if made.test is not None:
                unseen["test"] = read(*_pair(made.test), what="the test data", ids=made.test_ids)
            columns = _columns(made, len(train.y), data.use)
            self._collections[key] = _Rows(_light(made), train, unseen, columns)
        return self._collections[key]

    def _rows(self, data: DataPlan) -> _Rows:
        """The data set as steps see it: poisoned, where the plan says so."""
        clean = self._collection(data)
        if data.poison is None:
            return clean
        key = f"{_named(data)} {data.poison!r}"
        if key not in self._collections:
            if "poisoned" in clean.columns:
                raise DataError(
                    f'expected data without a column "poisoned", which data.poison adds, and "{data.use}" '
                    "has one: a request could mean either; give it another name"
                )
            free = np.setdiff1d(np.arange(len(clean.train.y)), _held(data, clean.train))
            train, trigger, bad = data.poison.apply(clean.train, clean.unseen.get("test"), free, data.seed)
            self._collections[key] = clean._replace(
                train=train,
                unseen=clean.unseen if trigger is None else {**clean.unseen, "trigger": trigger},
                columns={**clean.columns, "poisoned": bad},
            )
        return self._collections[key]

    def _split(self, data: DataPlan) -> Split:
        key = f"{_named(data)} {data.forget!r} {data.poison!r}"
        if key not in self._splits:
            made, train, unseen, columns = self._rows(data)
            known = Known(train.y.numpy(), train.ids.numpy(), columns)
            clean = self._collection(data).train
            free = np.setdiff1d(np.arange(len(known.y)), _held(data, clean))
            forget = train.positions(data.forget.choose(known, free, data.seed), "data.forget")
            taken = forget
            if data.poison is not None:
                taken = np.union1d(forget, np.flatnonzero(columns["poisoned"]))
            self._splits[key] = Split.over(
                train,
                forget=forget,
                # by the labels before any poison: with and without it the same rows are held out, and clean
                holdout=_held(data, clean, without=taken),
                drawn_holdout=isinstance(data.holdout, float),
                unseen=unseen,
                augment=made.augment,
            )
        return self._splits[key]


class _Rows(NamedTuple):
    """A data set that has been read; ``unseen`` has the rows that no step reaches, by view."""

    made: Collection
    train: Table
    unseen: Mapping[str, Table]
    columns: Mapping[str, NDArray[Any]]


def _named(data: DataPlan) -> str:
    """All but what is done with the rows."""
    kept = data.memory, data.workers
    return f"{data.use} {sorted(data.knobs.items())} {data.holdout} {data.seed} {kept}"


def _held(data: DataPlan, train: Table, without: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Positions of the holdout; of a share, those that are not in ``without``."""
    if isinstance(data.holdout, float):
        return holdout_rows(train.y.numpy(), data.holdout, seed=data.seed, without=without)
    return train.positions(np.asarray(data.holdout, dtype=np.int64), "data.holdout")


def _pair(part: Any) -> tuple[Any, Any]:
    return part if isinstance(part, tuple) else (part, None)


def _light(made: Collection) -> Collection:
    """Without the rows, which the tables hold now."""
    return replace(made, train=None, test=None, columns={})


def _columns(made: Collection, n: int, use: str) -> dict[str, NDArray[Any]]:
    columns = {}
    for name, given in made.columns.items():
        values = np.asarray(given)
        if values.shape != (n,):
            raise DataError(
                f'expected one value for each of {n} training rows in the column "{name}" of "{use}", got '
                f"shape {values.shape}: a request could not tell rows by it"
            )
        if values.dtype == object:  # words, as pandas holds them
            if len(kinds := {type(value) for value in values}) > 1 or not kinds <= {str, int, bool}:
                got = ", ".join(sorted(kind.__name__ for kind in kinds))
                raise DataError(
                    f'expected words, whole numbers or truth values in the column "{name}" of "{use}", got '
                    f"{got}: a request could not tell rows by it"
                )
            values = np.asarray(values.tolist())
        columns[name] = values
    return columns


def _told(rows: _Rows, split: Split) -> dict[str, Any]:
    """What the data tells a network that takes it: see ``lab.read.TOLD``."""
    told: dict[str, Any] = {"classes": split.classes}
    if not isinstance(x := rows.train.x, Mapping) and x.ndim == 4:
        told["channels"] = x.shape[1]
        if x.shape[2] == x.shape[3]:
            told["size"] = x.shape[2]
    return told | {name: value for name in ("mean", "std") if (value := getattr(rows.made, name))}


def _call(use: str, call: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """Call what a plan names; what it raises becomes a sentence with the line, which its author needs."""
    try:
        return call(**given)
    except SecateurError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        last = [frame for frame in frames if frame.filename == frames[:2][-1].filename][-1]
        told = ", ".join(f"{key} = {value!r}" for key, value in given.items() if key != "progress")
        raise DataError(
            f'expected a result of "{use}" with {told or "no knobs"}, but it raised {type(error).__name__}: '
            f"{error} ({last.filename}, line {last.lineno}): correct it, or its knobs in the plan"
        ) from error
