"""What both tables of promises share: the error, what cards and knobs owe, a watch over global chance."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor

from secateur import knobs
from secateur.card import Card
from secateur.errors import BrokenPromise, PlanError

T = TypeVar("T")


class Broken(BrokenPromise, AssertionError):
    """A promise that a step or an audit does not keep.

    Attributes:
        promise: Its name in the table.
    """

    def __init__(self, promise: str, what: str) -> None:
        self.promise = promise
        super().__init__(f'broken promise "{promise}": {what}')


def fail(promise: str, what: str) -> NoReturn:
    """Say which promise is broken, by what, and what to do."""
    raise Broken(promise, what)


def check_words(thing: Any) -> None:
    """The card is complete; the knobs are frozen, documented, checked, and survive JSON."""
    cls = type(thing)
    if isinstance(thing, type):
        fail("an instance", f"got the class {thing.__name__}: write {thing.__name__}(...)")
    card = getattr(cls, "card", None)
    if not isinstance(card, Card):
        fail("card complete", f"{cls.__name__} has no `card`: give it a secateur.Card")
    blank = [name for name in ("summary", "paper", "data") if not getattr(card, name).strip()]
    if blank or card.version < 1:
        fail("card complete", f"{', '.join(blank) or 'version'} of the card says nothing: fill it in")
    settings = vars(cls).get("__dataclass_params__")
    if settings is None or not settings.frozen or not all(f.kw_only for f in dataclasses.fields(cls)):
        fail(
            "frozen knobs",
            f"{cls.__name__} is not itself a @dataclass(frozen=True, kw_only=True): make it one",
        )
    silent = [knob.name for knob in knobs.describe(cls) if not knob.help.strip()]
    if silent:
        fail(
            "every knob documented", f"{silent[0]} has no help: describe it in `Attributes:` of the docstring"
        )
    for name in knobs.names(cls):
        odd = replace(thing)
        object.__setattr__(odd, name, object())
        if not knobs.check(odd):
            fail("knobs are checked", f"{name} takes any object: give it a type that refuses nonsense")
    try:
        rebuilt = knobs.build(cls, knobs.values(thing), where="knobs")
    except (PlanError, TypeError) as error:
        fail("knobs survive JSON", f"{error}: knobs are numbers, words, lists of them, or none")
    if rebuilt != thing:
        fail("knobs survive JSON", f"{thing} came back as {rebuilt}: let every field be a knob that compares")


def bits(value: Tensor) -> bytes:
    """What to compare where bits count: 0.0 == -0.0, and NaN is unequal to itself."""
    return value.detach().cpu().contiguous().numpy().tobytes()


def streams() -> dict[str, Any]:
    """Where the global random streams stand."""
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002
    numpy = json.dumps(legacy, default=lambda array: array.tolist())
    return {"torch's": bits(torch.get_rng_state()), "numpy's": numpy, "python's": random.getstate()}


def watched(work: Callable[[], T]) -> T:
    """Do the work with global random streams elsewhere, see that it leaves them there, and put them back."""
    numpy, python = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            work()  # the first time imports what is imported late, and that may draw
            torch.rand(7)
            np.random.random(7)  # noqa: NPY002
            random.random()
            known = streams()
            done = work()
            now = streams()
        finally:
            np.random.set_state(numpy)  # noqa: NPY002
            random.setstate(python)
    used = [name for name in known if known[name] != now[name]]
    if used:
        fail("global streams untouched", f"{used[0]} global random stream was used: draw from run.rng(name)")
    return done
