"""Our numbers beside published ones: which row answers which cell, and in what the settings differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from secateur.record import Record
from secateur.report import counterparts
from secateur.report.literature import Published, Study, study
from secateur.report.rows import MEASURES, Row
from secateur.report.spread import NONE, fixed, plural
from secateur.report.tables import Panel, panels, summarise

OURS = {"ASR": "attack-success/ASR.published", "SA": "attack-success/SA"}
TIME = "RTE, % of Retrain"


class Both(NamedTuple):
    """One measure, ours and theirs, in percent or points; NaN where there is no number.

    Attributes:
        ours: Mean over our runs.
        std: Their standard deviation; NaN with fewer than two.
        n: Our runs.
        theirs: The published mean.
        their_std: The published standard deviation.
    """

    ours: float
    std: float
    n: int
    theirs: float
    their_std: float

    @property
    def difference(self) -> float:
        """Ours less theirs, in points."""
        return self.ours - self.theirs


class Line(NamedTuple):
    """A row of ours with the published cell that it answers, and what of its setting others do not share."""

    row: Row
    cell: Published
    values: Mapping[str, Both]
    differs: tuple[str, ...]


class Group(NamedTuple):
    """The lines of one request at one start, and in what the settings of all of them differ."""

    panel: Panel
    lines: tuple[Line, ...]
    differs: tuple[str, ...]

    @property
    def measures(self) -> list[str]:
        """The measures of these lines, in order."""
        return list(dict.fromkeys(name for line in self.lines for name in line.values))


class Comparison(NamedTuple):
    """Runs beside a publication.

    Attributes:
        study: The publication.
        groups: What has a published counterpart.
        shared: In what the settings of all these lines differ from the published one.
        alone: Reason to our rows without a counterpart.
        unanswered: Published cells that no row of ours answers.
    """

    study: Study
    groups: tuple[Group, ...]
    shared: tuple[str, ...]
    alone: Mapping[str, tuple[Row, ...]]
    unanswered: tuple[Published, ...]

    @property
    def told(self) -> str:
        """How many rows have a counterpart."""
        lines = sum(len(group.lines) for group in self.groups)
        others = sum(map(len, self.alone.values()))
        return f"{plural(lines, 'row')} with a published counterpart, {others} without"


def compare(records: Sequence[Record], name: str) -> Comparison:
    """Hold runs against published results.

    Args:
        records: One run or a whole grid.
        name: Of a publication: "paper" or "salun".

    Returns:
        The comparison; no row is left out of it.

    Raises:
        UsageError: No publication is called so.
    """
    about = study(name)
    answered: list[int] = []
    alone: dict[str, list[Row]] = {}
    found: list[tuple[Panel, list[tuple[Row, Published, list[str]]]]] = []
    for panel in panels(summarise(records)):
        here = []
        for row in panel.rows:
            cell, why = counterparts.counterpart(row, about.cells)
            if cell is None:
                alone.setdefault(why, []).append(row)
            else:
                here.append((row, cell, counterparts.differences(row, cell)))
                answered.append(id(cell))
        found.append((panel, here))
    shared = _common([differs for _, here in found for _, _, differs in here])
    groups = []
    for panel, here in (pair for pair in found if pair[1]):
        common = _common([differs for _, _, differs in here], but=shared)
        lines = [
            Line(row, cell, _values(row, cell, panel, about), _common([differs], but=(*shared, *common)))
            for row, cell, differs in here
        ]
        groups.append(Group(panel, tuple(lines), common))
    return Comparison(
        about,
        tuple(groups),
        shared,
        {why: tuple(rows) for why, rows in alone.items()},
        tuple(cell for cell in about.cells if id(cell) not in answered),
    )


def _common(lists: Sequence[Sequence[str]], but: Sequence[str] = ()) -> tuple[str, ...]:
    """What stands in every list, in the order of the first."""
    return tuple(
        text
        for text in (lists[0] if lists else ())
        if text not in but and all(text in each for each in lists)
    )


def own(row: Row, name: str) -> tuple[float, float, int]:
    """A measure over our runs.

    Args:
        row: The runs.
        name: The measure, as published.

    Returns:
        Mean and standard deviation, in percent, NaN where there is none; and how many runs gave it.
    """
    spread = row.values.get(OURS.get(name, name))
    if spread is None:
        return math.nan, math.nan, 0
    return spread.mean * spread.scale, math.nan if spread.std is None else spread.std * spread.scale, spread.n


def _values(row: Row, cell: Published, panel: Panel, about: Study) -> dict[str, Both]:
    found = {}
    for name, (mean, std) in cell.values.items():
        found[name] = Both(*own(row, name), mean, math.nan if std is None else std)
    if cell.method == "retrain":
        return found
    retrain = _retrain(panel)
    if cell.disparity is not None:
        gap = math.nan
        if retrain and all(name in each.values for each in (row, retrain) for name in MEASURES):
            gaps = [100 * (row.values[name].mean - retrain.values[name].mean) for name in MEASURES]
            gap = float(np.abs(gaps).mean())  # of means, as published: not the mean over runs of their gaps
        found["disparity"] = Both(gap, math.nan, row.count, cell.disparity, math.nan)
    if cell.minutes is not None:
        share = math.nan
        if retrain and "RTE" in retrain.values and "RTE" in row.values and retrain.values["RTE"].mean > 0:
            share = 100 * row.values["RTE"].mean / retrain.values["RTE"].mean
        anew = _same(cell, about.cells)
        theirs = 100 * cell.minutes / anew if anew else math.nan
        found[TIME] = Both(share, math.nan, row.count, theirs, math.nan)
    return found


def _retrain(panel: Panel) -> Row | None:
    """The plain retrain of a panel, else its references."""
    plain = [
        row
        for row in panel.rows
        if row.kind in ("retrain", "reference")
        and not any(row.knobs.get(k) for k in counterparts.VARIANTS["retrain"])
    ]
    return plain[0] if plain else None


def _same(cell: Published, cells: Sequence[Published]) -> float | None:
    """Minutes of the published Retrain at the same place."""
    for other in cells:
        if other.method == "retrain" and other[1:3] + other[4:5] == cell[1:3] + cell[4:5]:
            return other.minutes
    return None


def number(value: float, std: float = math.nan) -> str:
    """A number for people, with its standard deviation where there is one.

    >>> number(23.46, 1.04), number(2.5), number(float("nan"))
    ('23.5 ± 1.0', '2.5', '–')

    Returns:
        Text.
    """
    if not math.isfinite(value):
        return NONE
    return fixed(value, 1) + (f" ± {fixed(std, 1)}" if math.isfinite(std) else "")


def signed(value: float) -> str:
    """A difference for people.

    >>> signed(2.51), signed(-77.4), signed(0.01), signed(float("nan"))
    ('+2.5', '−77.4', '0.0', '–')

    Returns:
        Text.
    """
    text = fixed(value, 1)
    return f"+{text}" if value > 0 and text != "0.0" else text
