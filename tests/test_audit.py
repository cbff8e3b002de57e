"""judge: what it asks of audits and of evidence before any number is made."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from secateur.audit import Needs, judge
from secateur.card import Card
from secateur.errors import DataError, UsageError
from secateur.evidence import Evidence, Reference
from secateur.knobs import Level
from secateur.outputs import Outputs
from secateur.record import Estimate, Finding


def views(*names):
    return {
        name: Outputs(np.zeros((4, 2)), [0, 1, 0, 1], 10 * i + np.arange(4))
        for i, name in enumerate(("forget", "retain", "test", "trigger"))
        if name in names
    }


ALL = ("forget", "retain", "test")


@dataclass(frozen=True, kw_only=True)
class Toy:
    level: Level = 0.95
    asks: frozenset[str] = frozenset(ALL)
    gives: object = None

    card: ClassVar[Card] = Card(summary="A toy.", paper="none", data="none")

    @property
    def needs(self):
        return Needs(views=self.asks)

    def __call__(self, evidence, /):
        if self.gives is not None:
            return self.gives
        return Finding(audit=f"toy-{self.level}", estimates={})


def test_one_finding_for_each_audit_in_order():
    evidence = Evidence(views(*ALL), views(*ALL))
    found = judge([Toy(level=0.5), Toy(level=0.9)], evidence)
    assert [finding.audit for finding in found] == ["toy-0.5", "toy-0.9"]
    assert judge([], evidence) == []


def test_knobs_out_of_bounds_are_told_all_at_once():
    evidence = Evidence(views(*ALL), views(*ALL))
    with pytest.raises(UsageError, match=r"Toy: level should be .* got 1\.5; Toy: level should be .* got -1"):
        judge([Toy(level=1.5), Toy(), Toy(level=-1)], evidence)


@pytest.mark.parametrize("thing", [Toy, 3, "accuracy", lambda evidence: None])
def test_what_is_no_audit_is_refused(thing):
    with pytest.raises(UsageError, match="instance of a frozen dataclass"):
        judge([thing], Evidence(views(*ALL), views(*ALL)))


@pytest.mark.parametrize(
    ("before", "after", "retrain", "who"),
    [
        (ALL, ("forget", "retain"), ALL, "the candidate"),
        (("forget", "retain"), ALL, ALL, "before"),
        (ALL, ALL, ("forget", "retain"), r"retrain\[0\]"),
    ],
)
def test_a_missing_view_names_the_model(before, after, retrain, who):
    reference = Reference("retrained", views(*retrain), np.arange(10, 14))
    with pytest.raises(DataError, match=f"Toy needs rows of test, and {who} was not asked"):
        judge([Toy()], Evidence(views(*before), views(*after), [reference]))


def test_an_empty_view_counts_as_missing_and_others_do_not_matter():
    empty = views(*ALL) | {"test": Outputs(np.zeros((0, 2)), [], [])}
    evidence = Evidence(empty, empty)
    with pytest.raises(DataError, match="needs rows of test"):
        judge([Toy()], evidence)
    assert len(judge([Toy(asks=frozenset({"forget"}))], evidence)) == 1


BARE = {"UA": 0.5}
BOUND = Estimate(value=1.0, low=0.5, high=2.0, level=0.9, n=3, method="", unit="1", better="lower")


@pytest.mark.parametrize(
    ("gives", "told"),
    [
        (0.5, "Finding, got float"),
        (Finding(audit="toy", estimates=BARE), 'Estimate for "UA"'),
    ],
)
def test_what_is_no_finding_is_refused(gives, told):
    with pytest.raises(UsageError, match=told):
        judge([Toy(gives=gives)], Evidence(views(*ALL), views(*ALL)))


def test_a_whole_finding_comes_through():
    whole = Finding(audit="toy", estimates={"UA": BOUND}, caveats=("one",))
    assert judge([Toy(gives=whole)], Evidence(views(*ALL), views(*ALL))) == [whole]


@dataclass(frozen=True, kw_only=True)
class Vague:
    card: ClassVar[Card] = Card(summary="For tests.", paper="none", data="forget")
    needs: ClassVar[frozenset[str]] = frozenset({"forget"})


@pytest.mark.parametrize(
    ("audits", "words"), [(Vague(), "a list of audits"), ([Vague()], "Vague.needs to say")]
)
def test_what_is_no_list_or_asks_for_nothing_is_refused(audits, words):
    with pytest.raises(UsageError, match=words):
        judge(audits, None)
