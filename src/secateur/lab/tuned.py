"""What a search found: trials, the best of them, and plans with its knobs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.lab.plan import Table
from secateur.lab.search import Search


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting, and how it went.

    Attributes:
        number: From 1 on.
        knobs: Name to value.
        score: The disparity to the mean of the retrains, in points; NaN where there is none.
        gaps: Name of a metric to candidate less mean of the retrains, in points.
        seconds: Of unlearning; NaN where it could not be finished.
        lost: The metrics in which it lies further below the retrains than ``[tune]`` allows.
        fault: Why it could not be finished; else empty.
    """

    number: int
    knobs: Mapping[str, Any]
    score: float = math.nan
    gaps: Mapping[str, float]
    seconds: float = math.nan
    lost: tuple[str, ...] = ()
    fault: str = ""

    @property
    def eligible(self) -> bool:
        """Whether it may be chosen: finished, and without more loss than allowed."""
        return not (self.fault or self.lost)


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """One cell of a plan, tuned.

    Attributes:
        table: The plan for the real request, as plain values, with the best knobs; as it was where there are
            none.
        request: What is to be forgotten, in words.
        methods: The steps from where unlearning begins, by name.
        search: The plain keys of ``[tune]``.
        seeds: The values of the plan's axis "seed", under the first of which the knobs were chosen.
        surrogate: The request that the trials forgot, as a plan writes it; None: the real one.
        rows: How many rows they forgot.
        references: How many retrained models they were compared with.
        original: Score of the model that unlearning starts from, in points.
        trials: As they were made; empty for a cell without a knob to tune.
        cost: "original", "retrains" and "trials" to the seconds that these took when they were made.
        taken: Names of the steps that were taken now; the others were in the store.
    """

    table: Table
    request: str
    methods: tuple[str, ...]
    search: Search
    seeds: tuple[int, ...] = ()
    surrogate: Table | None = None
    rows: int = 0
    references: int = 0
    original: float = math.nan
    trials: tuple[Trial, ...] = ()
    cost: Mapping[str, float]
    taken: tuple[str, ...] = ()

    @property
    def ranked(self) -> tuple[Trial, ...]:
        """The trials, best first; behind them those that lost too much, then those that failed."""
        return tuple(sorted(self.trials, key=lambda t: (bool(t.fault), bool(t.lost), t.score, t.number)))

    @property
    def best(self) -> Trial | None:
        """The eligible trial with the lowest score, the first of equals; None where none is eligible."""
        return next((trial for trial in self.ranked if trial.eligible), None)

    @property
    def failed(self) -> bool:
        """Whether there were trials, and none may be chosen."""
        return bool(self.trials) and self.best is None


def tuned_plans(tuned: Sequence[Tuned]) -> list[dict[str, Any]]:
    """The plans with the best knobs, as few as can hold them: cells that differ in their steps become a grid.

    Args:
        tuned: From ``tune_plan``; a cell whose trials all failed is left out.

    Returns:
        Tables that ``secateur run`` and ``secateur grid`` take; one, unless cells differ in data, model or
        settings too.
    """
    grouped: list[tuple[dict[str, Any], list[Tuned]]] = []
    for one in tuned:
        if one.failed:
            continue
        rest = {key: value for key, value in one.table.items() if key != "step"}
        for other, found in grouped:
            if other == rest:
                found.append(one)
                break
        else:
            grouped.append((rest, [one]))
    plans = []
    for _, found in grouped:
        seeds, axes = found[0].seeds, {}
        if len(seeds) > 1:
            axes["seed"] = list(seeds)
        if len(found) > 1:  # one axis over whole lists of steps: what was tuned for one cell fits no other
            axes["step"] = [one.table["step"] for one in found]
        plans.append({**found[0].table} | ({"grid": axes} if axes else {}))
    return plans
