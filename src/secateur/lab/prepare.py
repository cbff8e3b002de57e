"""What a plan stands on, loaded and checked before anything is trained: data, split, network, first state."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from secateur import knobs
from secateur.card import name_of
from secateur.data import Split
from secateur.errors import DataError, SecateurError
from secateur.lab.freeze import load_weights
from secateur.lab.keys import Link, root_key, start
from secateur.lab.plan import DataPlan, Plan
from secateur.lab.read import TOLD
from secateur.rows import holdout_rows
from secateur.run import Run
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
    """Data sets and splits, each loaded once for all plans of a grid."""

    def __init__(self) -> None:
        self._collections: dict[str, tuple[Collection, Table]] = {}
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
        collection, _ = self._collection(plan.data)
        split = self._split(plan.data)
        for audit in plan.audits:
            if absent := sorted(audit.needs.views - set(split)):
                raise DataError(
                    f'the audit "{name_of(type(audit))}" needs rows of {", ".join(absent)}, and the data has '
                    "none: add them, or take the audit out"
                )
        accepted = knobs.names(plan.model.call)
        told = dict(zip(TOLD, (split.classes, _channels(split)), strict=True))
        built = {key: value for key, value in told.items() if key in accepted and value is not None}
        built |= plan.model.knobs
        build = functools.partial(_call, plan.model.use, plan.model.call, built)
        given = None
        if plan.model.weights is not None:
            with run.seeded("init"):
                given = load_weights(build(), Path(plan.model.weights))
        state = State.of(build, split, run, model=given)
        root = root_key(split, collection.augment, plan.data, plan.model, built, run)
        return Ground(split=split, state=state, root=root, link=start(root, run.seed), run=run)

    def _collection(self, data: DataPlan) -> tuple[Collection, Table]:
        key = f"{data.use} {sorted(data.knobs.items())}"
        if key not in self._collections:
            made = _call(data.use, data.call, data.knobs)
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
            table = Table.read(
                *(made.train if isinstance(made.train, tuple) else (made.train, None)),
                what="the training data",
            )
            if not len(table.y):
                raise DataError(f'expected training rows from "{data.use}", got none: nothing can be trained')
            self._collections[key] = made, table
        return self._collections[key]

    def _split(self, data: DataPlan) -> Split:
        key = f"{data.use} {sorted(data.knobs.items())} {data.forget!r} {data.holdout} {data.seed}"
        if key not in self._splits:
            made, table = self._collection(data)
            labels = table.y.numpy()
            drawn = isinstance(data.holdout, float)
            held = (
                holdout_rows(labels, data.holdout, seed=data.seed)
                if isinstance(data.holdout, float)
                else np.asarray(data.holdout, dtype=np.int64)
            )
            free = np.setdiff1d(np.arange(len(labels)), held)
            forget = data.forget.choose(labels, free, data.seed)
            holdout: Any = data.holdout if drawn else held
            self._splits[key] = Split.of(
                table.x,
                table.y,
                forget=forget,
                holdout=holdout,
                test=made.test,
                seed=data.seed,
                augment=made.augment,
            )
        return self._splits[key]


def _channels(split: Split) -> int | None:
    x = next(split.pool.fresh().once(batch=1)).x
    return x.shape[1] if isinstance(x, torch.Tensor) and x.ndim == 4 else None


def _call(use: str, call: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """Call what a plan names; what it raises becomes a sentence with the line, which its author needs."""
    try:
        return call(**given)
    except SecateurError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        last = [frame for frame in frames if frame.filename == frames[:2][-1].filename][-1]
        told = ", ".join(f"{key} = {value!r}" for key, value in given.items())
        raise DataError(
            f'expected a result of "{use}" with {told or "no knobs"}, but it raised {type(error).__name__}: '
            f"{error} ({last.filename}, line {last.lineno}): correct it, or its knobs in the plan"
        ) from error
