"""An audit written to break each promise, one at a time: every one is caught, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from secateur.audit import Needs
from secateur.card import Card
from secateur.errors import UsageError
from secateur.evidence import Evidence
from secateur.knobs import Level
from secateur.record import Estimate, Finding
from secateur.testing import Broken, check_audit, toy_evidence


def estimate(value: float, **changes: Any) -> Estimate:
    given = {"low": value, "high": value, "level": 0.95, "n": 9, "method": "made up", "unit": "share"}
    return Estimate(**{"value": value, "better": "higher", **given, **changes})


@dataclass(frozen=True, kw_only=True)
class HonestAudit:
    """Mean confidence on forget, of the candidate and of the original; keeps every promise."""

    card: ClassVar[Card] = Card(summary="Mean confidence.", paper="none: a test", data="forget")
    needs: ClassVar[Needs] = Needs(views=frozenset({"forget"}))

    level: Level = 0.95

    def __call__(self, evidence: Evidence, /) -> Finding:
        models = {"": evidence.after, "before.": evidence.before}
        found = {f"{name}C": estimate(float(out["forget"].confidence.mean())) for name, out in models.items()}
        return self.after(Finding(audit="honest", estimates=found), evidence)

    def after(self, finding: Finding, evidence: Evidence) -> Finding:
        return finding

    def with_c(self, finding: Finding, **changes: Any) -> Finding:
        first = replace(finding.estimates["C"], **changes)
        return replace(finding, estimates={**finding.estimates, "C": first})


def test_the_honest_audit_passes():
    check_audit(HonestAudit())
    check_audit(HonestAudit(), evidence=toy_evidence(seed=5, references=0))


@dataclass(frozen=True, kw_only=True)
class WritesMeasures(HonestAudit):
    def after(self, finding, evidence):
        evidence.measures["distance"] = 0.0
        return finding


@dataclass(frozen=True, kw_only=True)
class WritesArrays(HonestAudit):
    def after(self, finding, evidence):
        logits = evidence.after["forget"].logits
        while isinstance(logits.base, np.ndarray):
            logits = logits.base
        logits.setflags(write=True)
        logits[0] = 0.0
        return finding


@dataclass(frozen=True, kw_only=True)
class AuditDrawsFromNumpy(HonestAudit):
    def after(self, finding, evidence):
        return self.with_c(finding, n=1 + int(np.random.randint(1000)))  # noqa: NPY002


@dataclass(frozen=True, kw_only=True)
class AuditUnseeded(HonestAudit):
    def after(self, finding, evidence):
        return self.with_c(finding, n=1 + int(np.random.default_rng().integers(10**9)))


@dataclass(frozen=True, kw_only=True)
class NoUnit(HonestAudit):
    def after(self, finding, evidence):
        return self.with_c(finding, unit="")


@dataclass(frozen=True, kw_only=True)
class NoMethod(HonestAudit):
    def after(self, finding, evidence):
        return self.with_c(finding, method=" ")


@dataclass(frozen=True, kw_only=True)
class NoDirection(HonestAudit):
    def after(self, finding, evidence):
        return self.with_c(finding, better="up")


@dataclass(frozen=True, kw_only=True)
class NoRows(HonestAudit):
    def after(self, finding, evidence):
        return self.with_c(finding, n=0)


@dataclass(frozen=True, kw_only=True)
class NoLevel(HonestAudit):
    def after(self, finding, evidence):
        return self.with_c(finding, level=95)


@dataclass(frozen=True, kw_only=True)
class OutsideItsInterval(HonestAudit):
    def after(self, finding, evidence):
        return self.with_c(finding, high=finding.estimates["C"].value - 0.1)


@dataclass(frozen=True, kw_only=True)
class NoControls(HonestAudit):
    def after(self, finding, evidence):
        return replace(finding, estimates={"C": finding.estimates["C"]})


@dataclass(frozen=True, kw_only=True)
class CaveatsAsList(HonestAudit):
    def after(self, finding, evidence):
        return replace(finding, caveats=["a list comes back as a tuple"])


@dataclass(frozen=True, kw_only=True)
class NoJson(HonestAudit):
    def after(self, finding, evidence):
        return replace(finding, caveats=({1, 2},))


@dataclass(frozen=True, kw_only=True)
class LooksAtTheFirstRow(HonestAudit):
    def after(self, finding, evidence):
        first = float(evidence.after["forget"].confidence[0])
        return self.with_c(finding, value=first, low=first, high=first)


@dataclass(frozen=True, kw_only=True)
class TellsThatItLooksAtTheFirstRow(LooksAtTheFirstRow):
    """Depends on the order of
    the rows, and says so."""


@dataclass(frozen=True, kw_only=True)
class LooksAtTestToo(HonestAudit):
    def after(self, finding, evidence):
        return self.with_c(finding, n=len(evidence.after["test"]))


@dataclass(frozen=True, kw_only=True)
class UsesTestIfItIsThere(HonestAudit):
    def after(self, finding, evidence):
        return self.with_c(finding, n=1 + len(evidence.after.get("test", ())))


@dataclass(frozen=True, kw_only=True)
class SureOfItself(HonestAudit):
    needs: ClassVar[Needs] = Needs(views=frozenset({"forget"}), references=5)

    def after(self, finding, evidence):
        return replace(finding, verdict="pass", caveats=("I feel it",))


@dataclass(frozen=True, kw_only=True)
class SaysNothingOfMissingReferences(HonestAudit):
    needs: ClassVar[Needs] = Needs(views=frozenset({"forget"}), references=5)


@dataclass(frozen=True, kw_only=True)
class LooksAtModelsItDidNotAskFor(HonestAudit):
    def after(self, finding, evidence):
        return self.with_c(finding, n=1 + len(evidence.of("shadow")))


@dataclass(frozen=True, kw_only=True)
class SureWithoutABank(HonestAudit):
    needs: ClassVar[Needs] = Needs(shadows=20, requests=True)

    def after(self, finding, evidence):
        sure = "pass" if evidence.of("shadow") else "inconclusive"
        return replace(finding, verdict=sure, caveats=("I feel it",))


@dataclass(frozen=True, kw_only=True)
class SureWithoutOriginals(SureWithoutABank):
    needs: ClassVar[Needs] = Needs(unlearned=20)

    def after(self, finding, evidence):
        sure = "pass" if evidence.of("unlearned") else "inconclusive"
        return replace(finding, verdict=sure, caveats=("I feel it",))


@dataclass(frozen=True, kw_only=True)
class WritesWhatWasForgotten(HonestAudit):
    needs: ClassVar[Needs] = Needs(shadows=20, requests=True)

    def after(self, finding, evidence):
        forgot = evidence.of("unlearned-shadow")[0].forgot
        forgot.setflags(write=True)
        forgot[0] = 10**6
        return finding


@dataclass(frozen=True, kw_only=True)
class NeedsAList(HonestAudit):
    card: ClassVar[Card] = HonestAudit.card

    @property
    def needs(self):
        return type("Loose", (), {"views": ["forget"], "references": 0})()


@dataclass(frozen=True, kw_only=True)
class AuditUndocumented(HonestAudit):
    kind: Literal["a", "b"] = "a"


@pytest.mark.parametrize(
    ("audit", "promise"),
    [
        (WritesMeasures(), "evidence untouched"),
        (WritesArrays(), "evidence untouched"),
        (AuditDrawsFromNumpy(), "global streams untouched"),
        (AuditUnseeded(), "same evidence, same finding"),
        (NoUnit(), "every estimate says what it is"),
        (NoMethod(), "every estimate says what it is"),
        (NoRows(), "every estimate says what it is"),
        (NoLevel(), "every estimate says what it is"),
        (OutsideItsInterval(), "every estimate says what it is"),
        (NoControls(), "controls present"),
        (CaveatsAsList(), "a finding survives JSON"),
        (NoJson(), "a finding survives JSON"),
        (LooksAtTheFirstRow(), "free of the order of the rows"),
        (LooksAtTestToo(), "asks for what it needs"),
        (UsesTestIfItIsThere(), "asks for what it needs"),
        (SureOfItself(), "asks for what it needs"),
        (SaysNothingOfMissingReferences(), "asks for what it needs"),
        (LooksAtModelsItDidNotAskFor(), "asks for what it needs"),
        (SureWithoutABank(), "asks for what it needs"),
        (SureWithoutOriginals(), "asks for what it needs"),
        (WritesWhatWasForgotten(), "evidence untouched"),
        (AuditUndocumented(), "every knob documented"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, HonestAudit) else "",
)
def test_audits(audit, promise):
    with pytest.raises(Broken) as caught:
        check_audit(audit)
    assert caught.value.promise == promise


@pytest.mark.parametrize(
    ("audit", "words"), [(NoDirection(), "better to be one of"), (NeedsAList(), "needs to say")]
)
def test_what_is_refused_before_any_promise(audit, words):
    with pytest.raises(UsageError, match=words):
        check_audit(audit)


def test_an_order_that_is_told_is_no_broken_promise():
    check_audit(TellsThatItLooksAtTheFirstRow())
