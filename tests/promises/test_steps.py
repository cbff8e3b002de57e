"""Every step on the shelf keeps every promise; a new one joins by existing."""

from __future__ import annotations

import pytest

from secateur import knobs, steps
from secateur.card import camel, name_of
from secateur.testing import check_step

from .cases import cases


@pytest.mark.parametrize("step", cases(steps.shelf))
def test_promises(step):
    check_step(step)


@pytest.mark.parametrize("step", cases(steps.shelf))
def test_the_card_names_the_roles_that_are_read(step):
    assert all(role in step.card.data for role in step.reads)


@pytest.mark.parametrize("name", steps.shelf)
def test_name(name):
    cls = steps.shelf[name]
    assert cls.__name__ == camel(name.replace("-", "_"))
    assert name_of(cls) == name
    assert getattr(steps, cls.__name__) is cls
    assert steps.shelf.find(name) is cls


def test_one_knob_has_one_meaning():
    known: dict[str, tuple[str, str]] = {}
    for name, cls in steps.shelf.items():
        for knob in knobs.describe(cls):
            before, kind = known.setdefault(knob.name, (name, knob.type))
            assert knob.type == kind, f"{knob.name} is {knob.type} in {name}, {kind} in {before}"
