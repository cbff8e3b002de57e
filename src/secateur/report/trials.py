"""What an audit can show: its controls as a table, and its power in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from secateur.attack import RATES
from secateur.evidence import Evidence
from secateur.record import Control, Finding
from secateur.report.measures import ends, measures, number, sign
from secateur.report.risk import sides
from secateur.report.spread import NONE, Spread, plural


class Cell(NamedTuple):
    """What one audit says of one control: a mark, a word and how often it said what."""

    mark: str
    word: str
    said: str


class Trial(NamedTuple):
    """One control, over all audits that were asked."""

    name: str
    must: str
    cells: tuple[Cell, ...]


class Width(NamedTuple):
    """How far a band reaches, as text."""

    audit: str
    measure: str
    models: int
    band: str
    reach: str


HELD, BROKEN, OPEN, ABSENT = "✓", "✕", "○", NONE


def asked(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that have controls."""
    return [finding for finding in findings if finding.controls]


def trials(findings: Sequence[Finding]) -> list[Trial]:
    """Controls in their order, each with a cell for every audit that ``asked`` gives."""
    found: dict[str, dict[int, Control]] = {}
    for i, finding in enumerate(asked(findings)):
        for control in finding.controls:
            found.setdefault(control.name, {})[i] = control
    count = len(asked(findings))
    return [
        Trial(name, next(iter(said.values())).must, tuple(_cell(said.get(i)) for i in range(count)))
        for name, said in found.items()
    ]


def fakes(findings: Sequence[Finding]) -> list[str]:
    """In sentences: which fakes slip through, and whether that matters here."""
    caught: dict[str, dict[str, bool]] = {}
    for finding in asked(findings):
        for control in finding.controls:
            if control.must == "not pass":
                caught.setdefault(control.name, {})[finding.audit] = control.held
    if not caught:
        return ["No fakes were tried: no audit gave a verdict that they could have got, too."]
    passing = [f.audit for f in asked(findings) if f.verdict == "pass"]
    free = [name for name, held in caught.items() if not any(held.values())]
    told = []
    if passing:
        through = [name for name, held in caught.items() if not any(held.get(a) for a in passing)]
        told.append(
            f"No audit that passes the candidate catches {listed(through)}: such a fake would have got the "
            "same verdict."
            if through
            else "Every fake that was tried is caught by at least one audit that passes the candidate."
        )
    else:
        told.append("No audit passes the candidate, so no fake could hide behind a pass.")
    if free:
        told.append(f"No audit at all catches {listed(free)}.")
    elif not passing:
        told.append(f"Each of the {plural(len(caught), 'fake')} is caught by at least one audit.")
    return told


def power(evidence: Evidence, findings: Sequence[Finding]) -> list[tuple[str, list[str]]]:
    """What the number of models and rows can show: a term, and sentences."""
    told = [("Retrained models", _models(evidence, findings)), ("Rows", _rows(evidence))]
    ceilings = [
        f"{finding.audit}: no more than {number(ceiling)} could be shown, whatever the truth "
        f"({ceiling.method}); what lies beyond goes unseen."
        for finding in findings
        if (ceiling := finding.estimates.get("epsilon.ceiling"))
    ]
    banks = [
        f"{finding.audit}: {plural(e.n, 'model')} that were trained on random halves."
        for finding in findings
        for name, e in finding.estimates.items()
        if name == "AUC" and "over models" in e.method
    ]
    told += [("Ceiling of epsilon", ceilings)] if ceilings else []
    told += [("Shadow models", banks)] if banks else []
    told.append(("Can they tell the original?", _original(findings)))
    return told


def widths(findings: Sequence[Finding]) -> list[Width]:
    """How wide each band is: what lies within it goes unseen."""
    found = []
    for finding in findings:
        for measure in (m for m in measures(finding) if m.band):
            band = measure.band
            assert band is not None
            reach = NONE
            if math.isfinite(band.low) and math.isfinite(band.high):
                spread = Spread.of([band])
                low, high = (spread.number(abs(band.value - end)) for end in (band.low, band.high))
                unit = " points" if band.unit == "share" else sign(band)
                reach = f"± {low}{unit}" if low == high else f"−{low} to +{high}{unit}"
            middle = f"{number(band)} {ends(band)}".strip()
            found.append(Width(finding.audit, measure.name, band.n, middle, reach))
    return found


def listed(names: Sequence[str]) -> str:
    """Names as people list them.

    >>> listed(["a", "b", "c"])
    'a, b and c'

    Returns:
        Text.
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _cell(control: Control | None) -> Cell:
    if control is None:
        return Cell(ABSENT, "not asked", "")
    counts: Mapping[str, int] = {verdict: n for verdict, n in control.said.items() if n}
    total = sum(counts.values())
    if not total:
        return Cell(ABSENT, "not asked", "")
    if control.must == "pass":
        said = f"{counts.get('pass', 0)} of {total} pass"
        rest = [f"{n} {verdict}" for verdict, n in counts.items() if verdict != "pass"]
        said += f", {', '.join(rest)}" if rest else ""
        if not counts.get("pass") and not counts.get("fail"):
            return Cell(OPEN, "open", said)
    else:
        said = ", ".join(f"{n} {verdict}" if total > 1 else verdict for verdict, n in counts.items())
    return Cell(HELD, "holds", said) if control.held else Cell(BROKEN, "broken", said)


def _models(evidence: Evidence, findings: Sequence[Finding]) -> list[str]:
    here = len(evidence.retrains)
    used = {m.band.n for finding in findings for m in measures(finding) if m.band}
    told = [f"{plural(here, 'model')} retrained without the forget rows in the figures of this page."]
    if not here:
        told = ["None in the evidence: nothing says what a model that never saw the rows would say of them."]
    if used:
        counts = f"{min(used)} to {max(used)}" if len(used) > 1 else f"{max(used)}"
        told.append(f"The bands rest on {counts} of them; a verdict needs 5, and 10 are better.")
    elif here:
        told.append("No audit made bands of them.")
    return told


def _rows(evidence: Evidence) -> list[str]:
    found = sides(evidence.after)
    if found is None:
        return ["No forget or no test rows: nothing could be compared."]
    forget, test = map(len, found)
    told = [f"{plural(forget, 'forget row')} against {plural(test, 'test row')} of the same classes."]
    for rate in RATES:
        need = round(10 / rate)
        short = [
            f"{what} at {100 * rate:g} % {of} ({have:,} of {need:,} rows)"
            for what, of, have in (("TPR", "FPR", test), ("TNR", "FNR", forget))
            if have < need
        ]
        if short:
            told.append(f"Unresolved: {listed(short)}.")
    return told


def _original(findings: Sequence[Finding]) -> list[str]:
    found: dict[bool, list[str]] = {True: [], False: []}
    for finding in findings:
        for control in finding.controls:
            if control.must == "fail":
                found[control.held].append(finding.audit)
    told = [f"Yes: {listed(found[True])}."] if found[True] else []
    if found[False]:
        told.append(
            f"No: {listed(found[False])}. These have no power here, and what they say counts for nothing."
        )
    silent = [f.audit for f in findings if f.verdict and not f.controls]
    if silent:
        told.append(f"Not asked: {listed(silent)}, inconclusive before any control.")
    return told or ["No audit gave a verdict, so none was asked."]
