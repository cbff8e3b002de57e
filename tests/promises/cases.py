"""Small instances of every class on a shelf, made by rules that know no method."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest

from secateur import knobs
from secateur.card import Shelf
from secateur.errors import UsageError

# so that a step takes milliseconds on a toy problem, and no layer of it is pruned away
SMALL: dict[str, Any] = {
    **{"epochs": 2, "batch": 16, "rounds": 3, "samples": 20, "sparsity": 0.8, "every": 1},
    "damping": 10.0,  # a Hessian of a toy is as good as any
}
# knobs that every recipe shares: one method stands for all
SHARED = (knobs.Schedule, knobs.Nesterov)


def cases(shelf: Shelf) -> list[Any]:
    """Each class with its defaults, and once more for each other choice of each knob that is a choice."""
    return [pytest.param(thing, id=name) for name, thing in _cases(shelf)]


def _cases(shelf: Shelf) -> Iterator[tuple[str, Any]]:
    for name, cls in shelf.items():
        small = {key: SMALL[key] for key in SMALL.keys() & {f.name for f in dataclasses.fields(cls)}}
        if getattr(cls, "rewind", None):  # a mark that is needed: the toy problem keeps its start
            small["rewind"] = "epoch-0"
        plain = cls(**small)
        yield name, plain
        for knob, hint in get_type_hints(cls, include_extras=True).items():
            for choice in () if hint in SHARED else _choices(hint):
                if choice != getattr(plain, knob):
                    try:
                        yield f"{name}-{knob}-{choice}", cls(**small, **{knob: choice})
                    except UsageError:
                        continue  # a choice that needs others beside it


def _choices(hint: Any) -> tuple[Any, ...]:
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if kind is bool:
        return (False, True)
    return get_args(kind) if get_origin(kind) is Literal else ()
