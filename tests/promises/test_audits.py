"""Every audit on the shelf keeps every promise; a new one joins by existing."""

from __future__ import annotations

import pytest

from secateur import audits, judge, knobs
from secateur.card import camel, name_of
from secateur.testing import check_audit, toy_evidence

from .cases import cases


def asked():
    """Those of a bank judge dozens of models a dozen times over."""
    for case in cases(audits.shelf):
        (audit,) = case.values
        yield pytest.param(audit, id=case.id, marks=[pytest.mark.slow] if audit.needs.tier == 2 else [])


@pytest.mark.parametrize("audit", list(asked()))
def test_promises(audit):
    check_audit(audit)


@pytest.mark.parametrize("name", audits.shelf)
def test_name(name):
    cls = audits.shelf[name]
    assert cls.__name__ == camel(name.replace("-", "_"))
    assert name_of(cls) == name
    assert getattr(audits, cls.__name__) is cls
    assert judge([cls()], toy_evidence())[0].audit == name


def test_one_knob_has_one_meaning():
    known: dict[str, tuple[str, str]] = {}
    for name, cls in audits.shelf.items():
        for knob in knobs.describe(cls):
            before, kind = known.setdefault(knob.name, (name, knob.type))
            assert knob.type == kind, f"{knob.name} is {knob.type} in {name}, {kind} in {before}"
