"""The audit page: one run, for whoever must decide whether to believe that its rows are forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from secateur.audit import overall
from secateur.evidence import Evidence
from secateur.record import Finding, Record
from secateur.report import audit_figures, facts, names, words
from secateur.report.measures import Measure, Standing, ends, measures, number, sign, span, standing
from secateur.report.risk import Pictures, exposed, risk
from secateur.report.sheet import fill, put
from secateur.report.spread import percent, plural
from secateur.report.trials import asked, fakes, listed, power, trials, widths

_ORDER = ("fail", "pass", "inconclusive")
_MEANS = {
    "fail": "Do not believe that the rows are forgotten.",
    "pass": "Within the power told below, the rows look forgotten.",
    "inconclusive": "This audit cannot decide whether the rows are forgotten.",
}


class Judged(NamedTuple):
    """One audit: what it found, its verdict in one line, its bands drawn, and all its numbers."""

    finding: Finding
    standing: Standing | None
    figure: str
    measures: list[Measure]


def render(record: Record, evidence: Evidence, findings: Sequence[Finding], pictures: Pictures) -> str:
    """The page as text.

    Args:
        record: The run.
        evidence: What its models said, with the retrains that there are.
        findings: What audits found of it, one for each audit.
        pictures: Row id to picture, [h, w] or [h, w, 3]; those of the most exposed rows are shown.

    Returns:
        HTML.
    """
    return fill("audit.html.j2", _view(record, evidence, findings, pictures))


def write(
    record: Record, evidence: Evidence, findings: Sequence[Finding], pictures: Pictures, path: Path
) -> Path:
    """Write the page, at once or not at all.

    Args:
        record: As in ``render``.
        evidence: As in ``render``.
        findings: As in ``render``.
        pictures: As in ``render``.
        path: Where to.

    Returns:
        The path.

    Raises:
        StoreError: The file cannot be written.
    """
    return put(render(record, evidence, findings, pictures), path)


def _view(
    record: Record, evidence: Evidence, findings: Sequence[Finding], pictures: Pictures
) -> dict[str, Any]:
    verdict, why = overall(findings)
    rank = {word: i for i, word in enumerate(_ORDER)}
    ordered = sorted(findings, key=lambda f: (rank.get(f.verdict or "", len(rank)), f.audit))
    judged = [
        Judged(f, standing(f), audit_figures.bands(f, f"bands-{i}"), measures(f))
        for i, f in enumerate(ordered)
    ]
    number_by_row = risk(evidence, ordered)
    method, detail = names.methods([record])[0]
    return {
        "kind": "unlearning audit",
        "styles": ["page.css", "audit.css"],
        "title": f"Forget: {record.request}",
        "record": record,
        "setting": names.settings([record])[0],
        "method": f"{method} ({detail})" if detail else method,
        "unlearned": record.unlearn is not None,
        "size": _size(record),
        "rests": _rests(evidence),
        "verdict": verdict,
        "why": why,
        "means": _MEANS[verdict],
        "judged": [one for one in judged if one.finding.verdict],
        "described": [one for one in judged if not one.finding.verdict],
        "every": judged,
        "roc": audit_figures.roc(evidence, "roc"),
        "risk": number_by_row,
        "histogram": audit_figures.histogram(number_by_row, "risk") if number_by_row else "",
        "exposed": exposed(evidence, number_by_row, pictures),
        "asked": asked(ordered),
        "trials": trials(ordered),
        "fakes": fakes(ordered),
        "power": power(evidence, ordered),
        "widths": widths(ordered),
        "caveats": _caveats(ordered),
        "evidence": facts.evidence(record),
        "honest": words.HONEST,
        "ends": ends,
        "number": number,
        "sign": sign,
        "span": span,
        "listed": listed,
    }


def _size(record: Record) -> str:
    forget, retain = (names.counts(record).get(role, 0) for role in ("forget", "retain"))
    if not forget + retain:
        return ""
    share = percent(forget / (forget + retain))
    return f"{forget:,} of {plural(forget + retain, 'training row')} ({share})"


def _rests(evidence: Evidence) -> str:
    counts = [
        plural(len(evidence.after[view]), f"{view} row")
        for view in ("forget", "test")
        if view in evidence.after
    ]
    retrains = len(evidence.retrains)
    models = plural(retrains, "model") if retrains else "no model"
    return f"{' and '.join(counts) or 'no rows'}, beside {models} retrained without the forget rows"


def _caveats(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """Each sentence once, with the audits that said it."""
    found: dict[str, list[str]] = {}
    for finding in findings:
        for text in finding.caveats:
            found.setdefault(text, []).append(finding.audit)
    return [(", ".join(audits), text) for text, audits in found.items()]
