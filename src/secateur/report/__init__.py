"""Reports: results are data, tables and pages are views of them. Nothing here knows torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from secateur.record import Record
from secateur.report.rows import Row
from secateur.report.spread import Spread
from secateur.report.tables import print_table, rows_as_json, summarise

__all__ = ["Row", "Spread", "print_table", "render_page", "rows_as_json", "summarise", "write_page"]


def render_page(records: Sequence[Record]) -> str:
    """The page of these runs, as one self-contained HTML text.

    Args:
        records: One run or a whole grid.

    Returns:
        HTML; the same bytes for the same records and versions.

    Raises:
        DataError: There is no record.
    """
    from secateur.report.page import (
        render,
    )  # draws: matplotlib and jinja2 take a second that a table need not wait

    return render(records)


def write_page(records: Sequence[Record], path: Path | str) -> Path:
    """Write the page of these runs: one HTML file that needs no network and no JavaScript.

    Args:
        records: One run or a whole grid.
        path: Where to write; an existing file is replaced at once or not at all.

    Returns:
        The path.

    Raises:
        DataError: There is no record.
        StoreError: The file cannot be written.
    """
    from secateur.report.page import write  # as above

    return write(records, Path(path))
