"""Tables: runs that differ only in their seeds become one row; for a terminal, and for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from secateur.record import Record
from secateur.report import names
from secateur.report.rows import (
    KINDS,
    MEASURES,
    Place,
    Row,
    of_methods,
    of_originals,
    of_references,
    with_gaps,
)
from secateur.report.spread import NONE, Spread

NOISE_FLOOR = (
    "Rows of retrain are independent retrains, each judged against the other retrains: "
    "their disparity is the noise floor, not zero."
)


class Panel(NamedTuple):
    """The rows of one request at one start."""

    setting: str
    request: str
    start: str
    rows: tuple[Row, ...]

    @property
    def train(self) -> Spread | None:
        """Train accuracy of the original: one that has not memorised leaves little to unlearn."""
        return next((row.values["train"] for row in self.rows if "train" in row.values), None)


def summarise(records: Sequence[Record]) -> list[Row]:
    """Group runs that differ only in their seeds.

    Args:
        records: Runs in any order; one that stands there twice counts once.

    Returns:
        Rows by request and sparsity; in each place the originals, then retrain (or the references, where
        no run retrained), then the methods as they first came.
    """
    runs = list({record.key or id(record): record for record in records}.values())
    settings = names.settings(runs)
    methods = names.methods(runs)
    places = list(map(Place, settings, names.requests(runs, settings), names.starts(runs, settings)))
    order = list(dict.fromkeys((place.setting, place.request) for place in places))
    found = sorted(
        {place: run.sparsity for place, run in reversed(list(zip(places, runs, strict=True)))}.items(),
        key=lambda item: (order.index(item[0][:2]), round(item[1], 3), places.index(item[0])),
    )
    rows = []
    for place, _ in found:
        here = [(method, run) for at, method, run in zip(places, methods, runs, strict=True) if at == place]
        unlearned: dict[tuple[str, str], list[Record]] = {}
        for method, run in here:
            if run.unlearn is not None:
                unlearned.setdefault(method, []).append(run)
        first = [method for method in dict.fromkeys(methods) if method in unlearned]
        judged = [of_methods(place, *method, unlearned[method]) for method in first]
        controls = [of_originals(place, [run for _, run in here])]
        if all(row.kind != "retrain" for row in judged):
            controls.append(of_references(place, [run for _, run in here]))
        ordered = sorted(judged, key=lambda row: KINDS.index(row.kind))
        rows += with_gaps([*(row for row in controls if row), *ordered])
    return rows


def panels(rows: Sequence[Row]) -> list[Panel]:
    """The rows of each request at each start, in order."""
    return [
        Panel(*key, tuple(found))
        for key, found in groupby(rows, key=lambda row: (row.setting, row.request, row.start))
    ]


def print_table(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print the rows for people: one table for each request and sparsity, readable at 100 columns.

    Args:
        rows: What ``summarise`` gave.
        console: Where to print; standard output unless told.
    """
    console = console or Console()
    several = len({row.setting for row in rows}) > 1
    for panel in panels(rows):
        title = " · ".join([panel.setting] * several + [panel.request, panel.start])
        console.print(f"\n[bold]{escape(title)}[/bold]", highlight=False)
        if panel.train:
            console.print(f"[dim]train accuracy of the original: {panel.train} %[/dim]", highlight=False)
        console.print(_table(panel, console.width))
    if rows:
        floor = NOISE_FLOOR if any(row.kind == "retrain" for row in rows) else ""
        console.print(
            "[dim]Mean ±standard deviation over n runs, in percent. "
            f"Disparity: mean of the four absolute gaps to Retrain, in points. {floor}[/dim]",
            highlight=False,
        )


def rows_as_json(rows: Sequence[Row]) -> str:
    """The rows for programs, as JSON text: shares stay in [0, 1]; null where there is no number.

    Args:
        rows: What ``summarise`` gave.

    Returns:
        A JSON list with one object a row.
    """
    told = [_plain(row) for row in rows]
    return json.dumps(told, indent=1, allow_nan=False, ensure_ascii=False, default=str) + "\n"


def _table(panel: Panel, width: int) -> Table:
    heads = ("method", "n", "UA", "MIA-Eff.", "RA", "TA", "disparity", "RTE [s]", "verdict")
    lines = []
    for row in panel.rows:
        verdict = row.verdict.replace("inconclusive", "inconcl.")
        verdict = verdict.replace(", ", "\n").replace("; ", "\n").replace(": ", ":\n")
        cells = [_cell(row, name) for name in (*MEASURES, "disparity", "RTE")]
        lines.append([row.label, str(row.count), *cells, verdict])
    longest = [
        max(len(part) for line in (heads, *lines) for part in line[i].split("\n")) for i in range(1, 9)
    ]
    needed = sum(longest) + min(max(len(row.label) for row in panel.rows), 15) + len(heads) + 1
    if needed > width:  # the spread below its number
        lines = [[line[0], *(cell.replace(" ", "\n", 1) for cell in line[1:8]), line[8]] for line in lines]
    padding = int(not width - len(heads) < needed <= width)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, padding, 0, 0), pad_edge=False)
    for head in heads:
        side: Literal["left", "right"] = "left" if head in {"method", "verdict"} else "right"
        table.add_column(escape(head), justify=side, no_wrap=head != "method", overflow="fold")
    for line in lines:
        table.add_row(*map(escape, line))
    return table


def _cell(row: Row, name: str) -> str:
    spread = row.values.get(name)
    if not spread or not spread.n:
        return NONE
    return str(spread) if spread.n == row.count else f"{spread} (n={spread.n})"


def _plain(row: Row) -> dict[str, Any]:
    def number(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    values = {
        name: {
            "mean": number(spread.mean),
            "std": number(spread.std),
            "n": spread.n,
            "low": number(spread.low) if spread.n == 1 else None,
            "high": number(spread.high) if spread.n == 1 else None,
            "unit": spread.unit,
            "better": spread.better,
        }
        for name, spread in row.values.items()
    }
    same = ("setting", "request", "start", "sparsity", "kind", "method", "detail", "knobs", "count", "seeds")
    told = {name: getattr(row, name) for name in (*same, "verdicts", "outside")}
    return told | {"values": values, "runs": [run.key for run in row.records]}
