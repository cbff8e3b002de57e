"""A comparison with published numbers, as CSV."""

from __future__ import annotations

import csv
import io
import math

from secateur.report.compare import TIME, Both, Comparison, own
from secateur.report.literature import Published
from secateur.report.rows import MEASURES, Row

_COLUMNS = (
    "setting", "request", "start", "method", "detail", "measure", "unit", "ours_mean", "ours_std", "ours_n",
    "published_mean", "published_std", "difference", "published_in", "published_sparsity", "differs",
)  # fmt: skip


def as_csv(comparison: Comparison) -> str:
    """The comparison as CSV, a line for each measure; what has no counterpart stands there with its half.

    Args:
        comparison: From ``compare``.

    Returns:
        CSV text: percent and points; empty where there is no number.
    """
    held = io.StringIO()
    writer = csv.DictWriter(held, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for group, line in ((one, line) for one in comparison.groups for line in one.lines):
        differs = "; ".join((*comparison.shared, *group.differs, *line.differs))
        for name, both in line.values.items():
            writer.writerow(
                _place(line.row) | _cell_place(line.cell) | _numbers(name, both) | {"differs": differs}
            )
    for why, rows in comparison.alone.items():
        for row in rows:
            for name in (name for name in MEASURES if name in row.values):
                both = Both(*own(row, name), math.nan, math.nan)
                writer.writerow(_place(row) | _numbers(name, both) | {"differs": f"no counterpart: {why}"})
    for cell in comparison.unanswered:
        place = _cell_place(cell) | {"request": cell.asked, "start": cell.start, "method": cell.method}
        for name, (mean, std) in cell.values.items():
            both = Both(math.nan, math.nan, 0, mean, math.nan if std is None else std)
            writer.writerow(place | _numbers(name, both) | {"differs": "not among these runs"})
    return held.getvalue()


def _place(row: Row) -> dict[str, object]:
    return {name: getattr(row, name) for name in _COLUMNS[:5]}


def _cell_place(cell: Published) -> dict[str, object]:
    return {"published_in": cell.source, "published_sparsity": cell.sparsity}


def _numbers(name: str, both: Both) -> dict[str, object]:
    return {
        "measure": "RTE" if name == TIME else name,
        "unit": "points" if name == "disparity" else "% of Retrain" if name == TIME else "%",
        "ours_mean": _plain(both.ours),
        "ours_std": _plain(both.std),
        "ours_n": both.n or "",
        "published_mean": _plain(both.theirs),
        "published_std": _plain(both.their_std),
        "difference": _plain(both.difference),
    }


def _plain(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else ""
