"""A recipe at a thousandth of its size: the same steps, networks and audits, other numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from secateur import audits, knobs, steps
from secateur.lab.plan import DataPlan, Settings
from secateur.lab.read import DATASETS, label_of
from secateur.lab.request import AtRandom, ByClass
from secateur.lab.search import Search

Table = dict[str, Any]
Rule = Callable[[Any], Any]

TRAIN, TEST, CLASSES = 20, 10, 10  # the made images
LARGEST = 45_000  # rows that recipes which ask for rows by number are made for


def at_most(most: float) -> Rule:
    return lambda value: value if value is None else min(value, most)


# knob to what becomes of its value, wherever it stands: first those of the data
ROWS: dict[str, Rule] = {
    "limit": at_most(TRAIN),
    "count": lambda n: max(1, n * TRAIN // LARGEST),
    # the made images have ten classes, whatever the set has
    "classes": lambda chosen: chosen if len(chosen) == 1 else [0, 1],
    # ids that are there; not one class in whole
    "holdout": lambda held: [3, 14] if isinstance(held, list) else held,
    "test": lambda share: max(share, 0.9),  # of the digits: 180 rows are left to train on
}
# then those of steps, audits, searches and the plan itself
WORK: dict[str, Rule] = {
    "epochs": at_most(1),  # and those of steps with marks, see ``_marked``
    "rounds": at_most(1),
    "every": at_most(1),
    "batch": at_most(8),
    "samples": at_most(8),
    "rows": at_most(4),
    # hardly trained, a wide layer, or a head that begins at zero, has the smallest weights of all
    "empty": lambda _: "allow",
    "sparsity": at_most(0.5),  # the same in all recipes, so that they share the model
    # what a few updates at a large rate leave has no curvature to divide by
    "lr": at_most(0.01),
    "products": at_most(2),
    # of fisher: one class of each row in place of all, which are up to 200
    "kind": lambda kind: "sampled" if kind == "expected" else kind,
    "references": at_most(2),
    "trials": at_most(1),
    "threads": lambda _: 1,
}
_METHODS = {**steps.shelf, **audits.shelf}


def known() -> set[str]:
    """Every knob that a plan can have."""
    told = [*_METHODS.values(), *DATASETS.values(), Settings, DataPlan, ByClass, AtRandom, Search]
    return {name for one in told for name in knobs.names(one)}


def shrunk(table: Mapping[str, Any], rules: Mapping[str, Rule]) -> Table:
    """A plan whose knobs are what the rules make of them, those that it leaves at their defaults too.

    Args:
        table: The plan, axes and all; it is not changed.
        rules: Name of a knob to a function of its value.

    Returns:
        Another plan.
    """
    marked: dict[str, Rule] = {}
    if "epochs" in rules:
        table, marked = {"threads": None, **table}, _marked(table)
    made: Table = _table({key: value for key, value in table.items() if key != "grid"}, rules, marked)
    if "grid" in table:
        made["grid"] = {
            axis: [_value(axis.rpartition(".")[2], value, rules, marked) for value in values]
            for axis, values in table["grid"].items()
        }
    return made


def _marked(table: Mapping[str, Any]) -> dict[str, Rule]:
    """Rules for steps that keep a mark or go back to one.

    Marks are after epochs 1, 2, ..., and one more ends a schedule: what was one epoch or one schedule in two
    steps still is, and what differed still does, so that a mark that nobody keeps is missed.
    """
    steps_with = [knobs for knobs in _methods(table) if _has_mark(knobs)]
    found = {int(str(one.get("rewind") or 0).removeprefix("epoch-")) for one in steps_with}
    found |= {epoch for one in steps_with for epoch in (*one.get("keep", ()), one.get("start", 0))}
    marks = [0, *sorted(found - {0})]
    lengths = sorted({one["epochs"] for one in steps_with if "epochs" in one})
    return {
        "keep": lambda epochs: [marks.index(epoch) for epoch in epochs],
        "start": marks.index,
        "rewind": lambda mark: mark and f"epoch-{marks.index(int(mark.removeprefix('epoch-')))}",
        "epochs": lambda epochs: len(marks) + lengths.index(epochs),
    }


def _has_mark(knobs: Mapping[str, Any]) -> bool:
    return any(knobs.get(name) for name in ("keep", "start", "rewind"))


def _methods(value: Any) -> Iterator[Table]:
    """The knobs of every step and audit in a plan, written or not."""
    if isinstance(value, Mapping):
        if knobs := _knobs(value):
            yield knobs
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _methods(one)


def _knobs(table: Mapping[str, Any]) -> Table:
    """Those of a step or an audit, written or not; none of what is neither."""
    if not (isinstance(use := table.get("use"), str) and use in _METHODS):
        return {}
    fields = [
        field for field in dataclasses.fields(_METHODS[use]) if field.default is not dataclasses.MISSING
    ]
    defaults = {
        field.name: list(field.default) if isinstance(field.default, tuple) else field.default
        for field in fields
    }
    return {**defaults, **table}


def _value(name: str, value: Any, rules: Mapping[str, Rule], marked: Mapping[str, Rule]) -> Any:
    if name in rules:
        return rules[name](value)
    if isinstance(value, Mapping):
        return _table(value, rules, marked)
    return [_value("", one, rules, marked) for one in value] if isinstance(value, list) else value


def _table(table: Mapping[str, Any], rules: Mapping[str, Rule], marked: Mapping[str, Rule]) -> Table:
    whole = _knobs(table)
    if _has_mark(whole):
        rules = {**rules, **marked}
    made = {name: _value(name, value, rules, marked) for name, value in table.items()}
    for name in sorted(whole.keys() & rules.keys() - made.keys()):
        if (value := rules[name](whole[name])) != whole[name]:
            made[name] = value
    return made


def diagonal(table: Table) -> Iterator[Table]:
    """As many cells as the longest axis has values, each value of each axis in one of them at least.

    Of seeds, and of values that differ in numbers alone, such as sparsities, an axis has the first.

    Args:
        table: A plan.

    Yields:
        Plans whose axes have one value each.
    """
    axes = {axis: _told_apart(values) for axis, values in table.get("grid", {}).items()}
    for i in range(max(map(len, axes.values()), default=1)):
        yield {**table, "grid": {axis: [values[i % len(values)]] for axis, values in axes.items()}}


def _told_apart(values: list[Any]) -> list[Any]:
    firsts: dict[Any, Any] = {}
    for value in values:
        firsts.setdefault(_words(value), value)
    return list(firsts.values())


def _words(value: Any) -> Any:
    """A value without its numbers."""
    if isinstance(value, Mapping):
        return tuple((name, _words(one)) for name, one in sorted(value.items()))
    if isinstance(value, list):
        return tuple(map(_words, value))
    return value if isinstance(value, (str, bool)) else None


def searched(table: Table) -> Table:
    """A plan with ``[tune]``, of whose axes only those have more than one value whose steps are tuned."""
    tuned = {name.partition(".")[0] for name in table["tune"]}
    axes = {
        axis: values if tuned & {label_of(value) for value in values} else values[:1]
        for axis, values in table.get("grid", {}).items()
    }
    return {**table, "grid": axes}
