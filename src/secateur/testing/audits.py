"""The table of promises that every audit keeps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import numpy as np

from secateur import knobs
from secateur.audit import Audit, Needs, judge
from secateur.errors import DataError
from secateur.evidence import Evidence, Kind
from secateur.outputs import Outputs
from secateur.record import Better, Estimate, Finding, Record
from secateur.testing.problems import toy_evidence
from secateur.testing.promises import check_words, fail, watched


def check_audit(audit: Audit, *, evidence: Evidence | None = None) -> None:
    """Check every promise of an audit.

    Args:
        audit: An instance, of ours or from outside.
        evidence: What to try it on; by default made-up evidence, with rows forgotten at random and with a
            whole class forgotten, and as many models of every kind as the audit may need.

    Raises:
        Broken: A promise is not kept; its name and what to do about it are in the message.
    """
    check_words(audit)
    for tried in [evidence] if evidence else _made_up(audit.needs):
        known = _digest(tried)
        judged = watched(partial(_judged, audit, tried))
        if _digest(tried) != known:
            fail("evidence untouched", "the audit wrote to arrays or measures: work on copies")
        _check_finding(judged)
        finding = audit(tried)  # from here on without its controls, which are the driver's
        _check_repeats(audit, tried, finding)
        _check_row_order(audit, tried, finding)
        _check_needs(audit, tried, finding)


def _made_up(needs: Any) -> list[Evidence]:
    """Evidence with a few models of kinds that the audit did not ask for, so that a look at them shows."""
    many = isinstance(needs, Needs) and needs.tier == 2
    counts = {"references": 36, "bank": 36} if many else {"bank": 2}
    return [toy_evidence(**counts), toy_evidence(forgotten=1, **counts)]


def _judged(audit: Audit, evidence: Evidence) -> Finding:
    return judge([audit], evidence)[0]


def _text(finding: Finding) -> str:
    """The finding as it travels: in a record."""
    blank: dict[str, Any] = {"plan": {}, "split": {}, "hashes": {}, "cards": {}, "run": {}, "versions": {}}
    record = Record(
        **blank,
        key="",
        request="",
        method="",
        unlearn=None,
        steps=(),
        findings=(finding,),
        hardware={},
        created="",
    )
    return record.to_json()


def _digest(evidence: Evidence) -> list[Any]:
    everyone = [evidence.before, evidence.after, *(reference.outputs for reference in evidence.references)]
    views = [out for outputs in everyone for out in outputs.values()]
    parts = [part for out in views for part in (out.logits, out.labels, out.rows, out.features)]
    parts += [part for reference in evidence.references for part in (reference.rows, reference.forgot)]
    return [dict(evidence.measures), *(part.tobytes() for part in parts if part is not None)]


def _changed(evidence: Evidence, change: Callable[[str, Outputs], Outputs | None]) -> Evidence:
    """The same evidence with every view's outputs changed, or (None) left out."""

    def every(outputs: Mapping[str, Outputs]) -> dict[str, Outputs]:
        new = {view: change(view, out) for view, out in outputs.items()}
        return {view: out for view, out in new.items() if out is not None}

    references = [replace(reference, outputs=every(reference.outputs)) for reference in evidence.references]
    return replace(
        evidence,
        before=every(evidence.before),
        after=every(evidence.after),
        references=references,
        measures=dict(evidence.measures),
    )


def _check_finding(finding: Finding) -> None:
    for name, estimate in finding.estimates.items():
        if fault := _fault(estimate):
            fail("every estimate says what it is", f"{name} {fault}: {estimate!r}")
    candidates = {name for name in finding.estimates if not name.startswith(("before.", "retrain["))}
    if candidates and not any(f"before.{name}" in finding.estimates for name in candidates):
        fail("controls present", "no number of the original beside the candidate's: add the same as before.*")
    try:
        text = _text(finding)
        back = Record.from_json(text).findings[0]
    except (TypeError, ValueError) as error:
        fail("a finding survives JSON", f"{error}: use plain numbers and strings")
    if _text(back) != text or type(back.caveats) is not type(finding.caveats):
        fail("a finding survives JSON", "it came back as another one: use plain numbers, strings and tuples")


