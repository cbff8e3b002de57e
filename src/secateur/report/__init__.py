"""Reports: results are data, tables and pages are views of them. Nothing here knows torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.record import Finding, Record
from secateur.report.compare import Comparison, compare
from secateur.report.compare_csv import as_csv
from secateur.report.rows import Row
from secateur.report.spread import Spread
from secateur.report.tables import print_table, rows_as_json, summarise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from secateur.evidence import Evidence

__all__ = [
    "Comparison",
    "Row",
    "Spread",
    "as_csv",
    "compare",
    "print_table",
    "render_audit",
    "render_page",
    "rows_as_json",
    "summarise",
    "write_audit",
    "write_page",
]


def render_page(records: Sequence[Record], comparison: Comparison | None = None) -> str:
    """The page of these runs, as one self-contained HTML text.

    Args:
        records: One run or a whole grid.
        comparison: Of these runs with published numbers, from ``compare``; None: without.

    Returns:
        HTML; the same bytes for the same records and versions.

    Raises:
        DataError: There is no record.
    """
    from secateur.report.page import (
        render,
    )  # draws: matplotlib and jinja2 take a second that a table need not wait

    return render(records, comparison)


def write_page(records: Sequence[Record], path: Path | str, comparison: Comparison | None = None) -> Path:
    """Write the page of these runs: one HTML file that needs no network and no JavaScript.

    Args:
        records: One run or a whole grid.
        path: Where to write; an existing file is replaced at once or not at all.
        comparison: As in ``render_page``.

    Returns:
        The path.

    Raises:
        DataError: There is no record.
        StoreError: The file cannot be written.
    """
    from secateur.report.page import write  # as above

    return write(records, Path(path), comparison)


def render_audit(
    record: Record,
    evidence: Evidence,
    findings: Sequence[Finding],
    pictures: Mapping[int, NDArray[np.uint8]] | None = None,
) -> str:
    """The page of one audited run, as one self-contained HTML text.

    Args:
        record: The run.
        evidence: What its models said, with the retrains that there are.
        findings: What audits found of it, one for each audit.
        pictures: Row id to picture, [h, w] or [h, w, 3], where rows are images.

    Returns:
        HTML; the same bytes for the same input and versions.
    """
    from secateur.report.audit_page import render  # as above

    return render(record, evidence, findings, pictures or {})


def write_audit(
    record: Record,
    evidence: Evidence,
    findings: Sequence[Finding],
    path: Path | str,
    pictures: Mapping[int, NDArray[np.uint8]] | None = None,
) -> Path:
    """Write the page of one audited run: one HTML file that needs no network and no JavaScript.

    Args:
        record: The run.
        evidence: As in ``render_audit``.
        findings: As in ``render_audit``.
        path: Where to write; an existing file is replaced at once or not at all.
        pictures: As in ``render_audit``.

    Returns:
        The path.

    Raises:
        StoreError: The file cannot be written.
    """
    from secateur.report.audit_page import write  # as above

    return write(record, evidence, findings, pictures or {}, Path(path))
