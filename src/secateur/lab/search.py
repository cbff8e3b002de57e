"""What to search: the ``[tune]`` table of a plan, read and checked, all faults at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from secateur import knobs
from secateur.errors import PlanError, nearest
from secateur.knobs import Seed
from secateur.lab.plan import Plan, Table


@dataclass(frozen=True, kw_only=True)
class Search:
    """The plain keys of ``[tune]``.

    Attributes:
        trials: How many settings to try.
        seed: Of what is proposed, and of the surrogate request.
        by: "surrogate": rows like those of the request, from those that it retains, are forgotten in their
            place, and no retrain of the request is made; "oracle": the request itself and its retrains.
        references: Retrained models to compare with; None: as many as the plan's retrain-gap asks for, or
            one where it asks for none.
        allowed_loss: Name of a metric to the points by which a trial may lie below the mean of the retrains
            and still be chosen; a metric without an entry may fall as it likes.
    """

    trials: Annotated[int, Field(ge=1, le=100_000)] = 20
    seed: Seed = 0
    by: Literal["surrogate", "oracle"] = "surrogate"
    references: Annotated[int, Field(ge=1)] | None = None
    allowed_loss: Mapping[Literal["RA", "TA"], Annotated[float, Field(ge=0, allow_inf_nan=False)]] = field(
        default_factory=dict
    )


@dataclass(frozen=True, kw_only=True)
class Between:
    """Numbers from ``low`` to ``high``; whole ones where both are; even in their logarithm where ``log``."""

    low: int | float
    high: int | float
    log: bool = False

    @property
    def checked(self) -> tuple[Any, ...]:
        """What a knob must take if it is to take all of the range."""
        return self.low, self.high


@dataclass(frozen=True, kw_only=True)
class OneOf:
    """One of some values."""

    values: tuple[Any, ...]

    @property
    def checked(self) -> tuple[Any, ...]:
        """What a knob must take if it is to take all of the range."""
        return self.values


Range = Between | OneOf
Ranges = dict[str, Range]


def read_search(table: Table) -> tuple[Search, Ranges, list[str]]:
    """The ``[tune]`` table of a plan.

    Args:
        table: The plan as plain values.

    Returns:
        Its plain keys, name of a knob ("unlearn.lr") to its range, and every fault that can be seen without
        the plan's steps; what is faulty stands at its default, or is left out.
    """
    told = table.get("tune")
    if not isinstance(told, dict):
        got = f"got {told!r}" if "tune" in table else "and it is missing"
        return (
            Search(),
            {},
            [
                f'"tune" should be a table of knobs to try, such as [tune] with "unlearn.lr" = '
                f"{{ low = 1e-3, high = 1e-1, log = true }}, {got}"
            ],
        )
    plain = [f.name for f in dataclasses.fields(Search)]
    faults: list[str] = []
    search, ranges = Search(), {}
    try:
        search = knobs.build(Search, {key: told[key] for key in plain if key in told}, where="tune")
    except PlanError as error:
        faults += error.faults
    for name, value in told.items():
        if name in plain:
            continue
        if "." not in name:
            unquoted = isinstance(value, dict) and value
            faults.append(
                f'tune: "{name}" is a table: write its knobs as one quoted key, such as '
                f'"{name}.{next(iter(value))}" = ...'
                if unquoted
                else f'tune: unknown key "{name}", {nearest(name, plain)}; a knob of a step is named by the '
                'step\'s label and a dot, such as "unlearn.lr"'
            )
            continue
        if name.startswith("allowed_loss."):
            metric = name.partition(".")[2]
            faults.append(f'tune: "{name}" names no step: write allowed_loss = {{ {metric} = {value!r} }}')
            continue
        try:
            ranges[name] = _range(value, f'tune: "{name}"')
        except PlanError as error:
            faults += error.faults
    if not any("." in name for name in told):
        faults.append(
            "tune: no knob is named, so there is nothing to choose: add a range, such as "
            '"unlearn.lr" = { low = 1e-3, high = 1e-1, log = true }'
        )
    return search, ranges, faults


def _range(value: Any, where: str) -> Range:
    if isinstance(value, list) and value:
        return OneOf(values=tuple(value))
    if not isinstance(value, dict):
        raise PlanError([
            f"{where} should be a list of values or a table {{ low = ..., high = ..., log = true }}, got "
            f"{value!r}"
        ])
    between: Between = knobs.build(Between, value, where=where)
    faults = []
    if between.low >= between.high:
        faults.append(
            f"{where}: low should be below high, got low = {between.low!r} and high = {between.high!r}: "
            "there is nothing between them"
        )
    if between.log and between.low <= 0:
        faults.append(
            f"{where}: low should be above 0 where log = true, got {between.low!r}: it has no logarithm; "
            "raise low, or leave log out"
        )
    if faults:
        raise PlanError(faults)
    return between


def why_not(plan: Plan, name: str) -> str | None:
    """Why a knob of a plan cannot be tuned; None where it can.

    Args:
        plan: The plan.
        name: As an axis names it: the label of a step, a dot, a knob.

    Returns:
        The fault, as a sentence.
    """
    if plan.unlearn is None:
        return (
            "tune: no step of the plan unlearns (tells forget from retain), so there is nothing to tune: add "
            'one, such as [[step]] with use = "fine-tune"'
        )
    label, _, knob = name.partition(".")
    labels = [planned.label for planned in plan.steps]
    if label not in labels:
        return f'tune: "{name}" names no step of the plan, {nearest(label, labels)}'
    if labels.count(label) > 1:
        return f'tune: "{name}" could mean {labels.count(label)} steps: tell them apart with as = "..."'
    place = labels.index(label)
    planned = plan.steps[place]
    if place < plan.unlearn:
        return (
            f'tune: "{name}" names a step before unlearning begins: another original would be another '
            "question; make it an axis of [grid]"
        )
    if planned.step.card.anew:
        return (
            f'tune: "{name}" names a step that starts anew, as the retrains do that it would be compared '
            "with: leave it out, or name another step"
        )
    if knob not in (known := knobs.names(type(planned.step))):
        return f'tune: "{name}": the step "{planned.use}" has no knob "{knob}", {nearest(knob, known)}'
    return None


def value_faults(plan: Plan, name: str, values: Range) -> list[str]:
    """The faults of a range's values for the knob that it names, each by itself.

    Args:
        plan: A plan whose knob can be tuned.
        name: The knob.
        values: Its range.

    Returns:
        Sentences.
    """
    label, _, knob = name.partition(".")
    (step,) = (type(planned.step) for planned in plan.steps if planned.label == label)
    faults: list[str] = []
    for value in values.checked:
        try:
            knobs.parse(step, {knob: value}, where=f'tune: "{name}"', told=knobs.names(step))
        except PlanError as error:
            faults += error.faults
    return faults
