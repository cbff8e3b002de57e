"""Knobs: one name, one meaning, one set of bounds; and strict checking of any dataclass made of them.

A step's or an audit's fields are its config schema, its help, its docs table and its cache key. The types here carry the
bounds and the help, so ``lr: Lr = 0.01`` is all that a method has to write.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from secateur.errors import PlanError, UsageError, nearest

Epochs = Annotated[int, Field(ge=1, description="passes over the rows that the step reads")]
Batch = Annotated[int, Field(ge=1, description="rows per update, at most")]
Lr = Annotated[float, Field(gt=0, allow_inf_nan=False, description="learning rate, per update")]
Momentum = Annotated[float, Field(ge=0, lt=1, description="momentum of SGD")]
Nesterov = Annotated[bool, Field(description="use Nesterov's momentum")]
Decay = Annotated[float, Field(ge=0, allow_inf_nan=False, description="weight decay (l2), on every parameter")]
Clip = Annotated[
    Annotated[float, Field(gt=0, allow_inf_nan=False)] | None,
    Field(description="largest allowed l2 norm of the whole gradient; none: no clipping"),
]
Schedule = Annotated[
    Literal["constant", "step", "cosine", "one-cycle"],
    Field(description="how the learning rate moves over the run; step: a tenth at 50 % and again at 75 %"),
]
WarmUp = Annotated[float, Field(ge=0, lt=1, description="share of the run in which the learning rate rises from zero")]
Sparsity = Annotated[float, Field(ge=0, lt=1, description="share of weights that are zero, in [0, 1)")]
Gamma = Annotated[float, Field(ge=0, allow_inf_nan=False, description="weight of the l1 norm in the objective")]
Level = Annotated[float, Field(gt=0, lt=1, description="confidence level of the intervals")]
Seed = Annotated[int, Field(ge=0, description="seed of the named random streams")]


class Knob(NamedTuple):
    """One field, told to a person: name, type with bounds, default (as text; empty: required), help."""

    name: str
    type: str
    default: str
    help: str


@cache
def _adapters(cls: type[Any]) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(cls, include_extras=True)
    config = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    return {f.name: _adapter(hints[f.name], config) for f in dataclasses.fields(cls) if f.init}


def _adapter(hint: Any, config: ConfigDict) -> TypeAdapter[Any]:
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    # a nested dataclass brings its own rules: pydantic refuses a second config
    return TypeAdapter(hint) if dataclasses.is_dataclass(plain) else TypeAdapter(hint, config=config)


def describe(cls: type[Any]) -> list[Knob]:
    """The knobs of a dataclass, in order: for help pages, docs tables and cards."""
    hints = get_type_hints(cls, include_extras=True)
    told = _told_in_docstring(cls)
    knobs = []
    for field in dataclasses.fields(cls):
        if field.init:
            kind, text = _words(hints[field.name])
            default = "" if field.default is dataclasses.MISSING else json.dumps(field.default, default=repr)
            knobs.append(Knob(field.name, kind, default, told.get(field.name) or text))
    return knobs


def check(value: Any) -> list[str]:
    """The faults of an instance's fields, one sentence each; an instance can be built with anything."""
    faults = []
    for name, adapter in _adapters(type(value)).items():
        got = getattr(value, name)
        try:
            adapter.validate_python(got)
        except ValidationError as error:
            faults.append(_sentence(name, got, error))
    return faults


def build(cls: type[Any], values: Mapping[str, Any], *, where: str) -> Any:
    """An instance of ``cls`` from plain JSON-like values, strictly: no unknown key, no coercion, all faults at once.

    Args:
        cls: A dataclass whose fields are knobs.
        values: Field name to value, as TOML or JSON gives them.
        where: The place in the plan, to begin each sentence with.

    Returns:
        The instance.

    Raises:
        PlanError: Any key or value is wrong; carries every fault.
    """
    adapters = _adapters(cls)
    required = {f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING}
    faults = [f'{where}: unknown key "{key}", {nearest(key, adapters)}' for key in values if key not in adapters]
    faults += [f'{where}: "{key}" is missing, and it has no default' for key in adapters if key in required - set(values)]
    fields = {}
    for key in values.keys() & adapters.keys():
        try:
            fields[key] = adapters[key].validate_json(json.dumps(values[key]), strict=True)
        except (ValidationError, TypeError) as error:
            faults.append(f"{where}: {_sentence(key, values[key], error)}")
    if not faults:
        try:
            return cls(**fields)
        except UsageError as error:
            faults = [f"{where}: {error}"]
    raise PlanError(faults)


def values(instance: Any) -> dict[str, Any]:
    """The fields of a dataclass of knobs as JSON-like values: for keys and records."""
    plain: dict[str, Any] = json.loads(json.dumps({f.name: getattr(instance, f.name) for f in dataclasses.fields(instance)}))
    return plain


def _sentence(name: str, got: Any, error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):
        return f"{name} = {got!r} is not a value that a plan can hold"
    wrong = error.errors()[0]["msg"].removeprefix("Input should be ")
    return f"{name} should be {wrong}, got {got!r}"


def _words(hint: Any) -> tuple[str, str]:
    """Type and help of a hint, as a person would write them."""
    if get_origin(hint) is Annotated:
        kind, text = _words(get_args(hint)[0])
        for info in get_args(hint)[1:]:
            if isinstance(info, FieldInfo):
                text = info.description or text
                kind += "".join(_bound(part) for part in info.metadata)
        return kind, text
    if get_origin(hint) is Literal:
        return " | ".join(json.dumps(choice) for choice in get_args(hint)), ""
    if get_origin(hint) is tuple:
        return f"list of {_words(get_args(hint)[0])[0]}", ""
    parts = get_args(hint)
    if parts and type(None) in parts:
        kind, text = _words(next(part for part in parts if part is not type(None)))
        return f"{kind} or none", text
    return getattr(hint, "__name__", str(hint)), ""


def _bound(part: Any) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    return "".join(f" {sign} {getattr(part, key)}" for key, sign in signs.items() if hasattr(part, key))


def _told_in_docstring(cls: type[Any]) -> dict[str, str]:
    """Field name to what the docstring's Attributes section says of it (its own words win over the type's)."""
    told: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        section = (base.__doc__ or "").partition("Attributes:")[2]
        for match in re.finditer(r"^\s{4,8}(\w+): (.+(?:\n\s{9,}.+)*)", section, flags=re.MULTILINE):
            told[match[1]] = " ".join(match[2].split())
    return told
