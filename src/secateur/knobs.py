"""Knobs: one name, one meaning, one set of bounds; and strict checking of any dataclass made of them.

A step's or an audit's fields are its config schema, its help, its docs table and its cache key. The types
here carry the bounds and the help, so ``lr: Lr = 0.01`` is all that a method has to write.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Collection, Mapping
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
Decay = Annotated[
    float, Field(ge=0, allow_inf_nan=False, description="weight decay (l2), on every parameter")
]
Clip = Annotated[
    Annotated[float, Field(gt=0, allow_inf_nan=False)] | None,
    Field(description="largest allowed l2 norm of the whole gradient; none: no clipping"),
]
Smoothing = Annotated[
    float, Field(ge=0, lt=1, description="label smoothing: share of each target spread over all classes")
]
Sam = Annotated[
    float,
    Field(
        ge=0,
        allow_inf_nan=False,
        description="radius rho of adaptive sharpness-aware minimisation, two passes per update; 0: off",
    ),
]
Schedule = Annotated[
    Literal["constant", "step", "cosine", "one-cycle"],
    Field(description="how the learning rate moves over the run; step: a tenth at 50 % and again at 75 %"),
]
WarmUp = Annotated[
    float, Field(ge=0, lt=1, description="share of the run in which the learning rate rises from zero")
]
Sparsity = Annotated[float, Field(ge=0, lt=1, description="share of weights that are zero, in [0, 1)")]
Gamma = Annotated[
    float, Field(ge=0, allow_inf_nan=False, description="weight of the l1 norm in the objective")
]
Noise = Annotated[
    float,
    Field(
        ge=0, allow_inf_nan=False, description="variance of the noise for a weight of Fisher information 1"
    ),
]
Scale = Annotated[
    float, Field(allow_inf_nan=False, description="factor on the influence step; 1: the whole Newton step")
]
Damping = Annotated[
    float,
    Field(
        ge=0, allow_inf_nan=False, description="added to every eigenvalue of the curvature, in nats per w^2"
    ),
]
L2 = Annotated[
    float, Field(gt=0, allow_inf_nan=False, description="half of it times ||w||^2 joins the objective")
]
Rows = Annotated[
    Annotated[int, Field(ge=1)] | None,
    Field(
        description="rows that the curvature is made of, drawn at random; none: all that it may be made of"
    ),
]
References = Annotated[int, Field(ge=1, description="how many reference models to ask for")]
Members = Annotated[
    Literal["sampled", "first"],
    Field(description="the retain rows that stand for members: a random sample, or the first by row id"),
]
Ratio = Annotated[
    float,
    Field(gt=0, allow_inf_nan=False, description="how many times more a row must have gained than another"),
]
Offline = Annotated[
    float,
    Field(
        ge=0, le=1, description="models that saw a row say a p + 1 - a of it, where those that did not say p"
    ),
]
Level = Annotated[float, Field(gt=0, lt=1, description="confidence level of the intervals")]
Seed = Annotated[int, Field(ge=0, description="seed of the named random streams")]


# what a class says of itself: no knobs, ClassVar or not
_SAID = frozenset({"card", "reads", "needs"})


class Knob(NamedTuple):
    """One field, told to a person: name, type with bounds, default (as text; empty: required), help."""

    name: str
    type: str
    default: str
    help: str


@cache
def _adapters(target: Any) -> dict[str, TypeAdapter[Any]]:
    config = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    return {name: _adapter(hint, config) for name, (hint, _) in _fields(target).items()}


def _fields(target: Any) -> dict[str, tuple[Any, bool]]:
    """Name to type and whether it is required: fields of a dataclass, or parameters of a function."""
    if dataclasses.is_dataclass(target):
        hints = get_type_hints(target, include_extras=True)
        return {
            f.name: (hints[f.name], f.default is f.default_factory is dataclasses.MISSING)
            for f in _knobs(target)
        }
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    named = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    found = inspect.signature(target).parameters.values()
    # where a function shows its progress is its caller's to say
    parameters = [p for p in found if p.kind in named and p.name != "progress"]
    return {p.name: (hints.get(p.name, Any), p.default is p.empty) for p in parameters}


def _knobs(cls: Any) -> list[dataclasses.Field[Any]]:
    """The fields that are set from outside; what a class says of itself is none, ClassVar or not."""
    return [field for field in dataclasses.fields(cls) if field.init and field.name not in _SAID]


def _adapter(hint: Any, config: ConfigDict) -> TypeAdapter[Any]:
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    # a nested dataclass brings its own rules: pydantic refuses a second config
    return TypeAdapter(hint) if dataclasses.is_dataclass(plain) else TypeAdapter(hint, config=config)


def describe(cls: type[Any]) -> list[Knob]:
    """The knobs of a dataclass, in order: for help pages, docs tables and cards."""
    hints = get_type_hints(cls, include_extras=True)
    told = _told_in_docstring(cls)
    knobs = []
    for field in _knobs(cls):
        kind, text = _words(hints[field.name])
        value = field.default
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        default = "" if value is dataclasses.MISSING else json.dumps(value, default=repr)
        knobs.append(Knob(field.name, kind, default, told.get(field.name) or text))
    return knobs


def check(value: Any) -> list[str]:
    """The faults of an instance's fields, one sentence each; an instance can be built with anything."""
    faults = []
    kind: Any = type(value)  # mypy finds no hash in a class
    for name, adapter in _adapters(kind).items():
        got = getattr(value, name)
        try:
            adapter.validate_python(got)
        except ValidationError as error:
            faults += _sentences(name, got, error)
    return faults


