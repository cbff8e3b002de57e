"""The page: one self-contained HTML file for whoever must decide whether to believe the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from secateur.errors import DataError
from secateur.record import Record
from secateur.report import caveats, compare_figure, facts, figures, names, words
from secateur.report.compare import Comparison, number, signed
from secateur.report.plans import plan_text
from secateur.report.rows import MEASURES, VERDICTS, Row, told
from secateur.report.sheet import fill, put
from secateur.report.spread import Spread, plural
from secateur.report.tables import NOISE_FLOOR, Panel, panels, summarise


class Line(NamedTuple):
    """One run in the lists at the end of the page."""

    seed: int
    record: Record
    values: Mapping[str, Spread]
    verdicts: Sequence[tuple[str, str]]


class Runs(NamedTuple):
    """The runs of one row."""

    start: str
    row: Row
    lines: list[Line]
    plan: str


class Chapter(NamedTuple):
    """All that belongs to one request."""

    setting: str
    request: str
    size: str
    panels: list[Panel]
    gaps: str
    cost: str
    runs: list[Runs]


def render(records: Sequence[Record], comparison: Comparison | None = None) -> str:
    """The page as text.

    Args:
        records: One run or a whole grid.
        comparison: Of them with published numbers; None: a page without that section.

    Returns:
        HTML.

    Raises:
        DataError: There is no record.
    """
    if not records:
        raise DataError("expected at least one record to report on, got none: run a plan first")
    return fill("page.html.j2", _view(records) | _beside(comparison))


def write(records: Sequence[Record], path: Path, comparison: Comparison | None = None) -> Path:
    """Write the page, at once or not at all.

    Args:
        records: One run or a whole grid.
        path: Where to.
        comparison: As in ``render``.

    Returns:
        The path.

    Raises:
        DataError: There is no record.
        StoreError: The file cannot be written.
    """
    return put(render(records, comparison), path)


def _view(records: Sequence[Record]) -> dict[str, Any]:
    rows = summarise(records)
    found = panels(rows)
    several = len({row.setting for row in rows}) > 1
    chapters = [
        Chapter(
            setting if several else "",
            request,
            _size(group),
            list(group),
            figures.gaps(group, f"gaps-{i}"),
            figures.cost(group, f"cost-{i}"),
            [
                Runs(panel.start, row, _lines(row), plan_text(row.records[0].plan))
                for panel in group
                for row in panel.rows
                if row.records and (row.kind != "original" or not _unlearned(row))
            ],
        )
        for i, ((setting, request), group) in enumerate(_by_request(found))
    ]
    roles, splits = facts.splits(records)
    return {
        "title": f"Forget: {records[0].request}"
        if len(chapters) == 1
        else f"{plural(len(chapters), 'request')} to forget",
        "kind": "unlearning report",
        "styles": ["page.css"],
        "chapters": chapters,
        "panels": found,
        "settings": list(dict.fromkeys(row.setting for row in rows)),
        "several": several,
        "several_places": len(found) > 1,
        "records": records,
        "rows": rows,
        "measures": MEASURES,
        "dates": sorted({record.created[:10] for record in records}),
        "summary": words.summary(rows),
        "methods": list(
            dict.fromkeys((row.method, row.detail) for row in rows if row.kind in {"retrain", "method"})
        ),
        "seeds": sorted({names.seed(record) for record in records}),
        "single": all(row.count == 1 for row in rows if row.kind != "reference"),
        "tally": _counted(rows),
        "audits": list(dict.fromkeys(finding.audit for record in records for finding in record.findings)),
        "references": _references(records),
        "shared": caveats.shared(records),
        "unsaid": not caveats.caveats(records),
        "steps": {panel.start: [name for name, _ in facts.preparation(panel)] for panel in found},
        "noise_floor": NOISE_FLOOR if any(row.kind == "retrain" for row in rows) else "",
        "leak": any(words.leaky(row) for row in rows),
        "glossary": words.GLOSSARY,
        "honest": words.HONEST,
        "bound": words.BOUND[not all(_bound(record) for record in records)],
        "roles": roles,
        "splits": splits,
        "versions": facts.variants(record.versions for record in records),
        "hardware": facts.variants(record.hardware for record in records),
        "elsewhere": facts.elsewhere(records),
        "settings_of_runs": facts.variants((record.run for record in records), leave=("seed",)),
        "cards": facts.cards(records),
        "knobs": facts.knobs(records),
        "facts": facts,
        "caveats": caveats,
    }


def _beside(comparison: Comparison | None) -> dict[str, Any]:
    """What the section of published numbers names."""
    if comparison is None:
        return {"comparison": None}
    several = len({group.panel.setting for group in comparison.groups}) > 1
    parts = groupby(comparison.groups, key=lambda group: (group.panel.setting, group.panel.request))
    beside = []
    for i, ((setting, request), found) in enumerate(parts):
        groups = list(found)
        title = f"{request} · {setting}" if several else request
        beside.append((title, compare_figure.figure(groups, f"published-{i}"), groups))
    return {
        "comparison": comparison,
        "beside": beside,
        "styles": ["page.css", "compare.css"],
        "told_both": number,
        "signed": signed,
    }


def _size(group: Sequence[Panel]) -> str:
    """How many rows were to be forgotten, where all runs agree."""
    runs = [run for panel in group for row in panel.rows for run in row.records]
    found = {tuple(names.counts(run).get(role, 0) for role in ("forget", "retain")) for run in runs}
    if len(found) != 1 or found == {(0, 0)}:
        return ""
    forget, retain = found.pop()
    return f"{forget:,} of {plural(forget + retain, 'training row')}"


def _references(records: Sequence[Record]) -> str:
    """How many retrained models each run was compared with."""
    found = sorted({len(names.retrains([record])) for record in records} - {0})
    if not found:
        return ""
    return plural(found[0], "model") if len(found) == 1 else f"{found[0]} to {found[-1]} models"


def _by_request(found: Sequence[Panel]) -> list[tuple[tuple[str, str], list[Panel]]]:
    return [
        (key, list(group)) for key, group in groupby(found, key=lambda panel: (panel.setting, panel.request))
    ]


def _lines(row: Row) -> list[Line]:
    lines = []
    for run in row.records:
        values = {name: Spread.of([e]) for name, e in told(run).items()}
        verdicts = [(audit, finding.verdict) for audit, finding in names.audits(run) if finding.verdict]
        lines.append(Line(names.seed(run), run, values, verdicts))
    return sorted(lines, key=lambda line: line.seed)


def _counted(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Audit to verdict to runs, for the methods; for the retrains where nothing else was judged."""
    judged = [row for row in rows if row.kind == "method" and row.verdicts] or rows
    tally: dict[str, dict[str, int]] = {}
    for row in judged:
        for audit, found in row.verdicts.items():
            counts = tally.setdefault(audit, dict.fromkeys(VERDICTS, 0))
            for verdict, n in found.items():
                counts[verdict] += n
    return tally


def _bound(record: Record) -> bool:
    evidence = facts.evidence(record)
    return bool(evidence) and all(digest for _, _, digest in evidence)


def _unlearned(row: Row) -> bool:
    return any(run.unlearn is not None for run in row.records)
