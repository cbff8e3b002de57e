"""The audit protocol, and ``judge``, which runs audits over evidence and keeps them honest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, ClassVar, Protocol

from secateur import controls, knobs
from secateur.card import Card
from secateur.errors import DataError, UsageError
from secateur.evidence import Evidence
from secateur.record import Control, Estimate, Finding, Verdict

ENOUGH = 0.8  # of held-out retrains must pass


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an audit asks for.

    Attributes:
        views: The views that every model must have been asked about.
        references: How many models retrained without the forget rows it wants; with fewer it says so in its
            finding.
        unlearned: How many further candidates it wants: other trainings of the original, each after the same
            unlearning; the originals come with them.
        shadows: How many models trained on random halves of the pool it wants.
        requests: Whether each shadow is also wanted after unlearning some of its own rows.
    """

    views: frozenset[str] = frozenset({"forget", "retain", "test"})
    references: int = 0
    unlearned: int = 0
    shadows: int = 0
    requests: bool = False

    @property
    def tier(self) -> int:
        """What it costs: 0, nothing but the models at hand; 1, some retrains; 2, a bank of models."""
        return 2 if self.unlearned or self.shadows else int(self.references > 0)


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
    """Run audits over evidence, each beside its controls.

    An audit that gives a verdict is asked the same about candidates whose answer is known: the original,
    which must fail, or there is no power; retrains held out of the references, four in five of which must
    pass; and fakes made of the original's answers, none of which should. Its verdict becomes "inconclusive"
    where one of the first two goes wrong.

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
        for prefix, outputs in evidence.everyone():
            missing = sorted(v for v in audit.needs.views if v not in outputs or not len(outputs[v]))
            if missing:
                who = prefix.rstrip(".") or "the candidate"
                raise DataError(
                    f"{type(audit).__name__} needs rows of {', '.join(missing)}, and {who} was not asked "
                    "about any: give the split such rows"
                )
    return [_controlled(audit, _checked(audit, audit(evidence)), evidence) for audit in audits]


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


def overall(findings: Sequence[Finding]) -> tuple[Verdict, str]:
    """One verdict of several findings on one candidate.

    "fail" if any audit fails it; "pass" if one passes it, and every fake that was tried is caught by one of
    those that pass; else "inconclusive".

    Args:
        findings: From one call of ``judge``.

    Returns:
        The verdict, and a sentence that says why.
    """
    by = {v: [f.audit for f in findings if f.verdict == v] for v in ("fail", "pass", "inconclusive")}
    if by["fail"]:
        return "fail", f"{_words(by['fail'])} can tell the candidate from a model that never saw the rows"
    if not by["pass"]:
        asked = _words(by["inconclusive"])
        return (
            "inconclusive",
            f"not enough evidence: {asked} cannot decide" if asked else "nothing was judged",
        )
    fakes: dict[str, bool] = {}
    for finding in findings:
        for control in finding.controls:
            if finding.verdict == "pass" and control.must == "not pass":
                fakes[control.name] = fakes.get(control.name, False) or control.held
    through = [name for name, caught in fakes.items() if not caught]
    if through:
        return "inconclusive", f"{_words(by['pass'])} would also pass a fake ({_words(through)})"
    return "pass", f"{_words(by['pass'])} cannot tell it from a retrain, and can tell the original"


def _words(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _controlled(audit: Audit, finding: Finding, evidence: Evidence) -> Finding:
    if finding.verdict is None:
        return finding
    verdict: Verdict = finding.verdict
    if twice := int(evidence.measures.get("duplicates.near", 0)):
        told = f"{twice} rows to forget stand in retain once more, or nearly so: these cannot be forgotten"
        finding = replace(finding, caveats=(*finding.caveats, told))
    if verdict == "inconclusive":
        return finding

    def asked(name: str, must: Any, questions: Iterable[Evidence]) -> Control:
        said = Counter(str(_checked(audit, audit(question)).verdict) for question in questions)
        right = said["pass"] if must == "pass" else said["fail"]
        told = right + (said["fail"] if must == "pass" else said["pass"])
        held = not said["pass"] if must == "not pass" else right >= ENOUGH * told
        return Control(name=name, must=must, said=dict(sorted(said.items())), held=held)

    original = asked("original", "fail", [controls.as_original(evidence)])
    original = replace(original, held=original.said == {"fail": 1})
    exact = controls.as_never_seen(evidence) if audit.needs.requests else controls.as_retrained(evidence)
    held_out = asked("held-out retrains", "pass", exact)
    fakes = [asked(name, "not pass", [question]) for name, question in controls.as_fakes(evidence)]
    caveats = list(finding.caveats)
    if not original.held:
        verdict = "inconclusive"
        caveats.insert(0, f"no power: of the original the audit says {next(iter(original.said))}, not fail")
    if not held_out.held:
        verdict = "inconclusive"
        caveats.insert(0, "too many exact retrains fail where they stand for the candidate")
    return replace(finding, verdict=verdict, caveats=tuple(caveats), controls=(original, held_out, *fakes))