def build(target: Any, values: Mapping[str, Any], *, where: str) -> Any:
    """Call a dataclass or a function with JSON-like values, checked as ``parse`` checks them.

    Args:
        target: A dataclass whose fields are knobs, or a function whose parameters are.
        values: Name to value, as TOML or JSON gives them.
        where: The place in the plan, to begin each sentence with.

    Returns:
        What the call gives.

    Raises:
        PlanError: Any key or value is wrong, or the target refuses them together; carries every fault.
    """
    fields = parse(target, values, where=where)
    try:
        return target(**fields)
    except PlanError:
        raise
    except UsageError as error:
        raise PlanError([f"{where}: {error}"]) from error


def parse(
    target: Any, values: Mapping[str, Any], *, where: str, told: Collection[str] = ()
) -> dict[str, Any]:
    """Check JSON-like values against a dataclass or a function: strictly, and all faults at once.

    Args:
        target: A dataclass whose fields are knobs, or a function whose parameters are.
        values: Name to value, as TOML or JSON gives them.
        where: The place in the plan, to begin each sentence with.
        told: Knobs that the caller can hand over where they are missing here.

    Returns:
        Name to value, ready for the call (lists have become tuples where the type says so).

    Raises:
        PlanError: Any key or value is wrong; carries every fault.
    """
    adapters = _adapters(target)
    required = {name for name, (_, needed) in _fields(target).items() if needed}
    unknown = [key for key in values if key not in adapters]
    missing = [key for key in adapters if key in required and key not in values and key not in told]
    faults = [f'{where}: unknown key "{key}", {nearest(key, adapters)}' for key in unknown]
    faults += [f'{where}: "{key}" is missing, and it has no default' for key in missing]
    fields = {}
    for key in (key for key in adapters if key in values):  # in the fields' order, so the faults have one too
        try:
            fields[key] = adapters[key].validate_json(json.dumps(values[key]), strict=True)
        except (ValidationError, TypeError) as error:
            faults += [f"{where}: {told}" for told in _sentences(key, values[key], error)]
    if faults:
        raise PlanError(faults)
    return fields


def names(target: Any) -> list[str]:
    """The names of the knobs of a dataclass or a function, in order."""
    return list(_fields(target))


def values(instance: Any) -> dict[str, Any]:
    """The fields of a dataclass of knobs as JSON-like values: for keys and records."""
    fields = dataclasses.asdict(instance)
    knobs = {knob.name: fields[knob.name] for knob in _knobs(instance)}
    plain: dict[str, Any] = json.loads(json.dumps(knobs))
    return plain


def _sentences(name: str, got: Any, error: ValidationError | TypeError) -> list[str]:
    """One for a value; of a table one for each entry that is wrong."""
    if isinstance(error, TypeError):
        return [f"{name} = {got!r} is not a value that a plan can hold"]
    found: list[Any] = list(error.errors())
    return [_sentence(name, got, first) for first in (found if isinstance(got, dict) else found[:1])]


def _sentence(name: str, got: Any, first: Mapping[str, Any]) -> str:
    wrong = first["msg"].removeprefix("Input should ")
    if first["type"] == "string_pattern_mismatch":  # a person reads no regular expressions
        wrong = 'be written as "{}"'.format(first["ctx"]["pattern"].strip("^$").replace(r"\d+", "N"))
    if first["type"] == "dict_type":
        wrong = "be a table, { NAME = VALUE }"
    elif isinstance(got, dict) and first["loc"]:
        name, got = f"{name}.{first['loc'][0]}", first["input"]
    return f"{name} should {wrong}, got {got!r}"


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
    """Field name to what the docstring's Attributes section says of it, which wins over the type's words."""
    told: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        # cleaned: from Python 3.13 on, docstrings come without their indentation
        section = inspect.cleandoc(base.__doc__ or "").partition("Attributes:")[2]
        for match in re.finditer(r"^ {4}(\w+): (.+(?:\n {5,}.+)*)", section, flags=re.MULTILINE):
            told[match[1]] = " ".join(match[2].split())
    return told
