"""The audit protocol, and ``judge``, which runs audits over evidence and keeps them honest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, ClassVar, Protocol

from secateur import knobs
from secateur.card import Card
from secateur.errors import DataError, UsageError
from secateur.evidence import Evidence
from secateur.record import Estimate, Finding


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an audit asks for.

    Attributes:
        views: The views that every model must have been asked about.
        references: How many models retrained without the forget rows it wants; with fewer it says so in its
            finding.
    """

    views: frozenset[str] = frozenset({"forget", "retain", "test"})
    references: int = 0


class Audit(Protocol):
    """Judges evidence. It never trains or sees a model, and asks for references instead of making them."""

    card: ClassVar[Card]

    @property
    def needs(self) -> Needs:
        """The views and the number of references."""
        ...

    def __call__(self, evidence: Evidence, /) -> Finding:
        """Look at the evidence, and say what is in it."""
        ...


def judge(audits: Sequence[Audit], evidence: Evidence) -> list[Finding]:
    """Run audits over evidence.

    Args:
        audits: What to ask.
        evidence: What the models said.

    Returns:
        One finding for each audit, in order.

    Raises:
        UsageError: Something is no audit, a knob of an audit is out of bounds, or what it gave is no finding.
        DataError: A view that an audit needs is missing or empty for candidate, original or a retrain.
    """
    if not isinstance(audits, (list, tuple)):
        raise UsageError(f"expected a list of audits, got {audits!r}: write judge([{audits!r}], evidence)")
    for audit in audits:
        if isinstance(audit, type) or not is_dataclass(audit):
            raise UsageError(
                f"expected audits, each an instance of a frozen dataclass with a card, got {audit!r}: write "
                "judge([audits.Accuracy()], evidence)"
            )
        if not isinstance(getattr(audit, "needs", None), Needs):
            raise UsageError(
                f"expected {type(audit).__name__}.needs to say what it asks for: write "
                "secateur.Needs(views=frozenset({...}), references=0)"
            )
    faults = [f"{type(audit).__name__}: {fault}" for audit in audits for fault in knobs.check(audit)]
    if faults:
        raise UsageError("; ".join(faults))
    for audit in audits:
        for prefix, outputs in evidence.models():
            missing = sorted(v for v in audit.needs.views if v not in outputs or not len(outputs[v]))
            if missing:
                who = prefix.rstrip(".") or "the candidate"
                raise DataError(
                    f"{type(audit).__name__} needs rows of {', '.join(missing)}, and {who} was not asked "
                    "about any: give the split such rows"
                )
    return [_checked(audit, audit(evidence)) for audit in audits]


def _checked(audit: Any, finding: Any) -> Finding:
    name, how = type(audit).__name__, "write an audit as docs/add-an-audit.md shows"
    if not isinstance(finding, Finding):
        raise UsageError(f"expected {name} to give a Finding, got {type(finding).__name__}: {how}")
    bare = [key for key, estimate in finding.estimates.items() if not isinstance(estimate, Estimate)]
    if bare:
        raise UsageError(
            f'expected an Estimate for "{bare[0]}" from {name}, got {finding.estimates[bare[0]]!r}: {how}'
        )
    return finding
