"""Grids: a plan with axes becomes one plain table for each cell."""

from __future__ import annotations

import contextlib
import copy
import itertools
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from secateur.card import name_of
from secateur.errors import PlanError, UsageError, nearest
from secateur.lab.plan import TOP_KEYS, Plan
from secateur.lab.read import label_of, read_plan
from secateur.record import Record


def load(path: Path, sets: Iterable[str] = ()) -> dict[str, Any]:
    """Read a plan file, and change it as ``--set`` asks.

    Args:
        path: A TOML file.
        sets: ``key=value`` texts; the key as an axis names it, the value as TOML writes it (quotes may be
            left out).

    Returns:
        The plan as plain values, axes included.

    Raises:
        UsageError: There is no such file, or a ``--set`` without a key and a value, or of a key that an axis
            replaces.
        PlanError: It is not TOML, or a key leads nowhere.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f'cannot read the plan "{path}" ({reason}): name a TOML file, or write one with "secateur init"'
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise PlanError([f"it is not TOML: {error}"], source=str(path)) from error
    faults: list[str] = []
    for text in sets:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise UsageError(f'expected --set key=value, got "{text}": such as --set prune.sparsity=0.9')
        _refuse_overruled(key.strip(), table)
        try:
            set_at(table, key.strip(), _value(value.strip()))
        except PlanError as error:
            faults += [f"--set {fault}" for fault in error.faults]
    if faults:
        raise PlanError(faults, source=str(path))
    return table


def _refuse_overruled(key: str, table: Mapping[str, Any]) -> None:
    """A value that an axis or a range would replace has no effect, and must not pass in silence."""
    axes, ranges = (found if isinstance(found := table.get(at), dict) else {} for at in ("grid", "tune"))
    for axis in axes:
        if _covers(axis, key):
            raise UsageError(
                f'--set {key} would have no effect: the axis "{axis}" replaces it in every run; use --set '
                f"grid.{axis}=[...]"
            )
    if "." in key and key in ranges:
        raise UsageError(
            f"--set {key} would have no effect: [tune] chooses it; use --set tune.{key}=[...], or name other "
            "values there"
        )


def _covers(name: str, other: str) -> bool:
    """Whether setting ``name`` replaces all that ``other`` names."""
    return f"{other}.".startswith(f"{name}.")


def expand(table: Mapping[str, Any], *, source: str = "the plan") -> list[Plan]:
    """Every cell of a grid, checked; a plan without axes is a grid of one.

    Args:
        table: The plan as plain values.
        source: Its name, for messages.

    Returns:
        The plans: the last axis moves fastest.

    Raises:
        PlanError: With the faults of all cells, each told once.
    """
    axes = table.get("grid", {})
    # what [tune] would choose stands here as it is written; lab.tune reads it
    base = {key: value for key, value in table.items() if key not in ("grid", "tune")}
    if not isinstance(axes, dict):
        raise PlanError([f"[grid] should be a table of axes, got {axes!r}"], source=source)
    bad = [
        f'grid: axis "{name}" should be a list of values, not empty, got {v!r}'
        for name, v in axes.items()
        if not isinstance(v, list) or not v
    ]
    bad += [
        f'grid: axis "{first}" would have no effect, since the later axis "{then}" replaces it: swap them'
        for first, then in itertools.combinations(axes, 2)
        if _covers(then, first)
    ]
    if bad:
        raise PlanError(bad, source=source)
    plans: list[Plan] = []
    faults: list[str] = []
    for values in itertools.product(*axes.values()):
        cell = copy.deepcopy(base)
        try:
            for name, value in zip(axes, values, strict=True):
                set_at(cell, name, copy.deepcopy(value))
            plan = read_plan(cell, source=source)
            plans.append(plan)
            faults += _bank_faults(plan)
        except PlanError as error:
            faults += error.faults
    if faults:
        raise PlanError(list(dict.fromkeys(faults)), source=source)
    return plans


def _bank_faults(plan: Plan) -> list[str]:
    return [
        f'audit {i}: "{name_of(type(audit))}" compares with a bank of models that no plan trains: leave it '
        "out, and ask it of the finished run with secateur audit RUN --tier 2"
        for i, audit in enumerate(plan.audits, start=1)
        if audit.needs.tier == 2
    ]


def runs_of(plans: Sequence[Plan], records: Sequence[Record]) -> list[Record]:
    """The runs of a grid, among the records of a store that many grids share.

    Args:
        plans: From ``expand``.
        records: Oldest first.

    Returns:
        The newest record of each plan that has one, in the plans' order. What steps are called, and whether a
        knob at its default was written, does not matter; where data lies does.
    """
    known: list[tuple[Plan, Record]] = []
    for record in records:
        with contextlib.suppress(PlanError):  # of a version that knew other knobs: no run of these
            known.append((_bare(read_plan(record.plan, source=record.key)), record))
    newest = [next((r for p, r in reversed(known) if p == _bare(plan)), None) for plan in plans]
    return [record for record in newest if record is not None]


def _bare(plan: Plan) -> Plan:
    """A plan without the words for it."""
    return replace(plan, table={}, steps=tuple(replace(planned, label="") for planned in plan.steps))


def set_at(table: dict[str, Any], name: str, value: Any) -> None:
    """Set one key of a plan.

    ``seed`` and ``data.forget`` name keys of the plan, ``prune.sparsity`` a knob of the step that is called
    "prune", ``prune`` that step itself: a table takes its place (and its name), a list of tables takes it
    too, an empty list leaves it out.

    Args:
        table: Changed in place.
        name: Where.
        value: What.

    Raises:
        PlanError: The name leads nowhere, or to two steps.
    """
    head, _, rest = name.partition(".")
    steps = table.get("step", [])
    labels = [label_of(step) for step in steps] if isinstance(steps, list) else []
    if head in ("grid", "tune") and rest:
        axes = table.setdefault(head, {})
        if not isinstance(axes, dict):
            what = "axes" if head == "grid" else "knobs"
            raise PlanError([f"[{head}] should be a table of {what}, got {axes!r}"])
        axes[rest] = value  # an axis is named by one key, dots and all
    elif head and head in labels:
        if labels.count(head) > 1:
            raise PlanError([
                f'"{name}" could mean {labels.count(head)} steps: tell them apart with as = "..."'
            ])
        place = labels.index(head)
        if rest:
            _set_in(steps[place], rest, value, name)
        else:
            several = value if isinstance(value, list) else [value]
            if not all(isinstance(step, dict) for step in several):
                raise PlanError([
                    f'"{name}" should be a table with "use", or a list of such tables, got {value!r}'
                ])
            steps[place : place + 1] = (
                [{"as": head, **step} for step in several] if len(several) == 1 else several
            )
    elif head in TOP_KEYS:
        _set_in(table, name, value, name)
    else:
        raise PlanError([
            f'"{name}" names no key of the plan and no step of it, {nearest(head, [*TOP_KEYS, *labels])}'
        ])


def _set_in(table: dict[str, Any], path: str, value: Any, name: str) -> None:
    *folders, last = path.split(".")
    for folder in folders:
        table = table.setdefault(folder, {})
        if not isinstance(table, dict):
            raise PlanError([
                f'"{name}" goes through "{folder}", which is no table: name a [[step]] by its label'
            ])
    table[last] = value


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