def _fault(estimate: Estimate) -> str:
    hair = 1e-12 * max(1.0, abs(estimate.value))
    if not estimate.unit.strip() or not estimate.method.strip():
        return "has no unit, or no method"
    if estimate.better not in get_args(Better):
        return f"has a direction that is none of {get_args(Better)}"
    if estimate.n < 1 or not 0 < estimate.level < 1:
        return "rests on nothing, or has no level"
    # false for NaN: there is no interval then
    if estimate.value < estimate.low - hair or estimate.value > estimate.high + hair:
        return "lies outside its own interval"
    return ""


def _check_repeats(audit: Audit, evidence: Evidence, finding: Finding) -> None:
    rebuilt = knobs.build(type(audit), knobs.values(audit), where="knobs")
    for again in (audit, rebuilt):
        # anew: what the evidence has cached stays behind
        if _text(again(_changed(evidence, lambda view, out: out))) != _text(finding):
            fail("same evidence, same finding", "a second look found otherwise: seed a generator by a knob")


def _check_row_order(audit: Audit, evidence: Evidence, finding: Finding) -> None:
    rng = np.random.default_rng(0)
    orders = {view: rng.permutation(len(out)) for view, out in evidence.after.items()}

    def turned(view: str, out: Outputs) -> Outputs:
        at = orders[view]
        features = None if out.features is None else out.features[at]
        return Outputs(out.logits[at], out.labels[at], out.rows[at], features)

    other = audit(_changed(evidence, turned)).estimates
    for name, then in finding.estimates.items():
        now = other.get(name)
        moved = now is None or not np.allclose(
            (then.value, then.low, then.high), (now.value, now.low, now.high), 1e-9, 1e-9, equal_nan=True
        )
        if moved and "order of the rows" not in " ".join((type(audit).__doc__ or "").split()):
            fail(
                "free of the order of the rows",
                f"{name} moves with it: go by row ids, or tell why in the docstring, in these words",
            )


def _check_needs(audit: Audit, evidence: Evidence, finding: Finding) -> None:
    promise = "asks for what it needs"
    needs = audit.needs
    if not isinstance(needs, Needs):
        fail(promise, f"`needs` is {needs!r}: return a secateur.Needs")
    enough = _changed(evidence, lambda view, out: out if view in needs.views else None)
    try:
        same = _text(audit(enough)) == _text(finding)
    except (KeyError, DataError):
        same = False
    if not same:
        fail(
            promise, f"the finding depends on more than the views {sorted(needs.views)}: name all in `needs`"
        )
    wanted: dict[Kind, Any] = {
        "retrained": needs.references,
        "original": needs.unlearned,
        "unlearned": needs.unlearned,
        "shadow": needs.shadows,
        "unlearned-shadow": needs.requests,
    }
    # retrains are everybody's controls
    kept = [one for one in evidence.references if wanted[one.kind] or one.kind == "retrained"]
    if _text(audit(replace(evidence, references=kept))) != _text(finding):
        kinds = [kind for kind, count in wanted.items() if count]
        fail(promise, f"the finding depends on models that it did not ask for; it asked for {kinds}")
    for gone in sorted(needs.views):
        less = {view: out for view, out in enough.after.items() if view != gone}
        with contextlib.suppress(DataError):
            _judged(audit, replace(enough, after=less))
            fail(promise, f'"{gone}" is needed, and nobody says so when it is missing: leave that to judge()')
    for kind in (kind for kind, count in wanted.items() if count):
        rest = [one for one in enough.references if one.kind != kind]
        alone = audit(replace(enough, references=rest))
        if alone.verdict in {"pass", "fail"} or not alone.caveats:
            fail(
                promise,
                f'without any "{kind}", which it wants, it gave a verdict or no caveat: be inconclusive',
            )
