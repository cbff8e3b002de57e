"""The cells of a plan with ``[tune]``: each is tuned by itself, with the ranges that name its knobs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secateur import audits, knobs
from secateur.errors import PlanError
from secateur.lab.grid import expand, set_at
from secateur.lab.plan import Plan, Table
from secateur.lab.read import read_plan
from secateur.lab.search import Ranges, Search, read_search, value_faults, why_not

ALONE = 1  # retrains to compare with, where the plan asks for none itself


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell.

    Attributes:
        table: The plan, as it was written.
        plan: The same for a trial: judged by retrain-gap alone.
        ranges: Those that name a knob of it; without any there is nothing to tune.
        seeds: The axis "seed" of its grid, under the first of which it is tuned.
    """

    table: Table
    plan: Plan
    ranges: Ranges
    seeds: tuple[int, ...]


def read_cells(table: Table, *, source: str = "the plan") -> tuple[Search, list[Cell]]:
    """The cells of a plan with ``[tune]``, checked.

    A range that names no knob of a cell is left out there; one that no cell can use is a fault. The axis
    "seed" makes no cells: knobs are chosen under its first value, and hold for all.

    Args:
        table: The plan as plain values.
        source: Its name, for messages.

    Returns:
        The plain keys of ``[tune]``, and the cells in the grid's order.

    Raises:
        PlanError: With the faults of ``[tune]`` and of all cells, each told once.
    """
    search, ranges, faults = read_search(table)
    cells: list[Cell] = []
    try:
        expand(table, source=source)  # the faults of all seeds
        axes = dict(table.get("grid", {}))
        seeds = tuple(axes.pop("seed", ()))
        one = {**table, "grid": axes} | ({"seed": seeds[0]} if seeds else {})
        both = [name for name in ranges if name in axes]
        faults += [f'tune: "{name}" is an axis of [grid] too: name it in one of them' for name in both]
        cells = [_cell(plan, search, ranges, seeds) for plan in expand(one, source=source)]
    except PlanError as error:
        faults += error.faults
    if search.by == "surrogate" and not all(cell.plan.data.holdout for cell in cells):
        faults.append(
            'tune: by = "surrogate" scores trials on holdout rows, and [data] has none: add holdout = 0.1, '
            "since by test rows the knobs would be tuned on what the audits report"
        )
    if cells:
        told = next((cell for cell in cells if cell.plan.unlearn is not None), cells[0])
        for name, values in ranges.items():
            using = [cell for cell in cells if name in cell.ranges]
            if not using and (why := why_not(told.plan, name)):
                faults.append(why)
            for cell in using:
                faults += value_faults(cell.plan, name, values)
    if faults:
        raise PlanError(list(dict.fromkeys(faults)), source=source)
    return search, cells


def _cell(plan: Plan, search: Search, ranges: Ranges, seeds: tuple[int, ...]) -> Cell:
    asked = [audit for audit in plan.audits if isinstance(audit, audits.RetrainGap)]
    judge = {"use": "retrain-gap", **(knobs.values(asked[0]) if asked else {"references": ALONE})}
    if search.references is not None:
        judge["references"] = search.references
    return Cell(
        table=plan.table,
        plan=read_plan({**plan.table, "audit": [judge]}),
        ranges={name: values for name, values in ranges.items() if why_not(plan, name) is None},
        seeds=seeds,
    )


def filled(table: Table, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """A plan with knobs set, as plain values of its own.

    Args:
        table: The plan.
        chosen: Name of a knob to its value.

    Returns:
        The changed copy.
    """
    changed = copy.deepcopy(dict(table))
    for name, value in chosen.items():
        set_at(changed, name, value)
    return changed
